use std::{
    fs::TryLockError,
    io,
    path::{Path, PathBuf},
    pin::Pin,
};

use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use crate::{Error, Message, Progress, Result, open::Open, progress::Observer};

/// Bytes of a part file that are hashed at a time.
const STEP_BYTES: u64 = 1 << 20;

/// The data of a message on its way into a file: await it. Made by [`Client::save`](crate::Client::save) and
/// [`Open::save`].
///
/// The data goes to a part file, `<name>.part` beside the file, which is given the file's name once it is whole and on
/// stable storage: it replaces what had that name. When saving was interrupted, and the message has a SHA-256, the next
/// attempt goes on at the end of the part file; in the end all of the file is verified. A range is always saved from its
/// beginning, and not verified.
#[derive(Debug)]
#[must_use = "nothing is saved before it is awaited"]
pub struct Save {
    open: Open,
    path: PathBuf,
    part: Option<PathBuf>,
    observer: Observer,
}

/// A file that was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file, if it was verified.
    pub sha256: Option<[u8; 32]>,
    /// Bytes that an earlier attempt had left.
    pub continued_at: u64,
}

/// A file under way, which no other process writes to.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    digest: Sha256,
}

impl Save {
    pub(crate) fn new(open: Open, path: PathBuf) -> Self {
        Self { open, path, part: None, observer: Observer::nobody() }
    }

    /// Names the part file; it must be on the same file system. For names that are too long for `.part` to be appended.
    pub fn part_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.part = Some(path.into());
        self
    }

    /// Calls `tell` for each piece that is written. It must not block.
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + Send + 'static) -> Self {
        self.observer = Observer::new(tell);
        self
    }

    async fn run(self) -> Result<Saved> {
        let Self { mut open, path, part, mut observer } = self;
        let is_whole = open.offset == 0 && open.length.is_none();
        let mut reader = None;
        let message = match &open.wanted.message {
            Some(message) => message.clone(),
            None => reader.insert(open.clone().await?).message().clone(),
        };
        open.wanted.message = Some(message.clone());
        let digest = message.sha256().filter(|_| is_whole);
        let mut part = Part::open(part.unwrap_or_else(|| with_part(&path))).await?;
        if digest.is_some() && part.len > 0 && part.len <= message.size() {
            part.hash().await?;
        } else {
            part.clear().await?;
        }
        let continued_at = part.len;
        let total = is_whole.then(|| message.size());
        observer.tell(Progress { durable: part.len, transferred: part.len, total });
        if continued_at == 0 || continued_at < message.size() {
            let mut reader = match reader.filter(|_| continued_at == 0) {
                Some(reader) => reader,
                None if continued_at == 0 => open.await?,
                None => open.range(continued_at, None).await?,
            };
            let written = async {
                while let Some(piece) = reader.piece().await? {
                    part.write(&piece, digest.is_some()).await?;
                    observer.tell(Progress { durable: part.len, transferred: part.len, total });
                }
                Ok(())
            };
            if let Err(error) = written.await {
                part.leave(&error).await;
                return Err(error);
            }
        }
        let size = part.len;
        part.finish(&message, digest, &path).await?;
        Ok(Saved { size, sha256: digest, continued_at })
    }
}

impl IntoFuture for Save {
    type Output = Result<Saved>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Saved>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Part {
    async fn open(path: PathBuf) -> Result<Self> {
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path).await;
        let file = opened.map_err(|error| refused(&path, &error))?.into_std().await;
        // Where files cannot be locked, they are written without.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::Other(format!(
                "'{}' is being written by another process: wait for it, or save under another name",
                path.display()
            )));
        }
        let len = file.metadata().map_err(|error| refused(&path, &error))?.len();
        Ok(Self { path, file: File::from_std(file), len, digest: Sha256::new() })
    }

    /// Hashes what is there, and goes on after it.
    async fn hash(&mut self) -> Result<()> {
        let hashed = async {
            let mut left = self.len;
            let mut step = Vec::new();
            while left > 0 {
                step.clear();
                let read = (&mut self.file).take(left.min(STEP_BYTES)).read_to_end(&mut step).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.digest.update(&step);
                left -= read as u64;
            }
            Ok(())
        };
        hashed.await.map_err(|error| refused(&self.path, &error))
    }

    async fn clear(&mut self) -> Result<()> {
        let cleared = async {
            self.file.set_len(0).await?;
            self.file.rewind().await
        };
        cleared.await.map_err(|error| refused(&self.path, &error))?;
        self.len = 0;
        Ok(())
    }

    async fn write(&mut self, piece: &[u8], hashes: bool) -> Result<()> {
        self.file.write_all(piece).await.map_err(|error| refused(&self.path, &error))?;
        if hashes {
            self.digest.update(piece);
        }
        self.len += piece.len() as u64;
        Ok(())
    }

    /// After a failure: keeps what the next attempt can use.
    async fn leave(mut self, error: &Error) {
        let is_useless = self.len == 0 || matches!(error, Error::NotFound(_) | Error::DataLoss(_) | Error::Invalid(_));
        if is_useless {
            self.remove().await;
        } else {
            // What could not be written is missing at the end, and will be read again.
            let _ = self.file.flush().await;
        }
    }

    async fn finish(mut self, message: &Message, digest: Option<[u8; 32]>, path: &Path) -> Result<()> {
        if let Some(expected) = digest {
            let found: [u8; 32] = std::mem::take(&mut self.digest).finalize().into();
            if found != expected {
                self.remove().await;
                return Err(Error::DataLoss(format!(
                    "what was saved of message {} of {} has the SHA-256 {} instead of {}: '{}' was removed, save it again",
                    message.sequence,
                    message.subject,
                    hex(&found),
                    hex(&expected),
                    self.path.display()
                )));
            }
        }
        let synced = async {
            self.file.flush().await?;
            self.file.sync_all().await?;
            tokio::fs::rename(&self.path, path).await
        };
        synced.await.map_err(|error| refused(path, &error))
    }

    async fn remove(&self) {
        // It may be gone, and one that cannot be removed is found damaged again.
        let _ = tokio::fs::remove_file(&self.path).await;
    }
}

fn refused(path: &Path, error: &io::Error) -> Error {
    Error::Other(format!("'{}' cannot be written: {error}", path.display()))
}

fn with_part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
