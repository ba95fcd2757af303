//! Which records of a batch may be stored: deduplication and compare-and-set.

use std::collections::HashMap;

use super::batch::{Guard, NewBlock, Source};
use crate::types::{MessageId, Subject, UploadId};

/// A record of a group of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordAt {
    /// Index of the block.
    pub block: usize,
    /// Index of the record in it.
    pub record: usize,
}

/// Why a record is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The message id or the upload is known: this is the sequence it got.
    Duplicate(u64),
    /// The message id or the upload also belongs to this earlier record of the group.
    Follows(RecordAt),
    /// The upload that brought the object is no more, or was begun anew.
    UploadGone,
    /// The subject's last sequence is not the expected one but this.
    Expected(u64),
}

/// Where an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadStanding {
    /// Its bytes go to this object, in this epoch.
    Open {
        /// The object.
        object: u64,
        /// Grows each time that the upload is continued.
        epoch: u64,
    },
    /// It became the message of this sequence.
    Done(u64),
}

/// Walks blocks in order as if they were stored, and lists the records that must not be.
///
/// `last` gives a subject's last sequence, `known` the sequence of a message id inside the dedup window, `upload` where an
/// upload stands. What follows a refused record is judged as if that record were not there, so the group without the
/// refused records passes.
///
/// # Errors
/// Those of the look-ups.
pub fn judge<E>(
    blocks: &[NewBlock],
    mut last: impl FnMut(&Subject) -> Result<u64, E>,
    mut known: impl FnMut(&Subject, &MessageId) -> Result<Option<u64>, E>,
    mut upload: impl FnMut(&UploadId) -> Result<Option<UploadStanding>, E>,
) -> Result<Vec<(RecordAt, Refusal)>, E> {
    let mut refused = Vec::new();
    if blocks.iter().all(|block| block.guards.is_empty()) {
        return Ok(refused);
    }
    let mut lasts: HashMap<&Subject, u64> = HashMap::new();
    let mut seen: HashMap<(&Subject, &MessageId), RecordAt> = HashMap::new();
    let mut uploads: HashMap<&UploadId, RecordAt> = HashMap::new();
    for (index, block) in blocks.iter().enumerate() {
        let mut next_last = match lasts.get(&block.subject) {
            Some(&last) => last,
            None => last(&block.subject)?,
        };
        let mut stored_before = 0;
        for guard in &block.guards {
            // Records between guarded ones carry no condition: they are stored.
            next_last += (guard.record - stored_before) as u64;
            stored_before = guard.record + 1;
            let at = RecordAt { block: index, record: guard.record };
            let Guard { message_id, expected_last, upload: of_upload, .. } = guard;
            let mut refusal = match of_upload {
                Some(id) => match uploads.get(id) {
                    Some(&earlier) => Some(Refusal::Follows(earlier)),
                    None => stale(block, upload(id)?),
                },
                None => None,
            };
            if let (None, Some(id)) = (&refusal, message_id) {
                refusal = match seen.get(&(&block.subject, id)) {
                    Some(&earlier) => Some(Refusal::Follows(earlier)),
                    None => known(&block.subject, id)?.map(Refusal::Duplicate),
                };
            }
            let refusal = refusal.or_else(|| {
                let expected = (*expected_last)?;
                (expected != next_last).then_some(Refusal::Expected(next_last))
            });
            match refusal {
                Some(refusal) => refused.push((at, refusal)),
                None => {
                    next_last += 1;
                    seen.extend(message_id.iter().map(|id| ((&block.subject, id), at)));
                    uploads.extend(of_upload.iter().map(|id| (id, at)));
                }
            }
        }
        // What waits for its time gets its sequence then.
        if block.deliver_at.is_none() {
            next_last += (block.drafts.len() - stored_before) as u64;
            lasts.insert(&block.subject, next_last);
        }
    }
    Ok(refused)
}

/// Whether an upload may become a message: one that filled an object must still own it. Whoever continued it meanwhile writes
/// there again.
fn stale(block: &NewBlock, standing: Option<UploadStanding>) -> Option<Refusal> {
    let filled = block.object.as_ref().and_then(|object| match object.source {
        Source::Stored { object, epoch } => Some((object, epoch)),
        Source::Data(_) => None,
    });
    match (standing, filled) {
        (Some(UploadStanding::Done(sequence)), _) => Some(Refusal::Duplicate(sequence)),
        (Some(UploadStanding::Open { object, epoch }), Some(filled)) if filled == (object, epoch) => None,
        (None, None) => None,
        (Some(UploadStanding::Open { .. }) | None, _) => Some(Refusal::UploadGone),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{
        block::batch::form,
        types::{Draft, Timestamp, Uploaded},
    };

    fn draft(id: Option<&str>, expected_last: Option<u64>) -> Draft {
        Draft {
            subject: Subject::parse("subject", "a").unwrap(),
            data: "x".into(),
            headers: vec![],
            created: Timestamp(1),
            expires: None,
            message_id: id.map(|id| MessageId::parse("message_id", id).unwrap()),
            expected_last,
            deliver_at: None,
            upload: None,
            uploaded: None,
        }
    }

    /// A draft of the upload 'u', whose bytes are in an object or here.
    fn uploaded(object: Option<u64>) -> Draft {
        let uploaded = object.map(|object| Uploaded { object, epoch: 2, size: 1, sha256: [0; 32], part_crcs: vec![1] });
        Draft { upload: Some(UploadId::parse("upload_id", "u").unwrap()), uploaded, ..draft(None, None) }
    }

    fn refusals(drafts: &[Draft], last: u64, known: &[(&str, u64)]) -> Vec<(usize, Refusal)> {
        let mut skip = vec![false; drafts.len()];
        let judge = |blocks: &[NewBlock]| {
            judge::<Infallible>(
                blocks,
                |_| Ok(last),
                |_, id| Ok(known.iter().find(|(name, _)| *name == id.as_str()).map(|(_, sequence)| *sequence)),
                |_| Ok(None),
            )
            .unwrap()
        };
        let refused = judge(&form(drafts, &skip));
        for (at, _) in &refused {
            skip[at.record] = true;
        }
        assert_eq!(judge(&form(drafts, &skip)), [], "without the refused drafts the batch passes");
        refused.into_iter().map(|(at, refusal)| (at.record, refusal)).collect()
    }

    #[test]
    fn duplicates_of_stored_messages_get_their_sequence() {
        let drafts = [draft(Some("x"), None), draft(Some("y"), None)];
        assert_eq!(refusals(&drafts, 9, &[("y", 4)]), [(1, Refusal::Duplicate(4))]);
    }

    #[test]
    fn duplicates_inside_the_batch_follow_the_first() {
        let drafts = [draft(Some("x"), None), draft(None, None), draft(Some("x"), None)];
        assert_eq!(refusals(&drafts, 0, &[]), [(2, Refusal::Follows(RecordAt { block: 0, record: 0 }))]);
    }

    #[test]
    fn compare_and_set_sees_what_the_batch_stores_before_it() {
        let drafts = [draft(None, None), draft(None, Some(6)), draft(None, Some(6)), draft(None, Some(7))];
        assert_eq!(refusals(&drafts, 5, &[]), [(2, Refusal::Expected(7))]);
    }

    #[test]
    fn a_refused_first_does_not_shadow_a_later_one() {
        let drafts = [draft(Some("x"), Some(3)), draft(Some("x"), Some(0))];
        assert_eq!(refusals(&drafts, 0, &[]), [(0, Refusal::Expected(0))]);
    }
    #[test]
    fn an_upload_becomes_one_message_and_only_while_it_owns_its_object() {
        let judge = |drafts: &[Draft], standing| {
            let refused = judge::<Infallible>(
                &form(drafts, &vec![false; drafts.len()]),
                |_| Ok(0),
                |_, _| Ok(None),
                |_| Ok(standing),
            );
            refused.unwrap().into_iter().map(|(at, refusal)| (at.block, refusal)).collect::<Vec<_>>()
        };
        let (done, open) = (Some(UploadStanding::Done(4)), Some(UploadStanding::Open { object: 7, epoch: 2 }));
        let continued = Some(UploadStanding::Open { object: 7, epoch: 3 });
        assert_eq!(judge(&[uploaded(Some(7))], done), [(0, Refusal::Duplicate(4))]);
        assert_eq!(judge(&[uploaded(None)], done), [(0, Refusal::Duplicate(4))]);
        assert_eq!(judge(&[uploaded(Some(7))], open), []);
        assert_eq!(judge(&[uploaded(Some(6))], open), [(0, Refusal::UploadGone)]);
        assert_eq!(judge(&[uploaded(Some(7))], continued), [(0, Refusal::UploadGone)]);
        assert_eq!(judge(&[uploaded(Some(7))], None), [(0, Refusal::UploadGone)]);
        assert_eq!(judge(&[uploaded(None)], None), []);
        assert_eq!(judge(&[uploaded(None)], open), [(0, Refusal::UploadGone)]);
        let first = RecordAt { block: 0, record: 0 };
        assert_eq!(judge(&[uploaded(Some(7)), uploaded(Some(7))], open), [(1, Refusal::Follows(first))]);
    }
}
