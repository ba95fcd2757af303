//! Rows that are written together, and their bytes in a frame of the journal.

use bytes::{Buf, BufMut};
use redb::TableHandle;

use super::tables::{TABLES, Table};

/// One row to write (`Some`) or to remove (`None`), and the index of its table in [`TABLES`].
pub(super) struct Change {
    pub(super) table: u8,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// Rows that are written together or not at all.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
}

impl Batch {
    pub(super) fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change { table: number(table), key: key.into(), value: Some(value.into()) });
    }

    pub(super) fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push(Change { table: number(table), key: key.into(), value: None });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes that [`encode`](Self::encode) fills.
    pub(super) fn encoded_len(&self) -> usize {
        let len = |change: &Change| CHANGE_PREFIX + change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        self.changes.iter().map(len).sum()
    }

    /// The batch as the payload of a journal frame, which has less than 4 GiB.
    ///
    /// ```text
    /// | table u8 | key len u32 | value len u32, all ones to remove | key | value |  repeated
    /// ```
    pub(super) fn encode(&self, mut room: &mut [u8]) {
        for change in &self.changes {
            room.put_u8(change.table);
            room.put_u32_le(encoded_field(change.key.len()));
            room.put_u32_le(change.value.as_ref().map_or(u32::MAX, |value| encoded_field(value.len())));
            room.put_slice(&change.key);
            room.put_slice(change.value.as_deref().unwrap_or_default());
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if the bytes are something else.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut changes = Vec::new();
        while !bytes.is_empty() {
            if bytes.len() < CHANGE_PREFIX {
                return None;
            }
            let (table, key_len, value_len) = (bytes.get_u8(), bytes.get_u32_le(), bytes.get_u32_le());
            if usize::from(table) >= TABLES.len() {
                return None;
            }
            let (key, rest) = bytes.split_at_checked(usize::try_from(key_len).ok()?)?;
            let removed = value_len == u32::MAX;
            let value_len = if removed { 0 } else { usize::try_from(value_len).ok()? };
            let (value, rest) = rest.split_at_checked(value_len)?;
            changes.push(Change { table, key: key.into(), value: (!removed).then(|| value.into()) });
            bytes = rest;
        }
        Some(Self { changes })
    }
}

/// Bytes in front of a change's key and value.
const CHANGE_PREFIX: usize = 9;

fn encoded_field(len: usize) -> u32 {
    u32::try_from(len).expect("a frame of the journal has at most 4 MiB")
}

fn number(table: Table) -> u8 {
    let position = TABLES.iter().position(|known| known.name() == table.name());
    position.and_then(|position| position.try_into().ok()).expect("every table is listed in TABLES")
}

#[cfg(test)]
impl Batch {
    /// Adds a change of a table that this version does not know.
    pub(super) fn put_unknown(&mut self) {
        let table = TABLES.len().try_into().expect("there are few tables");
        self.changes.push(Change { table, key: b"k".into(), value: Some(b"v".into()) });
    }
}
