//! What may happen to a store.

use minitoolstream::types::Subject;
use proptest::{prelude::*, sample::Index};

use crate::{
    backend::Ending,
    words::{Home, subject},
};

/// Names that begin alike, so that one subject's rows lie next to another's. The last gets no messages.
pub(crate) const SUBJECTS: [&str; 4] = ["a", "a.b", "ab", "a.none"];
pub(crate) const DURABLES: [&str; 2] = ["d", "d.a"];
pub(crate) const IDS: [&str; 4] = ["1", "2", "3", "4"];
/// Time goes in steps, so that deadlines are often met to the millisecond.
const TICK: u64 = 10;
pub(crate) const OPERATIONS: std::ops::Range<usize> = 40..80;

#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) len: usize,
    pub(crate) ttl: Option<u64>,
    pub(crate) id: Option<Index>,
    /// The subject's last sequence before the group, and this much more.
    pub(crate) expected: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Commit { blocks: Vec<(Index, Home, Vec<Planned>)>, acks: Vec<(Index, Index, Index)> },
    Purge { subject: Index, up_to: Index, blocks_max: usize },
    Expire { blocks_max: usize },
    ForgetIds { limit: usize },
    Pass { millis: u64 },
    Seal,
    Reclaim { age: u64 },
    Scan { subject: Index, from: Index, blocks_max: usize, bytes_max: u64 },
    Read { subject: Index, from: Index, limit: usize },
    Reopen { ending: Ending },
}

fn planned() -> impl Strategy<Value = Planned> {
    let len = prop_oneof![4 => 0_usize..60, 1 => 4000_usize..9000];
    let ttl = prop::option::of((1_u64..40).prop_map(|ticks| ticks * TICK));
    let id = prop::option::weighted(0.3, any::<Index>());
    let expected = prop::option::weighted(0.15, 0_u64..3);
    (len, ttl, id, expected).prop_map(|(len, ttl, id, expected)| Planned { len, ttl, id, expected })
}

fn block() -> impl Strategy<Value = (Index, Home, Vec<Planned>)> {
    let home = prop_oneof![5 => Just(Home::Inline), 3 => Just(Home::Slice), 1 => Just(Home::Object)];
    (any::<Index>(), home, prop::collection::vec(planned(), 1..5)).prop_map(|(subject, home, mut planned)| {
        if home == Home::Object {
            planned.truncate(1);
        }
        (subject, home, planned)
    })
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let acks = prop::collection::vec(any::<(Index, Index, Index)>(), 0..3);
    let ending = prop_oneof![Just(Ending::Closed), Just(Ending::Killed)];
    let from = any::<(Index, Index)>();
    prop_oneof![
        20 => (prop::collection::vec(block(), 0..4), acks).prop_map(|(blocks, acks)| Operation::Commit { blocks, acks }),
        5 => (any::<Index>(), any::<Index>(), 1_usize..4)
            .prop_map(|(subject, up_to, blocks_max)| Operation::Purge { subject, up_to, blocks_max }),
        5 => (1_usize..5).prop_map(|blocks_max| Operation::Expire { blocks_max }),
        2 => (1_usize..4).prop_map(|limit| Operation::ForgetIds { limit }),
        6 => prop_oneof![5 => 1_u64..5, 1 => Just(50), 1 => Just(100)].prop_map(|ticks| Operation::Pass { millis: ticks * TICK }),
        2 => Just(Operation::Seal),
        2 => (0_u64..4).prop_map(|ticks| Operation::Reclaim { age: ticks * TICK }),
        5 => (from.clone(), 1_usize..6, prop_oneof![Just(0), 50_u64..500, Just(u64::MAX)]).prop_map(
            |((subject, from), blocks_max, bytes_max)| Operation::Scan { subject, from, blocks_max, bytes_max }
        ),
        5 => (from, 1_usize..8).prop_map(|((subject, from), limit)| Operation::Read { subject, from, limit }),
        1 => ending.prop_map(|ending| Operation::Reopen { ending }),
    ]
}

pub(crate) fn any_subject(index: Index) -> Subject {
    subject(index.get::<&str>(&SUBJECTS))
}
