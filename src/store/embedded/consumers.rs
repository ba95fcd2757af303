//! Consumers: their state in memory while somebody works for them, in rows always.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{
    letters::insert_letter,
    scan::{find_block, scan_blocks, scan_stream, stream_at_time},
    snapshot::Snapshot,
    tables::{self, CONSUMERS, CURSORS, PENDING},
    transaction::{Transaction, next_stream, read_subject},
};
use crate::{
    block::{Located, ScanLimits, StreamScan},
    consumer::{
        Consumer, JOINING_MAX, LEASES_MAX, Places, Session, Settings, Source, Standing, Step, Stepped, beginning,
    },
    error::{Error, Result},
    store::{
        ConsumerChange, ConsumerView, NewConsumer,
        consumer::{check_same, no_consumer},
    },
    types::{ConsumerName, Subject, SubjectFilter, Timestamp},
};

/// Consumers in use.
#[derive(Default)]
pub(super) struct Consumers {
    open: HashMap<ConsumerName, Open>,
    /// Messages that are out, over all of them.
    leases: usize,
    /// Durable consumers; counted once, at the first look.
    durable: Option<usize>,
    /// Those that the transaction under way concerns, and whether their state in memory is of no use any more.
    touched: BTreeMap<ConsumerName, bool>,
}

struct Open {
    consumer: Consumer,
    is_durable: bool,
    sessions: BTreeSet<Session>,
    /// True when its last worker has left.
    is_left: bool,
}

impl Source for &Snapshot {
    fn scan(&mut self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
        scan_stream(self, filter, from, limits)
    }

    fn find(&mut self, at: u64) -> Result<Option<Located>> {
        find_block(self, at)
    }
}

impl Places for &Snapshot {
    fn end(&mut self) -> Result<u64> {
        next_stream(self)
    }

    fn books(&mut self, subject: &Subject) -> Result<(u64, u64)> {
        Ok(read_subject(self, subject)?.map_or((1, 0), |row| (row.floor, row.last)))
    }

    fn place_of(&mut self, subject: &Subject, sequence: u64) -> Result<Option<u64>> {
        Ok(scan_blocks(self, subject, sequence, 1, 0)?.blocks.first().map(|block| block.stream_first))
    }

    fn place_at(&mut self, filter: &SubjectFilter, time: Timestamp) -> Result<u64> {
        stream_at_time(self, filter, time)
    }
}

impl Consumers {
    /// Forgets what was changed in memory and not made durable: it is read again from the rows.
    pub(super) fn roll_back(&mut self) {
        for name in std::mem::take(&mut self.touched).into_keys() {
            self.remove(&name);
        }
        self.durable = None;
    }

    /// What was changed is durable. What nobody works for needs no memory any more.
    pub(super) fn keep(&mut self) {
        for (name, is_broken) in std::mem::take(&mut self.touched) {
            let is_idle = |open: &Open| open.sessions.is_empty() && (open.is_durable || open.is_left);
            if is_broken || self.open.get(&name).is_some_and(is_idle) {
                self.remove(&name);
            }
        }
    }

    /// Takes one step and gathers its rows. After an error the consumer is read again from its rows.
    pub(super) fn step(&mut self, transaction: &mut Transaction, step: &Step) -> Result<Stepped> {
        if self.touched.get(&step.consumer) == Some(&true) {
            return Err(Error::outcome_unknown());
        }
        self.load(&transaction.snapshot, &step.consumer)?;
        let Some(open) = self.open.get_mut(&step.consumer) else {
            return Err(no_consumer(&step.consumer));
        };
        let before = open.consumer.pending_len();
        // Until it is over, a panic leaves nothing that can be used.
        self.touched.insert(step.consumer.clone(), true);
        let stepped = open.step(transaction, step, LEASES_MAX.saturating_sub(self.leases));
        self.leases = (self.leases + open.consumer.pending_len()).saturating_sub(before);
        self.touched.insert(step.consumer.clone(), stepped.is_err());
        stepped
    }

    pub(super) fn create(&mut self, transaction: &mut Transaction, new: NewConsumer) -> Result<Shown> {
        let name = &new.name;
        self.load(&transaction.snapshot, name)?;
        if let Some(open) = self.open.get(name) {
            check_same(name, &open.consumer.settings, &new.patch)?;
            return Ok(Shown::of(name, open));
        }
        // One without a name whose worker never came leaves nothing behind, either.
        let is_left = |open: &Open| open.sessions.is_empty() && new.now.since(open.consumer.created) > JOINING_MAX;
        self.open.retain(|_, open| open.is_durable || !is_left(open));
        let settings = Settings::complete(new.is_durable.then_some(name), new.patch, new.dead_letter_ttl)?;
        let (cursor, sequence) = beginning(&mut &transaction.snapshot, &settings.filter, settings.start)?;
        let mut open = Open {
            consumer: Consumer::new(settings, cursor, sequence, new.now),
            is_durable: new.is_durable,
            sessions: BTreeSet::new(),
            is_left: false,
        };
        if new.is_durable {
            let count = self.count(&transaction.snapshot)?;
            if count >= new.consumers_max {
                return Err(Error::Exhausted {
                    what: format!(
                        "there are {count} durable consumers, as many as limits.consumers allows: delete some"
                    ),
                    retry_after: Duration::from_secs(1),
                });
            }
            self.durable = Some(count + 1);
            transaction.batch.put(CONSUMERS, name.as_str(), open.consumer.settings.to_json());
            write(transaction, name, &mut open.consumer);
        }
        let shown = Shown::of(name, &open);
        self.touched.insert(name.clone(), false);
        self.insert(name, open);
        Ok(shown)
    }

    pub(super) fn change(
        &mut self,
        transaction: &mut Transaction,
        name: &ConsumerName,
        change: ConsumerChange,
    ) -> Result<Shown> {
        self.load(&transaction.snapshot, name)?;
        let Some(open) = self.open.get_mut(name) else {
            return Err(no_consumer(name));
        };
        let before = open.consumer.pending_len();
        // What is refused touches nothing: the leases of its workers stay.
        match change {
            ConsumerChange::Update(patch) => {
                open.consumer.settings = open.consumer.settings.updated(patch)?;
                if open.is_durable {
                    transaction.batch.put(CONSUMERS, name.as_str(), open.consumer.settings.to_json());
                }
            }
            ConsumerChange::Pause(paused) => open.consumer.pause(paused),
            ConsumerChange::Reset(start) => {
                let filter = &open.consumer.settings.filter;
                let start = start.unwrap_or(open.consumer.settings.start);
                start.check(filter)?;
                let (cursor, sequence) = beginning(&mut &transaction.snapshot, filter, start)?;
                open.consumer.reset(cursor, sequence);
            }
            ConsumerChange::Delete => {
                let shown = Shown::of(name, open);
                let pages = pages(&transaction.snapshot, name)?;
                for table in [CONSUMERS, CURSORS] {
                    transaction.batch.remove(table, name.as_str());
                }
                for (page, _) in pages {
                    transaction.batch.remove(PENDING, tables::pending_key(name, page));
                }
                if open.is_durable {
                    self.durable = Some(self.count(&transaction.snapshot)?.saturating_sub(1));
                }
                self.touched.insert(name.clone(), false);
                self.remove(name);
                return Ok(shown);
            }
        }
        self.touched.insert(name.clone(), false);
        self.leases = (self.leases + open.consumer.pending_len()).saturating_sub(before);
        if open.is_durable {
            write(transaction, name, &mut open.consumer);
        }
        Ok(Shown::of(name, open))
    }

    pub(super) fn get(&mut self, snapshot: &Snapshot, name: &ConsumerName) -> Result<Option<Shown>> {
        let is_open = self.open.contains_key(name);
        self.load(snapshot, name)?;
        let Some(open) = self.open.get(name) else {
            return Ok(None);
        };
        let shown = Shown::of(name, open);
        if !is_open {
            self.remove(name);
        }
        Ok(Some(shown))
    }

    fn insert(&mut self, name: &ConsumerName, open: Open) {
        self.leases += open.consumer.pending_len();
        self.open.insert(name.clone(), open);
    }

    fn remove(&mut self, name: &ConsumerName) {
        if let Some(open) = self.open.remove(name) {
            self.leases = self.leases.saturating_sub(open.consumer.pending_len());
        }
    }

    fn count(&self, snapshot: &Snapshot) -> Result<usize> {
        if let Some(count) = self.durable {
            return Ok(count);
        }
        let mut count = 0;
        snapshot.scan(CONSUMERS, &[], &[0xFF], |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }

    fn load(&mut self, snapshot: &Snapshot, name: &ConsumerName) -> Result<()> {
        if self.open.contains_key(name) {
            return Ok(());
        }
        let key = name.as_str().as_bytes();
        let Some(settings) = snapshot.get(CONSUMERS, key)? else {
            return Ok(());
        };
        let settings = Settings::from_json(&settings).ok_or_else(|| tables::unreadable("consumers", key))?;
        let cursor = snapshot.get(CURSORS, key)?.ok_or_else(|| tables::unreadable("cursors", key))?;
        let pages = pages(snapshot, name)?;
        let consumer = Consumer::from_rows(settings, &cursor, pages.iter().map(|(page, row)| (*page, row.as_slice())))
            .ok_or_else(|| tables::unreadable("pending", key))?;
        let open = Open { consumer, is_durable: true, sessions: BTreeSet::new(), is_left: false };
        self.insert(name, open);
        Ok(())
    }
}

impl Open {
    fn step(&mut self, transaction: &mut Transaction, step: &Step, leases_left: usize) -> Result<Stepped> {
        let stepped = self.consumer.step(step, leases_left, &mut &transaction.snapshot)?;
        if !stepped.letters.is_empty() {
            // All of them or none: the rest of the group is stored without a step that fails.
            transaction.attempt(|transaction| {
                stepped.letters.iter().try_for_each(|letter| {
                    insert_letter(transaction, &step.consumer, &self.consumer.settings, letter, step.now)
                })
            })?;
        }
        if step.close {
            self.sessions.remove(&step.session);
        } else {
            self.sessions.insert(step.session);
        }
        self.is_left = step.close && self.sessions.is_empty();
        if self.is_durable {
            write(transaction, &step.consumer, &mut self.consumer);
        } else {
            self.consumer.forget_changes();
        }
        Ok(stepped)
    }
}

/// Durable consumers by name, as their rows say.
pub(super) fn names(snapshot: &Snapshot, after: &str, limit: usize) -> Result<Vec<ConsumerName>> {
    let mut names = Vec::new();
    snapshot.scan(CONSUMERS, after.as_bytes(), &[0xFF], |key, _| {
        if key > after.as_bytes() {
            names.push(tables::read_consumer_name(key)?);
        }
        Ok(names.len() < limit)
    })?;
    Ok(names)
}

fn write(transaction: &mut Transaction, name: &ConsumerName, consumer: &mut Consumer) {
    let changes = consumer.take_changes();
    if let Some(cursor) = changes.cursor {
        transaction.batch.put(CURSORS, name.as_str(), cursor);
    }
    for (page, row) in changes.pages {
        let key = tables::pending_key(name, page);
        match row {
            Some(row) => transaction.batch.put(PENDING, key, row),
            None => transaction.batch.remove(PENDING, key),
        }
    }
}

fn pages(snapshot: &Snapshot, name: &ConsumerName) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut pages = Vec::new();
    let (from, to) = (tables::pending_key(name, 0), tables::pending_key(name, u64::MAX));
    snapshot.scan(PENDING, &from, &to, |key, value| {
        pages.push((tables::read_first(key)?, value.to_vec()));
        Ok(true)
    })?;
    Ok(pages)
}

/// A consumer as it is shown, but for what takes long to count.
pub(super) struct Shown {
    view: ConsumerView,
    standing: Standing,
}

impl Shown {
    fn of(name: &ConsumerName, open: &Open) -> Self {
        let consumer = &open.consumer;
        let view = ConsumerView::without_lag(name, consumer, open.sessions.len());
        Self { view, standing: consumer.standing() }
    }

    /// Counts how far behind it is. Nobody need wait for that.
    pub(super) fn counted(self, snapshot: &Snapshot) -> Result<ConsumerView> {
        let lag = self.standing.lag(&mut { snapshot })?;
        Ok(ConsumerView { lag, ..self.view })
    }
}
