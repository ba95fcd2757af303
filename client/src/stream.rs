//! Streams of a server that go on after a broken connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use minitoolstream_proto as proto;
use tonic::Streaming;

use crate::{Client, Error, Message, Result};

/// Messages as they arrive. One that follows goes on after a broken connection, with the next message.
pub struct Messages {
    stream: Pin<Box<dyn Stream<Item = Result<Message>> + Send>>,
}

impl Messages {
    pub(crate) fn new(stream: impl Stream<Item = Result<Message>> + Send + 'static) -> Self {
        Self { stream: Box::pin(stream) }
    }
}

impl Stream for Messages {
    type Item = Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

/// Notifications as they arrive; they go on after a broken connection.
pub struct Notifications {
    stream: Pin<Box<dyn Stream<Item = Result<Notification>> + Send>>,
}

/// A subject has something new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The subject.
    pub subject: String,
    /// The latest sequence that can be read.
    pub sequence: u64,
}

impl Notifications {
    pub(crate) fn new(stream: impl Stream<Item = Result<Notification>> + Send + 'static) -> Self {
        Self { stream: Box::pin(stream) }
    }
}

impl Stream for Notifications {
    type Item = Result<Notification>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl From<proto::Notification> for Notification {
    fn from(proto::Notification { subject, sequence }: proto::Notification) -> Self {
        Self { subject, sequence }
    }
}

pub(crate) type Opening<W> = Pin<Box<dyn Future<Output = Result<Streaming<W>>> + Send>>;

/// Items of a stream. One that breaks is opened again by the request that `go_on_after` made of the first, item by item.
pub(crate) fn reopening<R, W, T>(
    first: Streaming<W>,
    client: Client,
    request: R,
    open: impl Fn(Client, R) -> Opening<W> + Send,
    go_on_after: impl Fn(&mut R, &T) + Send,
) -> impl Stream<Item = Result<T>> + Send
where
    R: Clone + Send,
    W: Send + 'static,
    T: From<W> + Send,
{
    let state = (Some(first), request, 0_u32, open, go_on_after, client);
    futures_util::stream::unfold(state, |(stream, mut request, mut failures, open, go_on_after, client)| async move {
        let mut stream = stream?;
        loop {
            let error = match stream.message().await {
                Ok(Some(item)) => {
                    let item = T::from(item);
                    go_on_after(&mut request, &item);
                    return Some((Ok(item), (Some(stream), request, 0, open, go_on_after, client)));
                }
                Ok(None) => return None,
                Err(status) => Error::from(status),
            };
            failures += 1;
            if !error.is_transient() || failures > client.connect.attempts {
                return Some((Err(error), (None, request, failures, open, go_on_after, client)));
            }
            client.connect.backoff.sleep(failures, error.retry_after()).await;
            match open(client.clone(), request.clone()).await {
                Ok(again) => stream = again,
                Err(error) => return Some((Err(error), (None, request, failures, open, go_on_after, client))),
            }
        }
    })
}
