//! Random sequences of operations: every answer is the one of the [reference](crate::reference).

use proptest::{prelude::*, test_runner::FileFailurePersistence};

use crate::{
    backend::Backend,
    machine::Machine,
    operations::{Filter, OPERATIONS, Operation, Setup, operation, setup},
    pair::Pair,
    stored::{InDir, InTarantool, Stored},
};

/// Sequences on the pure state machine, over all filters.
const CASES: u32 = 20_400;
/// The same on real stores: one in so many.
const STORED: u32 = 102;

/// `MODEL_CASES` says how many sequences there are over all tests of the state machine.
fn config(one_in: u32) -> ProptestConfig {
    let cases = std::env::var("MODEL_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    ProptestConfig {
        cases: cases.div_ceil(one_in),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_time: 120_000,
        max_shrink_iters: 100_000,
        ..ProptestConfig::default()
    }
}

fn sequence(filter: Filter) -> impl Strategy<Value = (Setup, Vec<Operation>)> {
    // Those that shrink to nothing are left out: so a failure is shorter than any sequence that is tried.
    let operation = prop::option::weighted(0.99, operation(filter));
    let operations = prop::collection::vec(operation, OPERATIONS);
    (setup(filter), operations.prop_map(|operations| operations.into_iter().flatten().collect()))
}

/// What a store can do: a consumer that outlives it has dead letters, and how far a scan goes is its own business.
fn stored(setup: Setup) -> Setup {
    Setup { has_letters: true, chunk: usize::MAX, ..setup }
}

fn run<B: Backend>(setup: &Setup, operations: Vec<Operation>) {
    let mut pair = Pair::<B>::new(setup);
    pair.compare();
    for (number, operation) in operations.into_iter().enumerate() {
        let _at = At(number, format!("{operation:?}"));
        pair.run(operation);
        pair.compare();
    }
    let _at = At(usize::MAX, "the end".into());
    pair.finish();
}

/// Tells where a failed case stood.
struct At(usize, String);

impl Drop for At {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at operation {}: {}", self.0, self.1);
        }
    }
}

proptest! {
    #![proptest_config(config(3))]

    #[test]
    fn p8_one_subject((setup, operations) in sequence(Filter::One)) {
        run::<Machine>(&setup, operations);
    }

    #[test]
    fn p8_a_pattern((setup, operations) in sequence(Filter::Children)) {
        run::<Machine>(&setup, operations);
    }

    #[test]
    fn p8_everything((setup, operations) in sequence(Filter::All)) {
        run::<Machine>(&setup, operations);
    }
}

proptest! {
    #![proptest_config(config(STORED * 3))]

    #[test]
    fn p8_one_subject_stored((setup, operations) in sequence(Filter::One)) {
        run::<Stored<InDir>>(&stored(setup), operations);
    }

    #[test]
    fn p8_a_pattern_stored((setup, operations) in sequence(Filter::Children)) {
        run::<Stored<InDir>>(&stored(setup), operations);
    }

    #[test]
    fn p8_everything_stored((setup, operations) in sequence(Filter::All)) {
        run::<Stored<InDir>>(&stored(setup), operations);
    }
}

proptest! {
    #![proptest_config(config(STORED * 3))]

    #[test]
    fn p8_one_subject_in_tarantool((setup, operations) in sequence(Filter::One)) {
        run::<Stored<InTarantool>>(&stored(setup), operations);
    }

    #[test]
    fn p8_a_pattern_in_tarantool((setup, operations) in sequence(Filter::Children)) {
        run::<Stored<InTarantool>>(&stored(setup), operations);
    }

    #[test]
    fn p8_everything_in_tarantool((setup, operations) in sequence(Filter::All)) {
        run::<Stored<InTarantool>>(&stored(setup), operations);
    }
}
