//! Publishers and workers that go from broker to broker, and the books of what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Delivery, Error, Fetch, NewMessage, Publisher};
use minitoolstream_testkit::Process;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

const SUBJECTS: [&str; 3] = ["load.a", "load.b", "load.c"];
/// Rows, parts of objects, and now and then an object.
const SIZES: [usize; 14] = [8, 500, 3000, 100_000, 50, 20_000, 700, 8, 500, 3000, 50, 1_100_000, 20_000, 700];
const PUBLISHERS: u64 = 3;
const WORKERS: usize = 4;

/// Between two messages of a publisher: the load is to last, not to be large.
const PAUSE: Duration = Duration::from_millis(25);

/// Who gives no answer for so long is not waited for.
const IMPATIENCE: Duration = Duration::from_secs(2);
/// After this long something is lost or wedged.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a worker stays at one broker.
const STAY: Duration = Duration::from_secs(1);

/// Brokers that take calls.
#[derive(Clone)]
struct Fleet {
    publishers: Vec<Publisher>,
    egress: Vec<Client>,
}

impl Fleet {
    fn of(ingress: &[Process], egress: &[Process]) -> Self {
        let publishers = ingress.iter().map(|broker| broker.client().publisher()).collect();
        Self { publishers, egress: egress.iter().map(Process::client).collect() }
    }
}

/// What was acknowledged, and what was settled.
#[derive(Default)]
struct Books {
    /// Messages by sequence, of each subject.
    acknowledged: Mutex<BTreeMap<&'static str, BTreeMap<u64, u64>>>,
    /// Messages whose ack was confirmed.
    settled: Mutex<BTreeSet<u64>>,
    /// The first deliveries of messages.
    seen: Mutex<BTreeSet<u64>>,
    is_closed: AtomicBool,
    is_over: AtomicBool,
}

/// See the [module](self). Each publisher takes another broker for each message, each worker another one now and then.
pub(crate) struct Load {
    fleet: watch::Sender<Fleet>,
    books: Arc<Books>,
    publishers: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(ingress: &[Process], egress: &[Process]) -> Self {
        let (fleet, books) = (watch::Sender::new(Fleet::of(ingress, egress)), Arc::<Books>::default());
        let publish = |number| tokio::spawn(publish(fleet.subscribe(), number, books.clone()));
        let publishers = (0..PUBLISHERS).map(publish).collect();
        let work = |number| tokio::spawn(work(fleet.subscribe(), number, books.clone()));
        let workers = (0..WORKERS).map(work).collect();
        Self { fleet, books, publishers, workers }
    }

    /// From now on the load goes to these.
    pub(crate) fn turn_to(&self, ingress: &[Process], egress: &[Process]) {
        self.fleet.send_replace(Fleet::of(ingress, egress));
    }

    /// Waits until publishers and workers have come further.
    pub(crate) async fn goes_on(&self, what: &str) {
        let count = || {
            let acknowledged: usize = self.books.acknowledged.lock().unwrap().values().map(BTreeMap::len).sum();
            (acknowledged, self.books.settled.lock().unwrap().len())
        };
        let (before, started) = (count(), Instant::now());
        while count().0 < before.0 + 60 || count().1 < before.1 + 60 {
            assert!(started.elapsed() < PATIENCE, "{what}: {before:?}, and after {PATIENCE:?} {:?}", count());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!("{what}: {:?} after {:?}", count(), started.elapsed());
    }

    /// Ends it, and compares what clients were told with what is stored: each message once, in sequences without a gap,
    /// each delivered and settled once. Gives how many there are.
    pub(crate) async fn end(self, client: &Client) -> usize {
        let Self { books, publishers, workers, .. } = self;
        books.is_closed.store(true, Ordering::Relaxed);
        for publisher in publishers {
            timeout(PATIENCE, publisher).await.expect("publishers end").unwrap();
        }
        let acknowledged = books.acknowledged.lock().unwrap().clone();
        let ids: Vec<_> = acknowledged.values().flat_map(BTreeMap::values).copied().collect();
        let published: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(published.len(), ids.len(), "no message has two sequences");
        let consumer = client.consumer("w");
        let all_is_settled = async {
            loop {
                let info = consumer.info().await.unwrap();
                if info.pending + info.unacked + info.redeliverable == 0 {
                    return info;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let info = timeout(PATIENCE, all_is_settled).await.expect("all is settled");
        books.is_over.store(true, Ordering::Relaxed);
        for worker in workers {
            timeout(PATIENCE, worker).await.expect("workers end").unwrap();
        }
        let count = published.len() as u64;
        assert_eq!((info.passed, info.acked, info.dead_lettered), (count, count, 0), "{info:?}");
        assert_eq!(*books.seen.lock().unwrap(), published, "all was delivered, and nothing else");
        for (subject, acknowledged) in &acknowledged {
            let stored = read(client, subject).await;
            assert!(stored == *acknowledged, "{subject} has what was acknowledged, and nothing else");
            let last = stored.last_key_value().map(|(last, _)| *last);
            assert_eq!(last, Some(stored.len() as u64), "{subject} has no gap");
        }
        eprintln!("{count} messages, {} deliveries, {} of them again", info.deliveries, info.redeliveries);
        published.len()
    }
}

fn data(id: u64, len: usize) -> Bytes {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(id).fill(&mut data[8..]);
    data[..8].copy_from_slice(&id.to_le_bytes());
    data.into()
}

fn id_of(found: &Bytes) -> u64 {
    let id = u64::from_le_bytes(found[..8].try_into().unwrap());
    assert!(*found == data(id, found.len()), "message {id} has other bytes");
    id
}

/// Publishes until told to stop; what is not acknowledged is sent to another broker, under its id.
async fn publish(fleet: watch::Receiver<Fleet>, number: u64, books: Arc<Books>) {
    let (mut turn, mut lasts) = (number, BTreeMap::new());
    for count in 1.. {
        if books.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let at = |of: usize| usize::try_from(count).unwrap() % of;
        let (id, subject) = (number << 32 | count, SUBJECTS[at(SUBJECTS.len())]);
        let message = NewMessage::new(subject, data(id, SIZES[at(SIZES.len())])).message_id(id.to_string());
        let published = loop {
            turn += 1;
            let publisher = {
                let publishers = &fleet.borrow().publishers;
                publishers[usize::try_from(turn).unwrap() % publishers.len()].clone()
            };
            match timeout(IMPATIENCE, publisher.publish(message.clone())).await {
                Ok(Ok(published)) => break published,
                Ok(Err(error)) => assert!(error.is_transient(), "{error}"),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let last = lasts.insert(subject, published.sequence);
        assert!(last < Some(published.sequence), "{subject}: {} comes after {last:?}", published.sequence);
        let other = books.acknowledged.lock().unwrap().entry(subject).or_default().insert(published.sequence, id);
        assert_eq!(other, None, "{subject} {} is another message already", published.sequence);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Works for the consumer 'w', a while at each broker.
async fn work(fleet: watch::Receiver<Fleet>, mut turn: usize, books: Arc<Books>) {
    let settings = ConsumerSettings::of("load.*").ack_wait(Duration::from_secs(10)).max_deliver(0);
    while !books.is_over.load(Ordering::Relaxed) {
        turn += 1;
        let client = {
            let egress = &fleet.borrow().egress;
            egress[turn % egress.len()].clone()
        };
        let consumer = client.consumer("w").settings(settings.clone()).window(20, 16 << 20);
        let Ok(Ok(mut deliveries)) = timeout(IMPATIENCE, consumer.messages()).await else { continue };
        let begun = Instant::now();
        while begun.elapsed() < STAY {
            match timeout(STAY / 10, deliveries.next()).await {
                Ok(Some(Ok(delivery))) => settle(delivery, &books).await,
                Ok(Some(Err(error))) => {
                    assert!(error.is_transient(), "{error}");
                    break;
                }
                Ok(None) => break,
                Err(_) => {}
            }
        }
    }
}

/// Acks a message. One whose ack was confirmed must never come again; one whose ack was lost may, or may not.
async fn settle(delivery: Delivery, books: &Books) {
    let id = id_of(&delivery.data().await.unwrap());
    assert!(!books.settled.lock().unwrap().contains(&id), "{id} was delivered after it was settled");
    let is_first = books.seen.lock().unwrap().insert(id);
    assert!(is_first || delivery.attempt > 1, "{id} was delivered twice as if for the first time");
    match timeout(IMPATIENCE, delivery.ack()).await {
        Ok(Ok(())) => assert!(books.settled.lock().unwrap().insert(id), "{id} was settled twice"),
        Ok(Err(error)) => assert!(matches!(error, Error::LeaseLost(_)) || error.is_transient(), "{error}"),
        Err(_) => {}
    }
}

/// All messages of a subject, by sequence.
async fn read(client: &Client, subject: &str) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    loop {
        let next = found.last_key_value().map_or(1, |(last, _)| last + 1);
        let mut messages = client.fetch(Fetch::from_sequence(subject, next).limit(500)).await.unwrap();
        let before = found.len();
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            found.insert(message.sequence, id_of(&message.data.unwrap()));
        }
        if found.len() == before {
            return found;
        }
    }
}
