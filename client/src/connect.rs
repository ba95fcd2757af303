use std::time::Duration;

use http::Uri;
use tonic::transport::Endpoint;

use crate::{Backoff, Client, Result, channels::Channels};

/// HTTP/2 windows: large enough for large messages at full speed.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Largest HTTP/2 frame taken: each costs as much, whatever its size.
const FRAME_MAX: u32 = 256 << 10;

/// How to reach a broker.
#[derive(Clone, Debug)]
pub struct Connect {
    pub(crate) address: String,
    pub(crate) backoff: Backoff,
    pub(crate) attempts: u32,
    connect_timeout: Duration,
}

impl Connect {
    /// To the broker at an address, or to brokers at several:
    ///
    /// | address | calls go to |
    /// |---|---|
    /// | `http://127.0.0.1:50051`, `127.0.0.1:50051` | this broker, or whoever a load balancer behind the name chooses, over one connection |
    /// | `dns:///brokers.shop:50051` | all addresses of the name in turn, over one connection each |
    /// | `10.0.0.1:50051,10.0.0.2:50051` | each of them in turn; parts can be of all three kinds |
    ///
    /// Each call, and each stream that is opened, takes the next address; a stream stays with its own until it ends. Addresses
    /// that do not answer are passed over until they do. Names are looked up again every 30 s and when a connection
    /// breaks; at most 64 addresses are used.
    pub fn to(address: impl Into<String>) -> Self {
        let address = address.into();
        Self { address, backoff: Backoff::default(), attempts: 5, connect_timeout: Duration::from_secs(5) }
    }

    /// Waits between attempts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How often a call that can be repeated is tried in all (at least once).
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Connects: to one broker at least, if there are several.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the address is none, [`Error::Unavailable`](crate::Error::Unavailable) if
    /// nobody answers there, or a name stands for no address.
    pub async fn connect(self) -> Result<Client> {
        let client = self.connect_lazy()?;
        let Self { backoff, attempts, .. } = client.connect;
        let mut failures = 0;
        while let Err(error) = client.channels.open().await {
            failures += 1;
            if failures >= attempts {
                return Err(error);
            }
            backoff.sleep(failures, None).await;
        }
        Ok(client)
    }

    /// A client that connects with its first call.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the address is none.
    pub fn connect_lazy(self) -> Result<Client> {
        Ok(Client { channels: Channels::new(self.clone())?, connect: self })
    }

    pub(crate) fn endpoint(&self, address: &Uri) -> Endpoint {
        Endpoint::from(address.clone())
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
    }
}
