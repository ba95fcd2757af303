//! What a repair does. Nothing is ever deleted, and no row of a message is touched:
//!
//! | finding | repair |
//! |---|---|
//! | unknown file | moved below `lost+found` |
//! | damaged block | what is left of its bytes is copied below `lost+found`; the block stays, and is refused as before |
//! | count of blocks | made right, if blocks are left: with none, the bytes would be removed as garbage |
//! | row of a payload that blocks refer to is gone | written anew, and kept from removal |
//! | rows of payloads that cannot be read | left as they are, and so are files that no row tells of |
//! | anything else | left as it is |

use bytes::Bytes;

use super::{Report, walk::Check};
use crate::{
    block::{Block, PayloadKey, Placement},
    error::{Error, Result},
    store::{Archive, Garbage, ObjectWriter, PayloadRow},
};

/// Bytes copied at a time.
const PIECE: u64 = 4 << 20;

impl<R: FnMut(Report) + Send> Check<'_, R> {
    pub(super) async fn set_aside(&self, key: PayloadKey) -> Result<Option<String>> {
        let Some(Archive { payload, .. }) = self.archive else { return Ok(None) };
        Ok(Some(match payload.set_aside(key).await? {
            Some(place) => format!("moved to '{place}'"),
            None => "left as it is: it is an unfinished upload of the bucket, which cannot be moved".into(),
        }))
    }

    pub(super) async fn recount(
        &self,
        row: PayloadRow,
        counted: Option<u64>,
        garbage: Option<&Garbage>,
    ) -> Result<Option<String>> {
        let Some(Archive { metadata, .. }) = self.archive else { return Ok(None) };
        if row.alive == 0 {
            return Ok(Some("left as it is: with a count of 0 its bytes would be removed".into()));
        }
        metadata.recount(row, counted).await?;
        if let Some(garbage) = garbage {
            metadata.forget_garbage(std::slice::from_ref(garbage)).await?;
        }
        Ok(Some(format!("the count is {} now", row.alive)))
    }

    /// Copies what is left of a damaged block.
    pub(super) async fn keep(&self, block: &Block) -> Result<Option<String>> {
        let Some(archive) = self.archive else { return Ok(None) };
        let name = format!("blocks/{:016}", block.stream_first);
        let (key, range) = match &block.placement {
            Placement::Inline(body) => {
                let Some(mut writer) = archive.payload.keep(&name).await? else { return Ok(Some(kept_before(&name))) };
                writer.write(vec![body.clone()]).await?;
                return finish(writer, body.len() as u64, &name).await;
            }
            Placement::Slice { segment, offset, len } | Placement::Shared { segment, offset, len, .. } => {
                (PayloadKey::Segment(*segment), *offset..offset.saturating_add(*len))
            }
            Placement::Object { object, size, .. } => (PayloadKey::Object(*object), 0..*size),
        };
        // A range may lie anywhere if its row is wrong: what the payload store has counts.
        let end = range.end.min(archive.payload.size(key).await?.unwrap_or(0));
        if range.start >= end {
            return Ok(Some("none of its bytes are left to be kept".into()));
        }
        let Some(mut writer) = archive.payload.keep(&name).await? else { return Ok(Some(kept_before(&name))) };
        let mut at = range.start;
        while at < end {
            let piece = match archive.payload.read(key, at, PIECE.min(end - at)).await {
                Err(Error::DataLoss(_)) => Bytes::new(),
                other => other?,
            };
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            writer.write(vec![piece]).await?;
        }
        finish(writer, at - range.start, &name).await
    }
}

async fn finish(writer: Box<dyn ObjectWriter>, bytes: u64, name: &str) -> Result<Option<String>> {
    writer.finish().await?;
    Ok(Some(format!("{bytes} bytes of it are copied to 'lost+found/{name}'; the block stays")))
}

fn kept_before(name: &str) -> String {
    format!("its bytes were copied to 'lost+found/{name}' before; the block stays")
}
