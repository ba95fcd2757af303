//! Stores under test, and what tests do with them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minitoolstream::{
    Result,
    block::{
        Block, PayloadKey, Placement,
        batch::{self, NewBlock, NewObject, Source},
        guard::{RecordAt, Refusal},
        record,
    },
    consumer::{Counts, Settings},
    store::{
        Ack, BlockScan, Committed, Garbage, Group, MetadataStore, PayloadRow, PayloadStore, Stores, SubjectRow,
        check::{self, Mode, Report},
        reader::{self, Stored},
    },
    types::{ConsumerName, DurableName, Subject, SubjectFilter, Timestamp},
};

use crate::{
    backend::{Backend, Ending},
    words::{Home, Parcel, ack, durable, subject},
};

/// How long message ids are remembered.
pub(crate) const WINDOW: Duration = Duration::from_millis(1000);

/// More rounds than any loop of a test needs.
const ROUNDS: usize = 10_000;

/// Runs a contract test, and what must hold after each: sound books, and the same answers from a new process.
pub(crate) async fn run(backend: impl Backend + 'static, ending: Ending, test: impl AsyncFnOnce(&mut Rig)) {
    let rig: &mut Rig = &mut Rig::new(backend, ending);
    test(rig).await;
    rig.assert_sound().await;
    let before = rig.contents().await;
    rig.pause().await;
    rig.assert_sound().await;
    assert_eq!(rig.contents().await, before, "opened again, the store answers otherwise");
}

/// See the [module](self). Contract tests get one over any backend.
pub(crate) struct Rig<B: Backend + ?Sized = dyn Backend> {
    ending: Ending,
    /// The present moment.
    pub(crate) now: Timestamp,
    segment: Option<u64>,
    /// Segments are sealed after one commit, as those in S3 are, which take no more.
    one_commit_a_segment: bool,
    /// Payloads opened since somebody asked.
    opened: Vec<PayloadKey>,
    pub(crate) backend: B,
}

/// Everything of a store that does not depend on who has it open.
#[derive(Debug, PartialEq)]
pub(crate) struct Contents {
    subjects: Vec<SubjectRow>,
    blocks: Vec<Block>,
    positions: Vec<(DurableName, Subject, u64)>,
    /// Leases end with the process, everything else stays.
    consumers: Vec<(ConsumerName, Settings, Counts, (u64, u64))>,
    next_due: Option<Timestamp>,
}

impl<B: Backend> Rig<B> {
    /// Pauses of this rig end the stores as `ending` says.
    pub(crate) fn new(backend: B, ending: Ending) -> Self {
        let now = Timestamp(100_000);
        Self { ending, now, segment: None, one_commit_a_segment: false, opened: Vec::new(), backend }
    }

    /// The same, on any store with segments like those in S3.
    pub(crate) fn with_one_commit_a_segment(self) -> Self {
        Self { one_commit_a_segment: true, ..self }
    }
}

impl<B: Backend + ?Sized> Rig<B> {
    pub(crate) fn stores(&self) -> &Stores {
        self.backend.stores()
    }

    pub(crate) fn metadata(&self) -> &dyn MetadataStore {
        &*self.stores().metadata
    }

    pub(crate) fn payload(&self) -> &dyn PayloadStore {
        &*self.stores().payload
    }

    /// Ends the process and starts another: what follows must not notice.
    pub(crate) async fn pause(&mut self) {
        self.reopen(self.ending).await;
    }

    pub(crate) async fn reopen(&mut self, ending: Ending) {
        self.segment = None;
        self.backend.reopen(ending).await;
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now.0 += millis;
    }

    /// Stores the bodies of blocks where their parcels say, durably.
    pub(crate) async fn place(&mut self, parcels: &[Parcel]) -> (Vec<NewBlock>, Vec<Placement>) {
        let blocks: Vec<_> = parcels.iter().map(|parcel| self.form(parcel)).collect();
        let is_slice = |parcel: &Parcel, block: &NewBlock| block.object.is_none() && parcel.home == Home::Slice;
        let slices = parcels.iter().zip(&blocks).filter(|(parcel, block)| is_slice(parcel, block));
        let bodies: Vec<_> = slices.map(|(_, block)| block.body.clone()).collect();
        let (segment, mut offset) = if bodies.is_empty() { (0, 0) } else { self.append(bodies).await };
        let mut placements = Vec::new();
        for (parcel, block) in parcels.iter().zip(&blocks) {
            placements.push(match &block.object {
                Some(object) => self.place_object(block, object).await,
                None if is_slice(parcel, block) => {
                    let len = block.body.len() as u64;
                    offset += len;
                    Placement::Slice { segment, offset: offset - len, len }
                }
                None => Placement::Inline(block.body.clone()),
            });
        }
        (blocks, placements)
    }

    fn form(&self, parcel: &Parcel) -> NewBlock {
        let mut drafts = parcel.drafts.clone();
        for draft in &mut drafts {
            draft.created = self.now;
        }
        let mut blocks = batch::form(&drafts, &vec![false; drafts.len()]);
        assert_eq!(blocks.len(), 1, "a parcel is one block");
        let mut block = blocks.remove(0);
        if parcel.home == Home::Object && block.object.is_none() {
            // Objects of a few bytes: the stores do not care, and tests are faster.
            let data = drafts[0].data.clone();
            let mut body = BytesMut::new();
            record::encode(&drafts[0], false, &mut body);
            block.crc = crc32fast::hash(&body);
            block.body = body.freeze();
            block.object = Some(NewObject::of(data));
        }
        block
    }

    async fn place_object(&mut self, block: &NewBlock, object: &NewObject) -> Placement {
        let number = match &object.source {
            Source::Stored { object, .. } => *object,
            Source::Data(data) => {
                let number = self.open(PayloadKey::Object).await.number();
                self.payload().put_object(number, data.clone()).await.unwrap();
                number
            }
        };
        Placement::Object {
            object: number,
            size: object.size,
            sha256: object.sha256,
            part_crcs: object.part_crcs.clone(),
            record: block.body.clone(),
        }
    }

    /// Appends the bodies of one group, to a new segment if the present one takes no more.
    async fn append(&mut self, bodies: Vec<Bytes>) -> (u64, u64) {
        if let Some(segment) = self.segment {
            if !self.one_commit_a_segment
                && let Some(offset) = self.payload().append(segment, bodies.clone()).await.unwrap()
            {
                return (segment, offset);
            }
            self.seal().await;
        }
        let segment = self.open(PayloadKey::Segment).await.number();
        self.segment = Some(segment);
        (segment, self.payload().append(segment, bodies).await.unwrap().unwrap())
    }

    pub(crate) async fn open(&mut self, kind: fn(u64) -> PayloadKey) -> PayloadKey {
        let key = self.metadata().open_payload(kind).await.unwrap();
        self.opened.push(key);
        key
    }

    /// Payloads opened since the last call.
    pub(crate) fn take_opened(&mut self) -> Vec<PayloadKey> {
        std::mem::take(&mut self.opened)
    }

    /// Ends the segment that slices go to; gives its key if there was one.
    pub(crate) async fn seal(&mut self) -> Option<PayloadKey> {
        let key = PayloadKey::Segment(self.segment.take()?);
        let row = self.payload_row(key).await.unwrap();
        self.payload().seal(key.number(), row.len).await.unwrap();
        self.metadata().seal_payload(key, self.now).await.unwrap();
        Some(key)
    }

    pub(crate) async fn commit(&mut self, parcels: &[Parcel], acks: Vec<Ack>) -> Result<Committed> {
        let (blocks, placements) = self.place(parcels).await;
        self.commit_placed(blocks, placements, acks).await
    }

    pub(crate) async fn commit_placed(
        &self,
        blocks: Vec<NewBlock>,
        placements: Vec<Placement>,
        acks: Vec<Ack>,
    ) -> Result<Committed> {
        let group = Group { blocks, placements, acks, now: self.now, dedup_window: WINDOW, ..Group::default() };
        self.metadata().commit(group).await
    }

    /// Commits blocks that must be accepted; gives the first sequence of each.
    pub(crate) async fn store<const N: usize>(&mut self, parcels: [Parcel; N]) -> Vec<u64> {
        match self.commit(&parcels, vec![]).await.unwrap() {
            Committed::Stored { firsts, .. } => firsts,
            Committed::Refused(refused) => panic!("refused: {refused:?}"),
        }
    }

    /// Commits blocks that must be refused; gives block, record and reason.
    pub(crate) async fn refusals<const N: usize>(&mut self, parcels: [Parcel; N]) -> Vec<(usize, usize, Refusal)> {
        match self.commit(&parcels, vec![]).await.unwrap() {
            Committed::Stored { firsts, .. } => panic!("stored as {firsts:?}"),
            Committed::Refused(refused) => {
                refused.into_iter().map(|(RecordAt { block, record }, refusal)| (block, record, refusal)).collect()
            }
        }
    }

    /// Moves positions; gives the answer to each.
    pub(crate) async fn ack<const N: usize>(&mut self, acks: [(&str, &str, u64); N]) -> Vec<Result<u64>> {
        match self.commit(&[], acks.map(|(of, on, at)| ack(of, on, at)).into()).await.unwrap() {
            Committed::Stored { positions, .. } => positions,
            Committed::Refused(refused) => panic!("refused: {refused:?}"),
        }
    }

    pub(crate) async fn position(&self, of: &str, on: &str) -> u64 {
        self.metadata().position(&durable(of), &subject(on)).await.unwrap()
    }

    pub(crate) async fn row(&self, name: &str) -> SubjectRow {
        self.metadata().subject(&subject(name)).await.unwrap().unwrap()
    }

    /// Last, live, expired and purged of a subject.
    pub(crate) async fn books(&self, name: &str) -> (u64, u64, u64, u64) {
        let row = self.row(name).await;
        (row.last, row.live(), row.expired, row.purged)
    }

    pub(crate) async fn scan(&self, name: &str, from: u64, blocks_max: usize, bytes_max: u64) -> BlockScan {
        self.metadata().blocks(&subject(name), from, blocks_max, bytes_max).await.unwrap()
    }

    /// First sequences of the blocks that a scan finds.
    pub(crate) async fn firsts(&self, name: &str, from: u64, blocks_max: usize, bytes_max: u64) -> Vec<u64> {
        self.scan(name, from, blocks_max, bytes_max).await.blocks.iter().map(|block| block.first).collect()
    }

    /// Purges up to a sequence in one step: messages removed, and whether that was all.
    pub(crate) async fn purge(&self, name: &str, up_to: u64, blocks_max: usize) -> (u64, bool) {
        let purged = self.metadata().purge(&subject(name), up_to, blocks_max, self.now).await.unwrap();
        (purged.messages, purged.done)
    }

    /// One step of expiry: blocks and messages removed.
    pub(crate) async fn expire(&self, blocks_max: usize) -> (usize, u64) {
        let expired = self.metadata().expire(self.now, blocks_max).await.unwrap();
        (expired.blocks, expired.messages)
    }

    /// All live messages of a subject as the reader gives them, a few at a time.
    pub(crate) async fn messages(&self, name: &str) -> Vec<Stored> {
        let (mut messages, mut from) = (Vec::new(), 1);
        for _ in 0..ROUNDS {
            let page = reader::read(self.stores(), &subject(name), from, 3, self.now).await.unwrap();
            assert_eq!(page.damage, None);
            messages.extend(page.messages);
            if page.is_end {
                return messages;
            }
            assert!(page.next > from, "the reader stands still at {from}");
            from = page.next;
        }
        panic!("'{name}' has no end");
    }

    /// Sequences of the live messages.
    pub(crate) async fn live(&self, name: &str) -> Vec<u64> {
        self.messages(name).await.iter().map(|message| message.sequence).collect()
    }

    /// Data of a message, wherever it is.
    pub(crate) async fn data(&self, message: &Stored) -> Bytes {
        match &message.object {
            Some(object) => object.read_all(self.stores()).await.unwrap(),
            None => message.record.data.clone(),
        }
    }

    pub(crate) async fn subjects(&self) -> Vec<SubjectRow> {
        self.metadata().subjects(&SubjectFilter::all(), "", usize::MAX).await.unwrap()
    }

    pub(crate) async fn positions(&self) -> Vec<(DurableName, Subject, u64)> {
        let positions = self.metadata().positions(None, usize::MAX).await.unwrap();
        positions.into_iter().map(|ack| (ack.durable, ack.subject, ack.sequence)).collect()
    }

    pub(crate) async fn payload_rows(&self) -> Vec<PayloadRow> {
        self.metadata().payloads(0, usize::MAX).await.unwrap()
    }

    pub(crate) async fn payload_row(&self, key: PayloadKey) -> Option<PayloadRow> {
        self.payload_rows().await.into_iter().find(|row| row.key == key)
    }

    /// All garbage, oldest first.
    pub(crate) async fn garbage(&self) -> Vec<Garbage> {
        self.metadata().garbage(Timestamp(u64::MAX), usize::MAX).await.unwrap()
    }

    /// Fails if a check has something to say.
    pub(crate) async fn assert_sound(&self) {
        let mut findings = Vec::new();
        let report = |report| {
            if let Report::Finding(finding) = report {
                findings.push(finding);
            }
        };
        check::check(self.stores(), Mode::Exclusive, report).await.unwrap();
        assert_eq!(findings, []);
        for row in self.subjects().await {
            assert_eq!(row.last, row.live() + row.expired + row.purged, "P8 of '{}'", row.subject);
        }
    }

    async fn contents(&self) -> Contents {
        let subjects = self.subjects().await;
        let mut blocks = Vec::new();
        for row in &subjects {
            let scan = self.metadata().blocks(&row.subject, 1, usize::MAX, u64::MAX).await.unwrap();
            assert_eq!((scan.floor, scan.last), (row.floor, row.last));
            blocks.extend(scan.blocks);
        }
        let consumers = self.metadata().consumers("", usize::MAX).await.unwrap().into_iter();
        let consumers = consumers.map(|of| (of.name, of.settings, of.counts, of.sequences)).collect();
        let next_due = self.metadata().next_due().await.unwrap();
        Contents { subjects, blocks, positions: self.positions().await, consumers, next_due }
    }
}
