//! P7: damage is refused and named, and stops nothing else.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use minitoolstream::{
    block::{Block, PayloadKey, Placement},
    store::check::Kind,
    types::{Subject, SystemClock},
};
use minitoolstream_client::proto::{AckRequest, FetchRequest, ReadMessageRequest};
use minitoolstream_testkit::TestBroker;
use tonic::{Code, Status};

use crate::{
    api::{Api, message, sequences},
    verify,
};

/// More than a row holds: these messages go into segments.
const SLICE: usize = 100 * 1024;

/// More than a segment holds: these become objects.
const OBJECT: usize = 3 << 20;

/// Blocks of the subject `a`: 1-3 in a row, 4-6 and 7-9 in a segment, 10 an object, 11-13 in a segment, 14 in a row. The
/// subject `b` has one block in the same segment, and an object.
struct Stored {
    dir: tempfile::TempDir,
    broker: TestBroker,
    api: Api,
}

impl Stored {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        let api = Api::connect(broker.ingress).await;
        let blocks: [(&str, usize, usize); 8] = [
            ("a", 3, 10),
            ("a", 3, SLICE),
            ("a", 3, SLICE),
            ("b", 3, SLICE),
            ("a", 1, OBJECT),
            ("b", 1, OBJECT),
            ("a", 3, SLICE),
            ("a", 1, 10),
        ];
        for (subject, count, len) in blocks {
            let results = api.publish_batch((0..count).map(|_| message(subject, 7, len)).collect()).await.unwrap();
            assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
        }
        Self { dir, broker, api }
    }

    /// The block that begins with a sequence of `a`.
    async fn block(&self, first: u64) -> Block {
        let subject = Subject::parse("subject", "a").unwrap();
        let scan = self.broker.broker.stores.metadata.blocks(&subject, first, 1, 0).await.unwrap();
        let block = scan.blocks.into_iter().next().unwrap();
        assert_eq!(block.first, first);
        block
    }

    fn file_of(&self, key: PayloadKey) -> PathBuf {
        let dir = match key {
            PayloadKey::Segment(_) => "segments",
            PayloadKey::Object(_) => "objects",
        };
        let path = self.broker.data_dir().join(dir).join(format!("{:016}", key.number()));
        assert!(path.exists());
        path
    }

    /// Reads all of `a` in the way of a consumer that gets over damage: where a stretch is refused, it acknowledges it
    /// and goes on. Compares what it got and what was refused.
    async fn expect(&self, served: &[u64], refused: &[(u64, u64)]) {
        let (mut got, mut passed) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let request = FetchRequest {
                subject: "a".into(),
                durable_name: "d".into(),
                batch_size: 100,
                max_message_bytes: u32::MAX,
                ..Default::default()
            };
            let (messages, end) = self.api.read(request).await;
            for message in &messages {
                assert!(message.data.iter().all(|byte| *byte == 7), "wrong bytes were served");
            }
            got.extend(sequences(&messages));
            let Err(status) = end else {
                break;
            };
            let (first, last) = damaged(&status, "a");
            assert_eq!(first, got.last().copied().max(passed.last().map(|(_, last)| *last)).unwrap_or(0) + 1);
            passed.push((first, last));
            self.ack(last).await;
        }
        assert_eq!(got, served);
        assert_eq!(passed, refused);
        for sequence in 1..=14 {
            let is_damaged = refused.iter().any(|(first, last)| (*first..=*last).contains(&sequence));
            match self.read_message(sequence).await {
                Ok(data) => assert!(!is_damaged && data.iter().all(|byte| *byte == 7), "message {sequence}"),
                Err(status) => {
                    assert!(is_damaged, "message {sequence}: {status:?}");
                    assert!(refused.contains(&damaged(&status, "a")), "message {sequence}: {status:?}");
                }
            }
        }
    }

    async fn ack(&self, sequence: u64) {
        let request = AckRequest { durable_name: "d".into(), subject: "a".into(), sequence };
        assert_eq!(self.api.egress.clone().ack_message(request).await.unwrap().into_inner().position, sequence);
    }

    async fn read_message(&self, sequence: u64) -> Result<Vec<u8>, Status> {
        let request = ReadMessageRequest { subject: "a".into(), sequence, ..Default::default() };
        let mut pieces = self.api.egress.clone().read_message(request).await?.into_inner();
        let mut data = Vec::new();
        while let Some(piece) = pieces.message().await? {
            data.extend_from_slice(&piece.data);
        }
        Ok(data)
    }

    async fn expect_b(&self, served: &[u64]) {
        let (messages, end) = self.api.fetch("b", 1).await;
        assert_eq!(sequences(&messages), served);
        assert_eq!(end.is_ok(), served.len() == 4, "{end:?}");
    }

    /// Both checks name these blocks and nothing else.
    async fn expect_found(self, expected: &[(&str, u64)]) {
        let live = verify::live(&self.broker.client().await).await;
        let named: Vec<_> = live.iter().map(|finding| (finding.subject.as_str(), finding.sequence)).collect();
        assert_eq!(named, expected);
        assert!(live.iter().all(|finding| finding.kind == Kind::DamagedBlock.as_str()), "{live:?}");
        let data_dir = self.broker.data_dir().to_owned();
        self.broker.stop().await;
        let at_rest = verify::at_rest(&data_dir).await;
        let named: Vec<_> =
            at_rest.iter().map(|f| (f.subject.as_ref().map_or("", |subject| subject.as_str()), f.sequence)).collect();
        assert_eq!(named, expected);
        assert!(at_rest.iter().all(|finding| finding.kind == Kind::DamagedBlock), "{at_rest:?}");
        drop(self.dir);
    }
}

async fn start(dir: &Path) -> TestBroker {
    TestBroker::start_in(dir, &[], Arc::new(SystemClock::new())).await
}

/// The stretch that a refusal names.
fn damaged(status: &Status, subject: &str) -> (u64, u64) {
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    let text = status.message();
    let named = text.strip_prefix("block ").and_then(|rest| rest.split_once(&format!(" of '{subject}' is damaged: ")));
    let (range, _) = named.unwrap_or_else(|| panic!("no block is named: {text}"));
    let (first, last) = range.split_once(" to ").unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

fn flip_bit(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn truncate(path: &Path, len: u64) {
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[tokio::test]
async fn p7_a_flipped_bit_in_a_segment() {
    let stored = Stored::new().await;
    let Placement::Slice { segment, offset, len } = stored.block(4).await.placement else { panic!("no slice") };
    flip_bit(&stored.file_of(PayloadKey::Segment(segment)), offset + len / 2);
    stored.expect(&[1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14], &[(4, 6)]).await;
    stored.expect_b(&[1, 2, 3, 4]).await;
    stored.expect_found(&[("a", 4)]).await;
}

#[tokio::test]
async fn p7_a_truncated_segment() {
    let stored = Stored::new().await;
    let Placement::Slice { segment, offset, .. } = stored.block(11).await.placement else { panic!("no slice") };
    truncate(&stored.file_of(PayloadKey::Segment(segment)), offset + 1);
    stored.expect(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14], &[(11, 13)]).await;
    stored.expect_b(&[1, 2, 3, 4]).await;
    stored.expect_found(&[("a", 11)]).await;
}

#[tokio::test]
async fn p7_a_missing_segment() {
    let stored = Stored::new().await;
    let Placement::Slice { segment, .. } = stored.block(4).await.placement else { panic!("no slice") };
    std::fs::remove_file(stored.file_of(PayloadKey::Segment(segment))).unwrap();
    stored.expect(&[1, 2, 3, 10, 14], &[(4, 6), (7, 9), (11, 13)]).await;
    stored.expect_b(&[]).await;
    stored.expect_found(&[("a", 4), ("a", 7), ("a", 11), ("b", 1)]).await;
}

#[tokio::test]
async fn p7_a_flipped_bit_in_an_object() {
    let stored = Stored::new().await;
    let Placement::Object { object, size, .. } = stored.block(10).await.placement else { panic!("no object") };
    flip_bit(&stored.file_of(PayloadKey::Object(object)), size - 1);
    stored.expect(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14], &[(10, 10)]).await;
    stored.expect_b(&[1, 2, 3, 4]).await;
    stored.expect_found(&[("a", 10)]).await;
}

#[tokio::test]
async fn p7_a_truncated_object() {
    let stored = Stored::new().await;
    let Placement::Object { object, size, .. } = stored.block(10).await.placement else { panic!("no object") };
    truncate(&stored.file_of(PayloadKey::Object(object)), size - 1);
    stored.expect(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14], &[(10, 10)]).await;
    stored.expect_found(&[("a", 10)]).await;
}

#[tokio::test]
async fn p7_a_missing_object() {
    let stored = Stored::new().await;
    let Placement::Object { object, .. } = stored.block(10).await.placement else { panic!("no object") };
    std::fs::remove_file(stored.file_of(PayloadKey::Object(object))).unwrap();
    stored.expect(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14], &[(10, 10)]).await;
    stored.expect_b(&[1, 2, 3, 4]).await;
    stored.expect_found(&[("a", 10)]).await;
}

#[tokio::test]
async fn p7_damage_is_found_after_a_restart_too_and_a_follower_is_told() {
    let mut stored = Stored::new().await;
    let Placement::Slice { segment, offset, .. } = stored.block(7).await.placement else { panic!("no slice") };
    flip_bit(&stored.file_of(PayloadKey::Segment(segment)), offset);
    stored.broker.stop().await;
    stored.broker = start(stored.dir.path()).await;
    stored.api = Api::connect(stored.broker.ingress).await;
    let request = |start| FetchRequest {
        subject: "a".into(),
        start_sequence: Some(start),
        follow: true,
        max_message_bytes: 1000,
        ..Default::default()
    };
    let (messages, end) = stored.api.read(request(1)).await;
    assert_eq!(sequences(&messages), [1, 2, 3, 4, 5, 6]);
    assert_eq!(damaged(&end.unwrap_err(), "a"), (7, 9));
    let mut beyond = stored.api.open_fetch(request(10)).await.unwrap();
    for sequence in 10..=14 {
        assert_eq!(beyond.message().await.unwrap().unwrap().sequence, sequence);
    }
    stored.expect_found(&[("a", 7)]).await;
}
