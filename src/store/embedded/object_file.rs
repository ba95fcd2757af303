//! The file of one object: `N.part` while it is written, `N` once it is whole and durable.
//!
//! Space is reserved ahead, and bytes go through the page cache: a reader who comes soon finds them there. Measured on 1 GiB
//! in pieces of 1 MiB: 1.3 GB/s and 0.23 s of CPU, against 0.55 GB/s and 0.94 s for a file that grows as it is written. The
//! sync of one stretch runs while the next is written.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use rustix::fs::FallocateFlags;

use super::{blocking, files::failed, space::Space, sync_dir};
use crate::{
    error::{Error, Result},
    store::{ObjectWriter, Synced},
};

/// Extension of a file that is not whole.
pub(super) const PART: &str = "part";

/// Space reserved at a time.
const RESERVE: u64 = 64 << 20;

/// Pieces written by one system call; Linux takes up to 1024.
const PIECES_MAX: usize = 1024;

pub(super) struct ObjectFile {
    /// Where it will be found.
    path: PathBuf,
    file: Arc<File>,
    space: Arc<Space>,
    /// Bytes written.
    len: u64,
    /// Bytes reserved.
    reserved: u64,
    /// True once its name is durable.
    is_named: bool,
}

impl ObjectFile {
    pub(super) fn open(path: PathBuf, space: Arc<Space>, offset: u64) -> Result<Self> {
        let part = path.with_extension(PART);
        if offset == 0 {
            // One that was begun before, or was whole and whose message was not committed.
            let left = std::fs::metadata(&part).map_or(0, |found| found.len());
            let whole = std::fs::metadata(&path).map_or(0, |found| found.len());
            if whole > 0 {
                std::fs::remove_file(&path).map_err(|error| failed("removed", &path, &error))?;
            }
            let file = File::create(&part).map_err(|error| failed("made", &part, &error))?;
            space.give_back(left + whole);
            return Ok(Self { path, file: Arc::new(file), space, len: 0, reserved: 0, is_named: false });
        }
        let missing = |problem: String| Error::DataLoss(format!("'{}': {problem}", part.display()));
        let file = match OpenOptions::new().write(true).open(&part) {
            // It was whole, and its message was not committed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {
                std::fs::rename(&path, &part).map_err(|error| failed("renamed", &path, &error))?;
                OpenOptions::new().write(true).open(&part)
            }
            other => other,
        };
        let file = file.map_err(|error| missing(format!("what was uploaded cannot be opened: {error}")))?;
        let found = file.metadata().map_err(|error| failed("examined", &part, &error))?.len();
        if found < offset {
            return Err(missing(format!("it has {found} bytes, and {offset} were stored")));
        }
        file.set_len(offset).map_err(|error| failed("cut to its length", &part, &error))?;
        space.give_back(found - offset);
        Ok(Self { path, file: Arc::new(file), space, len: offset, reserved: offset, is_named: true })
    }

    fn part(&self) -> PathBuf {
        self.path.with_extension(PART)
    }
}

#[async_trait]
impl ObjectWriter for ObjectFile {
    async fn write(&mut self, data: Vec<Bytes>) -> Result<()> {
        let (offset, len) = (self.len, data.iter().map(|piece| piece.len() as u64).sum::<u64>());
        let (file, part, space, reserved) = (self.file.clone(), self.part(), self.space.clone(), self.reserved);
        self.len += len;
        // A small object is not worth reserving more for.
        let wanted = if reserved == 0 { self.len } else { self.len.next_multiple_of(RESERVE) };
        self.reserved = reserved.max(wanted);
        blocking(move || {
            if wanted > reserved {
                reserve(&file, &part, &space, reserved..wanted)?;
            }
            write_all_at(&file, data, offset).map_err(|error| failed("written", &part, &error))
        })
        .await
    }

    fn sync(&mut self) -> BoxFuture<'static, Result<Synced>> {
        let (file, part, offset) = (self.file.clone(), self.part(), self.len);
        let is_named = std::mem::replace(&mut self.is_named, true);
        Box::pin(blocking(move || {
            file.sync_data()
                .and_then(|()| if is_named { Ok(()) } else { part.parent().map_or(Ok(()), sync_dir) })
                .map_err(|error| failed("synced", &part, &error))?;
            Ok(Synced { offset, receipt: Bytes::new() })
        }))
    }

    fn sync_step(&self) -> u64 {
        1
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        blocking(move || {
            let part = self.part();
            if self.reserved > self.len {
                self.file.set_len(self.len).map_err(|error| failed("cut to its length", &part, &error))?;
                self.space.give_back(self.reserved - self.len);
            }
            self.file
                .sync_data()
                .and_then(|()| std::fs::rename(&part, &self.path))
                .and_then(|()| self.path.parent().map_or(Ok(()), sync_dir))
                .map_err(|error| failed("written", &self.path, &error))
        })
        .await
    }
}

/// Reserves a range of a file that ends before it.
fn reserve(file: &File, path: &Path, space: &Space, range: Range<u64>) -> Result<()> {
    let len = range.end - range.start;
    space.take(len)?;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), range.start, len) {
        // Without preallocation, writes extend the file: slower, as safe.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => {
            space.give_back(len);
            Err(failed("extended", path, &error.into()))
        }
    }
}

/// Writes pieces back to back, without putting them together first.
fn write_all_at(file: &File, mut pieces: Vec<Bytes>, mut offset: u64) -> io::Result<()> {
    pieces.reverse();
    while !pieces.is_empty() {
        let slices: Vec<_> = pieces.iter().rev().take(PIECES_MAX).map(|piece| io::IoSlice::new(piece)).collect();
        let mut written = rustix::io::pwritev(file, &slices, offset)?;
        if written == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        while let Some(piece) = pieces.last_mut() {
            if piece.len() > written {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            pieces.pop();
        }
    }
    Ok(())
}

/// Bytes of all files below a directory, as they stand.
pub(super) fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
