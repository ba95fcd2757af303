//! Consumers that somebody works for here: their state is remembered, with its version, so that a step needs one call.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_bytes::ByteBuf;
use tokio::sync::OwnedMutexGuard;

use super::{TarantoolMetadata, source::Reads, state::Open};
use crate::{
    consumer::{Consumer, JOINING_MAX, Settings, beginning},
    error::{Error, Result},
    store::{
        ConsumerChange, ConsumerView, NewConsumer,
        consumer::{check_same, no_consumer},
    },
    types::ConsumerName,
};

/// Consumers remembered, before those that nobody works for are looked for.
const SLOTS_SOFT: usize = 1_024;
/// Attempts of one change, when brokers work on the consumer at the same time.
const ATTEMPTS_MAX: u32 = 50;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Consumers {
    slots: Mutex<HashMap<ConsumerName, Slot>>,
    leases: Arc<AtomicUsize>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Open>>>;

/// One consumer, locked: its steps come one after another.
pub(super) struct SlotGuard {
    state: OwnedMutexGuard<Option<Open>>,
    leases: Arc<AtomicUsize>,
}

impl Consumers {
    pub(super) async fn lock(&self, name: &ConsumerName) -> SlotGuard {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if slots.len() >= SLOTS_SOFT && !slots.contains_key(name) {
                slots.retain(|_, slot| slot.try_lock().map_or(true, |state| state.is_some()));
            }
            slots.entry(name.clone()).or_default().clone()
        };
        SlotGuard { state: slot.lock_owned().await, leases: self.leases.clone() }
    }

    /// Messages that are out, over all remembered consumers.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    /// Forgets consumers without a name whose worker never came.
    fn forget_unjoined(&self, now: crate::types::Timestamp) {
        let slots: Vec<_> = self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for slot in slots {
            let Ok(state) = slot.try_lock_owned() else { continue };
            let mut guard = SlotGuard { state, leases: self.leases.clone() };
            let is_left = |open: &Open| {
                !open.is_durable() && open.sessions.is_empty() && now.since(open.consumer.created) > JOINING_MAX
            };
            if guard.state.as_ref().is_some_and(is_left) {
                guard.take();
            }
        }
    }
}

impl SlotGuard {
    pub(super) fn take(&mut self) -> Option<Open> {
        let open = self.state.take();
        let len = open.as_ref().map_or(0, |open| open.consumer.pending_len());
        self.leases.fetch_sub(len, Ordering::Relaxed);
        open
    }

    pub(super) fn put(&mut self, open: Open) {
        self.take();
        self.leases.fetch_add(open.consumer.pending_len(), Ordering::Relaxed);
        *self.state = Some(open);
    }
}

impl TarantoolMetadata {
    pub(super) async fn make_consumer(&self, new: NewConsumer) -> Result<ConsumerView> {
        let name = new.name.clone();
        self.consumers.forget_unjoined(new.now);
        let mut slot = self.consumers.lock(&name).await;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(open) = self.present(&name, &mut slot).await? {
                check_same(&name, &open.consumer.settings, &new.patch)?;
                return self.show(&name, &open).await;
            }
            let settings = Settings::complete(new.is_durable.then_some(&name), new.patch.clone(), new.dead_letter_ttl)?;
            let (filter, start) = (settings.filter.clone(), settings.start);
            let (cursor, sequence) = self.blocking(move |mut reads| beginning(&mut reads, &filter, start)).await?;
            let mut open = Open::unnamed(Consumer::new(settings, cursor, sequence, new.now));
            if !new.is_durable {
                slot.put(open.clone());
                return self.show(&name, &open).await;
            }
            let settings = ByteBuf::from(open.consumer.settings.to_json());
            let cursor = open.consumer.take_changes().cursor.map(ByteBuf::from);
            let most = super::wire::limit(new.consumers_max);
            let arguments = (self.link.id(), name.as_str(), settings, cursor, most);
            if self.link.call("consumer_create", &arguments).await? {
                return self.show(&name, &open).await;
            }
        }
        Err(contended(&name))
    }

    pub(super) async fn alter_consumer(&self, name: &ConsumerName, change: ConsumerChange) -> Result<ConsumerView> {
        let mut slot = self.consumers.lock(name).await;
        for _ in 0..ATTEMPTS_MAX {
            let Some(mut open) = self.present(name, &mut slot).await? else {
                return Err(no_consumer(name));
            };
            if matches!(change, ConsumerChange::Delete) {
                slot.take();
                if open.is_durable() && !self.link.call("consumer_delete", &(self.link.id(), name.as_str())).await? {
                    return Err(no_consumer(name));
                }
                return self.show(name, &open).await;
            }
            let mut settings = None;
            // What is refused touches nothing: the leases of its workers stay.
            match change.clone() {
                ConsumerChange::Update(patch) => {
                    open.consumer.settings = open.consumer.settings.updated(patch)?;
                    settings = Some(ByteBuf::from(open.consumer.settings.to_json()));
                }
                ConsumerChange::Pause(paused) => open.consumer.pause(paused),
                ConsumerChange::Reset(start) => {
                    let filter = open.consumer.settings.filter.clone();
                    let start = start.unwrap_or(open.consumer.settings.start);
                    start.check(&filter)?;
                    let (cursor, sequence) =
                        self.blocking(move |mut reads| beginning(&mut reads, &filter, start)).await?;
                    open.consumer.reset(cursor, sequence);
                }
                ConsumerChange::Delete => {}
            }
            if !open.is_durable() {
                slot.put(open.clone());
                return self.show(name, &open).await;
            }
            slot.take();
            let changes = open.consumer.take_changes();
            let pages: Vec<_> = changes.pages.into_iter().map(|(page, row)| (page, row.map(ByteBuf::from))).collect();
            let cursor = changes.cursor.map(ByteBuf::from);
            let arguments = (self.link.id(), name.as_str(), open.version, settings, cursor, pages);
            let version: u64 = self.link.call("consumer_change", &arguments).await?;
            if version != 0 {
                open.version = version;
                slot.put(open.clone());
                return self.show(name, &open).await;
            }
            tokio::time::sleep(self.link.jittered(Duration::from_millis(5))).await;
        }
        Err(contended(name))
    }

    pub(super) async fn view_consumer(&self, name: &ConsumerName) -> Result<Option<ConsumerView>> {
        let open = {
            let mut slot = self.consumers.lock(name).await;
            self.present(name, &mut slot).await?
        };
        match open {
            Some(open) => Ok(Some(self.show(name, &open).await?)),
            None => Ok(None),
        }
    }

    /// A consumer as it is now: what is remembered, if nobody else changed it meanwhile.
    async fn present(&self, name: &ConsumerName, slot: &mut SlotGuard) -> Result<Option<Open>> {
        if slot.state.as_ref().is_some_and(|open| !open.is_durable()) {
            return Ok(slot.state.clone());
        }
        let Some(stored) = Open::load(&self.link, name).await? else {
            slot.take();
            return Ok(None);
        };
        match &*slot.state {
            // It knows how far it looked in vain, which is not stored each time.
            Some(open) if open.version == stored.version => Ok(Some(open.clone())),
            _ => {
                slot.take();
                Ok(Some(stored))
            }
        }
    }

    async fn show(&self, name: &ConsumerName, open: &Open) -> Result<ConsumerView> {
        let consumer = &open.consumer;
        let view = ConsumerView::without_lag(name, consumer, open.sessions.len());
        let standing = consumer.standing();
        let lag = self.blocking(move |mut reads| standing.lag(&mut reads)).await?;
        Ok(ConsumerView { lag, ..view })
    }

    /// Runs what reads the stream and cannot wait.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(Reads) -> Result<T> + Send + 'static) -> Result<T> {
        let reads = Reads::new(self.link.clone());
        let done = self.link.runtime.spawn_blocking(move || work(reads)).await;
        done.unwrap_or_else(|_| Err(Error::outcome_unknown()))
    }
}

fn contended(name: &ConsumerName) -> Error {
    Error::unavailable(format!("other brokers change consumer '{name}' at the same time: repeat"))
}
