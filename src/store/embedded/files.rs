use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    aligned::{ALIGN, AlignedBuffer},
    blocking,
    disk::{Create, Disk, DiskFile, OpenMode, is_unreadable, read_with_retries},
    object_file::{ObjectFile, PART},
    space::Space,
    volume::{Volume, failed},
};
use crate::{
    block::PayloadKey,
    error::{Error, Result},
    store::{ASIDE, ObjectWriter, PayloadArchive, PayloadStore, Synced, Usage, archive},
};

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
    volume: Arc<Volume>,
    space: Arc<Space>,
    current: Arc<Mutex<Option<Segment>>>,
}

/// The segment being written.
struct Segment {
    number: u64,
    file: Arc<dyn DiskFile>,
    len: u64,
    buffer: AlignedBuffer,
}

impl Files {
    pub(super) fn open(volume: Arc<Volume>, space: Arc<Space>) -> Result<Self> {
        let (segments, objects) = (volume.path("segments"), volume.path("objects"));
        for dir in [&segments, &objects] {
            let made = volume.disk.make_dir(dir).and_then(|()| volume.disk.sync_dir(dir));
            made.map_err(|error| failed("made", dir, &error))?;
            let files = volume.disk.list(dir).map_err(|error| failed("listed", dir, &error))?;
            space.found(files.iter().map(|(_, len)| len).sum());
        }
        volume.disk.sync_dir(&volume.dir).map_err(|error| failed("synced", &volume.dir, &error))?;
        Ok(Self { segments, objects, aside: volume.path(ASIDE), volume, space, current: Arc::default() })
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
        // One that hung and then woke must not take the place of its successor.
        if let Some(segment) = current.as_ref().filter(|segment| segment.number > number) {
            return Err(Error::unavailable(format!("segment {number} was closed: {} is written", segment.number)));
        }
        // Taken out while it is written: after a failed sync nothing is known of the file, so it is left for good.
        let mut segment = match current.take() {
            Some(segment) if segment.number == number => segment,
            _ => self.create_segment(number, &path, len)?,
        };
        if segment.len > 0 && segment.len + len > self.volume.sizes.segment {
            return Ok(None);
        }
        let offset = segment.append(bodies).map_err(|error| failed("written", &path, &error))?;
        *current = Some(segment);
        Ok(Some(offset))
    }
}

impl Files {
    fn create_segment(&self, number: u64, path: &Path, len: u64) -> Result<Segment> {
        let bytes = self.volume.sizes.segment.max(len);
        self.space.take(bytes)?;
        Segment::create(&*self.volume.disk, number, path, bytes).map_err(|error| {
            // What is left of the file counts when it is deleted, and at the next start.
            self.space.give_back(bytes - self.volume.disk.len(path).ok().flatten().unwrap_or(0).min(bytes));
            failed("made", path, &error)
        })
    }
}

#[async_trait]
impl PayloadStore for Files {
    async fn append(&self, segment: u64, bodies: Vec<Bytes>) -> Result<Option<u64>> {
        let files = self.clone();
        blocking(move || files.append_now(segment, &bodies)).await
    }

    async fn seal(&self, segment: u64, len: u64) -> Result<()> {
        let (path, files) = (self.path(PayloadKey::Segment(segment)), self.clone());
        blocking(move || {
            let truncated = match files.volume.disk.open(&path, OpenMode::WRITE) {
                Ok(file) => file.len().and_then(|found| {
                    file.set_len(len).and_then(|()| file.sync_all())?;
                    files.space.give_back(found.saturating_sub(len));
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
        let (path, files, offset) = (self.path(PayloadKey::Object(object)), self.clone(), from.offset);
        let file = blocking(move || ObjectFile::open(&path, &files.volume, &files.space, offset)).await?;
        Ok(Box::new(file))
    }

    async fn read(&self, key: PayloadKey, offset: u64, len: u64) -> Result<Bytes> {
        let (path, volume) = (self.path(key), self.volume.clone());
        blocking(move || {
            let end = offset.saturating_add(len);
            let len = usize::try_from(len).map_err(|_| Error::DataLoss(format!("{key}: {len} bytes cannot be")))?;
            let is_direct = len >= DIRECT_MIN && offset.is_multiple_of(ALIGN as u64);
            let read = read_with_retries(|| read_once(&*volume.disk, &path, offset, len, is_direct));
            read.map_err(|error| match error.kind() {
                _ if is_unreadable(&error) => Error::DataLoss(format!(
                    "{key}: bytes {offset} to {end} of the file '{}' cannot be read: {error}",
                    path.display()
                )),
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
        let (path, volume) = (self.path(key), self.volume.clone());
        blocking(move || volume.disk.len(&path).map_err(|error| failed("examined", &path, &error))).await
    }

    async fn delete(&self, key: PayloadKey) -> Result<()> {
        let (path, files) = (self.path(key), self.clone());
        blocking(move || {
            let disk = &files.volume.disk;
            for path in [part(&path), path.clone()] {
                let len = disk.len(&path).ok().flatten().unwrap_or(0);
                match disk.remove(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed("removed", &path, &error)),
                    Ok(()) => files.space.give_back(len),
                }
            }
            // Durable before its row goes: a file that came back would have no row.
            sync_parent(&**disk, &path).map_err(|error| failed("removed", &path, &error))
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
                let entries = files.volume.disk.list(dir).map_err(|error| failed("listed", dir, &error))?;
                for (name, _) in entries {
                    let name = PathBuf::from(name);
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
            let (mut moved, disk) = (None, &files.volume.disk);
            for path in [part(&path), path] {
                let Ok(Some(len)) = disk.len(&path) else { continue };
                let name = path.strip_prefix(files.aside.parent().unwrap_or(&path)).unwrap_or(&path);
                let name = name.display().to_string();
                let free = archive::names(&name).find(|name| matches!(disk.len(&files.aside.join(name)), Ok(None)));
                let free = free.ok_or_else(|| archive::no_name(&name))?;
                let to = files.aside.join(&free);
                let renamed = make_parent(&**disk, &to).and_then(|()| disk.rename(&path, &to));
                renamed.map_err(|error| failed("moved", &path, &error))?;
                for path in [&path, &to] {
                    sync_parent(&**disk, path).map_err(|error| failed("synced", path, &error))?;
                }
                files.space.give_back(len);
                moved = Some(format!("{ASIDE}/{free}"));
            }
            Ok(moved)
        })
        .await
    }

    async fn restore(&self, key: PayloadKey) -> Result<Box<dyn ObjectWriter>> {
        let (path, files) = (self.path(key), self.clone());
        Ok(Box::new(blocking(move || ObjectFile::open(&path, &files.volume, &files.space, 0)).await?))
    }

    async fn keep(&self, name: &str) -> Result<Option<Box<dyn ObjectWriter>>> {
        let (path, files) = (self.aside.join(name), self.clone());
        let file = blocking(move || {
            let found = files.volume.disk.len(&path).map_err(|error| failed("examined", &path, &error))?;
            if found.is_some() {
                return Ok(None);
            }
            make_parent(&*files.volume.disk, &path).map_err(|error| failed("made", &path, &error))?;
            ObjectFile::open(&path, &files.volume, &files.space, 0).map(Some)
        });
        Ok(file.await?.map(|file| Box::new(file) as Box<dyn ObjectWriter>))
    }
}

/// The name of a file that is not whole.
fn part(path: &Path) -> PathBuf {
    path.with_extension(PART)
}

/// Makes the directory that a file is to be in, durably.
fn make_parent(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    disk.make_dir(dir)?;
    dir.ancestors().take(3).try_for_each(|dir| disk.sync_dir(dir))
}

/// Makes the name of a file durable, or that it is gone.
pub(super) fn sync_parent(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
}

impl Segment {
    fn create(disk: &dyn Disk, number: u64, path: &Path, bytes: u64) -> io::Result<Self> {
        let file = disk.open(path, OpenMode::WRITE.create(Create::New).direct())?;
        file.allocate(0..bytes)?;
        file.sync_all()?;
        sync_parent(disk, path)?;
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

/// Reads a range of a file; a large one past the page cache, into memory that is used again.
fn read_once(disk: &dyn Disk, path: &Path, offset: u64, len: usize, is_direct: bool) -> io::Result<Bytes> {
    let mode = if is_direct { OpenMode::READ.direct() } else { OpenMode::READ };
    let file = disk.open(path, mode)?;
    // No memory for what a damaged row claims.
    if len >= DIRECT_MIN && offset.saturating_add(len as u64) > file.len()? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !is_direct {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        return Ok(bytes.into());
    }
    let bytes = AlignedBuffer::take().read(len, |room| file.read_at(room, offset))?;
    if bytes.len() < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}
