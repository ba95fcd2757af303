//! Segments and objects whose writer is gone.

use super::Stores;
use crate::{block::PayloadKey, error::Result, types::Timestamp};

/// Rows looked up at a time.
const PAGE: usize = 1000;

/// Seals everything that is still open, for when nobody writes to it any more. What holds no block turns into garbage.
///
/// # Errors
/// Those of the stores.
pub async fn close(stores: &Stores, now: Timestamp) -> Result<()> {
    let mut after = 0;
    loop {
        let rows = stores.metadata.payloads(after, PAGE).await?;
        for row in rows.iter().filter(|row| row.open) {
            if let PayloadKey::Segment(number) = row.key {
                stores.payload.seal(number, row.len).await?;
            }
            stores.metadata.seal_payload(row.key, now).await?;
        }
        match rows.last() {
            Some(row) if rows.len() == PAGE => after = row.key.number(),
            _ => return Ok(()),
        }
    }
}
