//! A large message is one message: the same rules as for small ones, at every size.

use std::time::Duration;

use futures_util::StreamExt;
use minitoolstream_client::{
    Client, ConsumerSettings, Deliveries, Delivery,
    proto::{PublishRequest, UploadHeader, UploadResponse},
};
use minitoolstream_testkit::TestBroker;
use tonic::Code;

use crate::{
    api::{Api, header},
    pattern::Pattern,
    sizes::sizes,
};

struct Rig {
    broker: TestBroker,
    api: Api,
    client: Client,
}

impl Rig {
    async fn start() -> Self {
        let broker = TestBroker::start(&[]).await;
        let (api, client) = (Api::connect(broker.ingress).await, broker.client().await);
        Self { broker, api, client }
    }

    /// Uploads to the subject of this size.
    async fn upload(
        &self,
        data: Pattern,
        change: impl FnOnce(&mut PublishRequest),
    ) -> Result<UploadResponse, tonic::Status> {
        let mut opening = header(&format!("{:032x}", fastrand::u128(..)), &subject(data));
        change(opening.message.as_mut().unwrap());
        self.api.upload(UploadHeader { ..opening }, data).await
    }

    async fn stop(self) {
        self.broker.stop().await;
    }
}

fn subject(data: Pattern) -> String {
    format!("sizes.{}", data.size)
}

/// Data of every size; each has a subject and a consumer of its own.
fn datas() -> impl Iterator<Item = Pattern> {
    sizes().into_iter().enumerate().map(|(seed, size)| Pattern::new(seed, size))
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(30), deliveries.next()).await.expect("a delivery");
    next.unwrap().unwrap()
}

/// Asserts that what was delivered is this data, read by its lease.
async fn assert_is(delivery: &Delivery, data: Pattern) {
    assert_eq!(delivery.message.size(), data.size);
    let mut reader = delivery.reader().await.unwrap();
    let mut at = 0;
    while let Some(mut piece) = reader.piece().await.unwrap() {
        while !piece.is_empty() {
            let mut expected = data.piece(at);
            expected.truncate(piece.len());
            at += expected.len() as u64;
            assert!(piece.split_to(expected.len()) == expected, "{} bytes differ before {at}", data.size);
        }
    }
    assert_eq!(at, data.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_redelivery_dead_letters_and_redrive() {
    let rig = Rig::start().await;
    for data in datas() {
        let (name, settings) = (format!("w{}", data.size), ConsumerSettings::of(subject(data)).max_deliver(2));
        rig.upload(data, |message| drop(message.headers.insert("kind".into(), "large".into()))).await.unwrap();
        let consumer = rig.client.consumer(&name).settings(settings);
        let mut deliveries = consumer.messages().await.unwrap();
        for attempt in 1..=2 {
            let delivery = next(&mut deliveries).await;
            assert_eq!(delivery.attempt, attempt);
            assert_is(&delivery, data).await;
            delivery.nak_after(Duration::from_millis(1)).await.unwrap();
        }
        let dead = format!("$dlq.{name}");
        while rig.client.last_sequence(&dead).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rig.api.assert_is(&dead, 1, data).await;
        // The letter keeps the bytes when the message goes, and gives them back.
        rig.client.purge(&subject(data), None).await.unwrap();
        rig.api.assert_is(&dead, 1, data).await;
        let redriven = consumer.redrive(&[1], None).await.unwrap();
        assert_eq!(redriven.count, 1);
        let back = next(&mut deliveries).await;
        assert_eq!((back.message.sequence, back.attempt, back.message.headers["kind"].as_str()), (2, 1, "large"));
        assert_is(&back, data).await;
        back.ack().await.unwrap();
        drop(deliveries);
        rig.client.purge(&subject(data), None).await.unwrap();
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_dedup_and_compare_and_set() {
    let rig = Rig::start().await;
    for data in datas() {
        let named = |message: &mut PublishRequest| message.message_id = "x".into();
        assert_eq!(rig.upload(data, named).await.unwrap().sequence, 1);
        let again = rig.upload(data, named).await.unwrap();
        assert_eq!((again.sequence, again.duplicate), (1, true), "{} bytes", data.size);
        let expecting = |last| move |message: &mut PublishRequest| message.expected_last_sequence = Some(last);
        assert_eq!(rig.upload(data, expecting(0)).await.unwrap_err().code(), Code::Aborted);
        assert_eq!(rig.upload(data, expecting(1)).await.unwrap().sequence, 2);
        rig.api.assert_is(&subject(data), 2, data).await;
        rig.client.purge(&subject(data), None).await.unwrap();
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_ttl_and_purge() {
    let rig = Rig::start().await;
    for data in datas() {
        let short = prost_types::Duration { seconds: 0, nanos: 300_000_000 };
        let uploaded = rig.upload(data, |message| message.ttl = Some(short)).await.unwrap();
        assert_eq!(uploaded.sequence, 1);
        let is_gone = async {
            while rig.api.range(&subject(data), 1, 0, Some(1)).await.map_err(|status| status.code())
                != Err(Code::NotFound)
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), is_gone).await.expect("it expires");
        assert_eq!(rig.upload(data, |_| ()).await.unwrap().sequence, 2);
        // The reaper may not have come to the one that expired.
        assert!((1..=2).contains(&rig.client.purge(&subject(data), None).await.unwrap()));
        assert_eq!(rig.api.range(&subject(data), 2, 0, None).await.unwrap_err().code(), Code::NotFound);
    }
    let is_empty = async {
        while !rig.broker.broker.stores.metadata.payloads(0, 10).await.unwrap().iter().all(|row| row.alive == 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_empty).await.expect("no bytes are left");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_scheduled_delivery() {
    let rig = Rig::start().await;
    let data = Pattern::new(1, 3 << 20);
    let due = std::time::SystemTime::now() + Duration::from_millis(700);
    let scheduled = rig.upload(data, |message| message.deliver_at = Some(due.into())).await.unwrap();
    assert_eq!((scheduled.sequence, scheduled.scheduled), (0, true));
    let mut notified = rig.client.subscribe(&subject(data), "", None).await.unwrap();
    let notified = tokio::time::timeout(Duration::from_secs(30), notified.next()).await.expect("it becomes due");
    assert_eq!(notified.unwrap().unwrap().sequence, 1);
    assert!(std::time::SystemTime::now() >= due);
    rig.api.assert_is(&subject(data), 1, data).await;
    rig.stop().await;
}
