//! Uploads: rows written before the bytes, so that what never becomes a message is found and removed.
//!
//! ```text
//! begin ─▶ open ─save─▶ open ─commit─▶ done ─deadline─▶ forgotten
//!            │                                   begin of an open one: the next epoch
//!            └─abandon or deadline─▶ the object is garbage
//! ```
//!
//! ```text
//! | version 1 u8 | deadline u64 | state 0 u8 | object u64 | epoch u64 | header bytes | offset u64 | tally bytes | receipt bytes |
//! | version 1 u8 | deadline u64 | state 1 u8 | sequence u64 | size u64 | sha256 32 | subject                            |
//! bytes: len u32 | bytes
//! ```

use bytes::{Buf, BufMut, Bytes};

use super::{
    batch::Batch,
    due::{self, Skipped, each_due},
    snapshot::Snapshot,
    tables::{self, UPLOAD_DEADLINES, UPLOADS},
    transaction::Transaction,
};
use crate::{
    block::{PayloadKey, batch::NewBlock, guard::UploadStanding},
    error::{Error, Result},
    store::{NewUpload, Saved, Upload, UploadState, Writer},
    types::{Timestamp, UploadId},
};

const VERSION: u8 = 1;

pub(super) fn begin(transaction: &mut Transaction, new: NewUpload) -> Result<Upload> {
    let upload = match read(&transaction.snapshot, &new.id)? {
        Some(Upload { state: UploadState::Open { object, epoch, header, saved }, deadline, id }) => {
            if header != new.header {
                return Err(Error::Precondition(format!(
                    "upload '{id}' was begun with another header: continue it with the same subject, headers and options, \
                     or give a new one another id"
                )));
            }
            remove(transaction, &id, deadline);
            let state = UploadState::Open { object, epoch: epoch + 1, header, saved };
            Upload { id, state, deadline: new.deadline }
        }
        Some(done) if done.deadline > new.now => return Ok(done),
        known => {
            if let Some(Upload { deadline, .. }) = known {
                remove(transaction, &new.id, deadline);
            }
            let open = transaction.open_uploads()?;
            if *open >= new.uploads_max as u64 {
                return Err(Error::Exhausted {
                    what: format!(
                        "limits.uploads is used up ({}): let uploads under way end, or abort them, and repeat",
                        new.uploads_max
                    ),
                    retry_after: std::time::Duration::from_secs(1),
                });
            }
            *open += 1;
            let object = transaction.add_payload(PayloadKey::Object, Writer::Upload)?.number();
            let state = UploadState::Open { object, epoch: 1, header: new.header, saved: Saved::default() };
            Upload { id: new.id, state, deadline: new.deadline }
        }
    };
    put(transaction, &upload);
    Ok(upload)
}

pub(super) fn read(snapshot: &Snapshot, id: &UploadId) -> Result<Option<Upload>> {
    let key = id.as_str().as_bytes();
    snapshot.get(UPLOADS, key)?.map(|value| decode(key, &value)).transpose()
}

pub(super) fn list(snapshot: &Snapshot, after: &str, limit: usize) -> Result<Vec<Upload>> {
    let mut uploads = Vec::new();
    snapshot.scan(UPLOADS, after.as_bytes(), &[0xFF], |key, value| {
        if key > after.as_bytes() {
            uploads.push(decode(key, value)?);
        }
        Ok(uploads.len() < limit)
    })?;
    Ok(uploads)
}

pub(super) fn save(
    transaction: &mut Transaction,
    id: &UploadId,
    in_epoch: u64,
    saved: Saved,
    until: Timestamp,
) -> Result<()> {
    match read(&transaction.snapshot, id)? {
        Some(Upload { id, state: UploadState::Open { object, epoch, header, .. }, deadline }) if epoch == in_epoch => {
            remove(transaction, &id, deadline);
            put(
                transaction,
                &Upload { id, state: UploadState::Open { object, epoch, header, saved }, deadline: until },
            );
            Ok(())
        }
        Some(_) => Err(Error::Precondition(format!("upload '{id}' was continued by somebody else, or is done"))),
        None => Err(Error::Precondition(format!("upload '{id}' is no more: it was aborted, or its deadline passed"))),
    }
}

pub(super) fn abandon(
    transaction: &mut Transaction,
    id: &UploadId,
    in_epoch: Option<u64>,
    now: Timestamp,
) -> Result<bool> {
    match read(&transaction.snapshot, id)? {
        Some(Upload { state: UploadState::Open { object, epoch, .. }, deadline, .. })
            if in_epoch.is_none_or(|in_epoch| in_epoch == epoch) =>
        {
            remove(transaction, id, deadline);
            close_one(transaction)?;
            transaction.seal(PayloadKey::Object(object), now)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(super) fn expire(transaction: &mut Transaction, now: Timestamp, limit: usize, skipped: &Skipped) -> Result<usize> {
    let of = (UPLOAD_DEADLINES, "upload_deadlines");
    each_due(transaction, of, (now, limit), skipped, |transaction, key, _| {
        let id = read_id(due::behind_time("upload_deadlines", key)?)?;
        if let Some(Upload { state: UploadState::Open { object, .. }, .. }) = read(&transaction.snapshot, &id)? {
            transaction.open_uploads()?;
            transaction.seal(PayloadKey::Object(object), now)?;
            close_one(transaction)?;
        }
        transaction.batch.remove(UPLOADS, id.as_str());
        transaction.batch.remove(UPLOAD_DEADLINES, key);
        Ok(())
    })
}

/// Where an upload stands, for the judgement of a commit.
pub(super) fn standing(snapshot: &Snapshot, id: &UploadId, now: Timestamp) -> Result<Option<UploadStanding>> {
    Ok(read(snapshot, id)?.and_then(|upload| match upload.state {
        UploadState::Open { object, epoch, .. } => Some(UploadStanding::Open { object, epoch }),
        UploadState::Done { sequence, .. } => (upload.deadline > now).then_some(UploadStanding::Done(sequence)),
    }))
}

/// Records that an upload became a message, in the transaction that makes it one.
pub(super) fn complete(
    transaction: &mut Transaction,
    id: &UploadId,
    (block, record): (&NewBlock, usize),
    sequence: u64,
    until: Timestamp,
) -> Result<()> {
    if let Some(Upload { deadline, state, .. }) = read(&transaction.snapshot, id)? {
        remove(transaction, id, deadline);
        if let UploadState::Open { .. } = state {
            close_one(transaction)?;
        }
    }
    let (size, sha256) = block.digest(record);
    let state = UploadState::Done { subject: block.subject.clone(), sequence, size, sha256 };
    put(transaction, &Upload { id: id.clone(), state, deadline: until });
    Ok(())
}

fn put(transaction: &mut Transaction, upload: &Upload) {
    put_rows(&mut transaction.batch, upload);
}

pub(super) fn put_rows(batch: &mut Batch, upload: &Upload) {
    let id = upload.id.as_str();
    batch.put(UPLOADS, id, encode(upload));
    batch.put(UPLOAD_DEADLINES, tables::timed_key(upload.deadline, id.as_bytes()), []);
}

fn remove(transaction: &mut Transaction, id: &UploadId, deadline: Timestamp) {
    transaction.batch.remove(UPLOADS, id.as_str());
    transaction.batch.remove(UPLOAD_DEADLINES, tables::timed_key(deadline, id.as_str().as_bytes()));
}

fn close_one(transaction: &mut Transaction) -> Result<()> {
    let open = transaction.open_uploads()?;
    *open = open.saturating_sub(1);
    Ok(())
}

fn encode(upload: &Upload) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.put_u64_le(upload.deadline.0);
    match &upload.state {
        UploadState::Open { object, epoch, header, saved } => {
            out.put_u8(0);
            out.put_u64_le(*object);
            out.put_u64_le(*epoch);
            put_bytes(&mut out, header);
            out.put_u64_le(saved.offset);
            put_bytes(&mut out, &saved.tally);
            put_bytes(&mut out, &saved.receipt);
        }
        UploadState::Done { subject, sequence, size, sha256 } => {
            out.put_u8(1);
            out.put_u64_le(*sequence);
            out.put_u64_le(*size);
            out.put_slice(sha256);
            out.put_slice(subject.as_str().as_bytes());
        }
    }
    out
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Upload> {
    let id = read_id(key)?;
    decode_state(value)
        .map(|(state, deadline)| Upload { id, state, deadline })
        .ok_or_else(|| tables::unreadable("uploads", key))
}

fn decode_state(mut value: &[u8]) -> Option<(UploadState, Timestamp)> {
    if value.len() < 10 || value.get_u8() != VERSION {
        return None;
    }
    let deadline = Timestamp(value.get_u64_le());
    let state = match value.get_u8() {
        0 => {
            let (object, epoch) = (value.try_get_u64_le().ok()?, value.try_get_u64_le().ok()?);
            let header = get_bytes(&mut value)?;
            let offset = value.try_get_u64_le().ok()?;
            let (tally, receipt) = (get_bytes(&mut value)?, get_bytes(&mut value)?);
            UploadState::Open { object, epoch, header, saved: Saved { offset, tally, receipt } }
        }
        1 => {
            let (sequence, size) = (value.try_get_u64_le().ok()?, value.try_get_u64_le().ok()?);
            let (sha256, subject) = value.split_at_checked(32)?;
            let (sha256, subject) = (sha256.try_into().ok()?, tables::read_subject(subject).ok()?);
            UploadState::Done { subject, sequence, size, sha256 }
        }
        _ => return None,
    };
    Some((state, deadline))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn get_bytes(value: &mut &[u8]) -> Option<Bytes> {
    let len = usize::try_from(value.try_get_u32_le().ok()?).ok()?;
    let (bytes, rest) = value.split_at_checked(len)?;
    *value = rest;
    Some(Bytes::copy_from_slice(bytes))
}

fn read_id(key: &[u8]) -> Result<UploadId> {
    let id = std::str::from_utf8(key).ok().and_then(|id| UploadId::parse("upload_id", id).ok());
    id.ok_or_else(|| tables::unreadable("uploads", key))
}
