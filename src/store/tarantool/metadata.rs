use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, de::DeserializeOwned};
use serde_bytes::{ByteBuf, Bytes};

use super::{
    TarantoolMetadata,
    answers::{Books, GarbageRow, PayloadTuple, PositionRow, UploadRow},
    changes::read_raised,
    link::Link,
    source,
    wire::{self, BlockOut},
};
use crate::{
    block::{PayloadKey, ScanLimits, StreamScan, letter},
    error::{Error, Result},
    store::{
        Ack, BlockScan, Committed, ConsumerChange, ConsumerView, Due, Expired, Garbage, Group, MetadataStore, Move,
        NewConsumer, NewUpload, PayloadRow, Purged, Saved, SubjectRow, Upload, Usage,
    },
    types::{ConsumerName, DurableName, Subject, SubjectFilter, Timestamp, UploadId},
};

/// Rows of one answer; what is longer comes in several.
const PAGE: usize = 1_000;

/// Attempts to move a message that changes meanwhile.
const MOVES_MAX: usize = 5;

#[derive(Deserialize)]
struct SubjectsAnswer {
    rows: Vec<Books>,
    is_cut: bool,
    at: String,
}

#[derive(Deserialize)]
struct PurgedAnswer(u64, bool);

#[derive(Deserialize)]
struct ExpiredAnswer(usize, u64);

#[derive(Deserialize)]
struct DueAnswer(bool, Vec<(String, u64)>);

/// All rows up to a limit, from after a key on, a page at a time.
async fn paged<K, R, T>(
    link: &Link,
    limit: usize,
    mut after: K,
    function: &str,
    arguments: impl Fn(&K, u64) -> ByteBuf,
    read: impl Fn(R) -> Result<(T, K)>,
) -> Result<Vec<T>>
where
    R: DeserializeOwned,
{
    let mut found = Vec::new();
    while found.len() < limit {
        let most = PAGE.min(limit - found.len());
        let rows: Vec<R> = link.call_written(function, arguments(&after, wire::limit(most))).await?;
        let is_end = rows.len() < most;
        for row in rows {
            let (item, key) = read(row)?;
            found.push(item);
            after = key;
        }
        if is_end {
            break;
        }
    }
    Ok(found)
}

/// How long one who leads a task does so without a word.
const LEAD_FOR: Duration = Duration::from_secs(5);

#[async_trait]
impl MetadataStore for TarantoolMetadata {
    async fn commit(&self, group: Group) -> Result<Committed> {
        self.commit_group(group).await
    }

    async fn subject(&self, subject: &Subject) -> Result<Option<SubjectRow>> {
        source::subject(&self.link, subject).await
    }

    async fn subjects(&self, filter: &SubjectFilter, after: &str, limit: usize) -> Result<Vec<SubjectRow>> {
        let (mut found, mut after) = (Vec::new(), after.to_owned());
        while found.len() < limit {
            let most = wire::limit(PAGE.min(limit - found.len()));
            let answer: SubjectsAnswer = self.link.call("subject_list", &(filter.as_str(), &after, most)).await?;
            let is_full = answer.rows.len() as u64 == most;
            for row in answer.rows {
                found.push(row.read()?);
            }
            if !answer.is_cut && !is_full {
                break;
            }
            after = answer.at;
        }
        Ok(found)
    }

    async fn blocks(&self, subject: &Subject, from: u64, blocks_max: usize, bytes_max: u64) -> Result<BlockScan> {
        source::blocks(&self.link, subject, from, blocks_max, bytes_max).await
    }

    async fn stream(&self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
        source::scan(&self.link, filter, from, limits).await
    }

    async fn stream_at(&self, filter: &SubjectFilter, time: Timestamp) -> Result<u64> {
        source::at(&self.link, filter, time).await
    }

    async fn create_consumer(&self, new: NewConsumer) -> Result<ConsumerView> {
        self.make_consumer(new).await
    }

    async fn consumer(&self, name: &ConsumerName) -> Result<Option<ConsumerView>> {
        self.view_consumer(name).await
    }

    async fn consumers(&self, after: &str, limit: usize) -> Result<Vec<ConsumerView>> {
        let names = paged(
            &self.link,
            limit,
            after.to_owned(),
            "consumer_names",
            |after, most| wire::written(&(after, most)),
            |name: String| Ok((name.clone(), name)),
        );
        let mut views = Vec::new();
        for name in names.await? {
            let name = ConsumerName::parse("name", &name)
                .map_err(|_| super::answers::unreadable("consumers", format_args!("{name}")))?;
            views.extend(self.view_consumer(&name).await?);
        }
        Ok(views)
    }

    async fn change_consumer(&self, name: &ConsumerName, change: ConsumerChange) -> Result<ConsumerView> {
        self.alter_consumer(name, change).await
    }

    async fn move_message(&self, message: Move, now: Timestamp) -> Result<Option<u64>> {
        let Move { from, sequence, to, expires } = &message;
        let mut outcome = Ok(None);
        for _ in 0..MOVES_MAX {
            let scan = source::blocks(&self.link, from, *sequence, 1, 0).await?;
            let block = match scan.blocks.into_iter().next() {
                Some(block) if block.first == *sequence && block.count == 1 => block,
                _ => return Ok(None),
            };
            let Some(reference) = letter::restore(&block, now, *expires) else {
                return Ok(None);
            };
            let new = BlockOut::reference(to, reference, now, *expires);
            let seen = wire::encode(&block.placement);
            let moved: Result<u64> =
                self.link.call("letter_move", &(self.link.id(), from.as_str(), sequence, seen, new, now.0)).await;
            outcome = match moved {
                Ok(first) => return Ok((first != 0).then_some(first)),
                Err(error @ Error::Conflict(_)) => Err(error),
                Err(error) => return Err(error),
            };
        }
        outcome
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        let (due,): (Option<u64>,) = self.link.call("schedule_next", &[(); 0]).await?;
        Ok(due.map(Timestamp))
    }

    async fn deliver_due(&self, now: Timestamp, limit: usize) -> Result<Due> {
        let arguments = (self.link.id(), now.0, wire::limit(limit));
        let DueAnswer(more, raised) = self.link.call("schedule_deliver", &arguments).await?;
        Ok(Due { raised: read_raised(raised)?, more })
    }

    async fn position(&self, durable: &DurableName, subject: &Subject) -> Result<u64> {
        self.link.call("position_get", &(durable.as_str(), subject.as_str())).await
    }

    async fn positions(&self, after: Option<&(DurableName, Subject)>, limit: usize) -> Result<Vec<Ack>> {
        let after = after.map(|(durable, subject)| vec![durable.to_string(), subject.to_string()]);
        let read = |row: PositionRow| {
            let ack = row.read()?;
            let key = vec![ack.durable.to_string(), ack.subject.to_string()];
            Ok((ack, key))
        };
        let arguments = |after: &Vec<String>, most| wire::written(&(after, most));
        paged(&self.link, limit, after.unwrap_or_default(), "position_list", arguments, read).await
    }

    async fn purge(&self, subject: &Subject, up_to: u64, blocks_max: usize, now: Timestamp) -> Result<Purged> {
        let arguments = (self.link.id(), subject.as_str(), wire::limit(up_to), wire::limit(blocks_max), now.0);
        let PurgedAnswer(messages, done) = self.link.call("retention_purge", &arguments).await?;
        Ok(Purged { messages, done })
    }

    async fn expire(&self, now: Timestamp, blocks_max: usize) -> Result<Expired> {
        let arguments = (self.link.id(), now.0, wire::limit(blocks_max));
        let ExpiredAnswer(blocks, messages) = self.link.call("retention_expire", &arguments).await?;
        Ok(Expired { blocks, messages })
    }

    async fn forget_ids(&self, now: Timestamp, limit: usize) -> Result<usize> {
        self.link.call("id_forget", &(self.link.id(), now.0, wire::limit(limit))).await
    }

    async fn open_payload(&self, kind: fn(u64) -> PayloadKey) -> Result<PayloadKey> {
        let number = self.link.call("payload_open", &(self.link.id(), wire::kind(kind(0)))).await?;
        Ok(kind(number))
    }

    async fn seal_payload(&self, key: PayloadKey, now: Timestamp) -> Result<()> {
        self.link.call::<bool>("payload_seal", &(self.link.id(), key.number(), now.0)).await.map(drop)
    }

    async fn begin_upload(&self, new: NewUpload) -> Result<Upload> {
        let NewUpload { id, header, now, deadline, uploads_max } = &new;
        let most = wire::limit(*uploads_max);
        let arguments = (self.link.id(), id.as_str(), Bytes::new(header), now.0, deadline.0, most);
        self.link.call::<UploadRow>("upload_begin", &arguments).await?.read()
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>> {
        let (row,): (Option<UploadRow>,) = self.link.call("upload_read", &(id.as_str(),)).await?;
        row.map(UploadRow::read).transpose()
    }

    async fn uploads(&self, after: &str, limit: usize) -> Result<Vec<Upload>> {
        let read = |row: UploadRow| {
            let upload = row.read()?;
            let key = upload.id.to_string();
            Ok((upload, key))
        };
        let arguments = |after: &String, most| wire::written(&(after, most));
        paged(&self.link, limit, after.to_owned(), "upload_list", arguments, read).await
    }

    async fn save_upload(&self, id: &UploadId, epoch: u64, saved: Saved, deadline: Timestamp) -> Result<()> {
        let (tally, receipt) = (Bytes::new(&saved.tally), Bytes::new(&saved.receipt));
        let arguments = (self.link.id(), id.as_str(), epoch, saved.offset, tally, receipt, deadline.0);
        self.link.call::<bool>("upload_save", &arguments).await.map(drop)
    }

    async fn abandon_upload(&self, id: &UploadId, epoch: Option<u64>, now: Timestamp) -> Result<bool> {
        self.link.call("upload_abandon", &(self.link.id(), id.as_str(), epoch, now.0)).await
    }

    async fn expire_uploads(&self, now: Timestamp, limit: usize) -> Result<usize> {
        self.link.call("upload_expire", &(self.link.id(), now.0, wire::limit(limit))).await
    }

    async fn payloads(&self, after: u64, limit: usize) -> Result<Vec<PayloadRow>> {
        let read = |row: PayloadTuple| {
            let row = row.read()?;
            Ok((row, row.key.number()))
        };
        let arguments = |after: &u64, most| wire::written(&(after, most));
        paged(&self.link, limit, after, "payload_list", arguments, read).await
    }

    async fn garbage(&self, before: Timestamp, limit: usize) -> Result<Vec<Garbage>> {
        let read = |row: GarbageRow| {
            let garbage = row.read()?;
            Ok((garbage, vec![garbage.since.0, garbage.key.number()]))
        };
        let arguments = |after: &Vec<u64>, most| wire::written(&(wire::limit(before.0), after, most));
        paged(&self.link, limit, Vec::new(), "payload_garbage", arguments, read).await
    }

    async fn forget_garbage(&self, removed: &[Garbage]) -> Result<()> {
        for some in removed.chunks(PAGE) {
            let keys: Vec<_> = some.iter().map(|garbage| (garbage.since.0, garbage.key.number())).collect();
            self.link.call::<bool>("payload_forget", &(self.link.id(), keys)).await?;
        }
        Ok(())
    }

    async fn is_held(&self) -> Result<bool> {
        self.link.call("view_holds", &[(); 0]).await
    }

    async fn writable(&self) -> Result<()> {
        self.link.call::<bool>("memory_check", &[(); 0]).await.map(drop)
    }

    async fn usage(&self) -> Result<Option<Usage>> {
        let (used, limit) = self.link.call("memory_usage", &[(); 0]).await?;
        Ok(Some(Usage { used, limit }))
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn leads(&self, task: &str) -> Result<bool> {
        Ok(self.acquire_lease(task, &self.owner, LEAD_FOR).await?.is_some())
    }
}
