//! A small load on embedded stores, and a ledger of what it was answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    super::{
        Limits, open_on,
        volume::{Sizes, Volume},
    },
    disk::FailingDisk,
};
use crate::{
    block::{
        PayloadKey, Placement,
        batch::{self, NewBlock},
        object::Tally,
    },
    error::{Error, Result},
    store::{
        Ack, Archive, Committed, Group, Stores,
        check::{self, Kind, Mode, Report},
        reader,
    },
    types::{Draft, DurableName, MessageId, Subject, SubjectFilter, Timestamp, Uploaded},
};

/// Where the data directory is.
pub(super) const DIR: &str = "/data";

/// Room for two frames and slots, so that checkpoints are frequent; segments of two appends.
const SIZES: Sizes = Sizes { journal: 48 << 10, segment: 24 << 10, reserve: 1 << 20, witness_every: Duration::ZERO };

/// Bytes of a disk that is large enough for every load.
pub(super) const ROOMY: u64 = 64 << 20;

/// Largest body that is stored in its row here.
const INLINE_MAX: usize = 2 << 10;

const SUBJECTS: [&str; 3] = ["a", "b.c", "d"];

/// What was answered about one subject.
#[derive(Default)]
struct Answered {
    /// Acknowledged messages.
    acked: BTreeMap<u64, Bytes>,
    /// Messages of unknown outcome: each may be there.
    unknown: Vec<Bytes>,
    /// Messages that were refused: none may be there.
    refused: BTreeSet<Bytes>,
    purged_to: u64,
    /// A purge of unknown outcome.
    maybe_purged_to: u64,
    position: u64,
    maybe_position: u64,
}

/// Stores on a failing disk, and what they answered.
pub(super) struct Load {
    pub(super) disk: FailingDisk,
    stores: Option<(Stores, Archive)>,
    random: fastrand::Rng,
    answered: BTreeMap<&'static str, Answered>,
    segment: Option<u64>,
    messages: u64,
    now: Timestamp,
}

impl Load {
    pub(super) fn new(disk: FailingDisk, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self {
            disk,
            stores: None,
            random,
            answered: SUBJECTS.iter().map(|name| (*name, Answered::default())).collect(),
            segment: None,
            messages: 0,
            now: Timestamp(1_000_000),
        }
    }

    /// Opens the stores as a broker does.
    pub(super) async fn open(&mut self) -> Result<()> {
        let volume = Volume::on(Arc::new(self.disk.clone()), Path::new(DIR), SIZES);
        let (metadata, files) = super::super::blocking(move || open_on(volume, Limits::default())).await?;
        let archive = Archive { metadata: Arc::new(metadata), payload: Arc::new(files) };
        let stores = archive.stores();
        super::super::close_abandoned(&stores, self.now).await?;
        self.segment = None;
        self.stores = Some((stores, archive));
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.stores.is_some()
    }

    /// Stops as a broker does.
    pub(super) fn stop(&mut self) {
        self.stores = None;
    }

    /// The process is gone: what it had open can do no more.
    pub(super) fn kill(&mut self) {
        self.disk.kill();
        self.stores = None;
    }

    pub(super) fn lose_power(&mut self) {
        self.disk.lose_power();
        self.stores = None;
    }

    fn stores(&self) -> Stores {
        self.stores.as_ref().map(|(stores, _)| stores.clone()).expect("the stores are open")
    }

    /// Takes one step of the load; what fails is recorded.
    pub(super) async fn step(&mut self) {
        let subject = SUBJECTS[self.random.usize(..SUBJECTS.len())];
        self.now = self.now.after(Duration::from_millis(10));
        match self.random.u32(..100) {
            0..50 => self.publish(subject, 100, 1500).await,
            50..75 => self.publish(subject, INLINE_MAX, 9000).await,
            75..80 => self.publish_object(subject).await,
            80..90 => self.ack(subject).await,
            90..95 => self.purge(subject).await,
            _ => self.reclaim().await,
        }
    }

    fn draft(&mut self, subject: &str, len: usize) -> Draft {
        self.messages += 1;
        let mut data = self.messages.to_le_bytes().to_vec();
        data.resize(len.max(8), u8::try_from(self.messages % 251).unwrap());
        Draft {
            subject: Subject::parse("subject", subject).unwrap(),
            data: data.into(),
            headers: vec![("k".into(), format!("{:08}", self.messages))],
            created: self.now,
            expires: None,
            message_id: Some(MessageId::parse("message_id", &format!("id-{:08}", self.messages)).unwrap()),
            expected_last: None,
            deliver_at: None,
            upload: None,
            uploaded: None,
        }
    }

    async fn publish(&mut self, subject: &'static str, least: usize, most: usize) {
        let len = self.random.usize(least..most);
        let draft = self.draft(subject, len);
        let blocks = batch::form(std::slice::from_ref(&draft), &[false]);
        let Ok(placements) = self.place(&blocks).await else {
            return self.record(subject, draft.data, Err(Error::unavailable("not placed")));
        };
        self.commit(subject, draft.data, blocks, placements).await;
    }

    /// Publishes a message whose data is stored in its row, and so in the journal.
    pub(super) async fn publish_data(&mut self, subject: &'static str, data: Bytes) {
        let draft = Draft { data, ..self.draft(subject, 0) };
        self.publish_inline(subject, draft).await;
    }

    /// Publishes a message with a text as header and message id.
    pub(super) async fn publish_named(&mut self, subject: &'static str, text: &str) {
        let id =
            MessageId::parse("message_id", &format!("{}{}", self.messages, text.chars().take(25).collect::<String>()))
                .unwrap();
        let draft =
            Draft { headers: vec![(text.into(), text.into())], message_id: Some(id), ..self.draft(subject, 100) };
        self.publish_inline(subject, draft).await;
    }

    async fn publish_inline(&mut self, subject: &'static str, draft: Draft) {
        let blocks = batch::form(std::slice::from_ref(&draft), &[false]);
        let placements = vec![Placement::Inline(blocks[0].body.clone())];
        self.commit(subject, draft.data, blocks, placements).await;
    }

    /// Publishes a small message, as the storage actor does; gives whether it was acknowledged.
    pub(super) async fn try_publish(&mut self, subject: &'static str) -> bool {
        let before = self.answered[subject].acked.len();
        self.publish(subject, 100, 200).await;
        self.answered[subject].acked.len() > before
    }

    /// Moves the position of a durable name of its own; gives whether that was acknowledged.
    pub(super) async fn try_ack(&mut self, subject: &str, number: u32) -> bool {
        let ack = Ack {
            durable: DurableName::parse("durable_name", &format!("worker-{number}")).unwrap(),
            subject: Subject::parse("subject", subject).unwrap(),
            sequence: 1,
        };
        let group = Group { acks: vec![ack], now: self.now, ..Group::default() };
        match self.stores().metadata.commit(group).await {
            Ok(Committed::Stored { positions, .. }) => positions[0].is_ok(),
            _ => false,
        }
    }

    /// Names of all subjects.
    pub(super) async fn subjects(&self) -> Vec<String> {
        let all = SubjectFilter::parse("filter", ">").unwrap();
        let rows = self.stores().metadata.subjects(&all, "", 1000).await.unwrap();
        rows.into_iter().map(|row| row.subject.as_str().to_owned()).collect()
    }

    /// Reads all messages of a subject; gives how many there are.
    pub(super) async fn read_all(&self, subject: &str) -> Result<usize> {
        let name = Subject::parse("subject", subject).unwrap();
        let (mut from, mut count) = (1, 0);
        loop {
            let page = reader::read(&self.stores(), &name, from, 1000, self.now).await?;
            if let Some(damage) = page.damage {
                return Err(damage);
            }
            count += page.messages.len();
            if page.is_end {
                return Ok(count);
            }
            from = page.next;
        }
    }

    /// Removes all messages of a subject.
    pub(super) async fn purge_all(&mut self, subject: &'static str) {
        let name = Subject::parse("subject", subject).unwrap();
        self.stores().metadata.purge(&name, u64::MAX, 1000, self.now).await.unwrap();
        let answered = self.answered.entry(subject).or_default();
        answered.purged_to = answered.acked.last_key_value().map_or(0, |(last, _)| *last);
    }

    async fn place(&mut self, blocks: &[NewBlock]) -> Result<Vec<Placement>> {
        let body = &blocks[0].body;
        if body.len() <= INLINE_MAX {
            return Ok(vec![Placement::Inline(body.clone())]);
        }
        let stores = self.stores();
        // As the storage actor does: after a failure a segment is not written to again.
        let (number, offset) = loop {
            let (number, is_new) = match self.segment.take() {
                Some(number) => (number, false),
                None => (stores.metadata.open_payload(PayloadKey::Segment).await?.number(), true),
            };
            match stores.payload.append(number, vec![body.clone()]).await? {
                Some(offset) => break (number, offset),
                None => assert!(!is_new, "an empty segment takes its first body"),
            }
        };
        self.segment = Some(number);
        Ok(vec![Placement::Slice { segment: number, offset, len: body.len() as u64 }])
    }

    /// Stores data as an object of its own, as an upload does. It is small: how large it is makes no difference here.
    async fn publish_object(&mut self, subject: &'static str) {
        let draft = self.draft(subject, 6000);
        let (data, tally) = (draft.data.clone(), Tally::of(&draft.data));
        let stores = self.stores();
        let write = async {
            let key = stores.metadata.open_payload(PayloadKey::Object).await?;
            stores.payload.put_object(key.number(), data.clone()).await?;
            Ok::<_, Error>(key.number())
        };
        let Ok(object) = write.await else {
            return self.record(subject, data, Err(Error::unavailable("not placed")));
        };
        let (sha256, part_crcs) = (tally.sha256(), tally.part_crcs());
        let size = data.len() as u64;
        let uploaded = Uploaded { object, epoch: 0, size, sha256, part_crcs: part_crcs.clone() };
        let draft = Draft { data: Bytes::new(), uploaded: Some(uploaded), ..draft };
        let blocks = batch::form(std::slice::from_ref(&draft), &[false]);
        let placement = Placement::Object { object, size, sha256, part_crcs, record: blocks[0].body.clone() };
        self.commit(subject, data, blocks, vec![placement]).await;
    }

    async fn commit(&mut self, subject: &'static str, data: Bytes, blocks: Vec<NewBlock>, placements: Vec<Placement>) {
        let dedup_window = Duration::from_secs(3600);
        let group = Group { blocks, placements, now: self.now, dedup_window, ..Group::default() };
        let committed = self.stores().metadata.commit(group).await;
        self.record(
            subject,
            data,
            committed.map(|committed| match committed {
                Committed::Stored { firsts, .. } => firsts[0],
                Committed::Refused(refusals) => panic!("a first try is no duplicate: {refusals:?}"),
            }),
        );
    }

    fn record(&mut self, subject: &'static str, data: Bytes, outcome: Result<u64>) {
        let answered = self.answered.entry(subject).or_default();
        match outcome {
            Ok(sequence) => {
                let last = answered.acked.last_key_value().map_or(0, |(last, _)| *last);
                assert!(sequence > last, "P2: {subject} {sequence} follows {last}");
                assert!(answered.acked.insert(sequence, data).is_none());
            }
            Err(error) if self.disk.is_unknown(&error) => answered.unknown.push(data),
            Err(_) => drop(answered.refused.insert(data)),
        }
    }

    async fn ack(&mut self, subject: &'static str) {
        let answered = &self.answered[subject];
        let Some((&last, _)) = answered.acked.last_key_value() else { return };
        let sequence = self.random.u64(1..=last);
        let ack = Ack {
            durable: DurableName::parse("durable_name", "worker").unwrap(),
            subject: Subject::parse("subject", subject).unwrap(),
            sequence,
        };
        let group = Group { acks: vec![ack], now: self.now, ..Group::default() };
        let committed = self.stores().metadata.commit(group).await;
        let answered = self.answered.entry(subject).or_default();
        match committed {
            Ok(Committed::Stored { positions, .. }) => {
                let position = *positions[0].as_ref().unwrap();
                assert!(position >= sequence.max(answered.position), "P4: {position} after {}", answered.position);
                answered.position = position;
            }
            Ok(Committed::Refused(refusals)) => panic!("{refusals:?}"),
            Err(error) if self.disk.is_unknown(&error) => {
                answered.maybe_position = answered.maybe_position.max(sequence);
            }
            Err(_) => {}
        }
    }

    async fn purge(&mut self, subject: &'static str) {
        let Some((&last, _)) = self.answered[subject].acked.last_key_value() else { return };
        let up_to = self.random.u64(1..=last);
        let name = Subject::parse("subject", subject).unwrap();
        let purged = self.stores().metadata.purge(&name, up_to, 1000, self.now).await;
        let answered = self.answered.entry(subject).or_default();
        match purged {
            Ok(_) => answered.purged_to = answered.purged_to.max(up_to),
            Err(error) if self.disk.is_unknown(&error) => {
                answered.maybe_purged_to = answered.maybe_purged_to.max(up_to);
            }
            Err(_) => {}
        }
    }

    /// Deletes garbage as the reaper does.
    async fn reclaim(&mut self) {
        let stores = self.stores();
        let Ok(garbage) = stores.metadata.garbage(Timestamp(u64::MAX), 10).await else { return };
        for row in garbage {
            if stores.payload.delete(row.key).await.is_ok() {
                let _ = stores.metadata.forget_garbage(std::slice::from_ref(&row)).await;
            }
        }
    }

    /// Compares what is stored with what was answered, and checks all checksums and counts.
    pub(super) async fn verify(&mut self) {
        let stores = self.stores();
        for (name, answered) in &mut self.answered {
            verify_subject(&stores, name, answered, self.now).await;
        }
        let mut findings = Vec::new();
        let report = |report| {
            if let Report::Finding(finding) = report
                // Files that a failed call left behind cost space and nothing else.
                && finding.kind != Kind::UnknownFile
            {
                findings.push(finding);
            }
        };
        // An object whose commit was refused stays open until the next start: only then everything is comparable.
        check::check(&stores, Mode::Live, report).await.unwrap();
        assert!(findings.is_empty(), "P7, P8: {findings:?}");
    }
}

async fn verify_subject(stores: &Stores, name: &str, answered: &mut Answered, now: Timestamp) {
    let subject = Subject::parse("subject", name).unwrap();
    let mut found = BTreeMap::new();
    let mut from = 1;
    loop {
        let page = reader::read(stores, &subject, from, 1000, now).await.unwrap();
        assert!(page.damage.is_none(), "P7: {:?}", page.damage);
        for message in page.messages {
            let data = match &message.object {
                Some(object) => object.read_all(stores).await.unwrap(),
                None => message.record.data.clone(),
            };
            assert!(found.insert(message.sequence, data).is_none());
        }
        if page.is_end {
            break;
        }
        from = page.next;
    }
    for (sequence, data) in &answered.acked {
        match found.remove(sequence) {
            Some(there) => assert_eq!(there, *data, "P7: {name} {sequence} has other bytes"),
            None => assert!(
                *sequence <= answered.purged_to.max(answered.maybe_purged_to),
                "P1: {name} {sequence} was acknowledged and is gone"
            ),
        }
    }
    for (sequence, data) in found {
        assert!(!answered.refused.contains(&data), "{name} {sequence} was answered as not stored, and is there");
        let at = answered.unknown.iter().position(|unknown| *unknown == data);
        let at = at.unwrap_or_else(|| panic!("{name} {sequence} was never published or is there twice"));
        // From now on it is there for good.
        answered.unknown.remove(at);
        answered.acked.insert(sequence, data);
    }
    // What is not there now never comes.
    answered.refused.extend(answered.unknown.drain(..));
    let durable = DurableName::parse("durable_name", "worker").unwrap();
    let position = stores.metadata.position(&durable, &subject).await.unwrap();
    let most = answered.position.max(answered.maybe_position);
    assert!(
        (answered.position..=most).contains(&position),
        "P4: {name} is at {position}, not {} to {most}",
        answered.position
    );
    (answered.position, answered.maybe_position) = (position, 0);
}

/// The path of a file of the directory.
pub(super) fn file(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}
