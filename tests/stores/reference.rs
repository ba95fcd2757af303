//! What the stores should answer, said as simply as possible: every message that ever was, in a list.

use std::collections::BTreeMap;

use bytes::Bytes;
use minitoolstream::{
    block::{
        Block, PayloadKey, Placement,
        batch::NewBlock,
        guard::{RecordAt, Refusal},
    },
    store::{Garbage, PayloadRow, Writer},
    types::{Draft, Subject, Timestamp},
};

use crate::{rig::WINDOW, words::Parcel};

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Live,
    Expired,
    Purged,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) draft: Draft,
    pub(crate) created: Timestamp,
    pub(crate) fate: Fate,
}

/// All messages of a subject, the first one at index 0, and the blocks that hold the live ones.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) messages: Vec<Message>,
    pub(crate) blocks: Vec<Block>,
}

struct Id {
    subject: Subject,
    id: String,
    sequence: u64,
    deadline: Timestamp,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Reference {
    pub(crate) streams: BTreeMap<Subject, Stream>,
    pub(crate) positions: BTreeMap<(String, Subject), u64>,
    /// Every use of an id; the last one counts.
    ids: Vec<Id>,
    pub(crate) payloads: Vec<PayloadRow>,
    pub(crate) garbage: Vec<Garbage>,
    /// Messages stored over all subjects.
    stored: u64,
}

impl Stream {
    pub(crate) fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(crate) fn count(&self, fate: Fate) -> u64 {
        self.messages.iter().filter(|message| message.fate == fate).count() as u64
    }

    pub(crate) fn fate(&self, sequence: u64) -> Fate {
        self.messages[usize::try_from(sequence - 1).unwrap()].fate
    }

    pub(crate) fn is_live_up_to(&self, up_to: u64) -> bool {
        (1..=up_to).zip(&self.messages).any(|(_, message)| message.fate == Fate::Live)
    }

    /// Sequences and messages that a reader gets at a moment.
    pub(crate) fn readable(&self, now: Timestamp) -> Vec<(u64, &Message)> {
        let live = |message: &Message| message.fate == Fate::Live && message.draft.expires.is_none_or(|at| at > now);
        (1..).zip(&self.messages).filter(|(_, message)| live(message)).collect()
    }

    /// Gives the live messages of a block their fate; says how many they were.
    fn end(&mut self, sequences: impl Iterator<Item = u64>, fate: Fate) -> u64 {
        let mut ended = 0;
        for sequence in sequences {
            let message = &mut self.messages[usize::try_from(sequence - 1).unwrap()];
            if message.fate == Fate::Live {
                message.fate = fate;
                ended += 1;
            }
        }
        ended
    }
}

impl Reference {
    pub(crate) fn last(&self, subject: &Subject) -> u64 {
        self.streams.get(subject).map_or(0, Stream::last)
    }

    fn known(&self, subject: &Subject, id: &str, now: Timestamp) -> Option<u64> {
        let latest = self.ids.iter().rev().find(|known| known.subject == *subject && known.id == id)?;
        (latest.deadline > now).then_some(latest.sequence)
    }

    /// The records of a group that must be refused.
    pub(crate) fn judge(&self, parcels: &[Parcel], now: Timestamp) -> Vec<(RecordAt, Refusal)> {
        let mut refused = Vec::new();
        let mut accepted: Vec<(&Draft, RecordAt)> = Vec::new();
        for (block, parcel) in parcels.iter().enumerate() {
            for (record, draft) in parcel.drafts.iter().enumerate() {
                let of_subject: Vec<_> = accepted.iter().filter(|(other, _)| other.subject == draft.subject).collect();
                let last = self.last(&draft.subject) + of_subject.len() as u64;
                let id = draft.message_id.as_ref();
                let earlier = of_subject.iter().find(|(other, _)| id.is_some() && other.message_id.as_ref() == id);
                let at = RecordAt { block, record };
                if let Some((_, first)) = earlier {
                    refused.push((at, Refusal::Follows(*first)));
                } else if let Some(sequence) = id.and_then(|id| self.known(&draft.subject, id.as_str(), now)) {
                    refused.push((at, Refusal::Duplicate(sequence)));
                } else if draft.expected_last.is_some_and(|expected| expected != last) {
                    refused.push((at, Refusal::Expected(last)));
                } else {
                    accepted.push((draft, at));
                }
            }
        }
        refused
    }

    /// A group that was judged good is stored; gives the first sequence of each block.
    pub(crate) fn store(
        &mut self,
        parcels: &[Parcel],
        blocks: &[NewBlock],
        placements: &[Placement],
        now: Timestamp,
    ) -> Vec<u64> {
        let mut firsts = Vec::new();
        for ((parcel, new), placement) in parcels.iter().zip(blocks).zip(placements) {
            let subject = &parcel.drafts[0].subject;
            let stream = self.streams.entry(subject.clone()).or_default();
            let first = stream.last() + 1;
            let never = parcel.drafts.iter().any(|draft| draft.expires.is_none());
            let expires = parcel.drafts.iter().filter_map(|draft| draft.expires).max();
            for (sequence, draft) in (first..).zip(&parcel.drafts) {
                stream.messages.push(Message { draft: draft.clone(), created: now, fate: Fate::Live });
                if let Some(id) = &draft.message_id {
                    let (subject, id) = (subject.clone(), id.to_string());
                    self.ids.push(Id { subject, id, sequence, deadline: now.after(WINDOW) });
                }
            }
            let block = Block {
                first,
                stream_first: self.stored + 1,
                count: u32::try_from(parcel.drafts.len()).unwrap(),
                created: now,
                expires: expires.filter(|_| !never),
                crc: new.crc,
                placement: placement.clone(),
            };
            if let Some(key) = block.payload() {
                let row = self.payloads.iter_mut().find(|row| row.key == key).unwrap();
                row.alive += 1;
                match placement {
                    Placement::Slice { offset, len, .. } => row.len = row.len.max(offset + len),
                    Placement::Object { size, .. } => (row.len, row.writer) = (*size, Writer::Nobody),
                    Placement::Inline(_) | Placement::Shared { .. } => {}
                }
            }
            self.stored += u64::from(block.count);
            stream.blocks.push(block);
            firsts.push(first);
        }
        firsts
    }

    /// Moves a position; `None` if the ack is refused.
    pub(crate) fn ack(&mut self, durable: &str, subject: &Subject, sequence: u64) -> Option<u64> {
        if sequence > self.last(subject) {
            return None;
        }
        if sequence == 0 {
            return Some(self.position(durable, subject));
        }
        let position = self.positions.entry((durable.to_owned(), subject.clone())).or_default();
        *position = sequence.max(*position);
        Some(*position)
    }

    /// Messages stored over all subjects.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    pub(crate) fn position(&self, durable: &str, subject: &Subject) -> u64 {
        self.positions.get(&(durable.to_owned(), subject.clone())).copied().unwrap_or(0)
    }

    /// Messages that one step of a purge takes, and the blocks that went.
    pub(crate) fn purge(&mut self, subject: &Subject, up_to: u64, blocks_max: usize, now: Timestamp) -> (u64, usize) {
        let Some(stream) = self.streams.get_mut(subject) else { return (0, 0) };
        let (mut messages, mut gone) = (0, Vec::new());
        for block in stream.blocks.iter().take(blocks_max).cloned().collect::<Vec<_>>() {
            messages += stream.end((block.first..block.end()).filter(|sequence| *sequence <= up_to), Fate::Purged);
            if block.end() - 1 <= up_to {
                gone.push(block);
            }
        }
        stream.blocks.drain(..gone.len());
        gone.iter().for_each(|block| self.release(block, now));
        (messages, gone.len())
    }

    /// Blocks and messages that one step of expiry takes: those whose deadline is longest past.
    pub(crate) fn expire(&mut self, now: Timestamp, blocks_max: usize) -> (usize, u64) {
        let mut due = Vec::new();
        for (subject, stream) in &self.streams {
            let of_stream =
                stream.blocks.iter().filter_map(|block| Some((block.expires?, subject.clone(), block.first)));
            due.extend(of_stream.filter(|(expires, ..)| *expires <= now));
        }
        due.sort();
        due.truncate(blocks_max);
        let mut messages = 0;
        for (_, subject, first) in &due {
            let stream = self.streams.get_mut(subject).unwrap();
            let at = stream.blocks.iter().position(|block| block.first == *first).unwrap();
            let block = stream.blocks.remove(at);
            messages += stream.end(block.first..block.end(), Fate::Expired);
            self.release(&block, now);
        }
        (due.len(), messages)
    }

    /// Forgets due ids; gives how many there are at least and at most, as a second use may stand beside the first.
    pub(crate) fn forget_ids(&mut self, now: Timestamp) -> (usize, usize) {
        let due = |id: &Id| id.deadline <= now;
        let mut names: Vec<_> = self.ids.iter().map(|id| (&id.subject, &id.id)).collect();
        names.sort();
        names.dedup();
        let at_least = names.iter().filter(|(subject, id)| self.known(subject, id, now).is_none()).count();
        let at_most = self.ids.iter().filter(|id| due(id)).count();
        self.ids.retain(|id| !due(id));
        (at_least, at_most)
    }

    pub(crate) fn open(&mut self, key: PayloadKey) {
        assert!(self.payloads.iter().all(|row| row.key.number() < key.number()), "{key} is not new");
        assert!(self.garbage.iter().all(|garbage| garbage.key.number() < key.number()), "{key} is not new");
        self.payloads.push(PayloadRow { key, alive: 0, len: 0, writer: Writer::Commits });
    }

    pub(crate) fn seal(&mut self, key: PayloadKey, now: Timestamp) {
        let row = self.payloads.iter_mut().find(|row| row.key == key).unwrap();
        row.writer = Writer::Nobody;
        self.discard_unused(now);
    }

    /// A new process seals what the old one left open; its garbage counts as old.
    pub(crate) fn reopen(&mut self) {
        for row in &mut self.payloads {
            row.writer = Writer::Nobody;
        }
        self.discard_unused(Timestamp::default());
    }

    /// Garbage that is older than a moment, removed.
    pub(crate) fn reclaim(&mut self, before: Timestamp) -> Vec<Garbage> {
        let (old, rest) = self.garbage.drain(..).partition(|garbage| garbage.since < before);
        self.garbage = rest;
        old
    }

    fn release(&mut self, block: &Block, now: Timestamp) {
        if let Some(key) = block.payload() {
            self.payloads.iter_mut().find(|row| row.key == key).unwrap().alive -= 1;
            self.discard_unused(now);
        }
    }

    fn discard_unused(&mut self, since: Timestamp) {
        let (unused, used) = self.payloads.drain(..).partition(|row| row.alive == 0 && row.writer == Writer::Nobody);
        self.payloads = used;
        self.garbage.extend(Vec::<PayloadRow>::into_iter(unused).map(|row| Garbage { key: row.key, since }));
        self.garbage.sort_by_key(|garbage| (garbage.since, garbage.key.number()));
    }
}

/// The bytes of a message, as they were sent.
pub(crate) fn sent(message: &Message) -> (&Bytes, &minitoolstream::types::Headers) {
    (&message.draft.data, &message.draft.headers)
}
