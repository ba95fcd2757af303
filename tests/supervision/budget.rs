//! What does not heal ends the process.

use std::time::{Duration, Instant};

use minitoolstream::{
    actors::supervise::Fault,
    app::{self, Running},
    config::Config,
};

/// Starts a broker in the current actix system.
async fn start(dir: &std::path::Path) -> Running {
    let settings = [("SERVER_PORT", "0"), ("EGRESS_PORT", "0"), ("HTTP_PORT", "0")];
    let setting = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let config = Config { data_dir: dir.into(), ..Config::load(None, setting).unwrap() };
    app::start(config).await.unwrap()
}

/// Lets an actor panic whenever it is up, until the broker says that it cannot go on.
async fn fails(strike: impl Fn(&Running) -> Box<dyn Fn()>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(dir.path()).await;
    let strike = strike(&running);
    let since = Instant::now();
    loop {
        tokio::select! {
            reason = running.failed() => {
                running.stop().await;
                return reason;
            }
            () = tokio::time::sleep(Duration::from_millis(5)) => strike(),
        }
        assert!(since.elapsed() < Duration::from_secs(60), "the budget of 20 restarts is never spent");
    }
}

// A budget of 20 restarts, a second apart in the end: most of the time of these tests is that pause.

#[actix::test]
async fn a_storage_that_keeps_panicking_ends_the_broker() {
    let reason = fails(|running| {
        let storage = running.actors.storage.clone();
        Box::new(move || drop(storage.tell(Fault::Panic)))
    });
    assert_eq!(reason.await, "the storage failed 21 times within 60s and is given up");
}

#[actix::test]
async fn a_reaper_that_keeps_panicking_ends_the_broker() {
    let reason = fails(|running| {
        let reaper = running.actors.reaper.clone();
        Box::new(move || drop(reaper.tell(Fault::Panic)))
    });
    assert_eq!(reason.await, "the reaper failed 21 times within 60s and is given up");
}
