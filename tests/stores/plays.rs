//! What may happen to two stores at once.

use proptest::prelude::*;

use crate::{operations::SUBJECTS, words::Home};

pub(crate) const CONSUMERS: [&str; 3] = ["c", "d", "unnamed"];
pub(crate) const PATTERNS: [&str; 3] = ["a", "a.*", ">"];
pub(crate) const UPLOADS: [&str; 3] = ["u", "v", "w"];
/// Time goes in steps, so that deadlines are often met to the millisecond.
const TICK: u64 = 10;
pub(crate) const PLAYS: std::ops::Range<usize> = 25..50;

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) subject: usize,
    pub(crate) len: usize,
    pub(crate) ttl: Option<u64>,
    pub(crate) id: Option<u8>,
    pub(crate) expected: Option<u64>,
    pub(crate) wait: Option<u64>,
    pub(crate) upload: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Ack,
    Nak,
    Extend,
    Terminate,
    Release,
    Gone,
    Damaged,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Pause(bool),
    Reset,
    Update(usize),
    Delete,
}

/// A step: consumer, session, answers to any delivery so far, messages, and whether the worker leaves.
pub(crate) type Work = (usize, u64, Vec<(usize, Answer)>, usize, bool);

#[derive(Clone, Debug)]
pub(crate) enum Play {
    Commit { parcels: Vec<(Home, Vec<Message>)>, acks: Vec<(usize, usize, u64)>, work: Option<Work> },
    Make { consumer: usize, pattern: usize, start: u64, is_durable: bool },
    Change { consumer: usize, change: Change },
    Deliver { limit: usize },
    Redrive { letter: usize, to: usize },
    Begin { upload: usize, header: u8 },
    Save { upload: usize, epoch: u64, offset: u64 },
    Abandon { upload: usize, epoch: Option<u64> },
    ExpireUploads { limit: usize },
    Purge { subject: usize, up_to: u64, blocks_max: usize },
    Expire { blocks_max: usize },
    ForgetIds,
    Pass { millis: u64 },
    Seal,
    Reclaim { age: u64 },
    Reopen,
}

fn message() -> impl Strategy<Value = Message> {
    let len = prop_oneof![5 => 0_usize..60, 1 => 2000_usize..4000];
    let ttl = prop::option::weighted(0.4, (1_u64..12).prop_map(|ticks| ticks * TICK));
    let wait = prop::option::weighted(0.15, (1_u64..6).prop_map(|ticks| ticks * TICK));
    let guards = (
        prop::option::weighted(0.25, 0_u8..4),
        prop::option::weighted(0.1, 0_u64..8),
        prop::option::weighted(0.08, 0..UPLOADS.len()),
    );
    (0..SUBJECTS.len() - 1, len, ttl, wait, guards).prop_map(|(subject, len, ttl, wait, (id, expected, upload))| {
        Message { subject, len, ttl, id, expected, wait, upload }
    })
}

fn work() -> impl Strategy<Value = Work> {
    let answer = prop_oneof![
        6 => Just(Answer::Ack),
        3 => Just(Answer::Nak),
        1 => Just(Answer::Extend),
        2 => Just(Answer::Terminate),
        1 => Just(Answer::Release),
        1 => Just(Answer::Gone),
        1 => Just(Answer::Damaged),
    ];
    let answers = prop::collection::vec((0_usize..200, answer), 0..4);
    (0..CONSUMERS.len(), 1_u64..4, answers, 0_usize..5, prop::bool::weighted(0.08))
}

fn commit() -> impl Strategy<Value = Play> {
    let home = prop_oneof![5 => Just(Home::Inline), 3 => Just(Home::Slice), 1 => Just(Home::Object)];
    let parcels = prop::collection::vec((home, prop::collection::vec(message(), 1..4)), 0..3);
    let acks = prop::collection::vec((0_usize..2, 0..SUBJECTS.len(), 0_u64..12), 0..2);
    (parcels, acks, prop::option::weighted(0.6, work())).prop_map(|(parcels, acks, work)| Play::Commit {
        parcels,
        acks,
        work,
    })
}

pub(crate) fn play() -> impl Strategy<Value = Play> {
    let upload = || 0..UPLOADS.len();
    let change = prop_oneof![
        2 => any::<bool>().prop_map(Change::Pause),
        1 => Just(Change::Reset),
        1 => (1_usize..8).prop_map(Change::Update),
        1 => Just(Change::Delete),
    ];
    prop_oneof![
        30 => commit(),
        5 => (0..CONSUMERS.len(), 0..PATTERNS.len(), 0_u64..60).prop_map(|(consumer, pattern, start)| Play::Make {
            consumer,
            pattern,
            start,
            is_durable: CONSUMERS[consumer] != "unnamed",
        }),
        2 => (0..CONSUMERS.len(), change).prop_map(|(consumer, change)| Play::Change { consumer, change }),
        4 => (1_usize..4).prop_map(|limit| Play::Deliver { limit }),
        2 => (0_usize..12, 0..SUBJECTS.len() - 1).prop_map(|(letter, to)| Play::Redrive { letter, to }),
        2 => (upload(), 0_u8..2).prop_map(|(upload, header)| Play::Begin { upload, header }),
        1 => (upload(), 1_u64..3, 0_u64..99).prop_map(|(upload, epoch, offset)| Play::Save { upload, epoch, offset }),
        1 => (upload(), prop::option::of(1_u64..3)).prop_map(|(upload, epoch)| Play::Abandon { upload, epoch }),
        1 => (1_usize..3).prop_map(|limit| Play::ExpireUploads { limit }),
        3 => (0..SUBJECTS.len(), 0_u64..15, 1_usize..4)
            .prop_map(|(subject, up_to, blocks_max)| Play::Purge { subject, up_to, blocks_max }),
        4 => (1_usize..5).prop_map(|blocks_max| Play::Expire { blocks_max }),
        1 => Just(Play::ForgetIds),
        10 => prop_oneof![5 => 1_u64..4, 1 => Just(12), 1 => Just(110)].prop_map(|ticks| Play::Pass { millis: ticks * TICK }),
        1 => Just(Play::Seal),
        2 => (0_u64..4).prop_map(|ticks| Play::Reclaim { age: ticks * TICK }),
        1 => Just(Play::Reopen),
    ]
}
