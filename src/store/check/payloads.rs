//! Segments and objects: what is stored, what rows tell of it, and what blocks tell of it.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, stream};

use super::{
    Finding, Kind, Mode, Report,
    walk::{Check, PAGE, Seen},
};
use crate::{
    block::PayloadKey,
    error::Result,
    store::{Garbage, PayloadRow, UploadState, Writer},
    types::Timestamp,
};

/// Sizes asked for at a time.
const LOOKS: usize = 16;

impl<R: FnMut(Report) + Send> Check<'_, R> {
    /// `keys` were listed before anything else was looked at.
    pub(super) async fn payloads(&mut self, keys: Vec<PayloadKey>) -> Result<()> {
        let unreadable = self.stores.metadata.unreadable_rows();
        let rows = self.rows().await?;
        self.sizes(&rows).await?;
        let garbage = self.stores.metadata.garbage(Timestamp(u64::MAX), usize::MAX).await?;
        let garbage: HashMap<_, _> = garbage.into_iter().map(|garbage| (garbage.key, garbage)).collect();
        let unreadable = self.stores.metadata.unreadable_rows() - unreadable;
        if unreadable > 0 {
            // A file whose row cannot be read may be a living one: without that row it must not be taken for a stranger.
            let detail = format!(
                "{unreadable} rows of payloads or garbage cannot be read, the log names them: counts and unknown files were \
                 not looked at; restore a backup into an empty directory"
            );
            self.find(Finding::new(Kind::UnreadableRow, detail));
            return Ok(());
        }
        if self.mode == Mode::Exclusive {
            self.uploads(&rows).await?;
            self.counts(&rows, &garbage).await?;
        }
        for key in keys {
            if !rows.contains_key(&key) && !garbage.contains_key(&key) && !self.is_gone(key).await? {
                let finding = Finding::new(Kind::UnknownFile, format!("no row tells of {key}"));
                let repair = self.set_aside(key).await?;
                self.find(Finding { repair, ..finding });
            }
        }
        Ok(())
    }

    async fn rows(&self) -> Result<HashMap<PayloadKey, PayloadRow>> {
        let (mut found, mut after) = (HashMap::new(), 0);
        loop {
            let rows = self.stores.metadata.payloads(after, PAGE).await?;
            found.extend(rows.iter().map(|row| (row.key, *row)));
            match rows.last() {
                Some(row) if rows.len() == PAGE => after = row.key.number(),
                _ => return Ok(found),
            }
        }
    }

    /// What blocks live in is there, and large enough: a segment may be larger, an object has one size. If blocks of it were
    /// found damaged, that was told.
    async fn sizes(&mut self, rows: &HashMap<PayloadKey, PayloadRow>) -> Result<()> {
        let mut alive: Vec<_> = rows.values().filter(|row| row.alive > 0 && !self.is_told(row.key)).copied().collect();
        alive.sort_unstable_by_key(|row| row.key);
        let payload = self.stores.payload.clone();
        let look = |row: PayloadRow| {
            let payload = payload.clone();
            async move { (row, payload.size(row.key).await) }
        };
        let mut looks = stream::iter(alive.into_iter().map(look)).buffered(LOOKS);
        while let Some((row, size)) = looks.next().await {
            let is_right = |size: u64| match row.key {
                PayloadKey::Segment(_) => size >= row.len,
                PayloadKey::Object(_) => size == row.len,
            };
            let size = size?;
            if size.is_some_and(is_right) || !self.is_alive(row.key).await? {
                continue;
            }
            let PayloadRow { key, len, .. } = row;
            let detail = match size {
                Some(size) => format!("{key} has {size} bytes, and its row tells of {len}"),
                None => format!("{key} is missing, and its row tells of {len} bytes"),
            };
            self.find(Finding::new(Kind::DamagedPayload, detail));
        }
        Ok(())
    }

    fn is_told(&self, key: PayloadKey) -> bool {
        self.seen.get(&key).is_some_and(|seen| seen.is_damaged)
    }

    /// False for what was removed since its row was read.
    async fn is_alive(&self, key: PayloadKey) -> Result<bool> {
        let rows = self.stores.metadata.payloads(key.number() - 1, 1).await?;
        Ok(rows.first().is_some_and(|row| row.key == key && row.alive > 0))
    }

    /// True for what was removed since it was listed. What is not whole is somebody's upload while brokers work.
    async fn is_gone(&self, key: PayloadKey) -> Result<bool> {
        Ok(self.mode == Mode::Live && self.stores.payload.size(key).await?.is_none())
    }

    /// Rows count the blocks that there are.
    async fn counts(
        &mut self,
        rows: &HashMap<PayloadKey, PayloadRow>,
        garbage: &HashMap<PayloadKey, Garbage>,
    ) -> Result<()> {
        let seen = std::mem::take(&mut self.seen);
        let mut keys: Vec<_> = rows.keys().chain(seen.keys()).copied().collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let (row, seen) = (rows.get(&key).copied(), seen.get(&key).copied().unwrap_or_default());
            let detail = match row {
                Some(row) if row.alive == seen.blocks => continue,
                Some(row) => format!("{key} counts {} blocks alive, and {} refer to it", row.alive, seen.blocks),
                None => format!("blocks refer to {key}, which has no row"),
            };
            let Seen { blocks: alive, end, .. } = seen;
            let counted = row.map(|row| row.alive);
            let row = row.unwrap_or(PayloadRow { key, alive, len: end, writer: Writer::Nobody });
            let row = PayloadRow { alive, len: row.len.max(end), ..row };
            let repair = self.recount(row, counted, garbage.get(&key)).await?;
            self.find(Finding { repair, ..Finding::new(Kind::UnbalancedPayload, detail) });
        }
        Ok(())
    }

    /// Every open upload has its object, and every object that is being uploaded its upload.
    async fn uploads(&mut self, rows: &HashMap<PayloadKey, PayloadRow>) -> Result<()> {
        let uploading = rows.values().filter(|row| row.writer == Writer::Upload).map(|row| row.key);
        let mut objects: HashSet<_> = uploading.collect();
        let mut after = String::new();
        loop {
            let page = self.stores.metadata.uploads(&after, PAGE).await?;
            for upload in &page {
                if let UploadState::Open { object, .. } = upload.state
                    && !objects.remove(&PayloadKey::Object(object))
                {
                    let detail = format!("upload '{}' has no row of its object {object}", upload.id);
                    self.find(Finding::new(Kind::OrphanedUpload, detail));
                }
            }
            match page.last() {
                Some(upload) if page.len() == PAGE => upload.id.as_str().clone_into(&mut after),
                _ => break,
            }
        }
        for key in objects {
            self.find(Finding::new(Kind::OrphanedUpload, format!("{key} belongs to an upload that is no more")));
        }
        Ok(())
    }
}
