//! Message ids and expected last sequences, where they meet batches, windows and restarts.

use std::{path::Path, time::Duration};

use minitoolstream_client::proto::{PublishRequest, PublishResult};
use minitoolstream_testkit::TestBroker;
use tonic::Code;

use crate::{
    api::{Api, message, sequences},
    clock::Manual,
    verify,
};

const WINDOW: Duration = Duration::from_secs(120);

async fn start_in(dir: &Path, clock: &Manual) -> (TestBroker, Api) {
    let broker = TestBroker::start_in(dir, &[], clock.clock()).await;
    let api = Api::connect(broker.ingress).await;
    (broker, api)
}

fn with_id(subject: &str, id: &str) -> PublishRequest {
    PublishRequest { message_id: id.into(), ..message(subject, 1, 10) }
}

fn after(subject: &str, last: u64) -> PublishRequest {
    PublishRequest { expected_last_sequence: Some(last), ..message(subject, 1, 10) }
}

/// Sequence and whether it is a duplicate, or the code of the refusal.
fn outcome(result: &PublishResult) -> Result<(u64, bool), Code> {
    match &result.error {
        None => Ok((result.sequence, result.duplicate)),
        Some(error) => Err(Code::from(error.code)),
    }
}

async fn publish(api: &Api, messages: Vec<PublishRequest>) -> Vec<Result<(u64, bool), Code>> {
    api.publish_batch(messages).await.unwrap().iter().map(outcome).collect()
}

#[tokio::test]
async fn a_message_id_is_stored_once_in_its_window() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Manual::at(1_000_000));
    let (broker, api) = start_in(dir.path(), &clock).await;
    let batch = || ["x", "y", "x", "", "", "y"].map(|id| with_id("a", id)).to_vec();
    let new = |sequence| Ok((sequence, false));
    let old = |sequence| Ok((sequence, true));
    assert_eq!(publish(&api, batch()).await, [new(1), new(2), old(1), new(3), new(4), old(2)], "within one batch");
    assert_eq!(publish(&api, batch()).await, [old(1), old(2), old(1), new(5), new(6), old(2)], "across batches");
    assert_eq!(publish(&api, vec![with_id("b", "x")]).await, [new(1)], "ids belong to their subject");
    // A purge does not make the id a new one.
    broker.client().await.purge("a", None).await.unwrap();
    assert_eq!(publish(&api, vec![with_id("a", "x")]).await, [old(1)]);
    clock.advance(WINDOW - Duration::from_millis(1));
    broker.stop().await;
    let (broker, api) = start_in(dir.path(), &clock).await;
    assert_eq!(publish(&api, vec![with_id("a", "x")]).await, [old(1)], "after a restart, just inside the window");
    clock.advance(Duration::from_millis(1));
    assert_eq!(publish(&api, vec![with_id("a", "x")]).await, [new(7)], "after the window");
    clock.advance(WINDOW / 2);
    assert_eq!(
        publish(&api, vec![with_id("a", "x"), with_id("a", "y")]).await,
        [old(7), new(8)],
        "a window of its own"
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_subject_is_changed_only_by_who_knows_its_last_sequence() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Manual::at(1_000_000));
    let (broker, api) = start_in(dir.path(), &clock).await;
    let (new, missed) = (|sequence| Ok((sequence, false)), Err(Code::Aborted));
    assert_eq!(publish(&api, vec![after("a", 1)]).await, [missed], "it has no message yet");
    assert_eq!(publish(&api, vec![after("a", 0)]).await, [new(1)]);
    assert_eq!(publish(&api, vec![after("a", 0)]).await, [missed]);
    let chain = vec![after("a", 1), after("a", 2), after("a", 2), message("a", 1, 1), after("a", 4)];
    assert_eq!(publish(&api, chain).await, [new(2), new(3), missed, new(4), new(5)], "each sees those before it");
    broker.client().await.purge("a", None).await.unwrap();
    broker.stop().await;
    let (broker, api) = start_in(dir.path(), &clock).await;
    assert_eq!(publish(&api, vec![after("a", 0)]).await, [missed], "what is gone still counts");
    let status = api.publish(after("a", 7)).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("last sequence of 'a' is 5"), "{}", status.message());
    assert_eq!(api.publish(after("a", 5)).await.unwrap(), 6);
    broker.stop().await;
}

#[tokio::test]
async fn of_many_that_expect_the_same_one_wins() {
    let broker = TestBroker::start(&[]).await;
    for round in 0..20 {
        let rivals = (0..8).map(async |_| Api::connect(broker.ingress).await.publish(after("a", round)).await);
        let answers = futures_util::future::join_all(rivals).await;
        let won: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(won, [&(round + 1)]);
        assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|status| status.code() == Code::Aborted));
    }
    broker.stop().await;
}

#[tokio::test]
async fn ids_and_expectations_together() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let both = |id, last| PublishRequest { message_id: String::from(id), ..after("a", last) };
    assert_eq!(publish(&api, vec![both("x", 0)]).await, [Ok((1, false))]);
    assert_eq!(publish(&api, vec![both("x", 0)]).await, [Ok((1, true))], "the repetition of a success succeeds");
    assert_eq!(publish(&api, vec![both("y", 0)]).await, [Err(Code::Aborted)]);
    assert_eq!(publish(&api, vec![both("y", 1)]).await, [Ok((2, false))], "a missed one did not use its id up");
    assert_eq!(sequences(&api.fetch("a", 1).await.0), [1, 2]);
    broker.stop().await;
}

#[tokio::test]
async fn repeated_large_messages_leave_no_bytes_behind() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Manual::at(1_000_000);
    let (broker, api) = start_in(dir.path(), &clock).await;
    let large = |id: &str| PublishRequest { message_id: id.into(), ..message("a", 1, 2 << 20) };
    let objects = || std::fs::read_dir(dir.path().join("data/objects")).unwrap().count();
    assert_eq!(publish(&api, vec![large("x")]).await, [Ok((1, false))]);
    for _ in 0..5 {
        // The one beside it is stored, and only once.
        assert!(publish(&api, vec![large("x"), message("a", 1, 2 << 20)]).await[0] == Ok((1, true)));
    }
    for _ in 0..500 {
        clock.advance(Duration::from_millis(1));
        if objects() == 6 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(objects(), 6);
    let data_dir = broker.data_dir().to_owned();
    broker.stop().await;
    assert_eq!(verify::at_rest(&data_dir).await, []);
}
