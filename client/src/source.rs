//! Where the data of an upload comes from.

use std::{io::SeekFrom, path::PathBuf, pin::Pin};

use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt},
};

use crate::{Error, Result};

/// Bytes of a frame.
const FRAME_BYTES: usize = 256 << 10;

pub(crate) struct Source {
    kind: Kind,
    /// Bytes that were given so far.
    position: u64,
    size: Option<u64>,
    /// Read, and not given yet: it must outlive a caller who stops waiting for the rest of the frame.
    partial: BytesMut,
}

enum Kind {
    Bytes(Bytes),
    File { file: File, path: PathBuf },
    Reader(Pin<Box<dyn AsyncRead + Send>>),
}

impl Source {
    pub(crate) fn of_bytes(bytes: Bytes) -> Self {
        let size = Some(bytes.len() as u64);
        Self { kind: Kind::Bytes(bytes), position: 0, size, partial: BytesMut::new() }
    }

    pub(crate) fn of_reader(reader: impl AsyncRead + Send + 'static, size: Option<u64>) -> Self {
        Self { kind: Kind::Reader(Box::pin(reader)), position: 0, size, partial: BytesMut::new() }
    }

    pub(crate) async fn of_file(path: PathBuf) -> Result<Self> {
        let opened = async {
            let file = File::open(&path).await?;
            let metadata = file.metadata().await?;
            Ok::<_, std::io::Error>((file, metadata))
        };
        let (file, metadata) =
            opened.await.map_err(|error| Error::Other(format!("'{}' cannot be read: {error}", path.display())))?;
        if !metadata.is_file() {
            return Err(Error::Invalid(format!(
                "'{}' is no regular file, so its size is not known: open it and upload it as a reader",
                path.display()
            )));
        }
        Ok(Self { kind: Kind::File { file, path }, position: 0, size: Some(metadata.len()), partial: BytesMut::new() })
    }

    /// Bytes in all, if that is known.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn can_seek(&self) -> bool {
        !matches!(self.kind, Kind::Reader(_))
    }

    /// Goes on at a position; refused if that cannot be read (again).
    pub(crate) async fn seek(&mut self, position: u64) -> Result<()> {
        if let Some(size) = self.size.filter(|size| position > *size) {
            return Err(Error::Invalid(format!(
                "the broker has {position} bytes of this upload, and the source only {size}: choose another upload id"
            )));
        }
        if position == self.position {
            return Ok(());
        }
        match &mut self.kind {
            Kind::Bytes(_) => {}
            Kind::File { file, path } => {
                let sought = file.seek(SeekFrom::Start(position)).await;
                sought.map_err(|error| Error::Other(format!("'{}' cannot be read: {error}", path.display())))?;
            }
            Kind::Reader(_) => {
                return Err(Error::Other(format!(
                    "the upload cannot go on: {} bytes of its source are read and the broker has {position} of them, but \
                     a reader cannot be read again: begin anew, or upload from a file",
                    self.position
                )));
            }
        }
        self.partial.clear();
        self.position = position;
        Ok(())
    }

    /// The next bytes; `None` at the end, which is where the size says. Nothing is lost if the caller stops waiting.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let left = self.size.map(|size| size - self.position);
        let want = left.map_or(FRAME_BYTES, |left| usize::try_from(left).unwrap_or(FRAME_BYTES).min(FRAME_BYTES));
        let frame = match &mut self.kind {
            Kind::Bytes(bytes) => {
                let start = usize::try_from(self.position).unwrap_or(usize::MAX).min(bytes.len());
                bytes.slice(start..start + want)
            }
            Kind::File { file, path } => {
                let read = fill(file, want, &mut self.partial).await;
                read.map_err(|error| Error::Other(format!("'{}' cannot be read: {error}", path.display())))?
            }
            Kind::Reader(reader) => {
                let read = fill(reader, want, &mut self.partial).await;
                read.map_err(|error| Error::Other(format!("the source of the upload cannot be read: {error}")))?
            }
        };
        self.position += frame.len() as u64;
        if frame.len() < want && self.size.is_some() {
            return Err(Error::Invalid(format!(
                "the source of the upload ended after {} bytes instead of {}: it was changed meanwhile, begin anew",
                self.position,
                self.size.unwrap_or_default()
            )));
        }
        Ok(Some(frame).filter(|frame| !frame.is_empty()))
    }
}

/// As many bytes as there are, up to `want`, by way of `partial`.
async fn fill(reader: &mut (impl AsyncRead + Unpin), want: usize, partial: &mut BytesMut) -> std::io::Result<Bytes> {
    partial.reserve(want.saturating_sub(partial.len()));
    while partial.len() < want {
        let mut rest = reader.take((want - partial.len()) as u64);
        if rest.read_buf(partial).await? == 0 {
            break;
        }
    }
    Ok(partial.split().freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rest(source: &mut Source) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(frame) = source.next().await.unwrap() {
            assert!(frame.len() <= FRAME_BYTES);
            all.extend_from_slice(&frame);
        }
        all
    }

    #[tokio::test]
    async fn bytes_can_be_read_again_and_readers_cannot() {
        let data: Vec<u8> = (0..=250).cycle().take(FRAME_BYTES * 2 + 7).collect();
        let mut bytes = Source::of_bytes(data.clone().into());
        assert_eq!(rest(&mut bytes).await, data);
        bytes.seek(FRAME_BYTES as u64 + 1).await.unwrap();
        assert_eq!(rest(&mut bytes).await, data[FRAME_BYTES + 1..]);
        assert!(matches!(bytes.seek(data.len() as u64 + 1).await, Err(Error::Invalid(_))));

        let mut reader = Source::of_reader(std::io::Cursor::new(data.clone()), None);
        assert_eq!(rest(&mut reader).await, data);
        reader.seek(data.len() as u64).await.unwrap();
        assert!(reader.seek(1).await.unwrap_err().to_string().contains("cannot be read again"));
    }

    #[tokio::test]
    async fn a_source_that_is_shorter_than_it_said_is_refused() {
        let mut reader = Source::of_reader(&b"short"[..], Some(6));
        assert!(reader.next().await.unwrap_err().to_string().contains("ended after 5 bytes instead of 6"));
    }

    #[tokio::test]
    async fn a_caller_who_stops_waiting_loses_nothing() {
        use tokio::io::AsyncWriteExt;
        let (mut pipe, outlet) = tokio::io::duplex(100);
        let mut source = Source::of_reader(outlet, None);
        pipe.write_all(b"one ").await.unwrap();
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), source.next()).await;
        assert!(waited.is_err(), "the frame is not full");
        source.seek(0).await.unwrap();
        pipe.write_all(b"two").await.unwrap();
        drop(pipe);
        assert_eq!(rest(&mut source).await, b"one two");
    }
}
