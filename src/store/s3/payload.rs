use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use s3::Region;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    call::Call,
    client::{Client, MISSING_MIN},
    failure::Cause,
    keys::Keys,
    object::{ObjectUpload, joined},
    settings::Settings,
    text::{self, parse},
};
use crate::{
    block::PayloadKey,
    error::{Error, Result},
    metrics::Metrics,
    store::{ObjectWriter, PayloadStore, Synced},
};

/// Keys of one page of a listing, and of one deletion: S3 takes no more.
const PAGE: usize = 1000;

/// Most pages of a listing.
const PAGES_MAX: usize = 100_000;

/// Deletions of objects that look for unfinished uploads at a time.
const DELETIONS: usize = 8;

/// How long the answer to [`writable`](PayloadStore::writable) is good for.
const WRITABLE_FOR: Duration = Duration::from_secs(1);

/// A server that takes longer for that answer is not one to write to.
const WRITABLE_WITHIN: Duration = Duration::from_secs(2);

/// So many timeouts after a request was given up, the server is done with it.
const LATE_WRITES: u32 = 6;

/// Who asks for more room than there is comes back after this: it takes an operator.
const ROOM_AFTER: Duration = Duration::from_secs(60);

/// Numbers of the last segments that are remembered as written. Commits in flight are far fewer.
const SEGMENTS_MAX: usize = 4096;

/// The region whose name is not sent when a bucket is made.
const REGION_DEFAULT: &str = "us-east-1";

/// See the [module](super).
pub struct S3Payload {
    pub(super) client: Arc<Client>,
    pub(super) keys: Keys,
    settings: Settings,
    /// Parts of all objects under way.
    slots: Arc<Semaphore>,
    written: Mutex<BTreeSet<u64>>,
    writable: tokio::sync::Mutex<Option<(Instant, Result<()>)>>,
}

impl S3Payload {
    /// Looks for the bucket, makes it if the settings say so.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that cannot be, [`Error::Unavailable`] if the server cannot be reached, refuses the
    /// key, or has no such bucket.
    pub async fn connect(settings: Settings, metrics: Metrics) -> Result<Self> {
        settings.validate()?;
        let client = Arc::new(Client::new(&settings, metrics)?);
        let payload = Self {
            client,
            keys: Keys::below(&settings.prefix),
            slots: Arc::new(Semaphore::new(settings.parts)),
            settings,
            written: Mutex::default(),
            writable: tokio::sync::Mutex::default(),
        };
        match payload.client.call("", payload.look()).await {
            Err(failure) if failure.has_code("NoSuchBucket") && payload.settings.create_bucket => {
                payload.create_bucket().await?;
                payload.client.call("", payload.look()).await?;
            }
            other => {
                other?;
            }
        }
        Ok(payload)
    }

    /// Bytes of the largest object that can be stored.
    pub fn object_max(&self) -> u64 {
        self.settings.object_max()
    }

    /// A writer of an object of any name, which is not there yet.
    pub(super) fn writer(&self, name: &str) -> ObjectUpload {
        ObjectUpload::begin(self.client.clone(), self.slots.clone(), name, &self.settings)
    }

    /// Bytes that one request may ask for without taking more memory than a writer does.
    pub(super) fn piece(&self) -> u64 {
        self.settings.part_size
    }

    /// The cheapest request that needs the bucket and the right to list it.
    fn look(&self) -> Call {
        Call::List { prefix: self.settings.prefix.clone(), token: None, max: 1 }
    }

    async fn create_bucket(&self) -> Result<()> {
        let Settings { bucket, region, .. } = &self.settings;
        let region = (region != REGION_DEFAULT)
            .then(|| Region::Custom { region: region.clone(), endpoint: self.settings.url() });
        tracing::info!(bucket, "making the bucket, which is not there");
        match self.client.call("", Call::CreateBucket { region }).await {
            // Another replica was faster.
            Err(failure) if !failure.has_status(409) => Err(failure.into()),
            _ => Ok(()),
        }
    }

    /// Remembers that a segment is written; false if it was.
    fn is_first_write(&self, segment: u64) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = written.insert(segment);
        if written.len() > SEGMENTS_MAX {
            written.pop_first();
        }
        is_first
    }

    pub(super) async fn delete_named(&self, name: &str) -> Result<()> {
        match self.client.call(name, Call::Delete).await {
            Err(failure) if !failure.is_missing() => Err(failure.into()),
            _ => Ok(()),
        }
    }

    async fn delete_page(&self, keys: Vec<String>) -> Result<()> {
        let subject = self.client.subject("", &Call::DeleteMany { keys: Vec::new() });
        let reply = match self.client.call("", Call::DeleteMany { keys: keys.clone() }).await {
            Ok(reply) if reply.body.is_empty() => return Ok(()),
            Ok(reply) => reply,
            // Some servers only delete one at a time.
            Err(failure) if failure.has_status(405) || failure.has_status(501) => {
                let one = |key: String| async move { self.delete_named(&key).await };
                return stream::iter(keys.into_iter().map(one)).buffer_unordered(DELETIONS).try_collect().await;
            }
            Err(failure) => return Err(failure.into()),
        };
        let undeleted: text::Undeleted = parse(&subject, &reply.body)?;
        match undeleted.error.into_iter().find(|error| error.code != "NoSuchKey") {
            Some(text::Refused { key, code, message }) => {
                let message = message.unwrap_or_default();
                Err(Error::unavailable(format!("S3 {subject} failed for '{key}': {code} {message}")))
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl PayloadStore for S3Payload {
    async fn append(&self, segment: u64, bodies: Vec<Bytes>) -> Result<Option<u64>> {
        if !self.is_first_write(segment) {
            return Ok(None);
        }
        let body = joined(bodies);
        self.client.call(&self.keys.of(PayloadKey::Segment(segment)), Call::Put { body }).await?;
        Ok(Some(0))
    }

    async fn seal(&self, _segment: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    async fn write_object(&self, object: u64, from: &Synced) -> Result<Box<dyn ObjectWriter>> {
        let (client, slots, key) = (self.client.clone(), self.slots.clone(), self.keys.of(PayloadKey::Object(object)));
        let upload = ObjectUpload::resume(client, slots, &key, &self.settings, from).await?;
        Ok(Box::new(upload))
    }

    async fn read(&self, key: PayloadKey, offset: u64, len: u64) -> Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let Some(end) = offset.checked_add(len) else {
            return Err(Error::DataLoss(format!("{key}: no object has {len} bytes at {offset}")));
        };
        let name = self.keys.of(key);
        let failure = match self.client.call(&name, Call::Get { range: offset..end }).await {
            Ok(reply) => return Ok(reply.body),
            Err(failure) => failure,
        };
        let bucket = &self.settings.bucket;
        match &failure.cause {
            Cause::Beyond { .. } => Err(Error::DataLoss(format!("{key}: '{bucket}/{name}' ends before byte {end}"))),
            // Less often, it may be a server that is not itself.
            _ if failure.is_missing() && failure.denials >= MISSING_MIN => {
                Err(Error::DataLoss(format!("{key}: '{bucket}/{name}' is missing")))
            }
            _ => Err(failure.into()),
        }
    }

    async fn size(&self, key: PayloadKey) -> Result<Option<u64>> {
        self.client.size(&self.keys.of(key)).await
    }

    async fn delete(&self, key: PayloadKey) -> Result<()> {
        let name = self.keys.of(key);
        if matches!(key, PayloadKey::Object(_)) {
            // First: a writer that is late cannot complete one of them afterwards.
            self.client.abort_uploads(&name, None).await?;
        }
        self.delete_named(&name).await
    }

    async fn delete_many(&self, keys: &[PayloadKey]) -> Result<()> {
        let objects = keys.iter().filter(|key| matches!(key, PayloadKey::Object(_)));
        let names: Vec<String> = objects.map(|key| self.keys.of(*key)).collect();
        let abort = |name: String| async move { self.client.abort_uploads(&name, None).await };
        stream::iter(names.into_iter().map(abort)).buffer_unordered(DELETIONS).try_collect::<()>().await?;
        for page in keys.chunks(PAGE) {
            self.delete_page(page.iter().map(|key| self.keys.of(*key)).collect()).await?;
        }
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<PayloadKey>> {
        let mut found = BTreeSet::new();
        for prefix in self.keys.folders() {
            let mut token: Option<String> = None;
            for page in 0.. {
                if page == PAGES_MAX {
                    return Err(Error::unavailable(format!("S3 lists more than {} keys", PAGE * PAGES_MAX)));
                }
                let call = Call::List { prefix: prefix.clone(), token: token.clone(), max: PAGE };
                let subject = self.client.subject("", &call);
                let page: text::Keys = parse(&subject, &self.client.call("", call).await?.body)?;
                found.extend(page.contents.iter().filter_map(|found| self.keys.parse(&found.key)));
                match page.next_continuation_token {
                    Some(next) if !next.is_empty() && token.as_ref() != Some(&next) => token = Some(next),
                    _ => break,
                }
            }
        }
        // Uploads under way have no key yet. Servers that list them by whole keys only do not tell of them.
        let uploads = self.client.uploads_below(&self.keys.folders()[1]).await?;
        found.extend(uploads.iter().filter_map(|upload| self.keys.parse(&upload.key)));
        Ok(found.into_iter().collect())
    }

    /// A bucket does not tell how much it takes; objects are limited by their parts.
    async fn room(&self, bytes: u64) -> Result<()> {
        let max = self.object_max();
        if bytes > max {
            let what = format!("{bytes} bytes are more than the {max} that an object can have: raise s3.part_size");
            return Err(Error::Exhausted { what, retry_after: ROOM_AFTER });
        }
        Ok(())
    }

    async fn writable(&self) -> Result<()> {
        // Held meanwhile: one request answers all who ask.
        let mut known = self.writable.lock().await;
        if let Some((since, answer)) = &*known
            && since.elapsed() < WRITABLE_FOR
        {
            return answer.clone();
        }
        let look = Arc::new(self.look());
        let answer = match timeout(WRITABLE_WITHIN, self.client.attempt("", &look)).await {
            Ok(answer) => answer.map(drop).map_err(Error::from),
            Err(_) => Err(Error::unavailable(format!("S3 did not list its bucket within {WRITABLE_WITHIN:?}"))),
        };
        *known = Some((Instant::now(), answer.clone()));
        answer
    }

    fn sync_step(&self) -> u64 {
        self.settings.part_size
    }

    fn late_writes(&self) -> Duration {
        LATE_WRITES * self.settings.timeout
    }
}
