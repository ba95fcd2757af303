//! P7: an object that S3 has no more, or that has other bytes, is named; consumers are told, give it up and go on.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use minitoolstream::{block::PayloadKey, store::Stores, types::Subject};
use minitoolstream_client::{Client, ConsumerSettings, Error, Fetch, NewMessage};
use tokio::time::timeout;

use crate::{
    ledger::{data, id_of},
    site::{PATIENCE, Site, persist},
};

const MESSAGES: u64 = 8;
/// Slices and objects in turn.
const SIZES: [usize; 2] = [100_000, 1_200_000];

fn subject(round: u64) -> String {
    format!("damage.{round}")
}

async fn publish(client: &Client, round: u64) {
    let publisher = client.publisher();
    for number in 1..=MESSAGES {
        let id = round << 32 | number;
        let size = SIZES[usize::try_from(number % 2).unwrap()];
        let message = || NewMessage::new(subject(round), data(id, size)).message_id(id.to_string());
        assert_eq!(persist(|| publisher.publish(message())).await.unwrap().sequence, number);
    }
}

/// Removes one message's bytes in S3, and replaces those of another, which is an object.
async fn damage(stores: &Stores, round: u64, missing: u64, other: u64) -> minitoolstream::Result<()> {
    let name = Subject::parse("subject", &subject(round)).unwrap();
    let key = async |sequence| {
        let scan = stores.metadata.blocks(&name, sequence, 1, u64::MAX).await?;
        Ok::<_, minitoolstream::Error>(scan.blocks[0].payload().unwrap())
    };
    stores.payload.delete(key(missing).await?).await?;
    let PayloadKey::Object(number) = key(other).await? else { panic!("message {other} is no object") };
    stores.payload.put_object(number, Bytes::from(vec![0xAB; 2 * SIZES[1]])).await
}

/// Works until every message is settled, one way or the other.
async fn work(client: &Client, round: u64) -> (BTreeSet<u64>, u64) {
    let settings = ConsumerSettings::of(subject(round)).ack_wait(Duration::from_secs(2)).max_deliver(0);
    let consumer = client.consumer(format!("w{round}")).settings(settings);
    let mut done = BTreeSet::new();
    let worked = timeout(PATIENCE, async {
        loop {
            let Ok(mut deliveries) = consumer.messages().await else { continue };
            while let Ok(Some(Ok(delivery))) = timeout(Duration::from_millis(500), deliveries.next()).await {
                match delivery.data().await {
                    Ok(data) => {
                        let id = id_of(&data);
                        if delivery.ack().await.is_ok() {
                            done.insert(id & 0xFFFF_FFFF);
                        }
                    }
                    // It is the broker's to give it up.
                    Err(error) => assert!(!matches!(error, Error::Invalid(_)), "{error}"),
                }
            }
            if let Ok(info) = consumer.info().await
                && info.acked + info.dead_lettered == MESSAGES
            {
                return info.dead_lettered;
            }
        }
    });
    let letters = worked.await.unwrap_or_else(|_| panic!("consumer {round} is wedged"));
    (done, letters)
}

/// A reader is refused what is damaged, and goes on behind it.
async fn refused(client: &Client, round: u64) -> BTreeSet<u64> {
    let (mut refused, mut next) = (BTreeSet::new(), 1);
    while next <= MESSAGES {
        let read = async || {
            let mut messages = client.fetch(Fetch::from_sequence(subject(round), next).limit(1)).await?;
            let message = messages.next().await.ok_or_else(|| Error::Other("no message came".into()))??;
            assert_eq!((message.sequence, id_of(&message.data.unwrap()) & 0xFFFF_FFFF), (next, next));
            Ok(())
        };
        match persist(read).await {
            Ok(()) => {}
            Err(Error::DataLoss(what)) => {
                assert!(what.contains(&subject(round)) || what.contains("object-"), "{what}");
                refused.insert(next);
            }
            Err(error) => panic!("{next}: {error}"),
        }
        next += 1;
    }
    refused
}

/// What the letters of a round are about.
async fn letters(client: &Client, round: u64) -> BTreeSet<u64> {
    let read = async || {
        let mut messages = client.fetch(Fetch::from_sequence(format!("$dlq.w{round}"), 1).limit(100)).await?;
        let mut about = BTreeSet::new();
        while let Some(letter) = messages.next().await {
            let headers = letter?.headers;
            assert_eq!(headers["Mts-Reason"], "data-loss", "{headers:?}");
            about.insert(headers["Mts-Original-Sequence"].parse().unwrap());
        }
        Ok(about)
    };
    persist(read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p7_damage_wedges_nobody_whoever_fails() {
    let site = Site::start(&[]).await;
    let (trouble, stores) = (site.trouble(), site.stores());
    let mut expected = BTreeSet::new();
    for round in 1.. {
        if round > 1 && !trouble() {
            break;
        }
        let number = usize::try_from(round).unwrap();
        publish(&site.ingress(number), round).await;
        let missing = 1 + round % MESSAGES;
        let other = if missing == 5 { 7 } else { 5 };
        while let Err(error) = damage(&stores, round, missing, other).await {
            assert!(matches!(error, minitoolstream::Error::Unavailable { .. }), "{error}");
        }
        let damaged = BTreeSet::from([missing, other]);
        let (at, beside) = (site.egress(number), site.egress(number + 1));
        let (done, given_up) = work(&at, round).await;
        assert_eq!(given_up, 2, "round {round}: {damaged:?} are damaged");
        assert!(done.is_disjoint(&damaged));
        assert_eq!(letters(&beside, round).await, damaged);
        assert_eq!(refused(&beside, round).await, damaged);
        expected.extend(damaged.into_iter().map(|sequence| (subject(round), sequence)));
    }
    eprintln!("{} rounds", expected.len() / 2);
    let damaged = site.calm().await.damaged().await;
    assert_eq!(damaged.into_iter().collect::<BTreeSet<_>>(), expected, "the check finds the same");
}
