//! P1, P2, P4: another instance of Tarantool takes over, and brokers turn to it: nothing acknowledged is lost, no sequence
//! is given twice, and nobody waits long.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use minitoolstream::store::tarantool::{News, Role, TarantoolMetadata};
use minitoolstream_client::{Fetch, NewMessage};
use minitoolstream_testkit::{Cluster, Replicas, http::metric};

use crate::load::Load;

/// Two brokers of each role over three instances.
fn over(replicas: Replicas) -> Cluster<Replicas> {
    let config = replicas.config();
    let settings = [("DEDUP_WINDOW", "1h")];
    let (binary, home) = (env!("CARGO_BIN_EXE_minitoolstream"), env!("CARGO_TARGET_TMPDIR"));
    Cluster::over((replicas, &config), binary, home, 2, &settings)
}

/// Waits until a moment has come, and gives how long that took.
async fn until<F: Future<Output = bool>>(what: &str, has_come: impl Fn() -> F) -> Duration {
    let started = Instant::now();
    while !has_come().await {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within {:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.elapsed()
}

async fn until_publishers_go_on(load: &Load) -> Duration {
    let before = load.acknowledged();
    // Each of them has had answers.
    until("publishers go on", || async { load.acknowledged() > before + 100 }).await
}

async fn leader(metadata: &TarantoolMetadata) -> Option<usize> {
    metadata.instances().await.iter().position(|instance| instance.role == Role::Leader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p2_brokers_follow_whoever_takes_writes() {
    let cluster = over(Replicas::told(&[]).await);
    let load = Load::start(&cluster.ingress, &cluster.egress, 30_000);
    for (from, to) in [(0, 1), (1, 2), (2, 1)] {
        until_publishers_go_on(&load).await;
        cluster.tarantool.hand_over(from, to).await;
        let wait = until_publishers_go_on(&load).await;
        eprintln!("{from} to {to}: publishers go on after {wait:?}");
    }
    let published = load.end(&cluster.egress, 0).await;
    eprintln!("{published} messages");
}

/// What a leader alone has when it dies stops the replication of the others, unless it is a synchronous row.
#[tokio::test]
async fn taking_over_writes_nothing_that_is_there() {
    let replicas = Replicas::told(&[]).await;
    let metadata = TarantoolMetadata::connect(replicas.config()).await.unwrap();
    let before = replicas.hand_over(0, 1).await;
    until("another leads", || async { leader(&metadata).await == Some(1) }).await;
    assert_eq!(replicas.hand_over(1, 2).await, before);
}

#[tokio::test]
async fn p2_news_from_before_another_took_over_are_incomplete() {
    let replicas = Replicas::told(&[]).await;
    let metadata = TarantoolMetadata::connect(replicas.config()).await.unwrap();
    let (start, long) = (News::default(), Duration::from_secs(20));
    let before = metadata.news(&start, long).await.unwrap();
    let waiting = async { metadata.news(&before, long).await.unwrap() };
    let started = Instant::now();
    let (next, _) = tokio::join!(waiting, replicas.hand_over(0, 1));
    assert!(!next.is_complete && started.elapsed() < long / 2, "{next:?} after {:?}", started.elapsed());
    // Deposed, as one with a later turn is found, and not aware of it: nobody ends the wait there.
    let waiting = async { metadata.news(&next, long).await.unwrap() };
    let depose = async {
        replicas.lead(0).await;
        until("the other leads", || async { leader(&metadata).await == Some(0) }).await;
    };
    let (after, ()) = tokio::join!(waiting, depose);
    assert!(!after.is_complete && started.elapsed() < long / 2, "{after:?} after {:?}", started.elapsed());
    // Back where it came from, which did not hear of what another wrote meanwhile.
    let again = metadata.news(&before, Duration::ZERO).await.unwrap();
    assert!(!again.is_complete, "{again:?}");
    assert!(metadata.news(&again, Duration::ZERO).await.unwrap().is_complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_who_waits_at_a_frozen_instance_hears_of_the_next_one() {
    let cluster = over(Replicas::told(&[]).await);
    let publisher = cluster.ingress[0].client().publisher();
    let mut messages = cluster.egress[1].client().fetch(Fetch::from_sequence("a", 1).follow()).await.unwrap();
    publisher.publish(NewMessage::new("a", "before")).await.unwrap();
    assert_eq!(messages.next().await.unwrap().unwrap().sequence, 1);
    cluster.tarantool.freeze_and_replace(0, 1).await;
    let started = Instant::now();
    let publish = async { while publisher.publish(NewMessage::new("a", "after").message_id("2")).await.is_err() {} };
    let heard = async { messages.next().await.unwrap().unwrap().sequence };
    let (_, sequence) = tokio::time::timeout(Duration::from_secs(15), async { tokio::join!(publish, heard) })
        .await
        .expect("neither waits for the one that hangs");
    eprintln!("a message came through after {:?}", started.elapsed());
    assert_eq!(sequence, 2);
    for (state, count) in [("leader", 1), ("follower", 1), ("away", 1), ("stopped", 0)] {
        let series = format!(r#"minitoolstream_tarantool_instances{{state="{state}"}}"#);
        assert_eq!(metric(cluster.ingress[0].address("http"), &series).await, count, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Tarantool 2.11, which has elections: tests/run runs it where it finds one"]
async fn crash_p1_leaders_die_and_freeze_under_load() {
    let mut cluster = over(Replicas::electing());
    let metadata = TarantoolMetadata::connect(cluster.tarantool.config()).await.unwrap();
    let load = Load::start(&cluster.ingress, &cluster.egress, 30_000);
    for round in 0..6 {
        until_publishers_go_on(&load).await;
        let old = leader(&metadata).await.expect("somebody leads");
        let instance = cluster.tarantool.instance_mut(old);
        let is_killed = round % 2 == 0;
        if is_killed {
            instance.kill();
        } else {
            instance.signal("STOP");
        }
        until("another leads", || async { leader(&metadata).await.is_some_and(|leader| leader != old) }).await;
        let wait = until_publishers_go_on(&load).await;
        eprintln!("{} {old}: publishers go on after {wait:?}", if is_killed { "killed" } else { "froze" });
        let instance = cluster.tarantool.instance_mut(old);
        if is_killed {
            instance.restart();
        } else {
            instance.signal("CONT");
        }
        let are_well = || async {
            let instances = metadata.instances().await;
            instances.iter().all(|instance| instance.role != Role::Away && !instance.is_stopped)
        };
        until("the old leader follows", are_well).await;
    }
    let published = load.end(&cluster.egress, 0).await;
    eprintln!("{published} messages");
}
