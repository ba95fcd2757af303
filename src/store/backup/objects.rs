//! The list of segments and objects: one JSON document a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter},
};

use super::{
    files::{self, Dir, damaged, failed},
    frames::Digest,
};
use crate::{block::PayloadKey, error::Result};

/// Longer lines are none of ours.
const LINE_MAX: usize = 64 << 10;

/// One segment or object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// As it is called below `payload/`, and in a bucket.
    pub(super) key: String,
    /// Bytes.
    pub(super) size: u64,
    /// CRC-32 (IEEE) of what was copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) crc32: Option<u32>,
    /// Why the backup does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<String>,
}

impl Listed {
    pub(super) fn new(key: PayloadKey, size: u64) -> Self {
        Self { key: files::name(key), size, crc32: None, missing: None }
    }
}

pub(super) struct ListWriter {
    path: PathBuf,
    out: BufWriter<File>,
    digest: crc32fast::Hasher,
    size: u64,
}

impl ListWriter {
    pub(super) async fn begin(dir: &Dir) -> Result<Self> {
        let path = dir.objects();
        let file = File::create(&path).await.map_err(|error| failed(&path, "made", &error))?;
        Ok(Self { path, out: BufWriter::new(file), digest: crc32fast::Hasher::new(), size: 0 })
    }

    pub(super) async fn put(&mut self, listed: &Listed) -> Result<()> {
        let line = serde_json::to_string(listed).unwrap_or_default() + "\n";
        self.digest.update(line.as_bytes());
        self.size += line.len() as u64;
        self.out.write_all(line.as_bytes()).await.map_err(|error| failed(&self.path, "written", &error))
    }

    pub(super) async fn end(mut self) -> Result<Digest> {
        let synced = async {
            self.out.flush().await?;
            self.out.get_ref().sync_all().await
        };
        synced.await.map_err(|error| failed(&self.path, "synced", &error))?;
        Ok(Digest { size: self.size, crc32: self.digest.finalize() })
    }
}

pub(super) struct ListReader {
    path: PathBuf,
    from: BufReader<File>,
    digest: crc32fast::Hasher,
    size: u64,
}

impl ListReader {
    pub(super) async fn begin(dir: &Dir) -> Result<Self> {
        let path = dir.objects();
        let file = File::open(&path).await.map_err(|error| failed(&path, "opened", &error))?;
        Ok(Self { path, from: BufReader::new(file), digest: crc32fast::Hasher::new(), size: 0 })
    }

    /// The next entry; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<(PayloadKey, Listed)>> {
        let mut line = Vec::new();
        loop {
            let found = self.from.fill_buf().await.map_err(|error| failed(&self.path, "read", &error))?;
            let end = found.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let len = end.unwrap_or(found.len());
            line.extend_from_slice(&found[..len]);
            self.from.consume(len);
            if end.is_some() || len == 0 || line.len() > LINE_MAX {
                break;
            }
        }
        if line.is_empty() {
            return Ok(None);
        }
        self.digest.update(&line);
        self.size += line.len() as u64;
        let listed: Option<Listed> = serde_json::from_slice(&line).ok();
        let listed = listed.and_then(|listed| Some((files::key(&listed.key)?, listed)));
        let listed = listed.ok_or_else(|| damaged(&self.path, "a line is not what a backup has there"))?;
        Ok(Some(listed))
    }

    /// What was read so far.
    pub(super) fn digest(&self) -> Digest {
        Digest { size: self.size, crc32: self.digest.clone().finalize() }
    }
}
