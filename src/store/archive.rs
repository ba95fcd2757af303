//! What is done to stores as a whole, by their keeper and not by a broker at work: check and repair, backup and restore.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    MetadataStore, ObjectWriter, PayloadRow, PayloadStore, Stores,
    backup::{Head, Row},
};
use crate::{
    block::PayloadKey,
    error::{Error, Result},
};

/// Both stores, in the hands of their keeper.
#[derive(Clone)]
pub struct Archive {
    /// Rows.
    pub metadata: Arc<dyn MetadataArchive>,
    /// Bytes, without a cache in front.
    pub payload: Arc<dyn PayloadArchive>,
}

impl Archive {
    /// The same stores, as a broker uses them.
    pub fn stores(&self) -> Stores {
        Stores { metadata: self.metadata.clone(), payload: self.payload.clone() }
    }

    /// Refuses if brokers are at work.
    ///
    /// # Errors
    /// [`Precondition`](Error::Precondition) with how many there are; if the store does not answer.
    pub async fn refuse_brokers(&self, deed: &str) -> Result<()> {
        match self.metadata.brokers().await? {
            0 => Ok(()),
            count => Err(Error::Precondition(format!(
                "{deed} needs the stores for itself, and {count} brokers work on them: stop them first; one that was \
                 killed counts until tarantool.liveness has passed"
            ))),
        }
    }
}

/// The rows of a store as a whole.
#[async_trait]
pub trait MetadataArchive: MetadataStore {
    /// All rows as of one moment. One at a time.
    ///
    /// # Errors
    /// [`Precondition`](Error::Precondition) if there is another.
    async fn view(&self) -> Result<Box<dyn View>>;

    /// The number of the backup whose restore is under way, or was interrupted.
    async fn restoring(&self) -> Result<Option<u64>>;

    /// Begins the restore of a backup, or goes on with it: until its end the store is closed to brokers.
    ///
    /// # Errors
    /// [`Precondition`](Error::Precondition) if the store is not empty, or brokers work on it.
    async fn begin_restore(&self, backup: u64) -> Result<()>;

    /// Writes rows of one kind, whether they are there already or not.
    ///
    /// # Errors
    /// [`Precondition`](Error::Precondition) if this is not the backup being restored.
    async fn restore(&self, backup: u64, rows: Vec<Row>) -> Result<()>;

    /// Opens the store, which goes on from where the backup was.
    ///
    /// # Errors
    /// As for [`restore`](Self::restore).
    async fn end_restore(&self, backup: u64, head: Head) -> Result<()>;

    /// How many brokers work on the store, as far as it knows; the caller is none of them.
    async fn brokers(&self) -> Result<u64>;

    /// Writes the row of a payload as it should be. `counted` is what its row said, if there was one.
    ///
    /// # Errors
    /// [`Precondition`](Error::Precondition) if brokers are at work, or the row says something else by now.
    async fn recount(&self, row: PayloadRow, counted: Option<u64>) -> Result<()>;
}

/// All rows of a store as of one moment, while others go on writing. As long as it is open, no bytes of payload are removed:
/// rows that it shows tell of them. It ends by itself when nobody speaks of it for a minute.
#[async_trait]
pub trait View: Send + Sync {
    /// How far the store had come.
    fn head(&self) -> Head;

    /// The next rows, kind by kind; none at the end.
    ///
    /// # Errors
    /// [`Precondition`](Error::Precondition) if the view is over, [`Exhausted`](Error::Exhausted) if too much changed
    /// meanwhile.
    async fn next(&mut self) -> Result<Vec<Row>>;

    /// Says that it is still in use.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    async fn keep(&self) -> Result<()>;

    /// Ends it.
    async fn close(self: Box<Self>) -> Result<()>;
}

/// The bytes of a store as a whole. What is kept or moved aside lies below `lost+found`, where nothing looks for payloads.
#[async_trait]
pub trait PayloadArchive: PayloadStore {
    /// Moves a segment or object aside, and never onto something else; gives where it is then. `None` if there is nothing
    /// that can be moved.
    ///
    /// # Errors
    /// As for [`append`](PayloadStore::append).
    async fn set_aside(&self, key: PayloadKey) -> Result<Option<String>>;

    /// Writes a segment or object that was backed up, over whatever is there.
    ///
    /// # Errors
    /// As for [`write_object`](PayloadStore::write_object).
    async fn restore(&self, key: PayloadKey) -> Result<Box<dyn ObjectWriter>>;

    /// Keeps bytes aside under a name; `None` if something of that name was kept before.
    ///
    /// # Errors
    /// As for [`write_object`](PayloadStore::write_object).
    async fn keep(&self, name: &str) -> Result<Option<Box<dyn ObjectWriter>>>;
}

/// Where things are moved aside.
pub const ASIDE: &str = "lost+found";

/// Names to try until one is free: the name itself, then with numbers.
pub(super) fn names(name: &str) -> impl Iterator<Item = String> + '_ {
    const NAMES_MAX: usize = 1000;
    let numbered = (1..NAMES_MAX).map(move |number| format!("{name}.{number}"));
    std::iter::once(name.to_owned()).chain(numbered)
}

/// All of those are taken.
pub(super) fn no_name(name: &str) -> Error {
    Error::unavailable(format!("'{ASIDE}/{name}' and all its numbered names are taken: move some of them elsewhere"))
}
