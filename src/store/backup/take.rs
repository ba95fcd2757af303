use std::{path::Path, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufReader, BufWriter},
};

use super::{
    COPIES, Manifest, PIECE, Progress,
    files::{Dir, failed},
    frames::{Beginning, FrameReader, FrameWriter},
    objects::{ListWriter, Listed},
    row::Row,
};
use crate::{
    block::PayloadKey,
    error::{Error, Result},
    store::{Archive, PayloadArchive, View},
    types::Timestamp,
};

/// How often a view is told that it is still in use.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// How to take a backup.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Copy payload; else it is only listed.
    pub payload: bool,
    /// The present moment.
    pub now: Timestamp,
}

/// Takes a backup into a directory that is empty or not there yet, while brokers may be working, and tells `report` how far
/// it is. What the stores themselves lack is listed as missing, and counted.
///
/// # Errors
/// [`Error::Precondition`] if the directory is not empty or another backup is under way, [`Error::Exhausted`] if too much
/// changed meanwhile; those of the stores and of the disk.
pub async fn take(
    archive: &Archive,
    root: &Path,
    options: Options,
    mut report: impl FnMut(Progress) + Send,
) -> Result<Manifest> {
    let dir = Dir::create(root)?;
    let mut view = archive.metadata.view().await?;
    let result = async {
        let mut manifest = rows(&mut *view, &dir, options, &mut report).await?;
        tokio::select! {
            done = payload(archive, &dir, &mut manifest, &mut report) => done?,
            failed = keep(&*view) => return Err(failed),
        }
        Ok(manifest)
    };
    let result = result.await;
    // If it cannot be closed it ends by itself.
    let closed = view.close().await;
    let manifest = result?;
    closed?;
    manifest.write(&dir).await?;
    Ok(manifest)
}

/// Holds a view open; ends if that fails.
async fn keep(view: &dyn View) -> Error {
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        if let Err(error) = view.keep().await {
            return error;
        }
    }
}

async fn rows(
    view: &mut dyn View,
    dir: &Dir,
    options: Options,
    report: &mut (impl FnMut(Progress) + Send),
) -> Result<Manifest> {
    let head = view.head();
    // Numbers that every JSON reader can tell.
    let beginning = Beginning { backup: fastrand::u64(1..1 << 53), created: options.now, head };
    let path = dir.metadata();
    let file = File::create(&path).await.map_err(|error| failed(&path, "made", &error))?;
    let mut frames = FrameWriter::begin(BufWriter::new(file), path.display().to_string(), &beginning).await?;
    let mut progress = Progress::default();
    loop {
        let rows = view.next().await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            frames.row(row).await?;
        }
        progress.rows += rows.len() as u64;
        report(progress);
    }
    let (file, rows, metadata) = frames.end().await?;
    file.get_ref().sync_all().await.map_err(|error| failed(&path, "synced", &error))?;
    Ok(Manifest {
        format: Manifest::FORMAT,
        backup: beginning.backup,
        created: options.now.to_rfc3339(),
        version: env!("CARGO_PKG_VERSION").into(),
        next_stream: head.next_stream,
        rows,
        objects: 0,
        object_bytes: 0,
        missing: 0,
        has_payload: options.payload,
        metadata,
        list: metadata,
    })
}

/// Copies or lists what the rows tell of. They are read from the backup again, so that memory does not grow with them.
async fn payload(
    archive: &Archive,
    dir: &Dir,
    manifest: &mut Manifest,
    report: &mut (impl FnMut(Progress) + Send),
) -> Result<()> {
    let path = dir.metadata();
    let file = File::open(&path).await.map_err(|error| failed(&path, "opened", &error))?;
    let frames = FrameReader::begin(BufReader::new(file), path.display().to_string()).await?;
    let rows = stream::try_unfold(frames, async |mut frames| Ok(frames.next().await?.map(|row| (row, frames))));
    let payloads = rows.filter_map(async |row: Result<Row>| match row {
        Ok(Row::Payload { key, len, .. }) => Some(Ok((key, len))),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    let has_payload = manifest.has_payload;
    let copies = payloads.map(|payload| async move {
        let (key, len) = payload?;
        match has_payload {
            true => copy(&*archive.payload, dir, key, len).await,
            false => list(&*archive.payload, key, len).await,
        }
    });
    let mut copies = std::pin::pin!(copies.buffered(COPIES));
    let mut written = ListWriter::begin(dir).await?;
    let mut progress = Progress { rows: manifest.rows, ..Progress::default() };
    while let Some(listed) = copies.next().await {
        let listed = listed?;
        written.put(&listed).await?;
        manifest.objects += 1;
        manifest.object_bytes += listed.size;
        manifest.missing += u64::from(listed.missing.is_some());
        (progress.objects, progress.bytes) = (manifest.objects, manifest.object_bytes);
        report(progress);
    }
    manifest.list = written.end().await?;
    Ok(())
}

async fn copy(payload: &dyn PayloadArchive, dir: &Dir, key: PayloadKey, len: u64) -> Result<Listed> {
    let path = dir.payload(key);
    let mut file = File::create(&path).await.map_err(|error| failed(&path, "made", &error))?;
    let (mut digest, mut at) = (crc32fast::Hasher::new(), 0);
    while at < len {
        let bytes = match payload.read(key, at, PIECE.min(len - at)).await {
            Ok(bytes) => bytes,
            // What the store has lost, a backup cannot have.
            Err(Error::DataLoss(problem)) => {
                tokio::fs::remove_file(&path).await.map_err(|error| failed(&path, "removed", &error))?;
                return Ok(Listed { missing: Some(problem), ..Listed::new(key, len) });
            }
            Err(error) => return Err(error),
        };
        at += bytes.len() as u64;
        digest.update(&bytes);
        file.write_all(&bytes).await.map_err(|error| failed(&path, "written", &error))?;
    }
    let synced = async {
        file.flush().await?;
        file.sync_all().await
    };
    synced.await.map_err(|error| failed(&path, "synced", &error))?;
    Ok(Listed { crc32: Some(digest.finalize()), ..Listed::new(key, len) })
}

async fn list(payload: &dyn PayloadArchive, key: PayloadKey, len: u64) -> Result<Listed> {
    let size = payload.size(key).await?;
    let missing = match size {
        Some(size) if size >= len => None,
        Some(size) => Some(format!("it has {size} bytes")),
        None => Some("it is not there".into()),
    };
    Ok(Listed { missing, ..Listed::new(key, len) })
}
