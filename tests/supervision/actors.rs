//! Each critical actor fails in turn, under load.

use std::time::Duration;

use minitoolstream::actors::supervise::Fault;
use minitoolstream_client::Fetch;
use minitoolstream_testkit::{TestBroker, http};
use tokio_stream::StreamExt;

use crate::{
    load::{Load, SUBJECTS},
    victim::{Victim, Watch},
};

/// Longer than the two seconds that an actor has to answer a heartbeat: the hung one is replaced, and wakes later.
const HANG: Duration = Duration::from_secs(3);

/// So many failures in a row make the pause before the next restart long enough to be seen from outside.
const PANICS: u64 = 6;

async fn loaded() -> (TestBroker, Load) {
    let broker = TestBroker::start(&[]).await;
    let load = Load::start(&broker).await;
    acknowledges_more(&load, 100).await;
    (broker, load)
}

/// Waits until every subject has `count` more acknowledged messages than now.
async fn acknowledges_more(load: &Load, count: u64) {
    let before = load.acknowledged();
    let more = async {
        while load.acknowledged().iter().zip(before).any(|(now, before)| *now < before + count) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), more).await.expect("publishers make progress");
}

async fn panics_under_load(victim: impl Fn(&TestBroker) -> Victim) {
    let (broker, load) = loaded().await;
    let victim = victim(&broker);
    let watch = Watch::start(&broker);
    for _ in 0..PANICS {
        victim.strike_and_recover(Fault::Panic, &broker).await;
    }
    acknowledges_more(&load, 100).await;
    assert_eq!(victim.restarts("panic", &broker).await, PANICS);
    assert_eq!(victim.restarts("hang", &broker).await, 0);
    let reasons = watch.finish().await;
    assert!(reasons.contains(&format!("the {} is restarting", victim.name)), "{reasons:?}");
    assert_eq!(http::get(broker.http, "/readyz").await.0, 200);
    load.finish(&broker).await;
    broker.stop().await;
}

/// Gives how many more messages of each subject were acknowledged while the actor hung.
async fn hangs_under_load(victim: impl Fn(&TestBroker) -> Victim) -> [u64; SUBJECTS] {
    let (broker, load) = loaded().await;
    let victim = victim(&broker);
    let client = broker.client().await;
    // Earlier failures lengthen the pause after the hang, so that it can be seen.
    for _ in 1..PANICS {
        victim.strike_and_recover(Fault::Panic, &broker).await;
    }
    let watch = Watch::start(&broker);
    victim.strike(Fault::Hang(HANG));
    tokio::time::sleep(HANG / 6).await;
    let before = load.acknowledged();
    // Reads go on, whoever hangs.
    let reading = async {
        let messages = client.fetch(Fetch::from_sequence("load.0", 1).limit(10)).await.unwrap();
        messages.map(Result::unwrap).collect::<Vec<_>>().await.len()
    };
    assert_eq!(tokio::time::timeout(HANG / 6, reading).await, Ok(10));
    tokio::time::sleep(HANG / 6).await;
    let meanwhile: Vec<_> = load.acknowledged().iter().zip(before).map(|(after, before)| after - before).collect();
    victim.recovers_from("hang", &broker, 0).await;
    acknowledges_more(&load, 100).await;
    assert_eq!(victim.restarts("hang", &broker).await, 1);
    assert_eq!(http::get(broker.http, "/readyz").await.0, 200);
    let reasons = watch.finish().await;
    assert!(reasons.contains(&format!("the {} is restarting", victim.name)), "{reasons:?}");
    // The one that was replaced wakes meanwhile, and must not do what its successor does.
    tokio::time::sleep(HANG / 2).await;
    load.finish(&broker).await;
    broker.stop().await;
    meanwhile.try_into().unwrap()
}

#[tokio::test]
async fn the_storage_panics() {
    panics_under_load(|broker| Victim::new(&broker.actors.storage)).await;
}

#[tokio::test]
async fn a_publisher_panics() {
    panics_under_load(|broker| Victim::new(&broker.actors.publishers[0])).await;
}

#[tokio::test]
async fn the_reaper_panics() {
    panics_under_load(|broker| Victim::new(&broker.actors.reaper)).await;
}

#[tokio::test]
async fn the_storage_hangs() {
    let meanwhile = hangs_under_load(|broker| Victim::new(&broker.actors.storage)).await;
    // Some acks of what was stored before may still be on their way.
    assert!(meanwhile.iter().sum::<u64>() < 100, "nobody can be served meanwhile: {meanwhile:?}");
}

#[tokio::test]
async fn a_publisher_hangs_and_the_other_serves() {
    let meanwhile = hangs_under_load(|broker| Victim::new(&broker.actors.publishers[1])).await;
    assert!(meanwhile.contains(&0), "some subjects wait for their publisher: {meanwhile:?}");
    assert!(meanwhile.iter().any(|count| *count > 100), "those of the other are served: {meanwhile:?}");
}

#[tokio::test]
async fn the_reaper_hangs_and_publishing_goes_on() {
    let meanwhile = hangs_under_load(|broker| Victim::new(&broker.actors.reaper)).await;
    assert!(meanwhile.iter().all(|count| *count > 100), "{meanwhile:?}");
}
