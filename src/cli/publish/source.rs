use std::{
    io::Read,
    path::{Component, Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::large::LARGE;
use crate::cli::output::hex;

/// Bytes of a file that are hashed at a time.
const STEP_BYTES: usize = 256 << 10;

/// A file to publish, and the path to publish it under.
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) name: String,
    /// What is to be read of it; a guess, if it is no regular file.
    pub(super) size: u64,
}

impl Source {
    pub(super) fn is_large(&self) -> bool {
        self.size > LARGE
    }

    /// Where the file is, its size and when it was changed: while these stay the same, so does its content.
    pub(super) fn identity(&self) -> std::io::Result<Value> {
        let metadata = self.file.metadata()?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(json!([format!("{:?}", self.file.canonicalize()?), metadata.len(), changed.as_nanos().to_string()]))
    }
}

/// The files to publish: those named, and with `recursive` those below the directories named.
pub(super) fn sources<'a>(paths: impl Iterator<Item = &'a PathBuf>, recursive: bool) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        let kind =
            path.metadata().with_context(|| format!("nothing was published: '{}' cannot be read", path.display()))?;
        if !kind.is_dir() {
            sources.push(Source { file: path.clone(), name: name(path)?, size: kind.len() });
        } else if recursive {
            collect(path, path, &mut sources)?;
        } else {
            bail!("'{}' is a directory: add --recursive to publish the files below it", path.display());
        }
    }
    Ok(sources)
}

fn collect(root: &Path, dir: &Path, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("'{}' cannot be listed", dir.display()))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(root, &path, sources)?;
        } else if kind.is_file() {
            let name = name(path.strip_prefix(root).unwrap_or(&path))?;
            sources.push(Source { size: entry.metadata()?.len(), file: path, name });
        }
    }
    Ok(())
}

/// The path to publish a file under. What stands before the last '..' is left away: a path that leads out of a directory
/// would be refused where the message is written to a file again.
fn name(path: &Path) -> anyhow::Result<String> {
    let below = path.components().fold(PathBuf::new(), |name, part| match part {
        Component::ParentDir => PathBuf::new(),
        Component::CurDir => name,
        part => name.join(part),
    });
    let Ok(name) = below.into_os_string().into_string() else {
        bail!("the name of '{}' is not UTF-8 and cannot stand in a header: rename the file", path.display());
    };
    Ok(name)
}

/// Sixteen hexadecimal digits that tell files apart by path and content.
pub(super) async fn digest(source: &Source) -> anyhow::Result<String> {
    let (file, name) = (source.file.clone(), source.name.clone());
    let digest = tokio::task::spawn_blocking(move || {
        let mut digest = Sha256::new().chain_update(name).chain_update([0]);
        let mut file = std::fs::File::open(file)?;
        let mut step = vec![0; STEP_BYTES];
        loop {
            match file.read(&mut step)? {
                0 => return Ok::<_, std::io::Error>(digest.finalize()),
                read => digest.update(&step[..read]),
            }
        }
    });
    let digest = digest.await?.with_context(|| format!("'{}' cannot be read", source.file.display()))?;
    Ok(hex(&digest[..8]))
}
