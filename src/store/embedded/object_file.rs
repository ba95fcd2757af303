//! The file of one object: `N.part` while it is written, `N` once it is whole and durable.
//!
//! Space is reserved ahead, and bytes pass the page cache by (`O_DIRECT`), from buffers that are used again: measured on
//! 1 GiB, filling the page cache took 60 % of the broker's time, and halved the rate. What does not fill a sector waits
//! in memory. The sync of one stretch runs while the next is written.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustix::fs::{FallocateFlags, OFlags};

use super::{
    aligned::{ALIGN, AlignedBuffer},
    blocking,
    files::failed,
    space::Space,
    sync_dir,
};
use crate::{
    error::{Error, Result},
    store::{ObjectWriter, Synced},
};

/// Extension of a file that is not whole.
pub(super) const PART: &str = "part";

/// Space reserved at a time.
const RESERVE: u64 = 64 << 20;

pub(super) struct ObjectFile {
    /// Where it will be found.
    path: PathBuf,
    file: Arc<File>,
    space: Arc<Space>,
    /// Bytes taken.
    len: u64,
    /// The last of them, which do not fill a sector.
    tail: Bytes,
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
            let file = open_direct(OpenOptions::new().write(true).create(true).truncate(true), &part);
            let file = file.map_err(|error| failed("made", &part, &error))?;
            space.give_back(left + whole);
            return Ok(Self {
                path,
                file: Arc::new(file),
                space,
                len: 0,
                tail: Bytes::new(),
                reserved: 0,
                is_named: false,
            });
        }
        let missing = |problem: String| Error::DataLoss(format!("'{}': {problem}", part.display()));
        let reopen = || open_direct(OpenOptions::new().read(true).write(true), &part);
        let file = match reopen() {
            // It was whole, and its message was not committed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {
                std::fs::rename(&path, &part).map_err(|error| failed("renamed", &path, &error))?;
                reopen()
            }
            other => other,
        };
        let file = file.map_err(|error| missing(format!("what was uploaded cannot be opened: {error}")))?;
        let found = file.metadata().map_err(|error| failed("examined", &part, &error))?.len();
        if found < offset {
            return Err(missing(format!("it has {found} bytes, and {offset} were stored")));
        }
        let whole = offset - offset % ALIGN as u64;
        let tail_len = usize::try_from(offset - whole).unwrap_or(0);
        let tail = AlignedBuffer::take().read(tail_len, |room| file.read_at(room, whole));
        let tail = tail.map_err(|error| failed("read", &part, &error))?;
        file.set_len(offset).map_err(|error| failed("cut to its length", &part, &error))?;
        space.give_back(found - offset);
        Ok(Self { path, file: Arc::new(file), space, len: offset, tail, reserved: offset, is_named: true })
    }

    fn part(&self) -> PathBuf {
        self.path.with_extension(PART)
    }
}

#[async_trait]
impl ObjectWriter for ObjectFile {
    async fn write(&mut self, data: Vec<Bytes>) -> Result<()> {
        let (file, part, space, reserved) = (self.file.clone(), self.part(), self.space.clone(), self.reserved);
        let offset = self.len - self.tail.len() as u64;
        self.len += data.iter().map(|piece| piece.len() as u64).sum::<u64>();
        // A small object is not worth reserving more for.
        let wanted = if reserved == 0 { self.len } else { self.len.next_multiple_of(RESERVE) };
        self.reserved = reserved.max(wanted);
        let pieces: Vec<_> = std::iter::once(std::mem::take(&mut self.tail)).chain(data).collect();
        let written = blocking(move || {
            if wanted > reserved {
                reserve(&file, &part, &space, reserved..wanted)?;
            }
            write_sectors(&file, &pieces, offset).map_err(|error| failed("written", &part, &error))
        });
        self.tail = written.await?;
        Ok(())
    }

    fn sync(&mut self) -> BoxFuture<'static, Result<Synced>> {
        let (file, part, tail, offset) = (self.file.clone(), self.part(), self.tail.clone(), self.len);
        let is_named = std::mem::replace(&mut self.is_named, true);
        Box::pin(blocking(move || {
            write_tail(&file, &tail, offset)
                .and_then(|()| file.sync_data())
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
            write_tail(&self.file, &self.tail, self.len)
                // What was reserved, and what fills the last sector.
                .and_then(|()| self.file.set_len(self.len))
                .map_err(|error| failed("cut to its length", &part, &error))?;
            self.space.give_back(self.reserved.saturating_sub(self.len));
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

/// Writes pieces back to back, as far as they fill sectors; gives the rest.
fn write_sectors(file: &File, pieces: &[Bytes], offset: u64) -> io::Result<Bytes> {
    let mut buffer = AlignedBuffer::take();
    let (padded, len) = buffer.gather(pieces);
    let whole = len - len % ALIGN;
    let written = file.write_all_at(&padded[..whole], offset);
    let tail = Bytes::copy_from_slice(&padded[whole..len]);
    buffer.give_back();
    written.map(|()| tail)
}

/// Writes the bytes before `end` that do not fill a sector, padded. They are written again when more follow.
fn write_tail(file: &File, tail: &Bytes, end: u64) -> io::Result<()> {
    if tail.is_empty() {
        return Ok(());
    }
    let mut buffer = AlignedBuffer::take();
    let written = file.write_all_at(buffer.gather(std::slice::from_ref(tail)).0, end - tail.len() as u64);
    buffer.give_back();
    written
}

/// Opens a file for direct I/O, or for ordinary I/O where the file system refuses that.
pub(super) fn open_direct(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    match options.custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.custom_flags(0).open(path),
        other => other,
    }
}

/// Bytes of all files below a directory, as they stand.
pub(super) fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
