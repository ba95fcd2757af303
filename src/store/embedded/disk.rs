//! The file system as the embedded stores use it, behind one trait, so that tests can fail every call of it.
//!
//! [`RealDisk`] is the operating system's. The disk that tests use keeps apart what was written and what was synced, and
//! fails calls by number or at random.

use std::{
    fmt::Debug,
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rustix::fs::{Advice, FallocateFlags, OFlags};

/// Whether a file is made when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Create {
    /// It must exist.
    Never,
    /// It is made if it is missing.
    IfMissing,
    /// It must not exist.
    New,
    /// It is made, in the place of one that is there: what that one held never comes back.
    Empty,
}

/// How a file is opened. All files are readable.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenMode {
    pub(super) write: bool,
    pub(super) create: Create,
    /// Past the page cache (`O_DIRECT`), where the file system can: addresses, offsets and lengths are then multiples of
    /// [`ALIGN`](super::aligned::ALIGN).
    pub(super) direct: bool,
}

impl OpenMode {
    /// An existing file, to be read.
    pub(super) const READ: Self = Self { write: false, create: Create::Never, direct: false };
    /// An existing file, to be read and written.
    pub(super) const WRITE: Self = Self { write: true, create: Create::Never, direct: false };

    /// The same, with another rule of creation.
    pub(super) const fn create(self, create: Create) -> Self {
        Self { write: true, create, ..self }
    }

    /// The same, past the page cache.
    pub(super) const fn direct(self) -> Self {
        Self { direct: true, ..self }
    }
}

/// Size of a disk, and what of it can be written by this process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskSpace {
    pub(super) size: u64,
    pub(super) free: u64,
}

/// Names of files, and the files behind them. All paths are absolute or relative to the working directory.
pub(super) trait Disk: Send + Sync + Debug {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Bytes of a file; `None` if it does not exist.
    fn len(&self, path: &Path) -> io::Result<Option<u64>>;

    /// Names and sizes of the files in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;

    /// Makes a directory and its parents, if they are missing. Their names are not durable yet.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    fn space(&self, dir: &Path) -> io::Result<DiskSpace>;
}

/// An open file.
pub(super) trait DiskFile: Send + Sync + Debug {
    fn len(&self) -> io::Result<u64>;

    /// Reads from an offset; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Takes disk space for a range, which reads as zeros where nothing was written. File systems that cannot do so take
    /// it when it is written.
    fn allocate(&self, range: Range<u64>) -> io::Result<()>;

    /// Makes the content durable, with as much of the metadata as it takes to read it.
    fn sync_data(&self) -> io::Result<()>;

    /// The same, with all metadata.
    fn sync_all(&self) -> io::Result<()>;

    /// Lets the next reads come from the device. After a failed sync the page cache may show what is not on the device,
    /// and later syncs do not try again.
    fn drop_cache(&self) -> io::Result<()>;

    /// Fills a buffer from an offset.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_at(buffer, offset)? {
            read if read < buffer.len() => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// The disk of the operating system.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode.write);
        match mode.create {
            Create::Never => {}
            Create::IfMissing => drop(options.create(true).truncate(false)),
            Create::New => drop(options.create_new(true)),
            Create::Empty => {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                options.create_new(true);
            }
        }
        if mode.direct {
            let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
            match options.custom_flags(flags).open(path) {
                // The file system cannot: ordinary reads and writes, then. A new file may have been made.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    options.custom_flags(0).create_new(false).create(mode.create != Create::Never);
                }
                other => return Ok(Arc::new(RealFile(other?))),
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()));
        }
        Ok(files)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // The parent of a relative path is the current directory.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(DiskSpace { size: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut at = 0;
        while at < buffer.len() {
            match self.0.read_at(&mut buffer[at..], offset + at as u64) {
                Ok(0) => break,
                // With direct I/O only the end of the file is not on a boundary, and no read may begin there.
                Ok(read) if !(at + read).is_multiple_of(super::aligned::ALIGN) && at + read < buffer.len() => {
                    at += read;
                    if offset + at as u64 >= self.len()? {
                        break;
                    }
                }
                Ok(read) => at += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(at)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), range.start, range.end - range.start) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}

/// Tries of a read before its failure counts as damage.
const READ_TRIES: usize = 3;

/// Reads again, a bounded number of times, what the device could not read.
///
/// # Errors
/// The last one.
pub(super) fn read_with_retries<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match read() {
            Err(error) if is_unreadable(&error) && tries < READ_TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Whether the device or the file system says that stored bytes cannot be read: a bad sector (`EIO`), a bad checksum
/// (`EBADMSG`) or a damaged structure (`EUCLEAN`).
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    let unreadable = [rustix::io::Errno::IO, rustix::io::Errno::BADMSG, rustix::io::Errno::UCLEAN];
    unreadable.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
