//! Wires stores, actors and servers; their order of start and stop.
//!
//! ```text
//! start: listeners ─▶ liveness ─▶ stores ─▶ storage, publishers, reaper ─▶ gRPC, HTTP ─▶ ready
//! stop:  unready ─▶ no new work ─▶ streams and commits end, within the deadline ─▶ actors ─▶ HTTP
//! ```

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    actors::{
        follower,
        handle::Handle,
        heads::Heads,
        instances, lag,
        publisher::{Publisher, Publishers},
        reaper::{self, Reaper},
        rings::Rings,
        scheduler::{self, Scheduler},
        storage::{self, InlineMax, Storage},
        supervise::{GivenUp, Policy, Supervision, supervise},
        threads::{ThreadMaker, ThreadPool, Threads},
        watch,
    },
    admission::Admission,
    broker::Broker,
    config::{Config, Role},
    error::{Error, Result},
    grpc,
    http::{self, Health, Probe, Transfers, Waiting},
    metrics::Metrics,
    opened::Opened,
    store::shared::Waits,
    types::{Clock, SystemClock},
};

/// Publishers: two, so that one forms blocks while the other's are synced.
const PUBLISHERS: usize = 2;

/// Threads that subscribers share.
const SUBSCRIBER_THREADS: usize = 2;

/// How often the runtime tells that it runs.
const BEAT: Duration = Duration::from_secs(1);

/// A broker that serves.
pub struct Running {
    /// Where it publishes, consumes, or both, by what the port is named after.
    addresses: Vec<(Role, SocketAddr)>,
    /// Where health, metrics and messages are over HTTP.
    pub http: SocketAddr,
    /// Its parts, to be examined.
    pub broker: Broker,
    /// Its actors, to be examined.
    pub actors: Actors,
    deadline: Duration,
    draining: CancellationToken,
    shutdown: CancellationToken,
    supervisors: JoinSet<Result<(), GivenUp>>,
    servers: JoinSet<Result<(), String>>,
    transfers: Transfers,
    http_server: actix_web::dev::ServerHandle,
    opened: Opened,
}

/// Handles of the critical actors.
#[derive(Clone)]
pub struct Actors {
    /// Runs commits.
    pub storage: Handle<Storage>,
    /// Gather messages.
    pub publishers: Vec<Handle<Publisher>>,
    /// Removes what expired.
    pub reaper: Handle<Reaper>,
    /// Lets scheduled messages go.
    pub scheduler: Handle<Scheduler>,
}

impl Actors {
    /// Completes when all of them live.
    async fn up(&self) {
        self.storage.up().await;
        self.reaper.up().await;
        self.scheduler.up().await;
        for publisher in &self.publishers {
            publisher.up().await;
        }
    }
}

/// Starts a broker inside the current actix system.
///
/// # Errors
/// If a port is taken, the data directory is in use or cannot be written, or what it holds cannot be read.
pub async fn start(config: Config) -> Result<Running> {
    start_with_clock(config, Arc::new(SystemClock::new())).await
}

/// As [`start`], with a clock of the caller's.
///
/// # Errors
/// As for [`start`].
pub async fn start_with_clock(config: Config, clock: Arc<dyn Clock>) -> Result<Running> {
    let config = Arc::new(config);
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    let ports = [(Role::Ingress, config.port, "server.port"), (Role::Egress, config.egress_port, "server.egress_port")];
    for (role, port, key) in ports {
        if config.role == Role::All || config.role == role {
            let listener = listen(&config, port, key).await?;
            addresses.push((role, listener.local_addr().map_err(io)?));
            listeners.push(listener);
        }
    }
    let http_listener = listen(&config, config.http_port, "http.port").await?;
    let http = http_listener.local_addr().map_err(io)?;

    let metrics = Metrics::new(config.metric_subjects)
        .map_err(|error| Error::unavailable(format!("metrics cannot be registered: {error}")))?;
    metrics.build(config.role.as_str());
    let http_listener = http_listener.into_std().map_err(io)?;
    let waits = Waits::default();
    let waiting = Waiting::serve(http_listener.try_clone().map_err(io)?, &metrics, &waits).map_err(io)?;
    let opened = Opened::open(&config, &metrics, &waits).await?;
    waiting.end().await;
    let stores = opened.stores();
    let (heads, rings) = (Arc::new(Heads::default()), Arc::new(Rings::default()));
    let (draining, shutdown) = (CancellationToken::new(), CancellationToken::new());

    let mut supervisors = JoinSet::new();
    let maker = ThreadMaker::of_this_system();
    let supervision = |name| Supervision {
        name,
        policy: Policy::default(),
        threads: Threads::Own(maker.clone()),
        shutdown: shutdown.clone(),
        metrics: metrics.clone(),
    };
    let inline_max = InlineMax::new(config.inline_max());
    let parts = storage::Parts {
        stores: stores.clone(),
        heads: heads.clone(),
        rings: rings.clone(),
        clock: clock.clone(),
        dedup_window: config.dedup_window,
        inline_max: inline_max.clone(),
        metrics: metrics.clone(),
        runtime: tokio::runtime::Handle::current(),
        turn: Arc::default(),
    };
    let (storage, alive) = supervise(supervision("storage"), move |bell| Storage::new(parts.clone(), bell));
    supervisors.spawn(alive);
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| {
            let storage = storage.clone();
            let (publisher, alive) =
                supervise(supervision("publisher"), move |bell| Publisher::new(storage.clone(), number, bell));
            supervisors.spawn(alive);
            publisher
        })
        .collect();
    let parts = reaper::Parts {
        stores: stores.clone(),
        clock: clock.clone(),
        interval: config.reaper_interval,
        grace: config.reaper_grace,
        metrics: metrics.clone(),
        seen: Arc::default(),
    };
    let (reaper, alive) = supervise(supervision("reaper"), move |bell| Reaper::new(parts.clone(), bell));
    supervisors.spawn(alive);
    let parts = scheduler::Parts {
        stores: stores.clone(),
        heads: heads.clone(),
        clock: clock.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let (scheduler, alive) = supervise(supervision("scheduler"), move |bell| Scheduler::new(parts.clone(), bell));
    supervisors.spawn(alive);
    let actors = Actors { storage: storage.clone(), publishers: publishers.clone(), reaper, scheduler };
    // The first request is not to find them starting.
    actors.up().await;

    let broker = Broker {
        config: config.clone(),
        stores: stores.clone(),
        publishers: Publishers(publishers),
        storage,
        heads,
        lessors: Arc::default(),
        uploads: Arc::default(),
        rings,
        subscriber_threads: Arc::new(ThreadPool::new(maker.clone(), SUBSCRIBER_THREADS).await),
        draining: draining.clone(),
        admission: Admission::new(&config),
        clock,
        metrics: metrics.clone(),
    };
    let mut servers = JoinSet::new();
    let slots = Arc::new(Semaphore::new(config.connections));
    for listener in listeners {
        let (broker, slots) = (broker.clone(), slots.clone());
        servers.spawn(async move { grpc::server::serve(broker, listener, slots).await.map_err(|e| e.to_string()) });
    }
    let health = Health::new(stores, config.role, probes(&actors), draining.clone());
    supervisors.spawn(beat(health.clone(), shutdown.clone()));
    supervisors.spawn(until(shutdown.clone(), watch::watch(broker.stores.clone(), metrics.clone())));
    supervisors.spawn(until(
        shutdown.clone(),
        lag::measure(broker.stores.clone(), metrics.clone(), config.lag_interval, config.metric_consumers),
    ));
    if let Opened::Shared(shared) = &opened {
        let (heads, rings) = (broker.heads.clone(), broker.rings.clone());
        let news = follower::follow(shared.metadata.clone(), heads, rings, broker.clock.clone());
        supervisors.spawn(until(shutdown.clone(), news));
        supervisors.spawn(until(shutdown.clone(), instances::watch(shared.metadata.clone(), metrics, inline_max)));
    }
    let transfers = Transfers::new(broker.clone());
    let http_server = http::serve(http_listener, health, transfers.clone()).map_err(io)?;
    let http_handle = http_server.handle();
    actix::spawn(http_server);

    Ok(Running {
        addresses,
        http,
        broker,
        actors,
        deadline: config.shutdown_deadline,
        draining,
        shutdown,
        supervisors,
        servers,
        transfers,
        http_server: http_handle,
        opened,
    })
}

impl Running {
    /// Where it publishes ([`Role::Ingress`]) or consumes ([`Role::Egress`]), if it does.
    pub fn address(&self, of: Role) -> Option<SocketAddr> {
        self.addresses.iter().find(|(role, _)| *role == of).map(|(_, address)| *address)
    }

    /// Completes when the broker cannot go on, and says why: an actor that does not heal, a server or a supervisor that
    /// ended.
    pub async fn failed(&mut self) -> String {
        tokio::select! {
            Some(ended) = self.supervisors.join_next() => match ended {
                Ok(Ok(())) => "a supervisor ended".into(),
                Ok(Err(given_up)) => given_up.to_string(),
                Err(error) => format!("a supervisor failed: {error}"),
            },
            Some(ended) = self.servers.join_next() => match ended {
                Ok(Ok(())) => "a gRPC server ended".into(),
                Ok(Err(error)) => format!("a gRPC server failed: {error}"),
                Err(error) => format!("a gRPC server failed: {error}"),
            },
        }
    }

    /// Takes no new work, lets what is under way end within the configured deadline, and stops everything.
    pub async fn stop(mut self) {
        self.draining.cancel();
        let servers = async { while self.servers.join_next().await.is_some() {} };
        let ended = async { tokio::join!(servers, self.transfers.ended()) };
        if tokio::time::timeout(self.deadline, ended).await.is_err() {
            tracing::warn!(deadline = ?self.deadline, "some streams did not end in time and are cut");
            self.servers.shutdown().await;
        }
        self.shutdown.cancel();
        while self.supervisors.join_next().await.is_some() {}
        self.http_server.stop(true).await;
        self.opened.leave().await;
    }
}

async fn listen(config: &Config, port: u16, key: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(config.host, port);
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrNotAvailable => "set server.host to an address of this machine".to_owned(),
            _ => format!("stop what uses the port, or set {key} to another (0 lets the system choose)"),
        };
        Error::unavailable(format!("cannot listen on {address} ({key}): {error}; {advice}"))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn io(error: std::io::Error) -> Error {
    Error::unavailable(error.to_string())
}

fn probes(actors: &Actors) -> Vec<(&'static str, Probe)> {
    let mut probes: Vec<(&'static str, Probe)> = Vec::new();
    let (storage, reaper, scheduler) = (actors.storage.clone(), actors.reaper.clone(), actors.scheduler.clone());
    probes.push((storage.name(), Box::new(move || storage.is_up())));
    probes.push((reaper.name(), Box::new(move || reaper.is_up())));
    probes.push((scheduler.name(), Box::new(move || scheduler.is_up())));
    for publisher in actors.publishers.clone() {
        probes.push((publisher.name(), Box::new(move || publisher.is_up())));
    }
    probes
}

/// Does something until the broker stops.
async fn until(shutdown: CancellationToken, work: impl Future<Output = ()>) -> Result<(), GivenUp> {
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// Tells liveness, again and again, that tasks of this runtime run.
async fn beat(health: Arc<Health>, shutdown: CancellationToken) -> Result<(), GivenUp> {
    loop {
        health.beat();
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
