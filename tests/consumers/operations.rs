//! What may happen to a consumer.

use std::time::Duration;

use proptest::prelude::*;

/// The last one is matched by no filter but `>`.
pub(crate) const SUBJECTS: [&str; 3] = ["a.x", "a.y", "b"];
/// Where dead letters of the consumer go.
pub(crate) const LETTERS: &str = "$dlq.c";
/// Time goes in steps, so that deadlines are often met to the millisecond.
pub(crate) const TICK: u64 = 10;
/// Operations of one sequence.
pub(crate) const OPERATIONS: std::ops::Range<usize> = 110..140;

/// Filters, by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    One,
    Children,
    All,
}

impl Filter {
    pub(crate) fn pattern(self) -> &'static str {
        match self {
            Self::One => "a.x",
            Self::Children => "a.*",
            Self::All => ">",
        }
    }

    pub(crate) fn matches(self, subject: &str) -> bool {
        match self {
            Self::One => subject == "a.x",
            Self::Children => subject.starts_with("a."),
            Self::All => !subject.starts_with('$'),
        }
    }
}

/// How the consumer works.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) filter: Filter,
    pub(crate) start: Begin,
    pub(crate) ack_wait: Duration,
    pub(crate) max_deliver: u32,
    pub(crate) max_ack_pending: usize,
    pub(crate) back_off: Vec<Duration>,
    /// False: what is given up is dropped. Only consumers without a name can be so.
    pub(crate) has_letters: bool,
    /// Blocks that one scan of the stream looks at.
    pub(crate) chunk: usize,
}

/// Where to begin; numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begin {
    All,
    New,
    Sequence(u16),
    StreamSequence(u16),
    Time(u16),
}

/// An answer to a delivery.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) which: Which,
    /// True if another worker says it.
    pub(crate) is_foreign: bool,
    pub(crate) kind: Kind,
    /// So many milliseconds ago.
    pub(crate) ago: u64,
}

/// Which delivery is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// One that the worker has.
    Held(u16),
    /// Any that ever was.
    Ever(u16),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Ack,
    Nak,
    NakAfter(u64),
    Extend,
    Terminate,
    Release,
    Gone,
    Damaged,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Publish { subject: u8, ttls: Vec<Option<u64>> },
    Work { worker: u8, answers: Vec<Answer>, messages: usize, halves: Option<(u64, u64)> },
    Close { worker: u8 },
    Pass { ticks: u64 },
    Purge { subject: u8, up_to: u16 },
    Expire,
    Pause(bool),
    Reset(Option<Begin>),
    Update { max_deliver: u32, max_ack_pending: usize, wait: u64 },
    Crash,
    Redrive { letter: u16 },
}

pub(crate) fn setup(filter: Filter) -> impl Strategy<Value = Setup> {
    let back_off = prop::collection::vec((0_u64..4).prop_map(|ticks| Duration::from_millis(ticks * TICK)), 0..3);
    let limits = (1_u64..6, 0_u32..5, prop_oneof![3 => 1_usize..7, 1 => Just(1000)]);
    let chunk = prop_oneof![2 => Just(usize::MAX), 1 => 1_usize..4];
    (begin(filter), limits, back_off, prop::bool::weighted(0.8), chunk).prop_map(
        move |(start, (wait, max_deliver, max_ack_pending), back_off, has_letters, chunk)| Setup {
            filter,
            start,
            ack_wait: Duration::from_millis(wait * TICK),
            max_deliver,
            max_ack_pending,
            back_off,
            has_letters,
            chunk,
        },
    )
}

fn begin(filter: Filter) -> impl Strategy<Value = Begin> {
    let by_sequence = u32::from(filter == Filter::One);
    prop_oneof![
        3 => Just(Begin::All),
        2 => Just(Begin::New),
        2 * by_sequence + 1 => any::<u16>().prop_map(move |number| match filter {
            Filter::One => Begin::Sequence(number),
            Filter::Children | Filter::All => Begin::StreamSequence(number),
        }),
        1 => any::<u16>().prop_map(Begin::StreamSequence),
        1 => any::<u16>().prop_map(Begin::Time),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let which = prop_oneof![5 => any::<u16>().prop_map(Which::Held), 1 => any::<u16>().prop_map(Which::Ever)];
    let kind = prop_oneof![
        8 => Just(Kind::Ack),
        3 => Just(Kind::Nak),
        2 => (0_u64..4).prop_map(|ticks| Kind::NakAfter(ticks * TICK)),
        2 => Just(Kind::Extend),
        2 => Just(Kind::Terminate),
        2 => Just(Kind::Release),
        1 => Just(Kind::Gone),
        1 => Just(Kind::Damaged),
    ];
    let ago = prop_oneof![3 => Just(0_u64), 1 => (1_u64..3).prop_map(|ticks| ticks * TICK)];
    (which, prop::bool::weighted(0.1), kind, ago).prop_map(|(which, is_foreign, kind, ago)| Answer {
        which,
        is_foreign,
        kind,
        ago,
    })
}

pub(crate) fn operation(filter: Filter) -> impl Strategy<Value = Operation> {
    let ttl = prop_oneof![2 => Just(None), 1 => (1_u64..8).prop_map(|ticks| Some(ticks * TICK))];
    let worker = || 0_u8..3;
    // Room for bytes, and for those of the first message.
    let halves = prop::option::weighted(0.3, (0_u64..7, 0_u64..4));
    let work = (worker(), prop::collection::vec(answer(), 0..4), 0_usize..5, halves);
    prop_oneof![
        14 => (0_u8..3, prop::collection::vec(ttl, 1..4))
            .prop_map(|(subject, ttls)| Operation::Publish { subject, ttls }),
        30 => work.prop_map(|(worker, answers, messages, halves)| {
            Operation::Work { worker, answers, messages, halves }
        }),
        3 => worker().prop_map(|worker| Operation::Close { worker }),
        10 => prop_oneof![6 => 1_u64..3, 1 => Just(10)].prop_map(|ticks| Operation::Pass { ticks }),
        2 => (0_u8..3, any::<u16>()).prop_map(|(subject, up_to)| Operation::Purge { subject, up_to }),
        3 => Just(Operation::Expire),
        2 => prop::bool::weighted(0.3).prop_map(Operation::Pause),
        1 => prop::option::of(begin(filter)).prop_map(Operation::Reset),
        1 => (0_u32..5, 1_usize..7, 1_u64..6).prop_map(|(max_deliver, max_ack_pending, wait)| {
            Operation::Update { max_deliver, max_ack_pending, wait: wait * TICK }
        }),
        2 => Just(Operation::Crash),
        2 => any::<u16>().prop_map(|letter| Operation::Redrive { letter }),
    ]
}
