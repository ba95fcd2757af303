//! The state machine alone: rows and messages are in memory.

use std::collections::BTreeMap;

use minitoolstream::{
    Result,
    consumer::{Consumer, Patch, Settings, Start, Step, Stepped},
    types::{Subject, Timestamp},
};

use crate::{
    backend::{Backend, Found, View},
    world::{MESSAGE, World},
};

/// A consumer, its rows, and what it consumes.
pub(crate) struct Machine {
    world: World,
    consumer: Consumer,
    cursor: Vec<u8>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Machine {
    fn write(&mut self) {
        let changes = self.consumer.take_changes();
        self.cursor = changes.cursor.unwrap_or_else(|| self.cursor.clone());
        for (page, row) in changes.pages {
            match row {
                Some(row) => drop(self.pages.insert(page, row)),
                None => drop(self.pages.remove(&page)),
            }
        }
    }
}

impl Backend for Machine {
    fn start(settings: &Settings, chunk: usize, now: Timestamp) -> Self {
        let world = World::new(chunk);
        let (cursor, sequence) = world.beginning(&settings.filter, settings.start);
        let consumer = Consumer::new(settings.clone(), cursor, sequence, now);
        let mut machine = Self { world, consumer, cursor: Vec::new(), pages: BTreeMap::new() };
        machine.write();
        machine
    }

    fn publish(&mut self, subject: &Subject, expires: &[Option<Timestamp>], now: Timestamp) -> u64 {
        let latest = expires.iter().copied().try_fold(Timestamp(0), |latest, at| Some(latest.max(at?)));
        self.world.insert(subject, u32::try_from(expires.len()).unwrap(), latest, now)
    }

    fn message_bytes(&self) -> u64 {
        MESSAGE
    }

    fn step(&mut self, step: Step) -> Result<Stepped> {
        let stepped = self.consumer.step(&step, usize::MAX, &mut &self.world)?;
        if let Some(to) = self.consumer.settings.dead_letters.clone() {
            for _ in &stepped.letters {
                let expires = step.now.after(self.consumer.settings.dead_letter_ttl);
                self.world.insert(&to, 1, Some(expires), step.now);
            }
        }
        self.write();
        Ok(stepped)
    }

    fn purge(&mut self, subject: &Subject, up_to: u64, _now: Timestamp) -> u64 {
        self.world.purge(subject, up_to)
    }

    fn expire(&mut self, now: Timestamp) -> u64 {
        self.world.expire(now)
    }

    fn pause(&mut self, paused: bool) {
        self.consumer.pause(paused);
        self.write();
    }

    fn update(&mut self, patch: Patch) {
        self.consumer.settings = self.consumer.settings.updated(patch).unwrap();
        self.write();
    }

    fn reset(&mut self, start: Option<Start>) {
        let start = start.unwrap_or(self.consumer.settings.start);
        let (cursor, sequence) = self.world.beginning(&self.consumer.settings.filter, start);
        self.consumer.reset(cursor, sequence);
        self.write();
    }

    fn redrive(&mut self, letter: u64, is_lost: bool, to: &Subject, now: Timestamp) -> Option<u64> {
        if is_lost {
            return None;
        }
        let from = self.consumer.settings.dead_letters.clone().unwrap();
        self.world.remove(&from, letter);
        Some(self.world.insert(to, 1, None, now))
    }

    fn crash(&mut self) {
        let settings = Settings::from_json(&self.consumer.settings.to_json()).unwrap();
        let pages = self.pages.iter().map(|(page, row)| (*page, row.as_slice()));
        self.consumer = Consumer::from_rows(settings, &self.cursor, pages).unwrap();
    }

    fn view(&mut self) -> View {
        let consumer = &self.consumer;
        View {
            paused: consumer.paused,
            cursor: consumer.cursor(),
            ack_floor: consumer.ack_floor(),
            sequences: consumer.sequences(),
            counts: consumer.counts(),
            lag: consumer.standing().lag(&mut &self.world).unwrap(),
        }
    }

    fn letters(&mut self, _now: Timestamp) -> Option<Vec<Found>> {
        None
    }
}
