//! Rows in a file, one after another.
//!
//! ```text
//! file:  | "MTSBKP" | format u16 = 1 | frame of the head | frame of a row | ... | frame of the end |
//! frame: | len u32 | crc u32 | kind u8 | fields |      crc: CRC-32 (IEEE) of kind and fields, len: their bytes
//! kind 0 head: backup u64 | created u64 | next stream u64 | next payload u64
//! kind 255 end: rows u64
//! ```
//! Integers are little-endian. Kinds from 1 on are rows.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::row::{Head, Row};
use crate::{
    error::{Error, Result},
    types::Timestamp,
};

const MAGIC: &[u8; 6] = b"MTSBKP";
const FORMAT: u16 = 1;

const KIND_HEAD: u8 = 0;
const KIND_END: u8 = 255;

/// No row has so many bytes: the largest hold a block of 1 MiB, or the checksums and headers of a large object.
const FRAME_MAX: usize = 32 << 20;

/// Size and CRC-32 of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digest {
    /// Bytes.
    pub size: u64,
    /// CRC-32 (IEEE) of them.
    pub crc32: u32,
}

/// Which backup it is, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its number, by chance; below 2^53, so that every tool can tell it.
    pub backup: u64,
    /// When it was begun.
    pub created: Timestamp,
    /// How far the stores had come.
    pub head: Head,
}

/// Writes rows.
pub struct FrameWriter<W> {
    out: W,
    /// Where they go, for errors.
    name: String,
    rows: u64,
    digest: crc32fast::Hasher,
    size: u64,
}

impl<W: AsyncWrite + Unpin + Send> FrameWriter<W> {
    /// Begins the file.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be written.
    pub async fn begin(out: W, name: String, beginning: &Beginning) -> Result<Self> {
        let mut writer = Self { out, name, rows: 0, digest: crc32fast::Hasher::new(), size: 0 };
        let mut start = BytesMut::new();
        start.put_slice(MAGIC);
        start.put_u16_le(FORMAT);
        writer.put(&start).await?;
        let mut fields = BytesMut::new();
        fields.put_u8(KIND_HEAD);
        let Beginning { backup, created, head } = beginning;
        for field in [*backup, created.0, head.next_stream, head.next_payload] {
            fields.put_u64_le(field);
        }
        writer.frame(&fields).await?;
        Ok(writer)
    }

    /// Writes a row.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    pub async fn row(&mut self, row: &Row) -> Result<()> {
        let mut fields = BytesMut::new();
        row.encode(&mut fields);
        self.rows += 1;
        self.frame(&fields).await
    }

    /// Ends the file; gives how many rows are in it.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    pub async fn end(mut self) -> Result<(W, u64, Digest)> {
        let mut fields = BytesMut::new();
        fields.put_u8(KIND_END);
        fields.put_u64_le(self.rows);
        self.frame(&fields).await?;
        self.out.flush().await.map_err(|error| unwritable(&self.name, &error))?;
        Ok((self.out, self.rows, Digest { size: self.size, crc32: self.digest.finalize() }))
    }

    async fn frame(&mut self, fields: &[u8]) -> Result<()> {
        let mut prefix = BytesMut::with_capacity(8);
        let len = u32::try_from(fields.len()).ok().filter(|_| fields.len() <= FRAME_MAX);
        let len = len.ok_or_else(|| Error::DataLoss(format!("a row has {} bytes: none can", fields.len())))?;
        prefix.put_u32_le(len);
        prefix.put_u32_le(crc32fast::hash(fields));
        self.put(&prefix).await?;
        self.put(fields).await
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes).await.map_err(|error| unwritable(&self.name, &error))
    }
}

/// Reads rows, and refuses whatever is not as it was written.
pub struct FrameReader<R> {
    from: R,
    name: String,
    /// What the file begins with.
    pub beginning: Beginning,
    rows: u64,
    is_over: bool,
    digest: crc32fast::Hasher,
    size: u64,
}

impl<R: AsyncRead + Unpin + Send> FrameReader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if the file is damaged, [`Error::Precondition`] if it is of a format not known here.
    pub async fn begin(from: R, name: String) -> Result<Self> {
        let nothing = Beginning { backup: 0, created: Timestamp(0), head: Head { next_stream: 1, next_payload: 1 } };
        let digest = crc32fast::Hasher::new();
        let mut reader = Self { from, name, beginning: nothing, rows: 0, is_over: false, digest, size: 0 };
        let mut start = reader.take(8).await?;
        if start.split_to(MAGIC.len()) != MAGIC[..] {
            return Err(reader.damaged("it does not begin as the rows of a backup do"));
        }
        let format = start.get_u16_le();
        if format != FORMAT {
            return Err(Error::Precondition(format!(
                "'{}' has format {format}, and this version reads format {FORMAT}: use the version that wrote it",
                reader.name
            )));
        }
        let mut fields = reader.frame().await?;
        if fields.len() != 33 || fields.get_u8() != KIND_HEAD {
            return Err(reader.damaged("it has no head"));
        }
        let mut field = || fields.get_u64_le();
        let (backup, created) = (field(), Timestamp(field()));
        reader.beginning = Beginning { backup, created, head: Head { next_stream: field(), next_payload: field() } };
        Ok(reader)
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    pub async fn next(&mut self) -> Result<Option<Row>> {
        if self.is_over {
            return Ok(None);
        }
        let mut fields = self.frame().await?;
        if fields.first() == Some(&KIND_END) {
            fields.advance(1);
            if fields.try_get_u64_le().ok() != Some(self.rows) || !fields.is_empty() {
                return Err(self.damaged("it tells of another number of rows than it has"));
            }
            let rest = self.from.read_u8().await;
            if rest.is_ok() {
                return Err(self.damaged("something follows its end"));
            }
            self.is_over = true;
            return Ok(None);
        }
        self.rows += 1;
        match Row::decode(fields) {
            Some(row) => Ok(Some(row)),
            None => Err(self.damaged(&format!("row {} is none that this version knows", self.rows))),
        }
    }

    /// Rows read, and what was read so far.
    pub fn read(&self) -> (u64, Digest) {
        (self.rows, Digest { size: self.size, crc32: self.digest.clone().finalize() })
    }

    async fn frame(&mut self) -> Result<Bytes> {
        let mut prefix = self.take(8).await?;
        let (len, crc) = (prefix.get_u32_le(), prefix.get_u32_le());
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > FRAME_MAX {
            return Err(self.damaged(&format!("after row {} a length of {len} bytes cannot be", self.rows)));
        }
        let fields = self.take(len).await?;
        if crc32fast::hash(&fields) != crc {
            return Err(self.damaged(&format!("the checksum of row {} does not match", self.rows + 1)));
        }
        Ok(fields)
    }

    async fn take(&mut self, len: usize) -> Result<Bytes> {
        let mut bytes = vec![0; len];
        if let Err(error) = self.from.read_exact(&mut bytes).await {
            return Err(match error.kind() {
                std::io::ErrorKind::UnexpectedEof => self.damaged("it ends early"),
                _ => Error::unavailable(format!("'{}' cannot be read: {error}", self.name)),
            });
        }
        self.digest.update(&bytes);
        self.size += len as u64;
        Ok(bytes.into())
    }

    fn damaged(&self, problem: &str) -> Error {
        Error::DataLoss(format!("'{}' is damaged: {problem}; use another backup", self.name))
    }
}

fn unwritable(name: &str, error: &std::io::Error) -> Error {
    Error::unavailable(format!("'{name}' cannot be written: {error}"))
}
