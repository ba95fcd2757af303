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
    let mut after = 0;
    loop {
        let rows = stores.metadata.payloads(after, PAGE).await?;
        for row in rows.iter().filter(|row| row.writer == Writer::Commits) {
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
