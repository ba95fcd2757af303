//! Subjects and their blocks, positions, consumers: what rows say of messages.

use std::collections::HashMap;

use super::{Finding, Kind, Mode, Report, Summary};
use crate::{
    block::{Block, Located, PayloadKey, Placement, ScanLimits},
    error::{Error, Result},
    store::{Archive, MetadataStore, Stores, SubjectRow, reader},
    types::{Subject, SubjectFilter},
};

/// Rows looked up at a time.
pub(super) const PAGE: usize = 1000;

/// How often the books of a subject are compared anew if they change meanwhile.
const ATTEMPTS: usize = 5;

/// A check under way.
pub(super) struct Check<'a, R> {
    pub(super) stores: &'a Stores,
    pub(super) mode: Mode,
    /// Set if it is to repair.
    pub(super) archive: Option<&'a Archive>,
    report: R,
    summary: Summary,
    pub(super) seen: HashMap<PayloadKey, Seen>,
}

/// What blocks tell of a payload.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// So many live in it.
    pub(super) blocks: u64,
    /// None of them reaches beyond this byte.
    pub(super) end: u64,
    /// True if one of them is damaged.
    pub(super) is_damaged: bool,
}

impl<'a, R: FnMut(Report) + Send> Check<'a, R> {
    pub(super) fn new(stores: &'a Stores, mode: Mode, archive: Option<&'a Archive>, report: R) -> Self {
        Self { stores, mode, archive, report, summary: Summary::default(), seen: HashMap::new() }
    }

    pub(super) async fn run(mut self) -> Result<Summary> {
        let keys = self.stores.payload.keys().await?;
        self.subjects().await?;
        self.positions().await?;
        self.consumers().await?;
        if self.mode == Mode::Exclusive {
            self.order().await?;
        }
        self.payloads(keys).await?;
        Ok(self.summary)
    }

    pub(super) fn find(&mut self, finding: Finding) {
        self.summary.findings += 1;
        (self.report)(Report::Finding(finding));
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
            let seen = self.seen.entry(key).or_default();
            seen.blocks += 1;
            seen.end = seen.end.max(end_in_payload(block));
        }
        match self.read(subject, block).await {
            Err(Error::DataLoss(detail)) if is_there(&*self.stores.metadata, subject, block).await? => {
                if let Some(seen) = block.payload().and_then(|key| self.seen.get_mut(&key)) {
                    seen.is_damaged = true;
                }
                let repair = self.keep(block).await?;
                let finding = Finding::new(Kind::DamagedBlock, detail).of(subject, block.first);
                self.find(Finding { repair, ..finding });
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
                self.find(Finding::new(Kind::UnbalancedSubject, detail).of(subject, 0));
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
                    self.find(Finding::new(Kind::PositionBeyondEnd, detail).of(&ack.subject, ack.sequence));
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
                    self.find(Finding { sequence: view.cursor, ..Finding::new(Kind::UnbalancedConsumer, detail) });
                }
                let (began, next) = view.sequences;
                if let Some(subject) = view.settings.filter.subject()
                    && next - began.min(next) != passed
                {
                    let detail =
                        format!("'{}' began with {passed} messages, but came from {began} to {next}", view.name);
                    self.find(Finding::new(Kind::UnbalancedConsumer, detail).of(&subject, next));
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
                    self.find(Finding::new(Kind::BrokenOrder, detail).of(subject, block.first));
                }
            }
            if scan.is_end {
                break;
            }
            next = scan.next;
        }
        if blocks != self.summary.blocks {
            let detail = format!("{blocks} blocks have a place in the stream, and {} exist", self.summary.blocks);
            self.find(Finding::new(Kind::BrokenOrder, detail));
        }
        Ok(())
    }
}

async fn is_there(metadata: &dyn MetadataStore, subject: &Subject, block: &Block) -> Result<bool> {
    let scan = metadata.blocks(subject, block.first, 1, 0).await?;
    Ok(scan.blocks.first().is_some_and(|found| found.first == block.first))
}

/// The end of a block's bytes in its segment or object.
fn end_in_payload(block: &Block) -> u64 {
    match block.placement {
        Placement::Inline(_) => 0,
        Placement::Slice { offset, len, .. } | Placement::Shared { offset, len, .. } => offset.saturating_add(len),
        Placement::Object { size, .. } => size,
    }
}
