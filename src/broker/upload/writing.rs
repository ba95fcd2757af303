//! Bytes on their way into an object: hashed and written side by side, made durable stretch by stretch.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::{
    admission::Permit,
    block::object::Tally,
    broker::Broker,
    error::{Error, Result},
    store::{ObjectWriter, Saved, Synced},
    types::{UploadId, Uploaded},
};

/// An upload is saved each time so many bytes were written.
const SAVE_EVERY: u64 = 32 << 20;

/// An object that is being written.
pub(super) struct Writing {
    broker: Broker,
    id: UploadId,
    epoch: u64,
    object: u64,
    /// Bytes handed over so far.
    len: u64,
    /// Bytes in what was saved last, or is being saved.
    saved: u64,
    /// `None` while a piece is being written.
    idle: Option<Idle>,
    /// The piece that is being written.
    busy: Option<JoinHandle<Result<Idle>>>,
    /// The saving that is under way.
    saving: Option<JoinHandle<Result<()>>>,
    /// Tallies at the places where the object may turn out to be durable.
    tallies: VecDeque<(u64, Bytes)>,
}

struct Idle {
    writer: Box<dyn ObjectWriter>,
    tally: Tally,
}

impl Writing {
    /// Begins an object, or goes on where it was saved.
    pub(super) async fn open(broker: &Broker, id: &UploadId, epoch: u64, object: u64, saved: Saved) -> Result<Self> {
        let tally = match saved.offset {
            0 => Tally::default(),
            _ => Tally::decode(&saved.tally).filter(|tally| tally.len() == saved.offset).ok_or_else(|| {
                Error::DataLoss(format!("what was saved of upload '{id}' cannot be read: abort it, and begin anew"))
            })?,
        };
        let synced = Synced { offset: saved.offset, receipt: saved.receipt };
        let writer = broker.stores.payload.write_object(object, &synced).await?;
        Ok(Self {
            broker: broker.clone(),
            id: id.clone(),
            epoch,
            object,
            len: saved.offset,
            saved: saved.offset,
            tallies: VecDeque::from([(saved.offset, saved.tally)]),
            idle: Some(Idle { writer, tally }),
            busy: None,
            saving: None,
        })
    }

    /// Bytes handed over so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes a piece once the one before is written. Its permit is given back when it is.
    pub(super) async fn write(&mut self, data: Vec<Bytes>, permits: Vec<Permit>) -> Result<()> {
        let mut idle = self.idle().await?;
        self.mark(&mut idle).await?;
        self.len += data.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.busy = Some(tokio::spawn(async move {
            let Idle { mut writer, mut tally } = idle;
            let hashed = data.clone();
            let hashing = tokio::task::spawn_blocking(move || {
                hashed.iter().for_each(|piece| tally.update(piece));
                tally
            });
            let (written, tally) = tokio::join!(writer.write(data), hashing);
            written?;
            drop(permits);
            Ok(Idle { writer, tally: tally.map_err(|_| Error::outcome_unknown())? })
        }));
        Ok(())
    }

    /// Waits for the piece that is being written.
    async fn idle(&mut self) -> Result<Idle> {
        if let Some(busy) = self.busy.take() {
            self.idle = Some(busy.await.map_err(|_| Error::outcome_unknown())??);
        }
        self.idle.take().ok_or_else(|| Error::unavailable(format!("writing upload '{}' failed before", self.id)))
    }

    /// Remembers the tally where it will be needed, and begins to save when enough was written.
    async fn mark(&mut self, idle: &mut Idle) -> Result<()> {
        let at = idle.tally.len();
        let step = idle.writer.sync_step();
        let is_due = at - self.saved >= SAVE_EVERY && at.is_multiple_of(step);
        if is_due || (step > 1 && at.is_multiple_of(step)) {
            self.remember(at, &idle.tally);
        }
        if is_due {
            self.save(idle, at).await?;
        }
        Ok(())
    }

    fn remember(&mut self, at: u64, tally: &Tally) {
        if self.tallies.back().is_none_or(|(last, _)| *last < at) {
            self.tallies.push_back((at, tally.encode()));
        }
    }

    /// Begins to make durable what was written, and to say so in the row. One saving at a time.
    async fn save(&mut self, idle: &mut Idle, at: u64) -> Result<()> {
        self.saved_before().await?;
        let syncing = idle.writer.sync();
        let (broker, id, epoch) = (self.broker.clone(), self.id.clone(), self.epoch);
        let tallies = self.tallies.clone();
        // Those of places before the last one saved are not needed again; this one may be, should the next saving fail.
        while self.tallies.len() > 1 && self.tallies.front().is_some_and(|(offset, _)| *offset < self.saved) {
            self.tallies.pop_front();
        }
        self.saved = at;
        self.saving = Some(tokio::spawn(async move {
            let Synced { offset, receipt } = syncing.await?;
            let tally = tallies.into_iter().find(|(at, _)| *at == offset).map(|(_, tally)| tally);
            let tally = tally.ok_or_else(|| Error::unavailable("the payload store synced to an unknown place"))?;
            let deadline = broker.clock.now().after(broker.config.upload_retention);
            broker.stores.metadata.save_upload(&id, epoch, Saved { offset, tally, receipt }, deadline).await
        }));
        Ok(())
    }

    /// Waits for the saving that is under way.
    async fn saved_before(&mut self) -> Result<()> {
        match self.saving.take() {
            Some(saving) => saving.await.map_err(|_| Error::outcome_unknown())?,
            None => Ok(()),
        }
    }

    /// Saves all that was written, for somebody to go on with it.
    pub(super) async fn interrupt(&mut self) -> Result<u64> {
        let mut idle = self.idle().await?;
        let at = idle.tally.len();
        self.remember(at, &idle.tally);
        self.save(&mut idle, at).await?;
        self.saved_before().await?;
        Ok(at)
    }

    /// Waits until all is written, and tells what it is.
    pub(super) async fn tally(&mut self) -> Result<Uploaded> {
        let idle = self.idle().await?;
        let (size, sha256, part_crcs) = (idle.tally.len(), idle.tally.sha256(), idle.tally.part_crcs());
        self.idle = Some(idle);
        Ok(Uploaded { object: self.object, size, sha256, part_crcs })
    }

    /// Makes the object whole and durable.
    pub(super) async fn finish(&mut self) -> Result<()> {
        let idle = self.idle().await?;
        self.saved_before().await?;
        idle.writer.finish().await
    }

    /// Lets what is under way end, for at most so long: nobody may write when another one goes on.
    pub(super) async fn stop(&mut self, patience: Duration) {
        let _ = tokio::time::timeout(patience, async {
            if let Some(busy) = self.busy.take() {
                let _ = busy.await;
            }
            let _ = self.saved_before().await;
        })
        .await;
    }
}
