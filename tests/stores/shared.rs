//! What only a store that many brokers share is asked for: replies that are lost, a server that is killed, frozen or full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use minitoolstream::{
    Error, Result,
    block::{PayloadKey, Placement, batch},
    consumer::{How, Session, Settle, Step, Stepped, Want},
    store::{
        Committed, Group, MetadataStore, NewConsumer, NewUpload, UploadState,
        tarantool::{Config, News, TarantoolMetadata},
    },
    types::{Draft, SubjectFilter, Timestamp, UploadId},
};
use minitoolstream_testkit::{Proxy, Tarantool};
use rusty_tarantool::tarantool::{ClientConfig, CommandPacket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    words::{With, draft, subject},
    workers::{consumer, on},
};

const NOW: Timestamp = Timestamp(100_000);

pub(crate) async fn connect(config: Config) -> TarantoolMetadata {
    TarantoolMetadata::connect(config).await.unwrap()
}

/// Stores one message; gives its sequence.
pub(crate) async fn publish(store: &TarantoolMetadata, name: &str, bytes: usize) -> Result<u64> {
    let drafts = [draft(name, &"x".repeat(bytes))];
    let blocks = batch::form(&drafts, &[false]);
    let placements = blocks.iter().map(|block| Placement::Inline(block.body.clone())).collect();
    let window = Duration::from_secs(1);
    let group = Group { blocks, placements, now: NOW, dedup_window: window, ..Group::default() };
    match store.commit(group).await? {
        Committed::Stored { firsts, .. } => Ok(firsts[0]),
        Committed::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

pub(crate) async fn step(
    store: &TarantoolMetadata,
    session: u64,
    acks: &[(u64, u32)],
    messages: usize,
) -> Result<Stepped> {
    let settle = |&(at, attempt)| Settle { at, attempt, received: NOW, how: How::Ack };
    let want = Want { messages, bytes: u64::MAX, message_bytes: u64::MAX, first_bytes: u64::MAX };
    let settles = acks.iter().map(settle).collect();
    let step = Step { consumer: consumer("c"), session: Session(session), settles, want, close: false, now: NOW };
    match store.commit(Group { steps: vec![Arc::new(step)], now: NOW, ..Group::default() }).await? {
        Committed::Stored { mut steps, .. } => steps.remove(0),
        Committed::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

pub(crate) fn given(stepped: &Stepped) -> Vec<(u64, u32)> {
    stepped.runs.iter().flat_map(|run| &run.given).map(|given| (given.at, given.attempt)).collect()
}

pub(crate) async fn make(store: &TarantoolMetadata, pattern: &str) {
    let dead_letter_ttl = Duration::from_secs(1000);
    let patch = minitoolstream::consumer::Patch { ack_wait: Some(Duration::from_secs(60)), ..on(pattern) };
    let new = NewConsumer { name: consumer("c"), is_durable: true, patch, dead_letter_ttl, consumers_max: 9, now: NOW };
    store.create_consumer(new).await.unwrap();
}

/// Forwards to a server; when told so, it hands the next request on, keeps the reply and cuts the connection.
async fn lossy(server: String) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let loses = Arc::new(AtomicBool::new(false));
    let told = loses.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, told) = (TcpStream::connect(&server).await.unwrap(), told.clone());
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    if told.swap(false, Ordering::SeqCst) || to_client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
                requests.abort();
            });
        }
    });
    (address, loses)
}

#[tokio::test]
async fn p2_a_lost_reply_stores_nothing_twice() {
    let server = Tarantool::start(&[]);
    let (address, loses) = lossy(server.config().addresses[0].clone()).await;
    let store = connect(Config { addresses: vec![address], ..server.config() }).await;
    make(&store, "a").await;
    let mut delivered = Vec::new();
    for number in 1..=20 {
        loses.store(true, Ordering::SeqCst);
        assert_eq!(publish(&store, "a", 9).await.unwrap(), number);
        loses.store(true, Ordering::SeqCst);
        delivered.extend(given(&step(&store, 7, &[], 1).await.unwrap()));
    }
    assert!(!loses.load(Ordering::SeqCst), "no reply was lost");
    assert_eq!(delivered, (1..=20).map(|at| (at, 1)).collect::<Vec<_>>(), "what was leased in a lost reply comes");
}

#[tokio::test]
async fn p4_a_lost_reply_settles_nothing_twice() {
    let server = Tarantool::start(&[]);
    let (address, loses) = lossy(server.address().to_owned()).await;
    let store = connect(Config { addresses: vec![address], ..server.config() }).await;
    make(&store, "a").await;
    for _ in 0..4 {
        publish(&store, "a", 9).await.unwrap();
    }
    let mut leased = given(&step(&store, 1, &[], 1).await.unwrap());
    for next in 2..=4 {
        loses.store(true, Ordering::SeqCst);
        let stepped = step(&store, 1, &leased, 1).await.unwrap();
        assert!(!loses.load(Ordering::SeqCst), "a reply was lost");
        assert!(stepped.settled.iter().all(Result::is_ok), "{:?}", stepped.settled);
        leased = given(&stepped);
        assert_eq!(leased, [(next, 1)]);
    }
    let view = store.consumer(&consumer("c")).await.unwrap().unwrap();
    assert_eq!((view.counts.acked, view.counts.redeliveries), (3, 0));
}

#[tokio::test]
async fn p1_what_is_answered_survives_kills() {
    let mut server = Tarantool::start(&[("MTS_WAL_MODE", "fsync")]);
    let (acked, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for round in 0..4_u64 {
        let store = connect(server.config()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (store, acked) = (store.clone(), acked.clone());
            tasks.spawn(async move {
                while let Ok(sequence) = publish(&store, "a", 200).await {
                    acked.fetch_max(sequence, Ordering::SeqCst);
                }
            });
        }
        let (reader, sees) = (store.clone(), seen.clone());
        tasks.spawn(async move {
            while let Ok(row) = reader.subject(&subject("a")).await {
                sees.fetch_max(row.map_or(0, |row| row.last), Ordering::SeqCst);
            }
        });
        tokio::time::sleep(Duration::from_millis(150 + 37 * round)).await;
        server.kill();
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        drop(store);
        server.restart();
        let store = connect(server.config()).await;
        let last = store.subject(&subject("a")).await.unwrap().map_or(0, |row| row.last);
        let (acked, seen) = (acked.load(Ordering::SeqCst), seen.load(Ordering::SeqCst));
        assert!(acked > 0 && last >= acked, "acknowledged up to {acked}, and there are {last}");
        assert!(seen > 0 && last >= seen, "seen up to {seen}, and there are {last}");
        let mut next = 1;
        for block in store.blocks(&subject("a"), 1, usize::MAX, u64::MAX).await.unwrap().blocks {
            assert_eq!(block.first, next, "sequences have no gap");
            next = block.end();
        }
        assert_eq!(next, last + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_brokers_share_a_consumer() {
    let server = Tarantool::start(&[]);
    let brokers = [connect(server.config()).await, connect(server.config()).await, connect(server.config()).await];
    make(&brokers[0], "a.>").await;
    const MESSAGES: u64 = 300;
    for number in 0..MESSAGES {
        publish(&brokers[0], &format!("a.{}", number % 3), 9).await.unwrap();
    }
    let mut workers = tokio::task::JoinSet::new();
    for (number, broker) in brokers.iter().enumerate() {
        let (broker, session) = (broker.clone(), number as u64 + 1);
        workers.spawn(async move {
            let (mut acks, mut all, mut idle) = (Vec::new(), Vec::new(), 0);
            while idle < 3 {
                match step(&broker, session, &acks, 7).await {
                    Ok(stepped) => {
                        assert!(stepped.settled.iter().all(Result::is_ok), "{:?}", stepped.settled);
                        acks = given(&stepped);
                        all.extend(acks.clone());
                        idle = if acks.is_empty() { idle + 1 } else { 0 };
                    }
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
            }
            all
        });
    }
    let mut all: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=MESSAGES).map(|at| (at, 1)).collect::<Vec<_>>(), "each once, to one of them");
    let view = brokers[0].consumer(&consumer("c")).await.unwrap().unwrap();
    assert_eq!((view.counts.acked, view.ack_floor, view.workers), (MESSAGES, MESSAGES + 1, 3));
}

#[tokio::test]
async fn news_of_other_brokers_come_at_once() {
    let server = Tarantool::start(&[]);
    let (store, other) = (connect(server.config()).await, connect(server.config()).await);
    let start = store.news(&News::default(), Duration::ZERO).await.unwrap();
    assert!(!start.is_complete, "who comes anew has to look");
    let quiet = store.news(&start, Duration::from_millis(50)).await.unwrap();
    assert!(quiet.is_complete && quiet.raised.is_empty());
    let waiting = tokio::spawn(async move { store.news(&quiet, Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    publish(&other, "a", 9).await.unwrap();
    let started = Instant::now();
    let news = waiting.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((news.is_complete, news.raised), (true, vec![(subject("a"), 1)]));
}

#[tokio::test]
async fn a_lease_has_one_owner() {
    let server = Tarantool::start(&[]);
    let store = connect(server.config()).await;
    let long = Duration::from_secs(60);
    let first = store.acquire_lease("reaper", "a", long).await.unwrap().unwrap();
    assert_eq!(store.acquire_lease("reaper", "b", long).await.unwrap(), None);
    assert_eq!(store.acquire_lease("reaper", "a", Duration::from_millis(50)).await.unwrap(), Some(first));
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(!store.holds_lease("reaper", "a", first).await.unwrap());
    let second = store.acquire_lease("reaper", "b", long).await.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
    assert!(!store.release_lease("reaper", "a", first).await.unwrap());
    assert!(store.release_lease("reaper", "b", second).await.unwrap());
    assert!(store.acquire_lease("reaper", "a", long).await.unwrap().unwrap().epoch > second.epoch);
}

#[tokio::test]
async fn p6_near_the_end_of_memory_only_publishes_are_refused() {
    let server = Tarantool::start(&[("MTS_MEMORY", "100663296")]);
    let store = connect(server.config()).await;
    make(&store, "a").await;
    let usage = store.usage().await.unwrap().unwrap();
    assert!(usage.used < usage.limit / 2, "{usage:?}");
    let mut stored = 0;
    let refused = loop {
        match publish(&store, "a", 30_000).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 5000, "nothing is refused");
    };
    assert!(matches!(&refused, Error::Exhausted { what, .. } if what.contains("memtx_memory")), "{refused}");
    assert!(store.writable().await.is_err());
    let usage = store.usage().await.unwrap().unwrap();
    assert!(usage.used >= usage.limit, "{usage:?}");
    let leased = given(&step(&store, 1, &[], 50).await.unwrap());
    assert!(!leased.is_empty());
    assert!(step(&store, 1, &leased, 0).await.unwrap().settled.iter().all(Result::is_ok));
    assert_eq!(store.subjects(&SubjectFilter::all(), "", 9).await.unwrap()[0].last, stored);
    assert!(store.purge(&subject("a"), stored / 2, 5000, NOW).await.unwrap().messages > 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(publish(&store, "a", 10).await.unwrap(), stored + 1);
}

#[tokio::test]
async fn a_frozen_server_costs_a_bounded_wait() {
    let server = Tarantool::start(&[]);
    let store = connect(Config { timeout: Duration::from_millis(300), ..server.config() }).await;
    assert_eq!(publish(&store, "a", 9).await.unwrap(), 1);
    server.signal("STOP");
    let started = Instant::now();
    let error = publish(&store, "a", 9).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && started.elapsed() < Duration::from_secs(5), "{error}");
    server.signal("CONT");
    let sequence = publish(&store, "a", 9).await.unwrap();
    assert!((2..=3).contains(&sequence), "what was sent to the frozen one may be stored, once: {sequence}");
}

#[tokio::test]
async fn a_server_that_hangs_up_before_it_greets_is_found_again() {
    let mut server = Tarantool::start(&[]);
    // It takes connections for the server and ends them, while that is away.
    let way = Proxy::start(server.address());
    let config =
        Config { addresses: vec![way.address.to_string()], timeout: Duration::from_secs(1), ..server.config() };
    let store = connect(config).await;
    assert_eq!(publish(&store, "a", 9).await.unwrap(), 1);
    server.kill();
    let error = publish(&store, "a", 9).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    server.restart();
    assert_eq!(publish(&store, "a", 9).await.unwrap(), 2);
}

#[tokio::test]
async fn the_instance_that_takes_writes_is_found() {
    let server = Tarantool::start(&[]);
    let mut addresses = server.config().addresses;
    // One that nobody listens on, and one that accepts and says nothing.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    addresses.splice(0..0, [closed.to_string(), silent.local_addr().unwrap().to_string()]);
    let store = connect(Config { addresses, ..server.config() }).await;
    assert_eq!(publish(&store, "a", 9).await.unwrap(), 1);
    let nobody = Config { addresses: vec![closed.to_string()], timeout: Duration::from_millis(200), ..server.config() };
    let error = TarantoolMetadata::connect(nobody).await.err().unwrap();
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
}

#[tokio::test]
async fn p5_an_expired_block_whose_payload_row_is_missing_stops_no_block_behind_it() {
    let server = Tarantool::start(&[]);
    let store = connect(server.config()).await;
    let segment = store.open_payload(PayloadKey::Segment).await.unwrap().number();
    for (name, expires, in_segment) in [("a", 1, true), ("b", 2, false), ("c", 3, true)] {
        let blocks = batch::form(&[draft(name, "x").expires(NOW.0 + expires)], &[false]);
        let body = blocks[0].body.clone();
        let placement = match in_segment {
            true => Placement::Slice { segment, offset: 0, len: body.len() as u64 },
            false => Placement::Inline(body),
        };
        let window = Duration::from_secs(1);
        let group = Group { blocks, placements: vec![placement], now: NOW, dedup_window: window, ..Group::default() };
        assert!(matches!(store.commit(group).await.unwrap(), Committed::Stored { .. }));
    }
    server.lose_payload(segment).await;
    let later = Timestamp(NOW.0 + 100);
    // One at a time: the first of them cannot be removed.
    let expired = store.expire(later, 1).await.unwrap();
    assert_eq!((expired.blocks, expired.messages), (1, 1));
    assert_eq!(store.expire(later, 1).await.unwrap().blocks, 0);
    let live = async |name: &str| store.subject(&subject(name)).await.unwrap().unwrap().live();
    assert_eq!((live("a").await, live("b").await, live("c").await), (1, 0, 1), "what cannot be counted stays");
}

#[tokio::test]
async fn p5_uploads_and_scheduled_messages_whose_payload_rows_are_missing_stay() {
    let server = Tarantool::start(&[]);
    let store = connect(server.config()).await;
    let later = Timestamp(NOW.0 + 100);
    let begin = |id: &str| NewUpload {
        id: UploadId::parse("upload_id", id).unwrap(),
        header: "{}".into(),
        now: NOW,
        deadline: Timestamp(NOW.0 + 1),
        uploads_max: 10,
    };
    let lost = store.begin_upload(begin("lost")).await.unwrap();
    store.begin_upload(begin("plain")).await.unwrap();
    let UploadState::Open { object, .. } = lost.state else { panic!("it is open") };
    server.lose_payload(object).await;
    assert_eq!(store.expire_uploads(later, 1).await.unwrap(), 1);
    assert_eq!(store.expire_uploads(later, 1).await.unwrap(), 0);
    let left = store.uploads("", 10).await.unwrap();
    assert_eq!(left.iter().map(|upload| upload.id.as_str()).collect::<Vec<_>>(), ["lost"]);

    let segment = store.open_payload(PayloadKey::Segment).await.unwrap().number();
    for (name, in_segment) in [("a", true), ("b", false)] {
        let draft = Draft { deliver_at: Some(Timestamp(NOW.0 + 1)), ..draft(name, "x") };
        let blocks = batch::form(&[draft], &[false]);
        let body = blocks[0].body.clone();
        let placement = match in_segment {
            true => Placement::Slice { segment, offset: 0, len: body.len() as u64 },
            false => Placement::Inline(body),
        };
        let window = Duration::from_secs(1);
        let group = Group { blocks, placements: vec![placement], now: NOW, dedup_window: window, ..Group::default() };
        assert!(matches!(store.commit(group).await.unwrap(), Committed::Stored { .. }));
    }
    server.lose_payload(segment).await;
    let due = store.deliver_due(later, 1).await.unwrap();
    assert_eq!(due.raised, [(subject("b"), 1)]);
    assert!(store.deliver_due(later, 1).await.unwrap().raised.is_empty());
    assert!(store.next_due().await.unwrap().is_some(), "the other waits for a check");
}

#[tokio::test]
async fn the_user_may_call_and_nothing_else() {
    let server = Tarantool::start(&[]);
    let config = server.config();
    let client = ClientConfig::new(config.addresses[0].clone(), config.user, config.password).build();
    let denied = [
        CommandPacket::eval("return 1".into(), &[(); 0]).unwrap(),
        CommandPacket::call("box.cfg", &[(); 0]).unwrap(),
        CommandPacket::call("box.ctl.promote", &[(); 0]).unwrap(),
        CommandPacket::call("box.ctl.demote", &[(); 0]).unwrap(),
        CommandPacket::call("mts.reset", &[(); 0]).unwrap(),
        CommandPacket::select(512, 0, &[(); 0], 0, 1, 2).unwrap(),
    ];
    for packet in denied {
        let answer = client.send_command(packet).await;
        assert!(answer.as_ref().is_err_and(|error| error.to_string().contains("denied")), "{answer:?}");
    }
    let bytes = client.call_fn("mts.stream_next", &[(); 0]).await.unwrap().data;
    assert!(bytes.windows(2).any(|word| word == b"ok"));
}
