//! Any ingress accepts, any egress serves.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use minitoolstream_client::{ConsumerSettings, Fetch, NewMessage};

use crate::start;

#[tokio::test(flavor = "multi_thread")]
async fn p2_what_one_broker_accepts_another_delivers_at_once() {
    let cluster = start(&[]);
    let publishers = [0, 1].map(|index: usize| cluster.ingress[index].client().publisher());
    let client = cluster.egress[1].client();
    let mut messages = client.fetch(Fetch::from_sequence("a", 1).follow()).await.unwrap();
    let mut waits = Vec::new();
    for number in 1..=40_u64 {
        let size = [10, 1000, 100_000, 2 << 20][usize::try_from(number % 4).unwrap()];
        let message = NewMessage::new("a", vec![u8::try_from(number).unwrap(); size]);
        let published = publishers[usize::from(number % 2 == 0)].publish(message).await.unwrap();
        assert_eq!(published.sequence, number, "one order, whoever accepts");
        let acked = Instant::now();
        let message = tokio::time::timeout(Duration::from_secs(10), messages.next()).await.unwrap().unwrap().unwrap();
        waits.push(acked.elapsed());
        assert_eq!((message.sequence, message.size()), (number, size as u64));
        assert!(message.data.unwrap().iter().all(|byte| u64::from(*byte) == number));
    }
    waits.sort_unstable();
    eprintln!("from the ack to another broker's reader: median {:?}, longest {:?}", waits[20], waits[39]);
    assert!(waits[20] < Duration::from_millis(250), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_workers_on_different_brokers_share_a_consumer() {
    let cluster = start(&[]);
    let publisher = cluster.ingress[0].client().publisher();
    let settings = || ConsumerSettings::of("jobs.*").max_deliver(5);
    let mut workers = Vec::new();
    for egress in &cluster.egress {
        workers.push(egress.client().consumer("w").settings(settings()).window(10, 1 << 20).messages().await.unwrap());
    }
    for number in 0..100_u32 {
        let message = NewMessage::new(format!("jobs.{}", number % 3), number.to_string());
        publisher.publish(message).await.unwrap();
    }
    let (mut seen, mut by_worker) = (std::collections::BTreeSet::new(), [0, 0]);
    while seen.len() < 100 {
        let [first, second] = &mut workers[..] else { panic!("two workers") };
        let (worker, delivery) = tokio::select! {
            delivery = first.next() => (0, delivery),
            delivery = second.next() => (1, delivery),
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{} messages came", seen.len()),
        };
        let delivery = delivery.unwrap().unwrap();
        assert_eq!(delivery.attempt, 1);
        seen.insert(delivery.message.stream_sequence);
        by_worker[worker] += 1;
        delivery.ack().await.unwrap();
    }
    assert!(by_worker.iter().all(|count| *count > 10), "{by_worker:?}");
    let info = cluster.egress[0].client().consumer("w").info().await.unwrap();
    assert_eq!((info.acked, info.redeliveries), (100, 0));
}
