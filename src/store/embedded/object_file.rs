//! The file of one object: `N.part` while it is written, `N` once it is whole and durable.
//!
//! Space is reserved ahead, and bytes pass the page cache by (`O_DIRECT`), from buffers that are used again: measured on
//! 1 GiB, filling the page cache took 60 % of the broker's time, and halved the rate. What does not fill a sector waits
//! in memory. The sync of one stretch runs while the next is written.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    aligned::{ALIGN, AlignedBuffer},
    blocking,
    disk::{Create, DiskFile, OpenMode},
    files::sync_parent,
    space::Space,
    volume::{Volume, failed},
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
    file: Arc<dyn DiskFile>,
    volume: Arc<Volume>,
    space: Arc<Space>,
    /// Bytes taken.
    len: u64,
    /// The last of them, which do not fill a sector.
    tail: Bytes,
    /// Bytes reserved.
    reserved: u64,
    /// True once its name is durable.
    is_named: bool,
    /// Whether a write or a sync has failed: what was written since the last sync may not be there, and another sync would
    /// not say so.
    is_broken: Arc<AtomicBool>,
}

impl ObjectFile {
    pub(super) fn open(path: &Path, volume: &Arc<Volume>, space: &Arc<Space>, offset: u64) -> Result<Self> {
        let disk = volume.disk.clone();
        let part = path.with_extension(PART);
        let new = |file, len, tail, is_named| Self {
            path: path.into(),
            file,
            volume: volume.clone(),
            space: space.clone(),
            len,
            tail,
            reserved: len,
            is_named,
            is_broken: Arc::default(),
        };
        let len_of = |path: &Path| disk.len(path).ok().flatten().unwrap_or(0);
        if offset == 0 {
            // One that was begun before, or was whole and whose message was not committed.
            let (left, whole) = (len_of(&part), len_of(path));
            if whole > 0 {
                disk.remove(path).map_err(|error| failed("removed", path, &error))?;
            }
            let file = disk.open(&part, OpenMode::WRITE.create(Create::Empty).direct());
            let file = file.map_err(|error| failed("made", &part, &error))?;
            space.give_back(left + whole);
            return Ok(new(file, 0, Bytes::new(), false));
        }
        let missing = |problem: String| Error::DataLoss(format!("'{}': {problem}", part.display()));
        let reopen = || disk.open(&part, OpenMode::WRITE.direct());
        let file = match reopen() {
            // It was whole, and its message was not committed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(disk.len(path), Ok(Some(_))) => {
                disk.rename(path, &part).map_err(|error| failed("renamed", path, &error))?;
                reopen()
            }
            other => other,
        };
        let file = file.map_err(|error| missing(format!("what was uploaded cannot be opened: {error}")))?;
        let found = file.len().map_err(|error| failed("examined", &part, &error))?;
        if found < offset {
            return Err(missing(format!("it has {found} bytes, and {offset} were stored")));
        }
        let whole = offset - offset % ALIGN as u64;
        let tail_len = usize::try_from(offset - whole).unwrap_or(0);
        let tail = AlignedBuffer::take().read(tail_len, |room| file.read_at(room, whole));
        let tail = tail.map_err(|error| failed("read", &part, &error))?;
        file.set_len(offset).map_err(|error| failed("cut to its length", &part, &error))?;
        space.give_back(found - offset);
        Ok(new(file, offset, tail, true))
    }

    /// Refuses to go on after a failure.
    fn check(&self) -> Result<()> {
        match self.is_broken.load(Ordering::Acquire) {
            true => Err(Error::unavailable(format!(
                "'{}' could not be written or synced before: continue from the last offset that was stored",
                self.part().display()
            ))),
            false => Ok(()),
        }
    }

    fn part(&self) -> PathBuf {
        self.path.with_extension(PART)
    }
}

#[async_trait]
impl ObjectWriter for ObjectFile {
    async fn write(&mut self, data: Vec<Bytes>) -> Result<()> {
        self.check()?;
        let is_broken = self.is_broken.clone();
        let (file, part, space, reserved) = (self.file.clone(), self.part(), self.space.clone(), self.reserved);
        let offset = self.len - self.tail.len() as u64;
        self.len += data.iter().map(|piece| piece.len() as u64).sum::<u64>();
        // A small object is not worth reserving more for.
        let wanted = if reserved == 0 { self.len } else { self.len.next_multiple_of(RESERVE) };
        self.reserved = reserved.max(wanted);
        let pieces: Vec<_> = std::iter::once(std::mem::take(&mut self.tail)).chain(data).collect();
        let written = blocking(move || {
            if wanted > reserved {
                reserve(&*file, &part, &space, reserved..wanted)
                    .inspect_err(|_| is_broken.store(true, Ordering::Release))?;
            }
            write_sectors(&*file, &pieces, offset).map_err(|error| {
                is_broken.store(true, Ordering::Release);
                failed("written", &part, &error)
            })
        });
        self.tail = written.await?;
        Ok(())
    }

    fn sync(&mut self) -> BoxFuture<'static, Result<Synced>> {
        let (file, part, tail, offset) = (self.file.clone(), self.part(), self.tail.clone(), self.len);
        let is_named = std::mem::replace(&mut self.is_named, true);
        let (volume, is_broken, checked) = (self.volume.clone(), self.is_broken.clone(), self.check());
        Box::pin(blocking(move || {
            checked?;
            write_tail(&*file, &tail, offset)
                .and_then(|()| file.sync_data())
                .and_then(|()| if is_named { Ok(()) } else { sync_parent(&*volume.disk, &part) })
                .map_err(|error| {
                    is_broken.store(true, Ordering::Release);
                    failed("synced", &part, &error)
                })?;
            // One that ran meanwhile may have failed for this one's bytes.
            if is_broken.load(Ordering::Acquire) {
                return Err(Error::unavailable(format!("'{}' could not be written or synced", part.display())));
            }
            Ok(Synced { offset, receipt: Bytes::new() })
        }))
    }

    fn sync_step(&self) -> u64 {
        1
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        blocking(move || {
            self.check()?;
            let part = self.part();
            write_tail(&*self.file, &self.tail, self.len)
                // What was reserved, and what fills the last sector.
                .and_then(|()| self.file.set_len(self.len))
                .map_err(|error| failed("cut to its length", &part, &error))?;
            self.space.give_back(self.reserved.saturating_sub(self.len));
            self.file
                .sync_data()
                .and_then(|()| self.volume.disk.rename(&part, &self.path))
                .and_then(|()| sync_parent(&*self.volume.disk, &self.path))
                .map_err(|error| failed("written", &self.path, &error))
        })
        .await
    }
}

/// Reserves a range of a file that ends before it.
fn reserve(file: &dyn DiskFile, path: &Path, space: &Space, range: Range<u64>) -> Result<()> {
    let len = range.end - range.start;
    space.take(len)?;
    file.allocate(range).map_err(|error| {
        space.give_back(len);
        failed("extended", path, &error)
    })
}

/// Writes pieces back to back, as far as they fill sectors; gives the rest.
fn write_sectors(file: &dyn DiskFile, pieces: &[Bytes], offset: u64) -> io::Result<Bytes> {
    let mut buffer = AlignedBuffer::take();
    let (padded, len) = buffer.gather(pieces);
    let whole = len - len % ALIGN;
    let written = file.write_all_at(&padded[..whole], offset);
    let tail = Bytes::copy_from_slice(&padded[whole..len]);
    buffer.give_back();
    written.map(|()| tail)
}

/// Writes the bytes before `end` that do not fill a sector, padded. They are written again when more follow.
fn write_tail(file: &dyn DiskFile, tail: &Bytes, end: u64) -> io::Result<()> {
    if tail.is_empty() {
        return Ok(());
    }
    let mut buffer = AlignedBuffer::take();
    let written = file.write_all_at(buffer.gather(std::slice::from_ref(tail)).0, end - tail.len() as u64);
    buffer.give_back();
    written
}
