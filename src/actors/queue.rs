//! Commits on their way through storage: each waits for its payload, and for those of its sender before it.
//!
//! ```text
//! push ─▶ new ─▶ being placed ─▶ placed ─▶ ready, in the order of each sender ─▶ transaction
//!          ▲ └──────── nothing to place ───▲                                        │
//!          └──────────── put back: what was refused is left out ◀──────────────────┘
//! ```

use std::collections::{HashSet, VecDeque};

use super::{
    placing::{Placed, inline},
    storage::{Commit, InlineMax},
};
use crate::{
    block::batch::{self, NewBlock, NewObject},
    error::Result,
    types::Published,
};

/// A commit on its way.
pub(super) struct Entry {
    /// Its number; they grow.
    pub(super) number: u64,
    pub(super) commit: Commit,
    /// For each draft: why it is not stored.
    pub(super) refused: Vec<Option<Refused>>,
    /// The entry that has to be through before this one is judged: it has the same message.
    pub(super) after: Option<u64>,
    stage: Stage,
}

enum Stage {
    New,
    Placing,
    Placed(Placed),
}

/// Why a draft is not stored.
#[derive(Clone)]
pub(super) enum Refused {
    /// For this.
    Known(Result<Published>),
    /// It repeats this draft of the same commit.
    Follows(usize),
}

impl Entry {
    /// Where its blocks are, once they are placed.
    pub(super) fn placed(&mut self) -> Option<&mut Placed> {
        match &mut self.stage {
            Stage::Placed(placed) => Some(placed),
            Stage::New | Stage::Placing => None,
        }
    }

    /// Forms the blocks anew, without what is refused. What they had been placed as is given back if it does not hold any
    /// more.
    pub(super) fn reform(&mut self, is_changed: bool, inline_max: usize) -> Option<Placed> {
        let skip: Vec<_> = self.refused.iter().map(Option::is_some).collect();
        self.commit.blocks = batch::form(&self.commit.drafts, &skip);
        if !is_changed {
            return None;
        }
        let stage = inline(&self.commit.blocks, inline_max).map_or(Stage::New, Stage::Placed);
        match std::mem::replace(&mut self.stage, stage) {
            Stage::Placed(placed) => Some(placed),
            Stage::New | Stage::Placing => None,
        }
    }

    fn bytes(&self) -> usize {
        self.commit.blocks.iter().map(bytes_of).sum()
    }
}

/// See the [module](self).
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    inline_max: InlineMax,
    next: u64,
}

impl Queue {
    /// An empty queue. Blocks of at most `inline_max` bytes need no payload.
    pub(super) fn new(inline_max: InlineMax) -> Self {
        Self { entries: VecDeque::new(), inline_max, next: 0 }
    }

    pub(super) fn push(&mut self, commit: Commit) {
        self.next += 1;
        let stage = inline(&commit.blocks, self.inline_max.get()).map_or(Stage::New, Stage::Placed);
        let refused = vec![None; commit.drafts.len()];
        self.entries.push_back(Entry { number: self.next, commit, refused, after: None, stage });
    }

    /// New entries' blocks, oldest first, until they have so many bytes; they count as being placed then.
    pub(super) fn begin_placing(&mut self, bytes_max: usize) -> Vec<(u64, Vec<NewBlock>)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for entry in self.entries.iter_mut().filter(|entry| matches!(entry.stage, Stage::New)) {
            if bytes >= bytes_max {
                break;
            }
            bytes += entry.bytes();
            entry.stage = Stage::Placing;
            taken.push((entry.number, entry.commit.blocks.clone()));
        }
        taken
    }

    /// Takes note of where an entry's blocks are.
    pub(super) fn placed(&mut self, number: u64, placed: Placed) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == number) {
            entry.stage = Stage::Placed(placed);
        }
    }

    /// Takes entries out, whatever their stage.
    pub(super) fn remove(&mut self, numbers: &[u64]) -> Vec<Entry> {
        let (removed, left) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| numbers.contains(&entry.number));
        self.entries = left;
        VecDeque::into(removed)
    }

    /// Takes what can be stored now, until it has so many bytes. Nothing overtakes an earlier entry of its sender.
    pub(super) fn ready(&mut self, bytes_max: usize) -> Vec<Entry> {
        let numbers: Vec<_> = self.entries.iter().map(|entry| entry.number).collect();
        let (mut ready, mut left, mut held, mut bytes) = (Vec::new(), VecDeque::new(), HashSet::new(), 0);
        for entry in std::mem::take(&mut self.entries) {
            let is_placed = matches!(entry.stage, Stage::Placed(_));
            let waits = entry.after.is_some_and(|after| numbers.binary_search(&after).is_ok());
            if is_placed && !waits && bytes < bytes_max && !held.contains(&entry.commit.sender) {
                bytes += entry.bytes();
                ready.push(entry);
            } else {
                held.insert(entry.commit.sender);
                left.push_back(entry);
            }
        }
        self.entries = left;
        ready
    }

    /// Puts entries back to where they were.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>) {
        self.entries.extend(entries);
        self.entries.make_contiguous().sort_by_key(|entry| entry.number);
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

fn bytes_of(block: &NewBlock) -> usize {
    block.body.len() + block.object.as_ref().map_or(0, NewObject::held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::Parcel,
        types::{Draft, Subject, Timestamp},
    };

    const INLINE_MAX: usize = 1000;

    /// A commit of one message of so many bytes.
    fn commit(sender: usize, bytes: usize) -> Commit {
        let subject = Subject::parse("subject", &format!("s.{sender}")).unwrap();
        let drafts = vec![Draft {
            subject,
            data: vec![0; bytes].into(),
            headers: Vec::new(),
            created: Timestamp::default(),
            expires: None,
            message_id: None,
            expected_last: None,
            deliver_at: None,
            upload: None,
            uploaded: None,
        }];
        let blocks = batch::form(&drafts, &[false]);
        Commit { sender, drafts, blocks, tickets: Parcel::new(Vec::new()), done: tokio::sync::oneshot::channel().0 }
    }

    fn queue(commits: &[(usize, usize)]) -> Queue {
        let mut queue = Queue::new(InlineMax::new(INLINE_MAX));
        commits.iter().for_each(|(sender, bytes)| queue.push(commit(*sender, *bytes)));
        queue
    }

    fn numbers(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn p2_nothing_overtakes_an_earlier_commit_of_its_sender() {
        let mut queue = queue(&[(0, 10), (0, 5000), (0, 10), (1, 10)]);
        let placing: Vec<_> = queue.begin_placing(usize::MAX).into_iter().map(|(number, _)| number).collect();
        assert_eq!(placing, [2]);
        assert!(queue.begin_placing(usize::MAX).is_empty(), "it is being placed already");
        assert_eq!(numbers(&queue.ready(usize::MAX)), [1, 4]);
        assert!(queue.ready(usize::MAX).is_empty());
        queue.placed(2, Placed::default());
        assert_eq!(numbers(&queue.ready(usize::MAX)), [2, 3]);
    }

    #[test]
    fn what_cannot_be_placed_stops_nobody() {
        let mut queue = queue(&[(0, 5000), (0, 10)]);
        queue.begin_placing(usize::MAX);
        assert_eq!(numbers(&queue.remove(&[1])), [1]);
        assert_eq!(numbers(&queue.ready(usize::MAX)), [2]);
    }

    #[test]
    fn groups_have_a_limit() {
        let mut queue = queue(&[(0, 500), (1, 500), (2, 500), (0, 5000), (1, 5000)]);
        assert_eq!(numbers(&queue.ready(600)), [1, 2]);
        assert_eq!(queue.begin_placing(1).len(), 1);
    }

    #[test]
    fn what_is_put_back_has_its_old_place() {
        let mut queue = queue(&[(0, 10), (0, 10), (1, 10)]);
        let taken = queue.ready(usize::MAX);
        queue.push(commit(0, 10));
        queue.put_back(taken);
        assert_eq!(numbers(&queue.ready(usize::MAX)), [1, 2, 3, 4]);
    }

    #[test]
    fn a_repeat_waits_for_the_first() {
        let mut queue = queue(&[(0, 10), (0, 10), (0, 10)]);
        let mut taken = queue.ready(usize::MAX);
        taken[1].after = Some(1);
        queue.put_back(taken);
        assert_eq!(numbers(&queue.ready(usize::MAX)), [1]);
        assert_eq!(numbers(&queue.ready(usize::MAX)), [2, 3]);
    }
}
