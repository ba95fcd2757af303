//! What is stored of a consumer, besides its settings. Integers are little-endian; varints are LEB128.
//!
//! ```text
//! cursor row:  | version 1 u8 | paused u8 | created | cursor | began | next sequence | passed | acked | dead-lettered
//!              | dropped | expired | deliveries | redeliveries |                                        u64 each
//! pending row: | version 1 u8 | gap | length | attempt | due |                                repeated, varints
//!              a run of `length` neighbours, `gap` stream sequences after the end of the run before it (of the page's
//!              first, for the first), all delivered `attempt` times, to be delivered again at `due` ms since 1970 (0: now)
//! with leases: | version 2 u8 | gap | length | attempt | due | 0, or 1 and the worker's session u64 |      repeated
//!              `due` of what a worker has is the end of its lease
//! ```

use bytes::{Buf, BufMut};

use super::{
    Consumer, Counts, Session, Settings,
    pending::{Entry, PAGE_BITS, Pending},
};
use crate::types::Timestamp;

const VERSION: u8 = 1;
const VERSION_WITH_LEASES: u8 = 2;
const CURSOR_LEN: usize = 2 + 11 * 8;

/// What changed since it was stored.
pub struct Changes {
    /// The cursor row, if it changed.
    pub cursor: Option<Vec<u8>>,
    /// Pages, and their new value; `None` if nothing is left of one.
    pub pages: Vec<(u64, Option<Vec<u8>>)>,
}

/// First stream sequence and length of a run, and what is stored of each entry.
type Neighbours = (u64, u64, Entry);

/// A cursor is stored when nothing else changed only after it moved by so much: what it passed over then matched
/// nothing, and passing over it again after a restart takes time and nothing else.
const IDLE_CURSOR_MAX: u64 = 100_000;

impl Consumer {
    /// What is to be written; counts as written from now on.
    pub fn take_changes(&mut self) -> Changes {
        let dirty = self.pending.take_dirty();
        let is_far = self.cursor.abs_diff(self.stored_cursor) > IDLE_CURSOR_MAX;
        let cursor = (self.is_changed || is_far || !dirty.is_empty()).then(|| {
            self.is_changed = false;
            self.stored_cursor = self.cursor;
            self.encode_cursor()
        });
        let pages = dirty.into_iter().map(|page| (page, self.encode_page(page))).collect();
        Changes { cursor, pages }
    }

    /// From now on leases are stored, as several brokers share the consumer.
    pub fn keep_leases(&mut self) {
        self.pending.keeps_leases = true;
    }

    /// Lets what workers had that are no more be delivered again.
    pub fn orphan(&mut self, is_alive: impl Fn(Session) -> bool) {
        self.pending.orphan(is_alive);
    }

    /// A consumer from its rows; `None` if one of them cannot be read. Nobody holds a lease that was not stored.
    pub fn from_rows<'a>(
        settings: Settings,
        mut cursor: &[u8],
        pages: impl IntoIterator<Item = (u64, &'a [u8])>,
    ) -> Option<Self> {
        if cursor.len() != CURSOR_LEN || cursor.get_u8() != VERSION {
            return None;
        }
        let paused = cursor.get_u8() != 0;
        let mut next = || cursor.get_u64_le();
        let mut consumer = Self::new(settings, 0, 0, Timestamp(next()));
        consumer.paused = paused;
        (consumer.cursor, consumer.began, consumer.next_sequence) = (next(), next(), next());
        consumer.counts = Counts {
            passed: next(),
            acked: next(),
            dead_lettered: next(),
            dropped: next(),
            expired: next(),
            deliveries: next(),
            redeliveries: next(),
        };
        consumer.stored_cursor = consumer.cursor;
        for (page, row) in pages {
            decode_page(page, row, &mut consumer.pending)?;
        }
        consumer.pending.take_dirty();
        consumer.is_changed = false;
        Some(consumer)
    }

    fn encode_cursor(&self) -> Vec<u8> {
        let Counts { passed, acked, dead_lettered, dropped, expired, deliveries, redeliveries } = self.counts;
        let mut row = Vec::with_capacity(CURSOR_LEN);
        row.put_u8(VERSION);
        row.put_u8(self.paused.into());
        for field in [self.created.0, self.cursor, self.began, self.next_sequence, passed, acked] {
            row.put_u64_le(field);
        }
        for field in [dead_lettered, dropped, expired, deliveries, redeliveries] {
            row.put_u64_le(field);
        }
        row
    }

    fn encode_page(&self, page: u64) -> Option<Vec<u8>> {
        encode_page(&self.pending, page)
    }
}

/// A pending row without its leases: what workers had is due. `None` if it cannot be read.
pub fn without_leases(page: u64, row: &[u8]) -> Option<Vec<u8>> {
    let mut pending = Pending::default();
    decode_page(page, row, &mut pending)?;
    encode_page(&pending, page)
}

fn encode_page(pending: &Pending, page: u64) -> Option<Vec<u8>> {
    let keeps_leases = pending.keeps_leases;
    let mut row = vec![if keeps_leases { VERSION_WITH_LEASES } else { VERSION }];
    let (mut end, mut run): (u64, Option<Neighbours>) = (page << PAGE_BITS, None);
    let mut put = |(start, len, Entry { attempt, owner, due }): Neighbours| {
        for value in [start - end, len, attempt.into(), due.0] {
            put_varint(&mut row, value);
        }
        if keeps_leases {
            row.put_u8(owner.is_some().into());
            owner.iter().for_each(|session| row.put_u64_le(session.0));
        }
        end = start + len;
    };
    for (at, entry) in pending.page(page) {
        let entry = entry.stored(keeps_leases);
        match &mut run {
            Some((start, len, stored)) if *start + *len == at && *stored == entry => *len += 1,
            _ => {
                if let Some(run) = run.replace((at, 1, entry)) {
                    put(run);
                }
            }
        }
    }
    put(run?);
    Some(row)
}

fn decode_page(page: u64, mut row: &[u8], pending: &mut Pending) -> Option<()> {
    let has_leases = match row.try_get_u8().ok()? {
        VERSION => false,
        VERSION_WITH_LEASES => true,
        _ => return None,
    };
    let (mut at, end) = (page << PAGE_BITS, (page + 1) << PAGE_BITS);
    while row.has_remaining() {
        let (gap, len) = (get_varint(&mut row)?, get_varint(&mut row)?);
        let (attempt, due) = (u32::try_from(get_varint(&mut row)?).ok()?, Timestamp(get_varint(&mut row)?));
        let owner = match has_leases.then(|| row.try_get_u8()) {
            None | Some(Ok(0)) => None,
            Some(Ok(1)) => Some(Session(row.try_get_u64_le().ok()?)),
            Some(_) => return None,
        };
        at = at.checked_add(gap)?;
        if len > end.checked_sub(at)? {
            return None;
        }
        for _ in 0..len {
            pending.put(at, Entry { attempt, owner, due });
            at += 1;
        }
    }
    Some(())
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7F) as u8);
}

fn get_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        if !bytes.has_remaining() {
            return None;
        }
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        consumer::{Patch, Session},
        types::SubjectFilter,
    };

    fn consumer() -> Consumer {
        let patch = Patch { filter: SubjectFilter::parse("filter", "a").ok(), ..Default::default() };
        let settings = Settings::complete(None, patch, Duration::from_secs(9)).unwrap();
        Consumer::new(settings, 5, 3, Timestamp(77))
    }

    fn restored(consumer: &mut Consumer) -> Option<Consumer> {
        let Changes { cursor, pages } = consumer.take_changes();
        let pages = pages.iter().filter_map(|(page, row)| Some((*page, row.as_deref()?)));
        Consumer::from_rows(consumer.settings.clone(), &cursor?, pages)
    }

    proptest! {
        #[test]
        fn what_is_stored_is_restored(
            entries in prop::collection::btree_map(0_u64..20_000, (1_u32..4, 0_u64..3, any::<bool>()), 0..300),
            dense in 0_u64..9_000,
            keeps_leases in any::<bool>(),
        ) {
            let mut consumer = consumer();
            consumer.pending.keeps_leases = keeps_leases;
            for at in dense..dense + 5_000 {
                consumer.pending.put(at, Entry { attempt: 1, owner: Some(Session(1)), due: Timestamp(9) });
            }
            for (at, (attempt, due, leased)) in entries {
                let owner = leased.then_some(Session(7));
                consumer.pending.put(at, Entry { attempt, owner, due: Timestamp(due << 40) });
            }
            let restored = restored(&mut consumer).unwrap();
            prop_assert!(restored.pending.is_consistent());
            prop_assert_eq!(restored.pending.len(), consumer.pending.len());
            for page in 0..6 {
                for ((a, entry), (b, after)) in consumer.pending.page(page).zip(restored.pending.page(page)) {
                    prop_assert_eq!((a, entry.stored(keeps_leases)), (b, *after));
                }
            }
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), page in 0_u64..1 << 51) {
            let _ = decode_page(page, &bytes, &mut Pending::default());
            let _ = Consumer::from_rows(consumer().settings, &bytes, []);
        }
    }

    #[test]
    fn yesterdays_rows_are_read() {
        let cursor: Vec<u8> = [1, 1].into_iter().chain((1_u64..=11).flat_map(u64::to_le_bytes)).collect();
        let page: &[u8] = &[1, 2, 3, 1, 0, 0, 1, 2, 0x80, 1];
        let restored = Consumer::from_rows(consumer().settings, &cursor, [(1, page)]).unwrap();
        assert!(restored.paused);
        assert_eq!((restored.created, restored.cursor, restored.sequences()), (Timestamp(1), 2, (3, 4)));
        assert_eq!((restored.counts.passed, restored.counts.redeliveries), (5, 11));
        let entries: Vec<_> =
            restored.pending.page(1).map(|(at, entry)| (at - 4096, entry.attempt, entry.due.0)).collect();
        assert_eq!(entries, [(2, 1, 0), (3, 1, 0), (4, 1, 0), (5, 2, 128)]);
        let page: &[u8] = &[2, 2, 1, 1, 9, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0x80, 1, 0];
        let restored = Consumer::from_rows(consumer().settings, &cursor, [(1, page)]).unwrap();
        let entries: Vec<_> = restored.pending.page(1).map(|(at, entry)| (at - 4096, *entry)).collect();
        let leased = Entry { attempt: 1, owner: Some(Session(7)), due: Timestamp(9) };
        assert_eq!(entries, [(2, leased), (3, Entry { attempt: 2, owner: None, due: Timestamp(128) })]);
    }

    #[test]
    fn what_nobody_works_on_any_more_is_due() {
        let mut consumer = consumer();
        consumer.keep_leases();
        for (at, session) in [(1, 1), (2, 2)] {
            consumer.pending.put(at, Entry { attempt: 3, owner: Some(Session(session)), due: Timestamp(9) });
        }
        consumer.orphan(|session| session == Session(2));
        assert!(consumer.pending.is_consistent());
        assert_eq!(consumer.pending.get(1), Some(&Entry { attempt: 3, owner: None, due: Timestamp(0) }));
        assert_eq!(consumer.pending.of(Session(2)), [2]);
    }

    #[test]
    fn a_fresh_page_takes_a_few_bytes() {
        let mut consumer = consumer();
        for at in 4096..8192 {
            consumer.pending.put(at, Entry { attempt: 1, owner: Some(Session(1)), due: Timestamp(9) });
        }
        assert_eq!(consumer.encode_page(1).unwrap().len(), 6);
    }
}
