use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use tokio::{
    fs::File,
    io::{AsyncReadExt, BufReader},
};

use super::{
    COPIES, Manifest, PIECE, Progress,
    files::{Dir, damaged, failed},
    frames::{Digest, FrameReader},
    objects::{ListReader, Listed},
    row::{Head, Row},
};
use crate::{
    block::PayloadKey,
    consumer,
    error::{Error, Result},
    store::{Archive, PayloadArchive},
};

/// Rows that one transaction writes.
const ROWS_MAX: u64 = 500;

/// Bytes of rows, at which a transaction takes no more.
const BYTES_MAX: u64 = 1 << 20;

/// A backup that is as it was written.
pub struct Verified {
    /// What it is.
    pub manifest: Manifest,
    dir: Dir,
    head: Head,
}

/// Restores a backup into empty stores that no broker works on. They are closed to brokers meanwhile; interrupted, it is to be
/// repeated with the same backup. Tells `report` how far it is.
///
/// # Errors
/// [`Error::Precondition`] if the stores are not empty, brokers work on them, or payload that is only listed is not there;
/// [`Error::DataLoss`] if the backup has changed since it was verified; those of the stores.
pub async fn restore(archive: &Archive, backup: &Verified, mut report: impl FnMut(Progress) + Send) -> Result<()> {
    let Verified { manifest, dir, head } = backup;
    archive.refuse_brokers("a restore").await?;
    let keys = archive.payload.keys().await?;
    if manifest.has_payload {
        let is_repeated = archive.metadata.restoring().await? == Some(manifest.backup);
        if let Some(key) = keys.first().filter(|_| !is_repeated) {
            return Err(Error::Precondition(format!(
                "the payload store is not empty, it has {key}: restore into an empty directory, bucket or s3.prefix"
            )));
        }
    } else {
        compare(&*archive.payload, dir).await?;
    }
    archive.metadata.begin_restore(manifest.backup).await?;
    let mut progress = Progress::default();
    rows(archive, dir, manifest, &mut progress, &mut report).await?;
    if manifest.has_payload {
        payload(&*archive.payload, dir, &mut progress, &mut report).await?;
    }
    // What lies in the bucket beyond the backup keeps its number, and is not written over.
    let highest = keys.iter().map(|key| key.number()).max().unwrap_or(0);
    let next_payload = head.next_payload.max(highest.saturating_add(1));
    archive.metadata.end_restore(manifest.backup, Head { next_payload, ..*head }).await
}

/// Verifies all of a backup, and tells `report` how far it is.
///
/// # Errors
/// [`Error::DataLoss`] if anything is not as it was written, [`Error::Precondition`] if it is no backup, was never finished,
/// or has a format that is not known here.
pub async fn verify(root: &Path, mut report: impl FnMut(Progress) + Send) -> Result<Verified> {
    let dir = Dir::of(root);
    let manifest = Manifest::read(&dir).await?;
    let mut progress = Progress::default();
    let mut frames = open_rows(&dir).await?;
    if frames.beginning.backup != manifest.backup {
        return Err(damaged(&dir.metadata(), "it belongs to another backup than backup.json"));
    }
    while frames.next().await?.is_some() {
        progress.rows += 1;
        if progress.rows.is_multiple_of(ROWS_MAX) {
            report(progress);
        }
    }
    if frames.read() != (manifest.rows, manifest.metadata) {
        return Err(damaged(&dir.metadata(), "it is not what backup.json tells of"));
    }
    let listed = listed(ListReader::begin(&dir).await?);
    let dir = &dir;
    let compared = listed.map_ok(|(key, listed, list)| async move {
        if let Some(crc) = listed.crc32 {
            Source::open(dir, key, &listed, crc).await?.read_all(async |_| Ok(())).await?;
        }
        Ok((listed.size, list))
    });
    let mut compared = std::pin::pin!(compared.try_buffered(COPIES));
    let mut list = Digest::default();
    while let Some((size, read)) = compared.try_next().await? {
        (progress.objects, progress.bytes, list) = (progress.objects + 1, progress.bytes + size, read);
        report(progress);
    }
    if (progress.objects, list) != (manifest.objects, manifest.list) {
        return Err(damaged(&dir.objects(), "it is not what backup.json tells of"));
    }
    let head = frames.beginning.head;
    Ok(Verified { manifest, dir: Dir::of(root), head })
}

/// Entries of the list, each with what was read of the list up to it.
fn listed(list: ListReader) -> impl Stream<Item = Result<(PayloadKey, Listed, Digest)>> {
    stream::try_unfold(list, async |mut list| {
        let next = list.next().await?;
        Ok(next.map(|(key, listed)| ((key, listed, list.digest()), list)))
    })
}

async fn open_rows(dir: &Dir) -> Result<FrameReader<BufReader<File>>> {
    let path = dir.metadata();
    let file = File::open(&path).await.map_err(|error| failed(&path, "opened", &error))?;
    FrameReader::begin(BufReader::with_capacity(1 << 20, file), path.display().to_string()).await
}

async fn rows(
    archive: &Archive,
    dir: &Dir,
    manifest: &Manifest,
    progress: &mut Progress,
    report: &mut (impl FnMut(Progress) + Send),
) -> Result<()> {
    let mut frames = open_rows(dir).await?;
    let (mut batch, mut begun): (Vec<Row>, _) = (Vec::new(), 0);
    loop {
        let row = frames.next().await?;
        let (count, digest) = frames.read();
        let is_full = batch.len() as u64 == ROWS_MAX || digest.size - begun > BYTES_MAX;
        let is_other = row.as_ref().map(Row::kind) != batch.first().map(Row::kind);
        if !batch.is_empty() && (is_full || is_other) {
            archive.metadata.restore(manifest.backup, std::mem::take(&mut batch)).await?;
            begun = digest.size;
            progress.rows = count;
            report(*progress);
        }
        match row {
            Some(row) => batch.push(released(row, dir)?),
            None => return Ok(()),
        }
    }
}

/// Leases end with the brokers that gave them: what workers had is delivered again.
fn released(row: Row, dir: &Dir) -> Result<Row> {
    let Row::Pending { consumer, page, row } = row else { return Ok(row) };
    let row = consumer::row::without_leases(page, &row);
    let row = row.ok_or_else(|| damaged(&dir.metadata(), &format!("what '{consumer}' has out cannot be read")))?;
    Ok(Row::Pending { consumer, page, row: row.into() })
}

async fn payload(
    payload: &dyn PayloadArchive,
    dir: &Dir,
    progress: &mut Progress,
    report: &mut (impl FnMut(Progress) + Send),
) -> Result<()> {
    let copies = listed(ListReader::begin(dir).await?).map_ok(|(key, listed, _)| async move {
        if let Some(crc) = listed.crc32 {
            let mut writer = payload.restore(key).await?;
            let source = Source::open(dir, key, &listed, crc).await?;
            source.read_all(async |bytes| writer.write(vec![bytes]).await).await?;
            writer.finish().await?;
        }
        Ok(listed.size)
    });
    let mut copies = std::pin::pin!(copies.try_buffered(COPIES));
    while let Some(size) = copies.try_next().await? {
        (progress.objects, progress.bytes) = (progress.objects + 1, progress.bytes + size);
        report(*progress);
    }
    Ok(())
}

/// Payload that is only listed must be there already.
async fn compare(payload: &dyn PayloadArchive, dir: &Dir) -> Result<()> {
    let lacks = listed(ListReader::begin(dir).await?).map_ok(|(key, listed, _)| async move {
        let is_there = payload.size(key).await?.is_some_and(|size| size >= listed.size);
        Ok((key, is_there || listed.missing.is_some()))
    });
    let mut lacks = std::pin::pin!(lacks.try_buffered(COPIES));
    let (mut count, mut first) = (0, None);
    while let Some((key, is_there)) = lacks.try_next().await? {
        if !is_there {
            count += 1;
            first = first.or(Some(key));
        }
    }
    match first {
        None => Ok(()),
        Some(first) => Err(Error::Precondition(format!(
            "this backup has no payload, and the payload store lacks {count} of what it lists, such as {first}: restore \
             the bucket first, and use its s3.bucket and s3.prefix"
        ))),
    }
}

/// A file of payload, with what it should be.
struct Source {
    path: PathBuf,
    file: File,
    size: u64,
    crc: u32,
}

impl Source {
    async fn open(dir: &Dir, key: PayloadKey, listed: &Listed, crc: u32) -> Result<Self> {
        let path = dir.payload(key);
        let file = File::open(&path).await.map_err(|error| damaged(&path, &error.to_string()))?;
        Ok(Self { path, file, size: listed.size, crc })
    }

    /// Hands all of it on, and refuses it at the end if it is not what it was.
    async fn read_all(mut self, mut put: impl AsyncFnMut(Bytes) -> Result<()>) -> Result<()> {
        let (mut digest, mut left) = (crc32fast::Hasher::new(), self.size);
        loop {
            // One byte more than there should be is asked for: a longer file is another one.
            let mut piece = Vec::new();
            let mut limited = (&mut self.file).take(PIECE.min(left.saturating_add(1)));
            let read = limited.read_to_end(&mut piece).await.map_err(|error| failed(&self.path, "read", &error))?;
            if read == 0 {
                break;
            }
            left = left
                .checked_sub(read as u64)
                .ok_or_else(|| damaged(&self.path, &format!("it has more than {} bytes", self.size)))?;
            digest.update(&piece);
            put(piece.into()).await?;
        }
        if left > 0 {
            return Err(damaged(&self.path, &format!("{left} of its {} bytes are missing", self.size)));
        }
        match digest.finalize() == self.crc {
            true => Ok(()),
            false => Err(damaged(&self.path, "its checksum does not match")),
        }
    }
}
