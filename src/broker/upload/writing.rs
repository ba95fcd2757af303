//! Bytes on their way into an object. A task of its own hashes and writes piece by piece while the next ones come, and makes
//! them durable stretch by stretch.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::session::WRITE;
use crate::{
    admission::Permit,
    block::object::Tally,
    broker::Broker,
    error::{Error, Result},
    store::{ObjectWriter, Saved, Synced},
    types::{Timestamp, UploadId, Uploaded},
};

/// An upload is saved each time so many bytes were written.
const SAVE_EVERY: u64 = 32 << 20;

/// Pieces that wait to be written, besides the one that is.
const PIECES_MAX: usize = 1;

/// An object that is being written.
pub(super) struct Writing {
    orders: mpsc::Sender<Order>,
    /// `None` once its end was seen.
    task: Option<JoinHandle<Result<()>>>,
    /// Bytes handed over so far.
    len: u64,
}

/// What the task is to do, in order.
enum Order {
    Write(Vec<Bytes>, Permit),
    /// Save everything, and end; tell how much that is.
    Interrupt(oneshot::Sender<u64>),
    /// Tell what all bytes are.
    Tally(oneshot::Sender<Uploaded>),
    /// Make the object whole and durable, and end.
    Finish,
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
        let worker = Worker {
            broker: broker.clone(),
            id: id.clone(),
            epoch,
            object,
            tallies: VecDeque::from([(saved.offset, saved.tally)]),
            saved: saved.offset,
            save_by: save_by(broker),
            writer,
            tally,
            saving: None,
        };
        let (orders, waiting) = mpsc::channel(PIECES_MAX);
        Ok(Self { orders, task: Some(tokio::spawn(worker.run(waiting))), len: saved.offset })
    }

    /// Bytes handed over so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Hands a piece over, once there is room for it. Its permit is given back when it is written.
    pub(super) async fn write(&mut self, data: Vec<Bytes>, permit: Permit) -> Result<()> {
        self.len += data.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.order(Order::Write(data, permit)).await
    }

    /// Saves all that was written, for somebody to go on with it.
    pub(super) async fn interrupt(&mut self) -> Result<u64> {
        let (reply, at) = oneshot::channel();
        self.order(Order::Interrupt(reply)).await?;
        match at.await {
            Ok(at) => Ok(at),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Waits until all is written, and tells what it is.
    pub(super) async fn tally(&mut self) -> Result<Uploaded> {
        let (reply, tally) = oneshot::channel();
        self.order(Order::Tally(reply)).await?;
        match tally.await {
            Ok(uploaded) => Ok(uploaded),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Makes the object whole and durable.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.order(Order::Finish).await?;
        match self.task.take() {
            Some(task) => task.await.map_err(|_| Error::outcome_unknown())?,
            None => Err(Error::outcome_unknown()),
        }
    }

    /// Lets what is under way end, for at most so long: nobody may write when another one goes on.
    pub(super) async fn stop(&mut self, patience: Duration) {
        // Without orders the task ends.
        self.orders = mpsc::channel(1).0;
        if let Some(task) = self.task.take() {
            let _ = tokio::time::timeout(patience, task).await;
        }
    }

    async fn order(&mut self, order: Order) -> Result<()> {
        match self.orders.send(order).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Why the task ended.
    async fn failure(&mut self) -> Error {
        let ended = match self.task.take() {
            Some(task) => task.await,
            None => Ok(Ok(())),
        };
        match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => {
                Error::unavailable("the upload was not written: continue it where it was saved last")
            }
        }
    }
}

/// In good time before an upload that was saved now ends.
fn save_by(broker: &Broker) -> Timestamp {
    broker.clock.now().after(broker.config.upload_retention / 3)
}

/// The task's side.
struct Worker {
    broker: Broker,
    id: UploadId,
    epoch: u64,
    object: u64,
    writer: Box<dyn ObjectWriter>,
    tally: Tally,
    /// Bytes in what was saved last, or is being saved.
    saved: u64,
    /// When to save at the latest: each saving puts off the end of the upload.
    save_by: Timestamp,
    /// The saving that is under way.
    saving: Option<JoinHandle<Result<()>>>,
    /// Tallies at the places where the object may turn out to be durable.
    tallies: VecDeque<(u64, Bytes)>,
}

impl Worker {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<()> {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Write(data, permit) => {
                    self.write(data).await?;
                    drop(permit);
                    self.mark().await?;
                }
                Order::Tally(reply) => {
                    let (size, sha256, part_crcs) = (self.tally.len(), self.tally.sha256(), self.tally.part_crcs());
                    let (object, epoch) = (self.object, self.epoch);
                    let _ = reply.send(Uploaded { object, epoch, size, sha256, part_crcs });
                }
                Order::Interrupt(reply) => {
                    self.remember();
                    self.save().await?;
                    self.saved_before().await?;
                    let _ = reply.send(self.tally.len());
                    return Ok(());
                }
                Order::Finish => {
                    self.saved_before().await?;
                    return self.writer.finish().await;
                }
            }
        }
        self.saved_before().await
    }

    async fn write(&mut self, data: Vec<Bytes>) -> Result<()> {
        // Never closed.
        let _turn = self.broker.uploads.pieces.acquire().await;
        let (hashed, mut tally) = (data.clone(), std::mem::take(&mut self.tally));
        let hashing = tokio::task::spawn_blocking(move || {
            hashed.iter().for_each(|piece| tally.update(piece));
            tally
        });
        let (written, tally) = tokio::join!(self.writer.write(data), hashing);
        self.tally = tally.map_err(|_| Error::outcome_unknown())?;
        written
    }

    /// Remembers the tally where it will be needed, and begins to save when enough was written.
    async fn mark(&mut self) -> Result<()> {
        let (at, step) = (self.tally.len(), self.writer.sync_step());
        let is_time = at - self.saved >= SAVE_EVERY || (at > self.saved && self.broker.clock.now() >= self.save_by);
        // What is being saved must not be written to meanwhile: writes begin anew at these boundaries.
        let is_due = is_time && at.is_multiple_of(step.max(WRITE as u64));
        if is_due || (step > 1 && at.is_multiple_of(step)) {
            self.remember();
        }
        if is_due { self.save().await } else { Ok(()) }
    }

    fn remember(&mut self) {
        let at = self.tally.len();
        if self.tallies.back().is_none_or(|(last, _)| *last < at) {
            self.tallies.push_back((at, self.tally.encode()));
        }
    }

    /// Begins to make durable what was written, and to say so in the row. One saving at a time.
    async fn save(&mut self) -> Result<()> {
        self.saved_before().await?;
        let syncing = self.writer.sync();
        let (broker, id, epoch, tallies) = (self.broker.clone(), self.id.clone(), self.epoch, self.tallies.clone());
        // Those of places before the last one saved are not needed again.
        while self.tallies.len() > 1 && self.tallies.front().is_some_and(|(offset, _)| *offset < self.saved) {
            self.tallies.pop_front();
        }
        self.saved = self.tally.len();
        self.save_by = save_by(&self.broker);
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
}
