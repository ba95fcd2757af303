use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::FallocateFlags;

use super::{
    aligned::{ALIGN, AlignedBuffer},
    blocking,
    object_file::{ObjectFile, PART, bytes_below, open_direct},
    space::Space,
    sync_dir,
};
use crate::{
    block::PayloadKey,
    error::{Error, Result},
    store::{ASIDE, ObjectWriter, PayloadArchive, PayloadStore, Synced, Usage, archive},
};

/// A segment takes no more once it holds this many bytes.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Reads of so many bytes, parts of large objects, pass the page cache by: measured, filling it costs as much time as the
/// disk takes.
const DIRECT_MIN: usize = 1 << 20;

/// Payload in files: segments are appended to, objects are written once.
///
/// Segments are preallocated and written past the page cache (`O_DIRECT`): measured against appends to a growing file,
/// 1 MiB takes a quarter of the time and a tenth of the CPU. File systems that refuse direct I/O get ordinary writes.
#[derive(Clone)]
pub struct Files {
    segments: PathBuf,
    objects: PathBuf,
    aside: PathBuf,
    space: Arc<Space>,
    current: Arc<Mutex<Option<Segment>>>,
}

/// The segment being written.
struct Segment {
    number: u64,
    file: File,
    len: u64,
    buffer: AlignedBuffer,
}

impl Files {
    pub(super) fn open(dir: &Path, space: Arc<Space>) -> Result<Self> {
        let (segments, objects) = (dir.join("segments"), dir.join("objects"));
        for dir in [&segments, &objects] {
            std::fs::create_dir_all(dir).and_then(|()| sync_dir(dir)).map_err(|error| failed("made", dir, &error))?;
            space.found(bytes_below(dir).map_err(|error| failed("listed", dir, &error))?);
        }
        sync_dir(dir).map_err(|error| failed("synced", dir, &error))?;
        let aside = dir.join(ASIDE);
        Ok(Self { segments, objects, aside, space, current: Arc::default() })
    }

    fn path(&self, key: PayloadKey) -> PathBuf {
        let dir = match key {
            PayloadKey::Segment(_) => &self.segments,
            PayloadKey::Object(_) => &self.objects,
        };
        dir.join(format!("{:016}", key.number()))
    }

    fn append_now(&self, number: u64, bodies: &[Bytes]) -> Result<Option<u64>> {
        let path = self.path(PayloadKey::Segment(number));
        let len: u64 = bodies.iter().map(|body| body.len() as u64).sum();
        self.space.check(0)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out while it is written: after a failed sync nothing is known of the file, so it is left for good.
        let mut segment = match current.take() {
            Some(segment) if segment.number == number => segment,
            _ => {
                self.space.take(SEGMENT_BYTES.max(len))?;
                Segment::create(number, &path).map_err(|error| failed("made", &path, &error))?
            }
        };
        if segment.len > 0 && segment.len + len > SEGMENT_BYTES {
            return Ok(None);
        }
        let offset = segment.append(bodies).map_err(|error| failed("written", &path, &error))?;
        *current = Some(segment);
        Ok(Some(offset))
    }
}

#[async_trait]
impl PayloadStore for Files {
    async fn append(&self, segment: u64, bodies: Vec<Bytes>) -> Result<Option<u64>> {
        let files = self.clone();
        blocking(move || files.append_now(segment, &bodies)).await
    }

    async fn seal(&self, segment: u64, len: u64) -> Result<()> {
        let (path, space) = (self.path(PayloadKey::Segment(segment)), self.space.clone());
        blocking(move || {
            let truncated = match OpenOptions::new().write(true).open(&path) {
                Ok(file) => file.metadata().and_then(|found| {
                    file.set_len(len).and_then(|()| file.sync_all())?;
                    space.give_back(found.len().saturating_sub(len));
                    Ok(())
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound && len == 0 => Ok(()),
                Err(error) => Err(error),
            };
            match truncated {
                // What is missing or cannot be cut is found when it is read or checked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(segment, "the file of a segment is missing");
                    Ok(())
                }
                other => other.map_err(|error| failed("cut to its length", &path, &error)),
            }
        })
        .await
    }

    async fn write_object(&self, object: u64, from: &Synced) -> Result<Box<dyn ObjectWriter>> {
        let (path, space, offset) = (self.path(PayloadKey::Object(object)), self.space.clone(), from.offset);
        let file = blocking(move || ObjectFile::open(path, space, offset)).await?;
        Ok(Box::new(file))
    }

    async fn read(&self, key: PayloadKey, offset: u64, len: u64) -> Result<Bytes> {
        let path = self.path(key);
        blocking(move || {
            let end = offset.saturating_add(len);
            let len = usize::try_from(len).map_err(|_| Error::DataLoss(format!("{key}: {len} bytes cannot be")))?;
            let read = match len >= DIRECT_MIN && offset.is_multiple_of(ALIGN as u64) {
                true => read_direct(&path, offset, len),
                false => File::open(&path).and_then(|file| {
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, offset).map(|()| bytes.into())
                }),
            };
            read.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::DataLoss(format!("{key}: the file '{}' is missing", path.display())),
                io::ErrorKind::UnexpectedEof => {
                    Error::DataLoss(format!("{key}: the file '{}' ends before byte {end}", path.display()))
                }
                _ => failed("read", &path, &error),
            })
        })
        .await
    }

    async fn size(&self, key: PayloadKey) -> Result<Option<u64>> {
        let path = self.path(key);
        blocking(move || match std::fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("examined", &path, &error)),
        })
        .await
    }

    async fn delete(&self, key: PayloadKey) -> Result<()> {
        let (path, space) = (self.path(key), self.space.clone());
        blocking(move || {
            for path in [part(&path), path.clone()] {
                let len = std::fs::metadata(&path).map_or(0, |found| found.len());
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed("removed", &path, &error)),
                    Ok(()) => space.give_back(len),
                }
            }
            // Durable before its row goes: a file that came back would have no row.
            path.parent().map_or(Ok(()), sync_dir).map_err(|error| failed("removed", &path, &error))
        })
        .await
    }

    async fn keys(&self) -> Result<Vec<PayloadKey>> {
        let files = self.clone();
        blocking(move || {
            let mut keys = Vec::new();
            for (dir, kind) in
                [(&files.segments, PayloadKey::Segment as fn(u64) -> PayloadKey), (&files.objects, PayloadKey::Object)]
            {
                let entries = std::fs::read_dir(dir).map_err(|error| failed("listed", dir, &error))?;
                for entry in entries {
                    let name = PathBuf::from(entry.map_err(|error| failed("listed", dir, &error))?.file_name());
                    let key = name.file_stem().and_then(|name| name.to_str()?.parse().ok()).map(kind);
                    // Whatever has another name than it would have is nobody's here.
                    keys.extend(
                        key.filter(|key| [files.path(*key), part(&files.path(*key))].contains(&dir.join(&name))),
                    );
                }
            }
            Ok(keys)
        })
        .await
    }

    async fn room(&self, bytes: u64) -> Result<()> {
        let space = self.space.clone();
        blocking(move || space.check(bytes)).await
    }

    async fn writable(&self) -> Result<()> {
        let files = self.clone();
        blocking(move || files.space.check(0)).await
    }

    async fn usage(&self) -> Result<Option<Usage>> {
        let files = self.clone();
        blocking(move || files.space.usage().map(Some)).await
    }
}

#[async_trait]
impl PayloadArchive for Files {
    async fn set_aside(&self, key: PayloadKey) -> Result<Option<String>> {
        let (files, path) = (self.clone(), self.path(key));
        blocking(move || {
            let mut moved = None;
            for path in [part(&path), path] {
                let Ok(len) = std::fs::metadata(&path).map(|found| found.len()) else { continue };
                let name = path.strip_prefix(files.aside.parent().unwrap_or(&path)).unwrap_or(&path);
                let name = name.display().to_string();
                let free = archive::names(&name).find(|name| !files.aside.join(name).exists());
                let free = free.ok_or_else(|| archive::no_name(&name))?;
                let to = files.aside.join(&free);
                make_parent(&to).and_then(|()| std::fs::rename(&path, &to)).map_err(|e| failed("moved", &path, &e))?;
                for dir in [path.parent(), to.parent()].into_iter().flatten() {
                    sync_dir(dir).map_err(|error| failed("synced", dir, &error))?;
                }
                files.space.give_back(len);
                moved = Some(format!("{ASIDE}/{free}"));
            }
            Ok(moved)
        })
        .await
    }

    async fn restore(&self, key: PayloadKey) -> Result<Box<dyn ObjectWriter>> {
        let (path, space) = (self.path(key), self.space.clone());
        Ok(Box::new(blocking(move || ObjectFile::open(path, space, 0)).await?))
    }

    async fn keep(&self, name: &str) -> Result<Option<Box<dyn ObjectWriter>>> {
        let (path, space) = (self.aside.join(name), self.space.clone());
        let file = blocking(move || {
            if path.exists() {
                return Ok(None);
            }
            make_parent(&path).map_err(|error| failed("made", &path, &error))?;
            ObjectFile::open(path, space, 0).map(Some)
        });
        Ok(file.await?.map(|file| Box::new(file) as Box<dyn ObjectWriter>))
    }
}

/// The name of a file that is not whole.
fn part(path: &Path) -> PathBuf {
    path.with_extension(PART)
}

/// Makes the directory that a file is to be in, durably.
fn make_parent(path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(dir)?;
    dir.ancestors().take(3).try_for_each(sync_dir)
}

impl Segment {
    fn create(number: u64, path: &Path) -> io::Result<Self> {
        let file = open_direct(OpenOptions::new().create_new(true).write(true), path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SEGMENT_BYTES) {
            // Without preallocation, writes extend the file: slower, as safe.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            other => other?,
        }
        file.sync_all()?;
        if let Some(dir) = path.parent() {
            sync_dir(dir)?;
        }
        Ok(Self { number, file, len: 0, buffer: AlignedBuffer::default() })
    }

    fn append(&mut self, bodies: &[Bytes]) -> io::Result<u64> {
        let offset = self.len;
        let (bytes, len) = self.buffer.gather(bodies);
        self.file.write_all_at(bytes, offset)?;
        self.file.sync_data()?;
        // The next append begins on a boundary again.
        self.len = (offset + len as u64).next_multiple_of(ALIGN as u64);
        Ok(offset)
    }
}

/// Reads past the page cache, into memory that is used again.
fn read_direct(path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
    let file = open_direct(OpenOptions::new().read(true), path)?;
    AlignedBuffer::take().read(len, |room| {
        let mut at = 0;
        while at < len {
            at += match file.read_at(&mut room[at..], offset + at as u64)? {
                // Only the end of the file is not on a boundary.
                read if at + read < len && !read.is_multiple_of(ALIGN) || read == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                read => read,
            };
        }
        Ok(at)
    })
}

pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let path = path.display();
    if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded {
        let what = format!("'{path}' could not be {what}: the disk is full: free some space");
        return Error::Exhausted { what, retry_after: Duration::from_secs(1) };
    }
    Error::unavailable(format!("'{path}' could not be {what}: {error}"))
}
