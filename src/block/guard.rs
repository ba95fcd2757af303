//! Which records of a batch may be stored: deduplication and compare-and-set.

use std::collections::HashMap;

use super::batch::NewBlock;
use crate::types::{MessageId, Subject};

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
    /// The message id is known: this is the sequence it got.
    Duplicate(u64),
    /// The message id also belongs to this earlier record of the group.
    Follows(RecordAt),
    /// The subject's last sequence is not the expected one but this.
    Expected(u64),
}

/// Walks blocks in order as if they were stored, and lists the records that must not be.
///
/// `last` gives a subject's last sequence, `known` the sequence of a message id inside the dedup window. What follows a
/// refused record is judged as if that record were not there, so the group without the refused records passes.
///
/// # Errors
/// Those of the two look-ups.
pub fn judge<E>(
    blocks: &[NewBlock],
    mut last: impl FnMut(&Subject) -> Result<u64, E>,
    mut known: impl FnMut(&Subject, &MessageId) -> Result<Option<u64>, E>,
) -> Result<Vec<(RecordAt, Refusal)>, E> {
    let mut refused = Vec::new();
    if blocks.iter().all(|block| block.guards.is_empty()) {
        return Ok(refused);
    }
    let mut lasts: HashMap<&Subject, u64> = HashMap::new();
    let mut seen: HashMap<(&Subject, &MessageId), RecordAt> = HashMap::new();
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
            let refusal = match &guard.message_id {
                Some(id) => match seen.get(&(&block.subject, id)) {
                    Some(&earlier) => Some(Refusal::Follows(earlier)),
                    None => known(&block.subject, id)?.map(Refusal::Duplicate),
                },
                None => None,
            };
            let refusal = refusal.or_else(|| {
                let expected = guard.expected_last?;
                (expected != next_last).then_some(Refusal::Expected(next_last))
            });
            match refusal {
                Some(refusal) => refused.push((at, refusal)),
                None => {
                    next_last += 1;
                    if let Some(id) = &guard.message_id {
                        seen.insert((&block.subject, id), at);
                    }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{
        block::batch::form,
        types::{Draft, Timestamp},
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
        }
    }

    fn refusals(drafts: &[Draft], last: u64, known: &[(&str, u64)]) -> Vec<(usize, Refusal)> {
        let mut skip = vec![false; drafts.len()];
        let judge = |blocks: &[NewBlock]| {
            judge::<Infallible>(
                blocks,
                |_| Ok(last),
                |_, id| Ok(known.iter().find(|(name, _)| *name == id.as_str()).map(|(_, sequence)| *sequence)),
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
}
