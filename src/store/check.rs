//! Verifies what is stored: every checksum, and that the books balance (P7, P8). Reads only.

use std::collections::{HashMap, HashSet};

use super::{MetadataStore, Stores, SubjectRow, UploadState, Writer, reader};
use crate::{
    block::{Block, Located, PayloadKey, Placement, ScanLimits},
    error::{Error, Result},
    types::{Subject, SubjectFilter, Timestamp},
};

/// Rows looked up at a time.
const PAGE: usize = 1000;

/// How often the books of a subject are compared anew if they change meanwhile.
const ATTEMPTS: usize = 5;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of damage.
    pub kind: Kind,
    /// The subject concerned, if any.
    pub subject: Option<Subject>,
    /// First sequence of the block concerned, or 0.
    pub sequence: u64,
    /// What was expected and what was found.
    pub detail: String,
}

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block or object whose bytes are missing or differ from what was stored.
    DamagedBlock,
    /// Accepted messages of a subject differ from live + expired + purged.
    UnbalancedSubject,
    /// A segment or object whose count of living blocks is wrong.
    UnbalancedPayload,
    /// A consumer whose messages are not all accounted for.
    UnbalancedConsumer,
    /// A block without its place among the blocks of all subjects, or the other way round.
    BrokenOrder,
    /// A consumer's position beyond the end of its subject.
    PositionBeyondEnd,
    /// A file that no row tells of.
    UnknownFile,
    /// An object that belongs to an upload that is no more, or an upload without its object: nobody would remove it.
    OrphanedUpload,
}

impl Kind {
    /// The kind's name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DamagedBlock => "damaged-block",
            Self::UnbalancedSubject => "unbalanced-subject",
            Self::UnbalancedPayload => "unbalanced-payload",
            Self::UnbalancedConsumer => "unbalanced-consumer",
            Self::BrokenOrder => "broken-order",
            Self::PositionBeyondEnd => "position-beyond-end",
            Self::UnknownFile => "unknown-file",
            Self::OrphanedUpload => "orphaned-upload",
        }
    }
}

/// How much was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Subjects.
    pub subjects: u64,
    /// Blocks read and compared with their checksums.
    pub blocks: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Durable consumers.
    pub consumers: u64,
    /// Things found.
    pub findings: u64,
}

/// One thing that a check has to say.
#[derive(Clone, Debug)]
pub enum Report {
    /// Verified so far.
    Progress(Summary),
    /// Something is wrong.
    Finding(Finding),
}

/// Whether anybody else may be changing the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody: everything is compared.
    Exclusive,
    /// A broker is at work: what cannot be compared while it changes (the order of blocks, counts of payloads, files) is
    /// left out.
    Live,
}

/// Verifies both stores and tells `report` what it sees.
///
/// # Errors
/// If a store does not answer; damage is a finding.
pub async fn check(stores: &Stores, mode: Mode, report: impl FnMut(Report) + Send) -> Result<Summary> {
    let mut check = Check { stores, report, summary: Summary::default(), alive: HashMap::new() };
    check.subjects().await?;
    check.positions().await?;
    check.consumers().await?;
    if mode == Mode::Exclusive {
        check.order().await?;
        check.payloads().await?;
    }
    Ok(check.summary)
}

struct Check<'a, R> {
    stores: &'a Stores,
    report: R,
    summary: Summary,
    /// Blocks seen in each payload.
    alive: HashMap<PayloadKey, u64>,
}

impl<R: FnMut(Report) + Send> Check<'_, R> {
    fn find(&mut self, kind: Kind, subject: Option<&Subject>, sequence: u64, detail: String) {
        self.summary.findings += 1;
        (self.report)(Report::Finding(Finding { kind, subject: subject.cloned(), sequence, detail }));
    }

    async fn subjects(&mut self) -> Result<()> {
        let mut after = String::new();
        loop {
            let rows = self.stores.metadata.subjects(&SubjectFilter::all(), &after, PAGE).await?;
            for row in &rows {
                self.summary.subjects += 1;
                self.blocks(&row.subject).await?;
                self.books(&row.subject).await?;
            }
            match rows.last() {
                Some(row) if rows.len() == PAGE => row.subject.as_str().clone_into(&mut after),
                _ => return Ok(()),
            }
        }
    }

    async fn blocks(&mut self, subject: &Subject) -> Result<()> {
        let mut from = 1;
        loop {
            let scan = self.stores.metadata.blocks(subject, from, 64, 8 << 20).await?;
            let Some(last) = scan.blocks.last() else {
                return Ok(());
            };
            from = last.end();
            for block in &scan.blocks {
                self.block(subject, block).await?;
            }
            (self.report)(Report::Progress(self.summary));
        }
    }

    async fn block(&mut self, subject: &Subject, block: &Block) -> Result<()> {
        self.summary.blocks += 1;
        self.summary.messages += u64::from(block.count);
        self.summary.bytes += block.bytes();
        if let Some(key) = block.payload() {
            *self.alive.entry(key).or_default() += 1;
        }
        match self.read(subject, block).await {
            Err(Error::DataLoss(detail)) if is_there(&*self.stores.metadata, subject, block).await? => {
                self.find(Kind::DamagedBlock, Some(subject), block.first, detail);
                Ok(())
            }
            Err(Error::DataLoss(_)) => Ok(()),
            other => other,
        }
    }

    async fn read(&self, subject: &Subject, block: &Block) -> Result<()> {
        let located = Located { subject: subject.clone(), floor: 0, block: block.clone() };
        let messages = reader::read_block(self.stores, &located).await?;
        if let Placement::Object { .. } = block.placement {
            for object in messages.iter().filter_map(|message| message.object.as_ref()) {
                for part in 0..object.parts() {
                    object.read_part(self.stores, part).await?;
                }
            }
        }
        Ok(())
    }

    async fn books(&mut self, subject: &Subject) -> Result<()> {
        for attempt in 1..=ATTEMPTS {
            let Some(before) = self.stores.metadata.subject(subject).await? else {
                return Ok(());
            };
            let live = self.count_live(&before).await?;
            let after = self.stores.metadata.subject(subject).await?;
            let changed = after.is_none_or(|after| {
                (after.expired, after.purged, after.floor) != (before.expired, before.purged, before.floor)
            });
            if live == before.live() {
                return Ok(());
            }
            if !changed || attempt == ATTEMPTS {
                let SubjectRow { last, expired, purged, .. } = before;
                let detail = format!("accepted {last} messages, but {live} live + {expired} expired + {purged} purged");
                self.find(Kind::UnbalancedSubject, Some(subject), 0, detail);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn count_live(&self, row: &SubjectRow) -> Result<u64> {
        let (mut live, mut from) = (0, row.floor);
        while from <= row.last {
            let scan = self.stores.metadata.blocks(&row.subject, from, PAGE, u64::MAX).await?;
            let Some(last) = scan.blocks.last() else {
                break;
            };
            for block in &scan.blocks {
                live += block.end().min(row.last + 1).saturating_sub(block.first.max(row.floor));
            }
            from = last.end();
        }
        Ok(live)
    }

    async fn positions(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.stores.metadata.positions(after.as_ref(), PAGE).await?;
            for ack in &page {
                let last = self.stores.metadata.subject(&ack.subject).await?.map_or(0, |row| row.last);
                if ack.sequence > last {
                    let detail = format!("'{}' stands at {}, the last sequence is {last}", ack.durable, ack.sequence);
                    self.find(Kind::PositionBeyondEnd, Some(&ack.subject), ack.sequence, detail);
                }
            }
            match page.last() {
                Some(ack) if page.len() == PAGE => after = Some((ack.durable.clone(), ack.subject.clone())),
                _ => return Ok(()),
            }
        }
    }

    /// P8: what a consumer began with is settled or out; and, if it has but one subject, all of that subject since it began
    /// is what it began with and what it did not come to yet.
    async fn consumers(&mut self) -> Result<()> {
        let mut after = String::new();
        loop {
            let page = self.stores.metadata.consumers(&after, PAGE).await?;
            for view in &page {
                self.summary.consumers += 1;
                let out = view.lag.unacked + view.lag.redeliverable;
                let (passed, settled) = (view.counts.passed, view.counts.settled());
                if passed != settled + out {
                    let detail =
                        format!("'{}' began with {passed} messages, but {settled} settled + {out} out", view.name);
                    self.find(Kind::UnbalancedConsumer, None, view.cursor, detail);
                }
                let (began, next) = view.sequences;
                let subject = view.settings.filter.subject();
                if subject.is_some() && next - began.min(next) != passed {
                    let detail =
                        format!("'{}' began with {passed} messages, but came from {began} to {next}", view.name);
                    self.find(Kind::UnbalancedConsumer, subject.as_ref(), next, detail);
                }
            }
            match page.last() {
                Some(view) if page.len() == PAGE => view.name.as_str().clone_into(&mut after),
                _ => return Ok(()),
            }
        }
    }

    /// Every block has one place among those of all subjects, and both orders agree.
    async fn order(&mut self) -> Result<()> {
        let limits = ScanLimits { blocks: PAGE, bytes: u64::MAX, rows: usize::MAX };
        let (mut next, mut blocks) = (1, 0);
        let mut ends: HashMap<Subject, u64> = HashMap::new();
        loop {
            let scan = self.stores.metadata.stream(&SubjectFilter::all(), next, limits).await?;
            for Located { subject, block, .. } in &scan.blocks {
                blocks += 1;
                let end = ends.insert(subject.clone(), block.end()).unwrap_or(0);
                if block.first < end {
                    let detail =
                        format!("it stands at {} of the stream, behind the block before {end}", block.stream_first);
                    self.find(Kind::BrokenOrder, Some(subject), block.first, detail);
                }
            }
            if scan.is_end {
                break;
            }
            next = scan.next;
        }
        if blocks != self.summary.blocks {
            let detail = format!("{blocks} blocks have a place in the stream, and {} exist", self.summary.blocks);
            self.find(Kind::BrokenOrder, None, 0, detail);
        }
        Ok(())
    }

    async fn payloads(&mut self) -> Result<()> {
        let mut known: HashMap<PayloadKey, u64> = HashMap::new();
        let mut uploading: HashSet<PayloadKey> = HashSet::new();
        let mut after = 0;
        loop {
            let rows = self.stores.metadata.payloads(after, PAGE).await?;
            uploading.extend(rows.iter().filter(|row| row.writer == Writer::Upload).map(|row| row.key));
            known.extend(rows.iter().map(|row| (row.key, row.alive)));
            match rows.last() {
                Some(row) if rows.len() == PAGE => after = row.key.number(),
                _ => break,
            }
        }
        self.uploads(uploading).await?;
        for (key, counted) in &known {
            let seen = self.alive.remove(key).unwrap_or(0);
            if seen != *counted {
                let detail = format!("{key} counts {counted} blocks alive, and {seen} refer to it");
                self.find(Kind::UnbalancedPayload, None, 0, detail);
            }
        }
        let without_row: Vec<_> = self.alive.drain().map(|(key, _)| key).collect();
        for key in without_row {
            self.find(Kind::UnbalancedPayload, None, 0, format!("blocks refer to {key}, which has no row"));
        }
        let garbage = self.stores.metadata.garbage(Timestamp(u64::MAX), usize::MAX).await?;
        known.extend(garbage.iter().map(|garbage| (garbage.key, 0)));
        for key in self.stores.payload.keys().await? {
            if !known.contains_key(&key) {
                self.find(Kind::UnknownFile, None, 0, format!("no row tells of {key}"));
            }
        }
        Ok(())
    }

    /// Every open upload has its object, and every object that is being uploaded its upload.
    async fn uploads(&mut self, mut objects: HashSet<PayloadKey>) -> Result<()> {
        let mut after = String::new();
        loop {
            let page = self.stores.metadata.uploads(&after, PAGE).await?;
            for upload in &page {
                if let UploadState::Open { object, .. } = upload.state
                    && !objects.remove(&PayloadKey::Object(object))
                {
                    let detail = format!("upload '{}' has no row of its object {object}", upload.id);
                    self.find(Kind::OrphanedUpload, None, 0, detail);
                }
            }
            match page.last() {
                Some(upload) if page.len() == PAGE => upload.id.as_str().clone_into(&mut after),
                _ => break,
            }
        }
        for key in objects {
            self.find(Kind::OrphanedUpload, None, 0, format!("{key} belongs to an upload that is no more"));
        }
        Ok(())
    }
}

async fn is_there(metadata: &dyn MetadataStore, subject: &Subject, block: &Block) -> Result<bool> {
    let scan = metadata.blocks(subject, block.first, 1, 0).await?;
    Ok(scan.blocks.first().is_some_and(|found| found.first == block.first))
}
