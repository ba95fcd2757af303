//! The state of a consumer, as of a version.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_bytes::ByteBuf;

use super::{answers::unreadable, changes::Change, link::Link, source::Reads, wire};
use crate::{
    consumer::{Consumer, Session, Settings, Step, Stepped},
    error::{Error, Result},
    types::ConsumerName,
};

/// See the [module](self).
#[derive(Clone)]
pub(super) struct Open {
    pub(super) consumer: Consumer,
    /// What is stored; 0 if nothing is, as the consumer lives in this broker alone.
    pub(super) version: u64,
    /// Workers, and their brokers.
    pub(super) sessions: BTreeMap<Session, u64>,
    /// True when the last worker of one that is not stored has left.
    pub(super) is_left: bool,
    /// Workers and `is_left` at the last mark.
    marked: Option<(BTreeMap<Session, u64>, bool)>,
}

#[derive(Deserialize)]
pub(super) struct ConsumerRow {
    pub(super) name: String,
    version: u64,
    pub(super) settings: ByteBuf,
    pub(super) cursor: ByteBuf,
}

#[derive(Deserialize)]
pub(super) struct PageRow {
    pub(super) consumer: String,
    pub(super) number: u64,
    pub(super) row: ByteBuf,
}

/// A consumer's row, its pages, its sessions and their brokers.
type Rows = (Option<ConsumerRow>, Vec<PageRow>, Vec<(u64, u64)>);

impl Open {
    /// One that lives in this broker alone.
    pub(super) fn unnamed(consumer: Consumer) -> Self {
        Self { consumer, version: 0, sessions: BTreeMap::new(), is_left: false, marked: None }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.version != 0
    }

    /// What is stored of a consumer; `None` if there is none of this name.
    pub(super) async fn load(link: &Link, name: &ConsumerName) -> Result<Option<Self>> {
        let (row, pages, sessions): Rows = link.call("consumer_read", &(name.as_str(),)).await?;
        let Some(row) = row else { return Ok(None) };
        let settings = Settings::from_json(&row.settings);
        let settings = settings.ok_or_else(|| unreadable("consumers", format_args!("{name}")))?;
        let pages = pages.iter().map(|page| (page.number, page.row.as_slice()));
        let mut consumer = Consumer::from_rows(settings, &row.cursor, pages)
            .ok_or_else(|| unreadable("pending", format_args!("{name}")))?;
        consumer.keep_leases();
        let sessions: BTreeMap<_, _> =
            sessions.into_iter().map(|(session, broker)| (Session(session), broker)).collect();
        consumer.orphan(|session| sessions.contains_key(&session));
        Ok(Some(Self { consumer, version: row.version, sessions, is_left: false, marked: None }))
    }

    /// True if this broker has no worker for it.
    pub(super) fn is_idle(&self, broker: u64) -> bool {
        match self.is_durable() {
            true => !self.sessions.values().any(|of| *of == broker),
            false => self.is_left && self.sessions.is_empty(),
        }
    }

    /// Remembers the state of a consumer that is not stored: no store could tell it again.
    pub(super) fn mark(&mut self) {
        self.consumer.mark();
        self.marked = Some((self.sessions.clone(), self.is_left));
    }

    /// Keeps the steps since the mark.
    pub(super) fn keep(&mut self) {
        self.consumer.keep();
        self.marked = None;
    }

    /// Takes back the steps since the mark.
    pub(super) fn roll_back(&mut self) {
        self.consumer.roll_back();
        if let Some((sessions, is_left)) = self.marked.take() {
            (self.sessions, self.is_left) = (sessions, is_left);
        }
    }

    /// Takes steps, until one fails: then the state is of no use any more. Gives the rows to change.
    pub(super) fn take(
        &mut self,
        name: &ConsumerName,
        steps: &[Arc<Step>],
        (broker, mut leases_left): (u64, usize),
        reads: &mut Reads,
    ) -> Taken {
        let mut taken = Taken { change: Change::default(), stepped: Vec::new(), is_broken: false };
        let change = &mut taken.change;
        (change.name, change.version, change.broker) =
            (self.is_durable().then(|| name.to_string()), self.version, broker);
        for step in steps {
            if taken.is_broken {
                taken.stepped.push(Err(Error::outcome_unknown()));
                continue;
            }
            let before = self.consumer.pending_len();
            let stepped = self.consumer.step(step, leases_left, reads);
            taken.is_broken = stepped.is_err();
            if let Ok(stepped) = &stepped {
                leases_left = (leases_left + before).saturating_sub(self.consumer.pending_len());
                self.gather(name, step, stepped, &mut taken.change);
            }
            taken.stepped.push(stepped);
        }
        taken
    }

    fn gather(&mut self, name: &ConsumerName, step: &Step, stepped: &Stepped, change: &mut Change) {
        for letter in &stepped.letters {
            if let Some(posted) = letter.post(name, &self.consumer.settings, step.now) {
                change.letters.push(wire::letter(letter, posted, step.now));
            }
        }
        if step.close {
            if self.sessions.remove(&step.session).is_some() {
                change.joined.retain(|session| *session != step.session.0);
                change.left.push(step.session.0);
            }
        } else if self.sessions.insert(step.session, change.broker) != Some(change.broker) {
            change.left.retain(|session| *session != step.session.0);
            change.joined.push(step.session.0);
        }
        self.is_left = step.close && self.sessions.is_empty();
        change.rings |= stepped.others;
        if self.is_durable() {
            let changes = self.consumer.take_changes();
            change.cursor = changes.cursor.map(ByteBuf::from).or(change.cursor.take());
            change.pages.extend(changes.pages.into_iter().map(|(page, row)| (page, row.map(ByteBuf::from))));
        } else {
            self.consumer.forget_changes();
        }
    }
}

/// What came of steps.
pub(super) struct Taken {
    pub(super) change: Change,
    pub(super) stepped: Vec<Result<Stepped>>,
    pub(super) is_broken: bool,
}

impl Change {
    /// True if there is nothing to ask the store for: what lives in this broker alone is asked for its letters only.
    pub(super) fn is_nothing(&self) -> bool {
        self.name.is_none() && self.letters.is_empty()
    }
}
