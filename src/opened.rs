//! The stores that a configuration names, for a broker or for their keeper.

use crate::{
    config::Config,
    error::{Error, Result},
    metrics::Metrics,
    store::{
        Archive, Stores,
        embedded::{Embedded, Limits},
        shared::{self, Shared, Waits},
    },
};

/// Stores that are open.
pub(crate) enum Opened {
    /// On this machine, for this broker alone.
    Embedded(Embedded),
    /// For as many brokers as there are.
    Shared(Shared),
}

impl Opened {
    /// Opens the embedded stores, or connects to the shared ones and waits for them; `waits` tells why meanwhile.
    ///
    /// # Errors
    /// If the data directory is in use, cannot be written or read; if a shared store refuses the broker.
    pub(crate) async fn open(config: &Config, metrics: &Metrics, waits: &Waits) -> Result<Self> {
        if let Some(shared) = config.shared() {
            return Ok(Self::Shared(Shared::connect(shared, metrics, waits).await?));
        }
        let quota = if config.quota.0 == 0 { u64::MAX } else { config.quota.0 };
        let limits = Limits { free_min: config.free_min.0, quota };
        Ok(Self::Embedded(Embedded::open(&config.data_dir, limits).await?))
    }

    pub(crate) fn stores(&self) -> Stores {
        match self {
            Self::Embedded(embedded) => embedded.stores.clone(),
            Self::Shared(shared) => shared.stores.clone(),
        }
    }

    /// Tells other brokers that this one ends: what its workers had is theirs at once.
    pub(crate) async fn leave(&self) {
        if let Self::Shared(shared) = self
            && let Err(error) = shared.metadata.leave().await
        {
            tracing::warn!(%error, "other brokers learn of this one's end by its silence");
        }
    }
}

/// Stores in the hands of their keeper: checked, repaired, backed up or restored.
pub struct Kept {
    /// The stores.
    pub archive: Archive,
    /// Holds the lock of the data directory, if they are embedded.
    _embedded: Option<Embedded>,
}

impl Kept {
    /// Opens the stores that a configuration names, without its limits.
    ///
    /// # Errors
    /// If the data directory is in use, cannot be written or read; if a shared store does not answer or refuses.
    pub async fn open(config: &Config) -> Result<Self> {
        match config.shared() {
            Some(settings) => Self::connect(settings).await,
            None => Ok(Self::of(Embedded::open(&config.data_dir, Limits::default()).await?)),
        }
    }

    /// The same, to restore a backup into them: a data directory is made, and may be one whose restore was interrupted.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_to_restore(config: &Config) -> Result<Self> {
        match config.shared() {
            Some(settings) => Self::connect(settings).await,
            None => Ok(Self::of(Embedded::open_to_restore(&config.data_dir, Limits::default()).await?)),
        }
    }

    async fn connect(settings: shared::Settings) -> Result<Self> {
        let metrics = Metrics::new(0).map_err(|error| Error::unavailable(error.to_string()))?;
        Ok(Self { archive: shared::archive(settings, &metrics).await?, _embedded: None })
    }

    fn of(embedded: Embedded) -> Self {
        Self { archive: embedded.archive.clone(), _embedded: Some(embedded) }
    }
}
