use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::{
    files::{Dir, damaged, failed},
    frames::Digest,
};
use crate::error::{Error, Result};

/// The form of backups that this version writes.
const FORMAT: u32 = 1;

/// What a backup is: `backup.json`. It is written last, so a directory without it holds no whole backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the directory.
    pub format: u32,
    /// The backup's own number.
    pub backup: u64,
    /// When it was begun, as RFC 3339 has it.
    pub created: String,
    /// The version of the command that wrote it.
    pub version: String,
    /// The next stream sequence then: all messages before it are in the backup, unless they were gone by then.
    pub next_stream: u64,
    /// Rows.
    pub rows: u64,
    /// Segments and objects.
    pub objects: u64,
    /// Bytes of them.
    pub object_bytes: u64,
    /// How many of them were missing in the store, or could not be read in full.
    pub missing: u64,
    /// True if they were copied; else they are only listed.
    pub has_payload: bool,
    /// Of the file `metadata`.
    pub metadata: Digest,
    /// Of the file `objects.jsonl`.
    pub list: Digest,
}

impl Manifest {
    /// The form that this version writes.
    pub(super) const FORMAT: u32 = FORMAT;

    pub(super) async fn read(dir: &Dir) -> Result<Self> {
        let path = dir.manifest();
        let text = tokio::fs::read(&path).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::Precondition(format!(
                "'{}' is missing: this is no backup, or one that was never finished",
                path.display()
            )),
            _ => failed(&path, "read", &error),
        })?;
        let manifest: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| damaged(&path, &error.to_string()))?;
        if manifest["format"] != FORMAT {
            return Err(Error::Precondition(format!(
                "'{}' has format {}, and this version reads format {FORMAT}: use the version that wrote it",
                path.display(),
                manifest["format"]
            )));
        }
        serde_json::from_value(manifest).map_err(|error| damaged(&path, &error.to_string()))
    }

    /// Writes it under another name first: it is there whole, or not at all.
    pub(super) async fn write(&self, dir: &Dir) -> Result<()> {
        let path = dir.manifest();
        let part = path.with_extension("part");
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::unavailable(error.to_string()))?;
        let written = async {
            tokio::fs::write(&part, text).await?;
            tokio::fs::File::open(&part).await?.sync_all().await?;
            tokio::fs::rename(&part, &path).await
        };
        written.await.map_err(|error| failed(&path, "written", &error))?;
        dir.sync()
    }
}
