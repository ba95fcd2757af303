//! The supervisor alone, over an actor that counts.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Context, Handler, Message};
use minitoolstream::{
    actors::{
        handle::Handle,
        supervise::{Bell, Fault, GivenUp, Heartbeat, Policy, Supervised, Supervision, supervise},
        threads::{ThreadMaker, ThreadPool, Threads},
    },
    error::Error,
    metrics::Metrics,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const POLICY: Policy = Policy {
    heartbeat: Duration::from_millis(20),
    deadline: Duration::from_millis(100),
    backoff: Duration::from_millis(1),
    backoff_max: Duration::from_millis(4),
    budget: 5,
    period: Duration::from_secs(60),
};

/// What all incarnations of the actor leave behind.
#[derive(Default)]
struct Traces {
    born: AtomicU64,
    ended: AtomicU64,
    /// Messages counted, and the thread of each.
    counted: Mutex<Vec<std::thread::ThreadId>>,
    /// Bells that an actor gave away, so that its end is not heard.
    muffled: Mutex<Vec<Bell>>,
}

struct Counter {
    traces: Arc<Traces>,
    bell: Option<Bell>,
}

impl Counter {
    fn new(traces: Arc<Traces>, bell: Bell) -> Self {
        traces.born.fetch_add(1, Ordering::SeqCst);
        Self { traces, bell: Some(bell) }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.traces.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<Heartbeat> for Counter {
    type Result = ();
    fn handle(&mut self, _: Heartbeat, _: &mut Self::Context) {}
}

impl Handler<Fault> for Counter {
    type Result = ();
    fn handle(&mut self, fault: Fault, _: &mut Self::Context) {
        fault.strike();
    }
}

impl Supervised for Counter {}

/// Asks to be counted.
#[derive(Message)]
#[rtype(result = "()")]
struct Count(oneshot::Sender<()>);

impl Handler<Count> for Counter {
    type Result = ();
    fn handle(&mut self, count: Count, _: &mut Self::Context) {
        if self.bell.as_ref().is_some_and(|bell| bell.over().is_cancelled()) {
            return;
        }
        self.traces.counted.lock().unwrap().push(std::thread::current().id());
        let _ = count.0.send(());
    }
}

/// Tells the actor to give its bell away.
#[derive(Message)]
#[rtype(result = "()")]
struct Muffle;

impl Handler<Muffle> for Counter {
    type Result = ();
    fn handle(&mut self, _: Muffle, _: &mut Self::Context) {
        self.traces.muffled.lock().unwrap().extend(self.bell.take());
    }
}

/// Stops the thread that the actor lives on.
#[derive(Message)]
#[rtype(result = "()")]
struct StopThread;

impl Handler<StopThread> for Counter {
    type Result = ();
    fn handle(&mut self, _: StopThread, _: &mut Self::Context) {
        actix::Arbiter::current().stop();
    }
}

struct Stage {
    traces: Arc<Traces>,
    counter: Handle<Counter>,
    ended: JoinHandle<Result<(), GivenUp>>,
    shutdown: CancellationToken,
    metrics: Metrics,
}

impl Stage {
    async fn set(policy: Policy, threads: Threads) -> Self {
        // A backtrace takes longer to print than an actor is given here: a panic would pass for a hang.
        std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
        let (traces, metrics) = (Arc::<Traces>::default(), Metrics::new(0).unwrap());
        let shutdown = CancellationToken::new();
        let supervision =
            Supervision { name: "counter", policy, threads, shutdown: shutdown.clone(), metrics: metrics.clone() };
        let of_actor = traces.clone();
        let (counter, alive) = supervise(supervision, move |bell| Counter::new(of_actor.clone(), bell));
        let stage = Self { traces, counter, ended: tokio::spawn(alive), shutdown, metrics };
        until("the actor is up", || stage.counter.is_up()).await;
        stage
    }

    async fn own() -> Self {
        Self::set(POLICY, Threads::Own(ThreadMaker::of_this_system())).await
    }

    /// Sends a message that asks to be counted; true once it is.
    async fn count(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        match self.counter.tell(Count(reply)) {
            Ok(delivered) => delivered.answer(answer).await.is_some(),
            Err(_) => false,
        }
    }

    async fn restarted(&self, cause: &str, times: u64) {
        let series = format!(r#"{{actor="counter",cause="{cause}"}} {times}"#);
        until(&series, || self.metrics.render().contains(&series) && self.counter.is_up()).await;
    }

    fn counted(&self) -> usize {
        self.traces.counted.lock().unwrap().len()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(10), "not in 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix::test]
async fn after_a_panic_a_new_actor_answers_through_the_same_handle() {
    let stage = Stage::own().await;
    assert!(stage.count().await);
    stage.counter.tell(Fault::Panic).unwrap();
    stage.restarted("panic", 1).await;
    assert!(stage.count().await);
    assert_eq!(stage.traces.born.load(Ordering::SeqCst), 2);
}

#[actix::test]
async fn who_waited_for_an_actor_that_panics_is_told() {
    let stage = Stage::own().await;
    stage.counter.tell(Fault::Panic).unwrap();
    let (reply, answer) = oneshot::channel();
    // Behind the fault in the mailbox, unless the death was noticed already.
    if let Ok(delivered) = stage.counter.tell(Count(reply)) {
        assert!(delivered.answer(answer).await.is_none());
    }
    stage.restarted("panic", 1).await;
    assert_eq!(stage.counted(), 0, "no incarnation gets what lay in the mailbox of another");
}

#[actix::test]
async fn after_a_hang_a_new_actor_answers_on_a_new_thread() {
    let stage = Stage::own().await;
    assert!(stage.count().await);
    stage.counter.tell(Fault::Hang(Duration::from_secs(600))).unwrap();
    let (reply, answer) = oneshot::channel();
    let delivered = stage.counter.tell(Count(reply)).unwrap();
    assert!(delivered.answer(answer).await.is_none(), "who waits for the hung one is told");
    stage.restarted("hang", 1).await;
    assert!(stage.count().await);
    let counted = stage.traces.counted.lock().unwrap();
    assert_ne!(counted[0], counted[1]);
}

#[actix::test]
async fn one_that_hung_and_wakes_finds_that_it_is_over_and_ends() {
    let stage = Stage::own().await;
    stage.counter.tell(Fault::Hang(Duration::from_millis(400))).unwrap();
    let (reply, _answer) = oneshot::channel();
    stage.counter.tell(Count(reply)).unwrap();
    stage.restarted("hang", 1).await;
    assert_eq!(stage.traces.ended.load(Ordering::SeqCst), 0, "it still hangs");
    until("the one that hung has ended", || stage.traces.ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(stage.counted(), 0, "it did not do what lay in its mailbox");
    assert!(stage.count().await, "its successor lives");
}

#[actix::test]
async fn a_caller_who_finds_the_mailbox_closed_reports_it() {
    // Nothing but that report ends the wait for the next heartbeat.
    let policy = Policy { heartbeat: Duration::from_secs(600), ..POLICY };
    let stage = Stage::set(policy, Threads::Own(ThreadMaker::of_this_system())).await;
    stage.counter.tell(Muffle).unwrap();
    stage.counter.tell(Fault::Panic).unwrap();
    until("the mailbox is closed", || {
        let (reply, _answer) = oneshot::channel();
        match stage.counter.tell(Count(reply)) {
            Ok(_) => false,
            Err(Error::Unavailable { what, .. }) => {
                assert_eq!(what, "the counter is restarting: nothing was done, repeat the request");
                true
            }
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    // The bell that it gave away tells nothing of a panic.
    stage.restarted("end", 1).await;
    assert!(stage.count().await);
}

#[actix::test]
async fn an_actor_whose_thread_ends_did_not_panic() {
    let pool = Arc::new(ThreadPool::new(ThreadMaker::of_this_system(), 1).await);
    let stage = Stage::set(POLICY, Threads::Shared(pool)).await;
    assert!(stage.count().await);
    stage.counter.tell(StopThread).unwrap();
    stage.restarted("end", 1).await;
    assert!(stage.count().await, "it lives on another thread");
    assert!(!stage.metrics.render().contains(r#"{actor="counter",cause="panic"}"#));
}

#[actix::test]
async fn one_that_keeps_panicking_is_given_up() {
    let stage = Stage::own().await;
    let since = Instant::now();
    while !stage.ended.is_finished() {
        let _ = stage.counter.tell(Fault::Panic);
        assert!(since.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let given_up = stage.ended.await.unwrap().unwrap_err();
    assert_eq!(given_up.to_string(), "the counter failed 6 times within 60s and is given up");
    assert!(!stage.counter.is_up());
    assert!(stage.counter.tell(Fault::Panic).is_err());
}

#[actix::test]
async fn old_failures_leave_the_budget() {
    let policy = Policy { budget: 1, period: Duration::from_millis(200), ..POLICY };
    let stage = Stage::set(policy, Threads::Own(ThreadMaker::of_this_system())).await;
    for times in 1..=3 {
        stage.counter.tell(Fault::Panic).unwrap();
        stage.restarted("panic", times).await;
        tokio::time::sleep(policy.period).await;
    }
    assert!(!stage.ended.is_finished());
}

#[actix::test]
async fn shutdown_ends_the_actor_and_its_supervision() {
    let stage = Stage::own().await;
    stage.shutdown.cancel();
    stage.ended.await.unwrap().unwrap();
    assert!(stage.counter.tell(Fault::Panic).is_err());
    until("the actor has ended", || stage.traces.ended.load(Ordering::SeqCst) == 1).await;
}

#[actix::test]
async fn who_shares_a_thread_with_one_that_hangs_moves_to_another() {
    let pool = Arc::new(ThreadPool::new(ThreadMaker::of_this_system(), 1).await);
    let hangs = Stage::set(POLICY, Threads::Shared(pool.clone())).await;
    let neighbour = Stage::set(POLICY, Threads::Shared(pool.clone())).await;
    assert!(hangs.count().await && neighbour.count().await);
    hangs.counter.tell(Fault::Hang(Duration::from_secs(600))).unwrap();
    hangs.restarted("hang", 1).await;
    neighbour.restarted("hang", 1).await;
    assert!(hangs.count().await && neighbour.count().await);
    let late = Stage::set(POLICY, Threads::Shared(pool)).await;
    assert!(late.count().await, "the thread was replaced in the pool");
    assert!(!late.metrics.render().contains("actor=\"counter\""), "and those who come later are unharmed");
}
