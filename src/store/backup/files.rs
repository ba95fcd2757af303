use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::{
    block::PayloadKey,
    error::{Error, Result},
};

/// The directory of a backup.
#[derive(Clone)]
pub(super) struct Dir(PathBuf);

impl Dir {
    /// Where a backup is to be read from.
    pub(super) fn of(root: &Path) -> Self {
        Self(root.into())
    }

    /// Makes it, or takes one that is empty.
    pub(super) fn create(root: &Path) -> Result<Self> {
        let made = || -> io::Result<bool> {
            std::fs::create_dir_all(root)?;
            let is_empty = std::fs::read_dir(root)?.next().is_none();
            if is_empty {
                for folder in ["payload", "payload/segments", "payload/objects"] {
                    std::fs::create_dir(root.join(folder))?;
                }
            }
            Ok(is_empty)
        };
        match made() {
            Ok(true) => Ok(Self(root.into())),
            Ok(false) => Err(Error::Precondition(format!(
                "'{}' is not empty: a backup goes to a directory of its own, and never onto another",
                root.display()
            ))),
            Err(error) => Err(failed(root, "made", &error)),
        }
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.0.join("backup.json")
    }

    pub(super) fn metadata(&self) -> PathBuf {
        self.0.join("metadata")
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.0.join("objects.jsonl")
    }

    pub(super) fn payload(&self, key: PayloadKey) -> PathBuf {
        self.0.join("payload").join(name(key))
    }

    /// Makes the names of everything in it durable.
    pub(super) fn sync(&self) -> Result<()> {
        for folder in ["payload/segments", "payload/objects", "payload", ""] {
            let folder = self.0.join(folder);
            File::open(&folder).and_then(|dir| dir.sync_all()).map_err(|error| failed(&folder, "synced", &error))?;
        }
        Ok(())
    }
}

/// What a segment or object is called, as below `payload/`.
pub(super) fn name(key: PayloadKey) -> String {
    match key {
        PayloadKey::Segment(number) => format!("segments/{number:016}"),
        PayloadKey::Object(number) => format!("objects/{number:016}"),
    }
}

/// The segment or object of a name.
pub(super) fn key(text: &str) -> Option<PayloadKey> {
    let (folder, number) = text.split_once('/')?;
    let number = number.parse().ok()?;
    let key = match folder {
        "segments" => PayloadKey::Segment(number),
        "objects" => PayloadKey::Object(number),
        _ => return None,
    };
    (name(key) == text).then_some(key)
}

pub(super) fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::unavailable(format!("'{}' cannot be {what}: {error}", path.display()))
}

pub(super) fn damaged(path: &Path, problem: &str) -> Error {
    Error::DataLoss(format!("'{}' is damaged: {problem}; use another backup", path.display()))
}
