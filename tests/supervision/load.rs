use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use minitoolstream_client::{
    Error, Fetch, NewMessage, Published, Publisher, Result,
    proto::{FetchRequest, egress_service_client::EgressServiceClient},
};
use minitoolstream_testkit::TestBroker;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Subjects of a load. They are spread over the publishers: some on each.
pub(crate) const SUBJECTS: usize = 8;

/// Each publisher sends this often, whether or not what it sent before is acknowledged.
const PACE: Duration = Duration::from_millis(10);

/// So many messages.
const BURST: usize = 4;

/// How long a part of a load may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publishers that pipeline and a reader that follows, one of each a subject. Whatever is not acknowledged is repeated
/// with the same message id.
pub(crate) struct Load {
    stop: CancellationToken,
    acknowledged: Arc<[AtomicU64; SUBJECTS]>,
    publishers: Vec<JoinHandle<Ledger>>,
    readers: Vec<JoinHandle<Vec<Seen>>>,
    ends: Vec<tokio::sync::watch::Sender<u64>>,
}

/// What a publisher was told: for each message its sequence, and how often it was sent.
struct Ledger {
    subject: String,
    acks: Vec<(u64, u32)>,
}

/// A message as a reader saw it: its sequence and its number.
type Seen = (u64, u64);

impl Load {
    pub(crate) async fn start(broker: &TestBroker) -> Self {
        let stop = CancellationToken::new();
        let acknowledged: Arc<[AtomicU64; SUBJECTS]> = Arc::default();
        let (mut publishers, mut readers, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..SUBJECTS {
            let subject = format!("load.{index}");
            let (end, is_end) = tokio::sync::watch::channel(u64::MAX);
            ends.push(end);
            readers.push(tokio::spawn(follow(broker.egress.to_string(), subject.clone(), is_end)));
            let (client, stop, acknowledged) = (broker.client().await, stop.clone(), acknowledged.clone());
            publishers.push(tokio::spawn(async move {
                let (sent, in_flight) = (Vec::new(), FuturesUnordered::new());
                let sender = Sender { publisher: client.publisher(), subject, sent, in_flight };
                sender.run(stop, &acknowledged[index]).await
            }));
        }
        Self { stop, acknowledged, publishers, readers, ends }
    }

    /// How many messages of each subject are acknowledged.
    pub(crate) fn acknowledged(&self) -> [u64; SUBJECTS] {
        std::array::from_fn(|index| self.acknowledged[index].load(Ordering::Relaxed))
    }

    /// Ends the load and compares what was acknowledged with what was followed and with what is stored.
    pub(crate) async fn finish(self, broker: &TestBroker) {
        self.stop.cancel();
        let client = broker.client().await;
        for ((publisher, reader), end) in self.publishers.into_iter().zip(self.readers).zip(self.ends) {
            let ledger = tokio::time::timeout(PATIENCE, publisher).await.expect("the publisher ends").unwrap();
            let subject = ledger.subject.as_str();
            let last = client.last_sequence(subject).await.unwrap();
            let mut stored = Vec::new();
            while stored.len() < usize::try_from(last).unwrap() {
                let fetch = Fetch::from_sequence(subject, stored.len() as u64 + 1).limit(10_000);
                let mut messages = client.fetch(fetch).await.unwrap();
                let before = stored.len();
                while let Some(message) = messages.next().await {
                    let message = message.unwrap();
                    stored.push((message.sequence, number(&message.data.unwrap())));
                }
                assert!(stored.len() > before, "{subject}: {before} of {last} messages can be read");
            }
            ledger.compare_with(&stored);
            end.send_replace(last);
            let seen = tokio::time::timeout(PATIENCE, reader).await;
            let seen = seen.unwrap_or_else(|_| panic!("{subject}: the follower never saw message {last}")).unwrap();
            assert!(seen == stored, "{subject}: the follower saw other messages than are stored");
        }
    }
}

impl Ledger {
    fn compare_with(&self, stored: &[Seen]) {
        let subject = &self.subject;
        assert!(stored.iter().zip(1..).all(|((sequence, _), expected)| *sequence == expected), "{subject} has gaps");
        let places: HashMap<u64, u64> = stored.iter().map(|(sequence, number)| (*number, *sequence)).collect();
        assert_eq!(places.len(), stored.len(), "{subject}: a message is stored twice");
        assert_eq!(places.len(), self.acks.len(), "{subject}: as many messages are stored as were acknowledged");
        for ((sequence, _), number) in self.acks.iter().zip(0_u64..) {
            assert_eq!(places.get(&number), Some(sequence), "{subject}: message {number} is where its ack says");
        }
        let sent_once = self.acks.iter().filter(|(_, attempts)| *attempts == 1).map(|(sequence, _)| sequence);
        assert!(
            sent_once.is_sorted(),
            "{subject}: messages that were not repeated keep the order in which they were sent"
        );
    }
}

/// One publisher at work.
struct Sender {
    publisher: Publisher,
    subject: String,
    /// For each message: how often it was sent, and whether the broker may have it.
    sent: Vec<(u32, bool)>,
    in_flight: FuturesUnordered<BoxFuture<'static, (u64, Result<Published>)>>,
}

impl Sender {
    async fn run(mut self, stop: CancellationToken, acknowledged: &AtomicU64) -> Ledger {
        let mut acks = Vec::new();
        let mut turn = tokio::time::interval(PACE);
        loop {
            tokio::select! {
                _ = turn.tick(), if !stop.is_cancelled() => {
                    for _ in 0..BURST {
                        self.sent.push((0, false));
                        acks.push((0, 0));
                        self.send(self.sent.len() as u64 - 1).await;
                    }
                }
                Some((number, answer)) = self.in_flight.next() => {
                    if let Some(ack) = self.judge(number, answer) {
                        acks[usize::try_from(number).unwrap()] = ack;
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
                () = stop.cancelled(), if self.in_flight.is_empty() => {
                    return Ledger { subject: self.subject, acks };
                }
            }
        }
    }

    fn message(&mut self, number: u64) -> NewMessage {
        let mut data = vec![0; 100];
        data[..8].copy_from_slice(&number.to_le_bytes());
        self.sent[usize::try_from(number).unwrap()].0 += 1;
        NewMessage::new(self.subject.clone(), data).message_id(number.to_string())
    }

    async fn send(&mut self, number: u64) {
        let message = self.message(number);
        let answer = self.publisher.send(message).await;
        self.in_flight.push(answer.map(move |answer| (number, answer)).boxed());
    }

    fn send_again(&mut self, number: u64) {
        let (publisher, message) = (self.publisher.clone(), self.message(number));
        let answer = async move {
            tokio::time::sleep(PACE).await;
            (number, publisher.publish(message).await)
        };
        self.in_flight.push(answer.boxed());
    }

    /// What the ledger says of an acknowledged message; another one is sent again.
    fn judge(&mut self, number: u64, answer: Result<Published>) -> Option<(u64, u32)> {
        let (subject, (attempts, may_be_stored)) = (&self.subject, &mut self.sent[usize::try_from(number).unwrap()]);
        match answer {
            Ok(published) => {
                assert!(!published.duplicate || *may_be_stored, "{subject}: {number} was said not to be stored");
                Some((published.sequence, *attempts))
            }
            Err(Error::Unavailable { message: text, .. }) => {
                let nothing_done = text.contains("nothing was done");
                assert!(nothing_done || text.contains("the outcome is unknown"), "{text}");
                *may_be_stored |= !nothing_done;
                self.send_again(number);
                None
            }
            Err(error) => panic!("{subject}: message {number}: {error}"),
        }
    }
}

/// Follows a subject on one stream, which must not break, until its end is told and reached.
async fn follow(address: String, subject: String, mut end: tokio::sync::watch::Receiver<u64>) -> Vec<Seen> {
    let mut egress = EgressServiceClient::connect(format!("http://{address}")).await.unwrap();
    let request = FetchRequest { subject, start_sequence: Some(1), follow: true, ..Default::default() };
    let mut messages = egress.fetch(request).await.unwrap().into_inner();
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        if seen.last().is_some_and(|(sequence, _)| *sequence >= *end.borrow()) {
            return seen;
        }
        tokio::select! {
            message = messages.message() => {
                let message = message.unwrap().expect("the stream stays open");
                seen.push((message.sequence, number(&message.data)));
            }
            _ = end.changed() => {}
        }
    }
}

fn number(data: &[u8]) -> u64 {
    u64::from_le_bytes(data[..8].try_into().unwrap())
}
