//! Calls, spread over brokers.
//!
//! ```text
//! call ─▶ whose turn is it? ─▶ channel of one address ─▶ broker
//!              ▲                        │ breaks
//!   names, looked up again ─────────────┴─▶ passed over, until a connection is open again
//! ```
//! With one address a call that finds its connection broken opens it again. With several, a task does, and calls go to the
//! others meanwhile.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{poll_fn, select_ok};
use http::{Request, Response, Uri};
use tokio::{sync::Notify, time::sleep};
use tonic::{Status, body::Body, transport::Channel};
use tower_service::Service;

use crate::{
    Connect, Error, Result,
    rotation::{Rotation, Turn},
    target::Target,
};

/// How often names are looked up again: brokers come and go.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);

/// The shortest time between two look-ups, when connections break.
const LOOKUP_PAUSE: Duration = Duration::from_secs(1);

/// The channels of a client; cloning shares them. Each call goes to the broker whose turn it is, and a stream stays where it
/// was opened.
#[derive(Clone, Debug)]
pub(crate) struct Channels {
    shared: Arc<Shared>,
    /// Where calls go as long as it is one of the addresses.
    home: Option<Uri>,
}

#[derive(Debug)]
struct Shared {
    connect: Connect,
    target: Target,
    rotation: Mutex<Rotation<Channel>>,
    /// One looks names up for the first time, the others wait.
    first_lookup: tokio::sync::Mutex<()>,
    /// A connection broke: its broker may be gone for good.
    stale: Arc<Notify>,
}

/// The channel that a response came through.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    id: u64,
    address: Uri,
}

impl Via {
    pub(crate) fn of<T>(response: &tonic::Response<T>) -> Option<Self> {
        response.extensions().get::<Self>().cloned()
    }
}

impl Channels {
    /// Channels that are opened by the first call.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the address is none.
    pub(crate) fn new(connect: Connect) -> Result<Self> {
        let shared = Shared {
            target: Target::parse(&connect.address)?,
            connect,
            rotation: Mutex::new(Rotation::new(fastrand::usize(..))),
            first_lookup: tokio::sync::Mutex::default(),
            stale: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared), home: None })
    }

    /// Opens a connection to one broker at least.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a name stands for no address, or nobody answers.
    pub(crate) async fn open(&self) -> Result<()> {
        self.shared.look_up_first().await?;
        let addresses = self.shared.with(|rotation| rotation.addresses());
        let opening = addresses.into_iter().map(|address| {
            let endpoint = self.shared.connect.endpoint(&address);
            Box::pin(async move { endpoint.connect().await.map(|channel| (address, channel)) })
        });
        match select_ok(opening).await {
            Ok(((address, channel), _)) => {
                self.shared.with(|rotation| rotation.opened(&address, channel));
                self.shared.await_others();
                Ok(())
            }
            Err(error) => Err(Error::unavailable(format!(
                "no broker answers at {} ({}): start one with 'minitoolstream serve', or give another address",
                self.shared.connect.address,
                cause(&error)
            ))),
        }
    }

    /// The same channels, for calls that only the broker understands that this response came from.
    pub(crate) fn home_of(&self, via: Option<&Via>) -> Self {
        Self { shared: self.shared.clone(), home: via.map(|via| via.address.clone()) }
    }

    /// A channel's broker is about to end it: whatever is opened next goes through another.
    pub(crate) fn leave(&self, via: Option<&Via>) {
        if let Some(via) = via {
            self.shared.lost(via.id);
        }
    }
}

impl Service<Request<Body>> for Channels {
    type Response = Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { shared, home } = self.clone();
        Box::pin(async move {
            let Turn { id, address, mut channel, is_up } = shared.turn(home.as_ref()).await?;
            let answered = async {
                poll_fn(|cx| channel.poll_ready(cx)).await?;
                channel.call(request).await
            };
            match answered.await {
                Ok(mut response) => {
                    if !is_up {
                        shared.with(|rotation| rotation.answered(id));
                    }
                    response.extensions_mut().insert(Via { id, address });
                    Ok(response)
                }
                Err(error) => {
                    shared.lost(id);
                    Err(error.into())
                }
            }
        })
    }
}

impl Shared {
    fn with<T>(&self, visit: impl FnOnce(&mut Rotation<Channel>) -> T) -> T {
        visit(&mut self.rotation.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn turn(self: &Arc<Self>, home: Option<&Uri>) -> Result<Turn<Channel>, Status> {
        loop {
            if let Some(turn) = self.with(|rotation| rotation.turn(home)) {
                return Ok(turn);
            }
            self.look_up_first().await.map_err(|error| Status::unavailable(error.to_string()))?;
            self.await_others();
        }
    }

    fn lost(self: &Arc<Self>, id: u64) {
        self.with(|rotation| rotation.lost(id, |address| self.connect.endpoint(address).connect_lazy()));
        self.await_others();
        self.stale.notify_one();
    }

    /// Looks names up unless that was done; from then on they are looked up again and again.
    async fn look_up_first(self: &Arc<Self>) -> Result<()> {
        let _turn = self.first_lookup.lock().await;
        if self.with(|rotation| rotation.is_empty()) {
            self.look_up().await?;
            if self.target.has_names() {
                tokio::spawn(look_up_again(Arc::downgrade(self)));
            }
        }
        Ok(())
    }

    async fn look_up(&self) -> Result<()> {
        let addresses = self.target.resolve().await?;
        self.with(|rotation| rotation.update(addresses, |address| self.connect.endpoint(address).connect_lazy()));
        Ok(())
    }

    /// Has connections opened that no call is to wait for.
    fn await_others(self: &Arc<Self>) {
        for address in self.with(Rotation::await_down) {
            tokio::spawn(wait_for(Arc::downgrade(self), address));
        }
    }
}

/// Opens a connection to an address, as long as somebody wants it and it is not open.
async fn wait_for(shared: Weak<Shared>, address: Uri) {
    let mut failures = 0;
    loop {
        let (endpoint, backoff) = match shared.upgrade() {
            Some(shared) if shared.with(|rotation| rotation.awaits(&address)) => {
                (shared.connect.endpoint(&address), shared.connect.backoff)
            }
            _ => return,
        };
        match endpoint.connect().await {
            Ok(channel) => {
                if let Some(shared) = shared.upgrade() {
                    shared.with(|rotation| rotation.opened(&address, channel));
                }
                return;
            }
            Err(_) => {
                failures += 1;
                backoff.sleep(failures, None).await;
            }
        }
    }
}

/// Looks names up again, now and then and when a connection broke, as long as somebody uses the channels.
async fn look_up_again(shared: Weak<Shared>) {
    loop {
        let Some(stale) = shared.upgrade().map(|shared| shared.stale.clone()) else { return };
        tokio::select! {
            () = sleep(LOOKUP_INTERVAL) => {}
            () = async { stale.notified().await; sleep(LOOKUP_PAUSE).await } => {}
        }
        let Some(shared) = shared.upgrade() else { return };
        // What was known is better than nothing.
        if shared.look_up().await.is_ok() {
            shared.await_others();
        }
    }
}

/// The innermost cause of an error: what the transport wraps it in says nothing to a user.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
