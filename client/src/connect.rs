use std::time::Duration;

use tonic::transport::Endpoint;

use crate::{Backoff, Client, Error, Result};

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
    /// To the broker at an address such as `http://127.0.0.1:50051`; without a scheme, `http://` is meant.
    pub fn to(address: impl Into<String>) -> Self {
        let mut address = address.into();
        if !address.contains("://") {
            address.insert_str(0, "http://");
        }
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

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the address is none, [`Error::Unavailable`] if nobody answers there.
    pub async fn connect(self) -> Result<Client> {
        let endpoint = self.endpoint()?;
        let mut failures = 0;
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) => {
                    failures += 1;
                    if failures >= self.attempts {
                        let address = &self.address;
                        return Err(Error::unavailable(format!(
                            "no broker answers at {address} ({}): start one with 'minitoolstream serve', or give another \
                             address",
                            source(&error)
                        )));
                    }
                    self.backoff.sleep(failures, None).await;
                }
            }
        };
        Ok(Client { channel, connect: self })
    }

    /// A client that connects with its first call.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the address is none.
    pub fn connect_lazy(self) -> Result<Client> {
        Ok(Client { channel: self.endpoint()?.connect_lazy(), connect: self })
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        let endpoint = Endpoint::from_shared(self.address.clone()).map_err(|error| {
            Error::Invalid(format!(
                "'{}' is no address ({error}): give one such as http://127.0.0.1:50051",
                self.address
            ))
        })?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20)))
    }
}

/// The innermost cause of an error: what the transport wraps it in says nothing to a user.
fn source(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
