use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use minitoolstream::{
    app::{self, Actors, Running},
    broker::Broker,
    config::{Config, Role},
    types::{Clock, SystemClock},
};
use minitoolstream_client::{Client, Connect};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{lookup, owned};

/// A broker inside this process, on an actix system of its own: its actors and stores can be reached.
pub struct TestBroker {
    /// Where it publishes and consumes.
    pub ingress: SocketAddr,
    /// The second gRPC port.
    pub egress: SocketAddr,
    /// Where health and metrics are.
    pub http: SocketAddr,
    /// Its parts.
    pub broker: Broker,
    /// Its actors.
    pub actors: Actors,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    dir: PathBuf,
    _own_dir: Option<TempDir>,
}

impl TestBroker {
    /// A broker with a data directory of its own, with environment settings over [`SETTINGS`](crate::SETTINGS).
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with_clock(settings, Arc::new(SystemClock::new())).await
    }

    /// The same, with a clock of the test's.
    pub async fn start_with_clock(settings: &[(&str, &str)], clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Self::start_in(dir.path(), settings, clock).await;
        broker._own_dir = Some(dir);
        broker
    }

    /// A broker on an existing data directory.
    pub async fn start_in(dir: &Path, settings: &[(&str, &str)], clock: Arc<dyn Clock>) -> Self {
        let extra = owned(settings);
        let mut config = Config::load(None, |name| lookup(&extra, name)).unwrap();
        config.data_dir = dir.join("data");
        let (ready, is_ready) = oneshot::channel();
        let (stop, is_stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime =
                || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            actix::System::with_tokio_rt(runtime).block_on(async move {
                let running = start(config, clock).await;
                let [ingress, egress] = [Role::Ingress, Role::Egress].map(|role| running.address(role).unwrap());
                let parts = (ingress, egress, running.http);
                let _ = ready.send((parts, running.broker.clone(), running.actors.clone()));
                let _ = is_stopped.await;
                running.stop().await;
            });
        });
        let ((ingress, egress, http), broker, actors) = is_ready.await.expect("the broker starts");
        let (stop, thread) = (Some(stop), Some(thread));
        Self { ingress, egress, http, broker, actors, stop, thread, dir: dir.join("data"), _own_dir: None }
    }

    /// A connected client.
    pub async fn client(&self) -> Client {
        Connect::to(self.ingress.to_string()).connect().await.unwrap()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.dir
    }

    /// Stops it gracefully.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
        }
    }
}

/// Starts a broker. An earlier one on the same directory may hold the stores for a moment longer than it serves.
async fn start(config: Config, clock: Arc<dyn Clock>) -> Running {
    for _ in 0..100 {
        match app::start_with_clock(config.clone(), clock.clone()).await {
            Err(error) if error.to_string().contains("in use") => tokio::time::sleep(Duration::from_millis(50)).await,
            other => return other.unwrap(),
        }
    }
    panic!("'{}' is not given free", config.data_dir.display());
}
