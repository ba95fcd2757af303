use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use minitoolstream_proto::ReadMessageResponse;
use tokio::io::{AsyncRead, ReadBuf};
use tonic::Streaming;

use crate::{
    Error, Message, Result,
    open::{Open, Opened},
};

/// The data of a message of any size, or a range of it, as they come. Back-pressured: what is not read is not sent.
///
/// Goes on at its place when the connection breaks. A reader of a [`Delivery`](crate::Delivery) reads by its lease, which
/// ends with the connection: it fails with [`Error::LeaseLost`] instead, as another worker may be at work.
///
/// As [`AsyncRead`], it fails with an [`io::Error`] that holds an [`Error`]; [`piece`](Self::piece) gives that itself,
/// and does not copy the data.
pub struct Reader {
    open: Open,
    message: Message,
    /// Place of the next byte to come from the broker, and of the end.
    at: u64,
    end: u64,
    /// Came, and was not read yet.
    piece: Bytes,
    state: State,
}

enum State {
    Streaming(Streaming<ReadMessageResponse>),
    Reopening(Pin<Box<dyn Future<Output = Result<Opened>> + Send>>),
    Complete,
    Failed(Error),
}

impl Reader {
    pub(crate) async fn open(open: Open) -> Result<Self> {
        match &open.wanted.message {
            Some(message @ Message { data: Some(data), .. }) => {
                let (at, end) = range(&open, message)?;
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
                let (piece, message) = (data.slice(place(at)..place(end)), message.clone());
                Ok(Self { message, at: end, end, piece, state: State::Complete, open })
            }
            _ => {
                let mut attempts = open.attempts;
                let (stream, first) = open.stream(open.offset, &mut attempts).await?;
                let message = first.message.map(Message::from).or_else(|| open.wanted.message.clone());
                let message = message.ok_or_else(|| {
                    Error::Other("the broker does not tell which message it reads: it is older than its client".into())
                })?;
                let (at, end) = range(&open, &message)?;
                let mut reader = Self { message, at, end, piece: Bytes::new(), state: State::Streaming(stream), open };
                reader.take_in(first.data)?;
                Ok(reader)
            }
        }
    }

    /// The message, without its data if it did not come along.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Bytes of all the data, whatever the range.
    pub fn size(&self) -> u64 {
        self.message.size()
    }

    /// SHA-256 of all the data; `None` for messages that are small enough to be stored without.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.message.sha256()
    }

    /// The headers of the message.
    pub fn headers(&self) -> &HashMap<String, String> {
        &self.message.headers
    }

    /// Place of the next byte to be read, from the beginning of all the data.
    pub fn position(&self) -> u64 {
        self.at - self.piece.len() as u64
    }

    /// Bytes left to be read.
    pub fn remaining(&self) -> u64 {
        self.end - self.position()
    }

    /// The next bytes, as they came; `None` at the end. Nothing is lost if the caller stops waiting.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the message expired meanwhile, [`Error::DataLoss`] if its bytes are damaged,
    /// [`Error::LeaseLost`] if it is read by a lease that is over, [`Error::Exhausted`] and [`Error::Unavailable`] after
    /// many attempts.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_piece(cx)).await
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        Poll::Ready(match ready!(self.poll_fill(cx)) {
            Ok(()) => Ok(Some(std::mem::take(&mut self.piece)).filter(|piece| !piece.is_empty())),
            Err(error) => Err(error),
        })
    }

    /// Waits until there is a piece, or the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while self.piece.is_empty() {
            match &mut self.state {
                State::Streaming(stream) => match ready!(Pin::new(stream).poll_next(cx)) {
                    Some(Ok(response)) => {
                        if let Some(lost) = self.open.lost() {
                            self.state = State::Failed(lost);
                        } else if let Err(error) = self.take_in(response.data) {
                            self.state = State::Failed(error);
                        }
                    }
                    Some(Err(status)) => self.broken(self.open.error(&status)),
                    None if self.at == self.end => self.state = State::Complete,
                    None => self.broken(Error::unavailable(format!(
                        "the broker ended the data of message {} of {} at byte {} of {}",
                        self.message.sequence, self.message.subject, self.at, self.end
                    ))),
                },
                State::Reopening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok((stream, first)) => {
                        self.state = State::Streaming(stream);
                        if let Err(error) = self.take_in(first.data) {
                            self.state = State::Failed(error);
                        }
                    }
                    Err(error) => self.broken(error),
                },
                State::Complete => break,
                State::Failed(error) => return Poll::Ready(Err(error.clone())),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take_in(&mut self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let at = self.at + data.len() as u64;
        if at > self.end {
            let Message { subject, sequence, .. } = &self.message;
            return Err(Error::DataLoss(format!(
                "message {sequence} of {subject} has more data than the {} bytes it should end with",
                self.end
            )));
        }
        self.at = at;
        self.piece = data;
        self.open.attempts.progressed();
        Ok(())
    }

    /// Goes on after an error, if that may help.
    fn broken(&mut self, error: Error) {
        if self.at == self.end && error.is_transient() {
            self.state = State::Complete;
            return;
        }
        self.state = match self.open.attempts.failed(self.open.lost().unwrap_or(error)) {
            Ok(error) => {
                let (open, at) = (self.open.clone(), self.at);
                State::Reopening(Box::pin(async move {
                    open.attempts.wait(&error).await;
                    open.try_stream(at).await
                }))
            }
            Err(error) => State::Failed(error),
        };
    }
}

/// Where reading begins and ends.
fn range(open: &Open, message: &Message) -> Result<(u64, u64)> {
    let (size, offset) = (message.size(), open.offset);
    if offset > size {
        let Message { subject, sequence, .. } = message;
        return Err(Error::Invalid(format!(
            "message {sequence} of {subject} has {size} bytes: it cannot be read from byte {offset} on"
        )));
    }
    let end = open.length.map_or(size, |length| offset.saturating_add(length).min(size));
    Ok((offset, end))
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() > 0 {
            ready!(self.poll_fill(cx))?;
            let taken = self.piece.len().min(buffer.remaining());
            buffer.put_slice(&self.piece[..taken]);
            self.piece.advance(taken);
        }
        Poll::Ready(Ok(()))
    }
}
