//! Segments and objects whose writer is gone.

use super::{Stores, Writer};
use crate::{block::PayloadKey, error::Result, types::Timestamp};

/// Rows looked up at a time.
const PAGE: usize = 1000;

/// Seals everything that commits wrote to, for when none does any more. What holds no block turns into garbage. Uploads may
/// go on: their objects stay until their deadlines.
///
/// # Errors
/// Those of the stores.
pub async fn close(stores: &Stores, now: Timestamp) -> Result<()> {
    close_up_to(stores, u64::MAX, now).await
}

/// The same, for payloads up to and including a number: those that are too old for a commit that is under way.
///
/// # Errors
/// Those of the stores.
pub async fn close_up_to(stores: &Stores, number: u64, now: Timestamp) -> Result<()> {
    let mut after = 0;
    loop {
        let rows = stores.metadata.payloads(after, PAGE).await?;
        for row in rows.iter().filter(|row| row.writer == Writer::Commits && row.key.number() <= number) {
            if let PayloadKey::Segment(number) = row.key {
                stores.payload.seal(number, row.len).await?;
            }
            stores.metadata.seal_payload(row.key, now).await?;
        }
        match rows.last() {
            Some(row) if rows.len() == PAGE && row.key.number() < number => after = row.key.number(),
            _ => return Ok(()),
        }
    }
}

/// The highest number of a payload that there is.
///
/// # Errors
/// Those of the stores.
pub async fn newest(stores: &Stores) -> Result<u64> {
    let mut newest = 0;
    loop {
        let rows = stores.metadata.payloads(newest, PAGE).await?;
        newest = rows.last().map_or(newest, |row| row.key.number());
        if rows.len() < PAGE {
            return Ok(newest);
        }
    }
}
