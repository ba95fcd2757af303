use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use minitoolstream_client::{ConsumerSettings, Fetch, NewMessage};
use minitoolstream_testkit::{Cluster, Process};

use crate::keeper::{BINARY, Keeper};

/// Messages by subject and sequence: the number in the data, and its length.
type Messages = BTreeMap<(String, u64), (u64, usize)>;

/// Data of a message: its number, again and again.
fn data(number: u64, len: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_backup_under_load_has_everything_that_was_acknowledged_before() {
    let settings = [("TTL_DEFAULT", "1h"), ("REAPER_INTERVAL", "20ms"), ("REAPER_GRACE", "0s")];
    let mut cluster = Cluster::start(BINARY, env!("CARGO_TARGET_TMPDIR"), 1, &settings);
    let (ingress, egress) = (cluster.ingress[0].client(), cluster.egress[0].client());
    let acked: Arc<Mutex<Messages>> = Arc::default();
    let mut load = tokio::task::JoinSet::new();
    for publisher_number in 0..16_u64 {
        let (publisher, acked) = (ingress.publisher(), acked.clone());
        load.spawn(async move {
            for number in 0_u64.. {
                let number = publisher_number << 32 | number;
                let len = [100, 5_000, 100_000, 100, 100, 5_000, 1_200_000][usize::try_from(number % 7).unwrap()];
                // Some go soon, and their bytes with them: while the backup reads them.
                let is_short = number % 3 == 0;
                let subject = format!("{}.{publisher_number}", if is_short { "short" } else { "long" });
                let message = NewMessage::new(&subject, data(number, len));
                let message = if is_short { message.ttl(Duration::from_millis(300)) } else { message };
                let published = publisher.publish(message).await.unwrap();
                if !is_short {
                    acked.lock().unwrap().insert((subject, published.sequence), (number, len));
                }
            }
        });
    }
    let consumer = egress.consumer("w").settings(ConsumerSettings::of("long.*")).window(50, 64 << 20);
    let mut deliveries = consumer.messages().await.unwrap();
    load.spawn(async move {
        while let Some(delivery) = deliveries.next().await {
            delivery.unwrap().ack().await.unwrap();
        }
    });
    while acked.lock().unwrap().len() < 60 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = Keeper::of(&cluster);
    let mut backups = Vec::new();
    for name in ["first", "second"] {
        let backup = dir.path().join(name);
        let before = acked.lock().unwrap().clone();
        let words = ["backup".to_owned(), backup.display().to_string()];
        let run = move || (keeper_run(&keeper, &words), keeper);
        let (taken, back) = tokio::task::spawn_blocking(run).await.unwrap();
        keeper = back;
        assert_eq!(taken[0]["missing"], 0, "{taken:?}");
        backups.push((backup, before, taken[0]["next_stream"].as_u64().unwrap()));
    }
    load.abort_all();
    let all = acked.lock().unwrap().clone();
    assert!(all.len() > backups[1].1.len(), "publishers were at work during the backup");
    cluster.stop();

    for (index, (backup, before, head)) in backups.into_iter().enumerate() {
        let home = dir.path().join(index.to_string());
        let keeper = Keeper::of_dir(&home.join("data"));
        keeper.run(&["restore", backup.to_str().unwrap()]).documents();
        assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);
        let broker = Process::start(BINARY, &home, &[]);
        let client = broker.client();
        let mut found = Messages::new();
        let mut messages = client.fetch(Fetch::from_stream_sequence("long.*", 1).limit(10_000)).await.unwrap();
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            assert!(message.stream_sequence < head, "nothing is from beyond the head");
            let bytes = message.data.clone().unwrap();
            let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes == data(number, bytes.len()), "other bytes");
            found.insert((message.subject.clone(), message.sequence), (number, bytes.len()));
        }
        eprintln!("{} messages, {} acknowledged before, {} in all", found.len(), before.len(), all.len());
        let lost: Vec<_> = before.iter().filter(|(key, value)| found.get(key) != Some(value)).collect();
        assert!(lost.is_empty(), "{} of {} are lost: {:?}", lost.len(), before.len(), lost.first());
        // No sequence is missing in between, and none is another message than it was.
        for (subject, sequence) in found.keys() {
            assert!(*sequence == 1 || found.contains_key(&(subject.clone(), sequence - 1)), "{subject} {sequence}");
        }
        assert!(found.iter().all(|(key, value)| all.get(key).is_none_or(|acked| acked == value)));
        // The consumer goes on no later than it was: what it settled, and what it gets, is all there is.
        let info = client.consumer("w").info().await.unwrap();
        assert_eq!(info.acked + info.redeliverable + info.pending, found.len() as u64, "{info:?}");
    }
}

fn keeper_run(keeper: &Keeper, words: &[String]) -> Vec<serde_json::Value> {
    keeper.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).documents()
}
