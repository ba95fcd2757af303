//! The same random sequences of operations on the embedded store and on Tarantool: every answer is the same, and so is
//! everything that the two tell of themselves at the end. Payload is in files on both sides, and in S3 in a part of them.
//!
//! `DIFFERENTIAL_CASES=20000 cargo nextest run --test stores differential` tries more; a failure is shrunk and its seed kept.

use proptest::{prelude::*, test_runner::FileFailurePersistence};

use crate::{
    backend::{Embedded, Ending},
    on_tarantool::OnTarantool,
    player::Player,
    plays::{PLAYS, Play, play},
    rig::Rig,
};

/// Sequences over all tests of this file.
const CASES: u32 = 2_000;
/// Tests that share them, each with a server of its own.
const TESTS: u32 = 4;

fn config() -> ProptestConfig {
    let cases = std::env::var("DIFFERENTIAL_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    ProptestConfig {
        cases: cases.div_ceil(TESTS),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}

/// One server, or a pair, for all sequences of a test.
struct Server(std::cell::RefCell<Option<OnTarantool>>);

thread_local! {
    static SERVER: Server = const { Server(std::cell::RefCell::new(None)) };
}

/// Where the payload of Tarantool's blocks is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Payload {
    Files,
    S3,
}

async fn empty(payload: Payload) -> OnTarantool {
    match SERVER.with(|server| server.0.borrow_mut().take()) {
        Some(used) => used.renew().await,
        None if payload == Payload::S3 => OnTarantool::with_s3().await,
        None => OnTarantool::with_files().await,
    }
}

/// Shows where two answers part: they can be long.
fn assert_alike(found: &str, expected: &str, when: &str) {
    if found != expected {
        let at = found.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
        let cut = |text: &str| {
            String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(300)..text.len().min(at + 200)]).into_owned()
        };
        panic!("{when}\n tarantool: …{}\n embedded:  …{}", cut(found), cut(expected));
    }
}

fn compare(plays: &[Play], payload: Payload) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let embedded = Rig::new(Embedded::start_in_memory().await, Ending::Closed);
        let embedded = if payload == Payload::S3 { embedded.with_one_commit_a_segment() } else { embedded };
        let mut embedded = Player::new(embedded);
        let mut tarantool = Player::new(Rig::new(empty(payload).await, Ending::Closed));
        for (number, play) in plays.iter().enumerate() {
            let answers = (embedded.play(play).await, tarantool.play(play).await);
            assert_alike(&answers.1, &answers.0, &format!("after {number}: {play:?}"));
        }
        let dumps = (embedded.dump().await, tarantool.dump().await);
        assert_eq!(dumps.0.len(), dumps.1.len());
        dumps.0.iter().zip(&dumps.1).for_each(|(expected, found)| assert_alike(found, expected, "at the end"));
        tarantool.rig.assert_sound().await;
        tarantool.rig.metadata().writable().await.unwrap();
        SERVER.with(|server| server.0.borrow_mut().replace(tarantool.rig.backend));
    });
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn p8_two_stores_answer_alike_1(plays in prop::collection::vec(play(), PLAYS)) {
        compare(&plays, Payload::Files);
    }

    #[test]
    fn p8_two_stores_answer_alike_2(plays in prop::collection::vec(play(), PLAYS)) {
        compare(&plays, Payload::Files);
    }

    #[test]
    fn p8_two_stores_answer_alike_3(plays in prop::collection::vec(play(), PLAYS)) {
        compare(&plays, Payload::Files);
    }

    #[test]
    fn p8_two_stores_answer_alike_with_payload_in_s3(plays in prop::collection::vec(play(), PLAYS)) {
        compare(&plays, Payload::S3);
    }
}
