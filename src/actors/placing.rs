//! Makes the bodies of blocks durable, before the transaction that refers to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use super::storage::Parts;
use crate::{
    block::{
        PayloadKey, Placement,
        batch::{NewBlock, NewObject, Source},
    },
    error::{Error, Result},
};

/// Where the blocks of a commit are.
#[derive(Default)]
pub(super) struct Placed {
    /// One for each block.
    pub(super) placements: Vec<Placement>,
    /// Objects that were filled for them.
    pub(super) objects: Vec<PayloadKey>,
    /// Kept open until no commit needs it any more.
    _segment: Option<Arc<Segment>>,
}

/// A segment that was begun. When nobody holds it, it is sealed, if it is full: then it may become garbage.
pub(super) struct Segment {
    parts: Parts,
    number: u64,
    len: AtomicU64,
    is_full: AtomicBool,
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.is_full.load(Ordering::Relaxed) {
            return;
        }
        let (parts, number, len) = (self.parts.clone(), self.number, self.len.load(Ordering::Relaxed));
        self.parts.runtime.spawn(async move {
            if len > 0
                && let Err(error) = parts.stores.payload.seal(number, len).await
            {
                tracing::warn!(%error, number, "a full segment is not sealed");
            }
            // Nothing in it was acknowledged by the store: it may come to be there yet.
            parts.close(PayloadKey::Segment(number), len == 0).await;
        });
    }
}

/// The placements of blocks that need no payload; `None` if one does.
pub(super) fn inline(blocks: &[NewBlock], inline_max: usize) -> Option<Placed> {
    let in_row = |block: &NewBlock| match &block.object {
        Some(NewObject { source: Source::Stored { object, .. }, .. }) => placement(block, *object),
        Some(_) => None,
        None => (block.body.len() <= inline_max).then(|| Placement::Inline(block.body.clone())),
    };
    let placements = blocks.iter().map(in_row).collect::<Option<_>>()?;
    Some(Placed { placements, ..Placed::default() })
}

/// The placement of a block in an object.
fn placement(block: &NewBlock, number: u64) -> Option<Placement> {
    block.object.as_ref().map(|object| Placement::Object {
        object: number,
        size: object.size,
        sha256: object.sha256,
        part_crcs: object.part_crcs.clone(),
        record: block.body.clone(),
    })
}

/// Writes the payload of some commits.
pub(super) struct Placing {
    parts: Parts,
    segment: Option<Arc<Segment>>,
    objects: Vec<PayloadKey>,
}

impl Placing {
    /// Goes on with a segment, if there is one.
    pub(super) fn new(parts: Parts, segment: Option<Arc<Segment>>) -> Self {
        Self { parts, segment, objects: Vec::new() }
    }

    /// Small blocks stay in their rows, the others share one append; gives the segment to go on with.
    pub(super) async fn run(
        mut self,
        commits: Vec<(u64, Vec<NewBlock>)>,
    ) -> (Option<Arc<Segment>>, Result<Vec<(u64, Placed)>>) {
        let placed = self.place(commits).await;
        if placed.is_err() {
            self.parts.discard(std::mem::take(&mut self.objects));
        }
        (self.segment, placed)
    }

    async fn place(&mut self, commits: Vec<(u64, Vec<NewBlock>)>) -> Result<Vec<(u64, Placed)>> {
        let inline_max = self.parts.inline_max.get();
        let is_slice = |block: &&NewBlock| block.object.is_none() && block.body.len() > inline_max;
        let blocks = commits.iter().flat_map(|(_, blocks)| blocks);
        let slices: Vec<_> = blocks.filter(is_slice).map(|block| block.body.clone()).collect();
        let (written, mut offset) = match slices.is_empty() {
            true => (None, 0),
            false => self.append(slices).await.map(|(segment, offset)| (Some(segment), offset))?,
        };
        let mut all = Vec::with_capacity(commits.len());
        for (number, blocks) in commits {
            let (mut placed, before) = (Placed::default(), self.objects.len());
            for block in &blocks {
                placed.placements.push(match (&block.object, &written) {
                    (Some(object), _) => {
                        let number = self.object(object).await?;
                        placement(block, number).ok_or_else(Error::outcome_unknown)?
                    }
                    (None, Some(segment)) if is_slice(&block) => {
                        placed._segment = Some(segment.clone());
                        let len = block.body.len() as u64;
                        offset += len;
                        Placement::Slice { segment: segment.number, offset: offset - len, len }
                    }
                    _ => Placement::Inline(block.body.clone()),
                });
            }
            placed.objects = self.objects[before..].to_vec();
            all.push((number, placed));
        }
        Ok(all)
    }

    async fn object(&mut self, object: &NewObject) -> Result<u64> {
        let data = match &object.source {
            Source::Stored { object, .. } => return Ok(*object),
            Source::Data(data) => data.clone(),
        };
        let key = self.parts.stores.metadata.open_payload(PayloadKey::Object).await?;
        self.objects.push(key);
        self.parts.stores.payload.put_object(key.number(), data).await?;
        Ok(key.number())
    }

    /// Gives the segment that was written to, and the offset in it.
    async fn append(&mut self, bodies: Vec<Bytes>) -> Result<(Arc<Segment>, u64)> {
        // After a failure a segment is not written to again.
        if let Some(segment) = self.segment.take() {
            match self.append_to(&segment, bodies.clone()).await {
                Ok(Some(offset)) => return Ok((segment, offset)),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        let number = self.parts.stores.metadata.open_payload(PayloadKey::Segment).await?.number();
        let (len, is_full) = (AtomicU64::new(0), AtomicBool::new(true));
        let segment = Arc::new(Segment { parts: self.parts.clone(), number, len, is_full });
        let offset = self.append_to(&segment, bodies).await?;
        let offset = offset.ok_or_else(|| Error::unavailable("a new segment refused its first block"))?;
        Ok((segment, offset))
    }

    async fn append_to(&mut self, segment: &Arc<Segment>, bodies: Vec<Bytes>) -> Result<Option<u64>> {
        let len: u64 = bodies.iter().map(|body| body.len() as u64).sum();
        segment.is_full.store(true, Ordering::Relaxed);
        let appended = self.parts.stores.payload.append(segment.number, bodies).await?;
        if let Some(offset) = appended {
            segment.len.store(offset + len, Ordering::Relaxed);
            // Shared payload is stored at once and never added to.
            if !self.parts.stores.metadata.is_shared() {
                segment.is_full.store(false, Ordering::Relaxed);
                self.segment = Some(segment.clone());
            }
        }
        Ok(appended)
    }
}

impl Parts {
    /// Lets the reaper have what was written for nothing.
    pub(super) fn discard(&self, keys: Vec<PayloadKey>) {
        for key in keys {
            let parts = self.clone();
            self.runtime.spawn(async move { parts.close(key, true).await });
        }
    }

    /// Closes the row of a payload; if that fails, the reaper or the next start will. The reaper is not to come before what
    /// the store has in hand yet, if a write was given up.
    async fn close(&self, key: PayloadKey, is_given_up: bool) {
        let late = if is_given_up { self.stores.payload.late_writes() } else { Duration::ZERO };
        if let Err(error) = self.stores.metadata.seal_payload(key, self.clock.now().after(late)).await {
            tracing::warn!(%error, %key, "a payload that nobody writes to stays open until the reaper closes it");
        }
    }
}
