//! What is done to stores as a whole, by their keeper and not by a broker at work: check and repair, backup and restore.

use std::sync::Arc;

use async_trait::async_trait;

use super::{MetadataStore, ObjectWriter, PayloadRow, PayloadStore, Stores};
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
    /// How many brokers work on the store, as far as it knows; the caller is none of them.
    async fn brokers(&self) -> Result<u64>;

    /// Writes the row of a payload as it should be. `counted` is what its row said, if there was one.
    ///
    /// # Errors
    /// [`Precondition`](Error::Precondition) if brokers are at work, or the row says something else by now.
    async fn recount(&self, row: PayloadRow, counted: Option<u64>) -> Result<()>;
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
