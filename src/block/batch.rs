//! From drafts to blocks.

use bytes::{Bytes, BytesMut};

use super::{BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX, INLINE_MAX, OBJECT_MIN, ROWS_BYTES_MAX, object::Tally, record};
use crate::types::{Draft, MessageId, Subject, Timestamp, UploadId, Uploaded};

/// A block that has no sequence yet.
#[derive(Clone, Debug)]
pub struct NewBlock {
    /// Whose messages it holds.
    pub subject: Subject,
    /// For each record, in order: the index of its draft in the batch.
    pub drafts: Vec<usize>,
    /// When its newest record was accepted.
    pub created: Timestamp,
    /// When its last record expires; `None` if one never does.
    pub expires: Option<Timestamp>,
    /// CRC-32 (IEEE) of the body.
    pub crc: u32,
    /// The encoded records; for an object its record without the data.
    pub body: Bytes,
    /// The data, if it becomes an object.
    pub object: Option<NewObject>,
    /// Conditions that some of its records carry.
    pub guards: Vec<Guard>,
    /// When its one record becomes a message, if not now.
    pub deliver_at: Option<Timestamp>,
}

/// A message too large for a block.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// Its bytes.
    pub source: Source,
    /// How many they are.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// CRC-32 of each part of [`part_bytes`](super::object::part_bytes).
    pub part_crcs: Vec<u32>,
}

/// Where the bytes of a new object are.
#[derive(Clone, Debug)]
pub enum Source {
    /// Here, to be stored.
    Data(Bytes),
    /// In an object that an upload filled, durable.
    Stored {
        /// Its number.
        object: u64,
        /// The epoch of the upload.
        epoch: u64,
    },
}

/// What must hold for a record to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The record's index in its block.
    pub record: usize,
    /// Not stored yet within the dedup window.
    pub message_id: Option<MessageId>,
    /// The subject's last sequence just before this record.
    pub expected_last: Option<u64>,
    /// An upload that did not become a message yet.
    pub upload: Option<UploadId>,
}

/// Sorts drafts into blocks: one subject a block, order within a subject kept, large and scheduled messages alone. A few
/// drafts become blocks that fit in rows.
///
/// `skip[i]` leaves draft `i` out.
pub fn form(drafts: &[Draft], skip: &[bool]) -> Vec<NewBlock> {
    let mut order: Vec<usize> = (0..drafts.len()).filter(|&index| !skip[index]).collect();
    order.sort_by(|&a, &b| drafts[a].subject.cmp(&drafts[b].subject));
    let bytes: usize = order.iter().map(|&index| record::encoded_len(&drafts[index])).sum();
    let bytes_max = if bytes <= ROWS_BYTES_MAX { INLINE_MAX } else { BLOCK_BYTES_MAX };
    let mut blocks = Vec::new();
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let (block, after) = rest.split_at(records_of_next_block(drafts, rest, bytes_max));
        blocks.push(encode(drafts, block));
        rest = after;
    }
    blocks
}

fn records_of_next_block(drafts: &[Draft], order: &[usize], bytes_max: usize) -> usize {
    let first = &drafts[order[0]];
    if stands_alone(first) {
        return 1;
    }
    let mut bytes = 0;
    order
        .iter()
        .take(BLOCK_RECORDS_MAX)
        .map(|&index| &drafts[index])
        .take_while(|draft| {
            bytes += record::encoded_len(draft);
            draft.subject == first.subject
                && !stands_alone(draft)
                && (bytes <= bytes_max || std::ptr::eq(*draft, first))
        })
        .count()
}

fn stands_alone(draft: &Draft) -> bool {
    draft.data.len() > OBJECT_MIN || draft.deliver_at.is_some() || draft.uploaded.is_some()
}

fn encode(drafts: &[Draft], members: &[usize]) -> NewBlock {
    let records = || members.iter().map(|&index| &drafts[index]);
    let first = &drafts[members[0]];
    let object = match &first.uploaded {
        Some(uploaded) => Some(NewObject::stored(uploaded)),
        None => (first.data.len() > OBJECT_MIN).then(|| NewObject::of(first.data.clone())),
    };
    let len = match object {
        Some(_) => record::PREFIX + record::headers_len(&first.headers),
        None => records().map(record::encoded_len).sum(),
    };
    let mut body = BytesMut::with_capacity(len);
    for draft in records() {
        record::encode(draft, object.is_none(), &mut body);
    }
    let guards = records()
        .enumerate()
        .filter(|(_, draft)| draft.message_id.is_some() || draft.expected_last.is_some() || draft.upload.is_some())
        .map(|(record, draft)| Guard {
            record,
            message_id: draft.message_id.clone(),
            expected_last: draft.expected_last,
            upload: draft.upload.clone(),
        })
        .collect();
    NewBlock {
        subject: first.subject.clone(),
        drafts: members.to_vec(),
        created: records().map(|draft| draft.created).max().unwrap_or_default(),
        expires: records().map(|draft| draft.expires).try_fold(Timestamp(0), |latest, at| Some(latest.max(at?))),
        crc: crc32fast::hash(&body),
        body: body.freeze(),
        object,
        guards,
        deliver_at: first.deliver_at,
    }
}

impl NewBlock {
    /// Size and SHA-256 of the data of one of its records.
    pub fn digest(&self, record: usize) -> (u64, [u8; 32]) {
        match (&self.object, record::decode(self.body.clone()).nth(record)) {
            (Some(object), _) => (object.size, object.sha256),
            (None, Some(Ok(record))) => (record.data.len() as u64, Tally::of(&record.data).sha256()),
            (None, _) => (0, Tally::default().sha256()),
        }
    }
}

impl NewObject {
    /// An object of these bytes.
    pub fn of(data: Bytes) -> Self {
        let tally = Tally::of(&data);
        let (size, sha256, part_crcs) = (tally.len(), tally.sha256(), tally.part_crcs());
        Self { source: Source::Data(data), size, sha256, part_crcs }
    }

    fn stored(uploaded: &Uploaded) -> Self {
        let Uploaded { object, epoch, size, sha256, part_crcs } = uploaded.clone();
        Self { source: Source::Stored { object, epoch }, size, sha256, part_crcs }
    }

    /// Bytes of it that are in memory.
    pub fn held(&self) -> usize {
        match &self.source {
            Source::Data(data) => data.len(),
            Source::Stored { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(subject: &str, len: usize) -> Draft {
        Draft {
            subject: Subject::parse("subject", subject).unwrap(),
            data: vec![0; len].into(),
            headers: vec![],
            created: Timestamp(1),
            expires: Some(Timestamp(len as u64 + 1)),
            message_id: None,
            expected_last: None,
            deliver_at: None,
            upload: None,
            uploaded: None,
        }
    }

    proptest! {
        #[test]
        fn each_draft_is_in_one_block_in_order(
            messages in prop::collection::vec(("[a-c]", 0_usize..40_000, any::<bool>()), 0..80),
        ) {
            let drafts: Vec<_> = messages.iter().map(|(s, len, _)| draft(s, *len)).collect();
            let skip: Vec<_> = messages.iter().map(|(_, _, skip)| *skip).collect();
            let blocks = form(&drafts, &skip);
            let mut seen: Vec<_> = blocks.iter().flat_map(|b| b.drafts.clone()).collect();
            for block in &blocks {
                prop_assert!(block.body.len() <= BLOCK_BYTES_MAX);
                prop_assert!(block.drafts.iter().all(|&i| drafts[i].subject == block.subject));
            }
            for subject in ["a", "b", "c"] {
                let of_subject = seen.iter().filter(|&&i| drafts[i].subject.as_str() == subject);
                prop_assert!(of_subject.is_sorted());
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..drafts.len()).filter(|&i| !skip[i]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_messages_stand_alone() {
        let drafts = [draft("a", 10), draft("a", OBJECT_MIN + 1), draft("a", OBJECT_MIN), draft("a", 10)];
        let blocks = form(&drafts, &[false; 4]);
        let shape: Vec<_> = blocks.iter().map(|b| (b.drafts.clone(), b.object.is_some())).collect();
        assert_eq!(shape, [(vec![0], false), (vec![1], true), (vec![2], false), (vec![3], false)]);
        assert_eq!(blocks[1].body.len(), record::PREFIX);
        assert_eq!(blocks[1].object.as_ref().unwrap().part_crcs.len(), 2);
    }

    #[test]
    fn a_block_expires_with_its_last_record() {
        let mut drafts = vec![draft("a", 5), draft("a", 9)];
        assert_eq!(form(&drafts, &[false; 2])[0].expires, Some(Timestamp(10)));
        drafts[0].expires = None;
        assert_eq!(form(&drafts, &[false; 2])[0].expires, None);
    }
}
