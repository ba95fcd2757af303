//! One connection to an instance: calls go out as they come, many in one write, and each answer finds its caller.
//!
//! The protocol is rusty_tarantool's codec. Its own client is not used: it leaves Nagle's algorithm on, so that a call waits
//! 40 ms for the peer's delayed acknowledgement of the one before; it has no limits; and one that hangs cannot be ended.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use rusty_tarantool::tarantool::{
    CommandPacket, TarantoolRequest, TarantoolResponse,
    codec::{RequestId, TarantoolCodec},
    packets::AuthPacket,
};
use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};
use tokio_util::codec::{Decoder, Framed};

/// How long a connection may take until the instance accepts the password.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls that wait to be written.
const QUEUE_MAX: usize = 64;
/// The number of the greeting's answer is 0; the password takes this one, and calls the ones after it.
const AUTH: RequestId = 1;

type Wire = Framed<TcpStream, TarantoolCodec>;
type Answered = io::Result<TarantoolResponse>;
type Waiting = Arc<Mutex<HashMap<RequestId, oneshot::Sender<Answered>>>>;

/// See the [module](self). Ends with the value: what was under way has an unknown outcome then.
pub(super) struct Connection {
    calls: mpsc::Sender<(CommandPacket, oneshot::Sender<Answered>)>,
    heard: Arc<AtomicU64>,
    task: AbortHandle,
}

/// Why a call has no answer.
pub(super) enum Silence {
    /// The connection ended.
    Ended(String),
    /// Nothing came in time, of this call.
    Slow,
    /// Nothing came in time, of any call: the connection may be dead without saying so.
    Dead,
}

impl Connection {
    /// Connects and shows the password.
    ///
    /// # Errors
    /// If the instance is not there, does not answer within a second, or refuses the user.
    pub(super) async fn open(address: &str, user: &str, password: &str, runtime: &Handle) -> io::Result<Self> {
        let open = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut wire = TarantoolCodec::default().framed(stream);
            next(&mut wire).await?;
            let auth = AuthPacket { login: user.to_owned(), password: password.to_owned() };
            wire.send((AUTH, TarantoolRequest::Auth(auth))).await?;
            next(&mut wire).await?;
            io::Result::Ok(wire)
        };
        let wire = timeout(OPEN_TIMEOUT, open).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (calls, called) = mpsc::channel(QUEUE_MAX);
        let heard = Arc::new(AtomicU64::new(0));
        let task = runtime.spawn(serve(wire, called, heard.clone())).abort_handle();
        Ok(Self { calls, heard, task })
    }

    /// Calls, and waits for the answer.
    ///
    /// # Errors
    /// See [`Silence`].
    pub(super) async fn call(&self, packet: CommandPacket, limit: Duration) -> Result<TarantoolResponse, Silence> {
        let before = self.heard.load(Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let call = async {
            self.calls.send((packet, answer)).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?.map_err(|error| Silence::Ended(error.to_string()))
        };
        match timeout(limit, call).await {
            Ok(answered) => answered,
            Err(_) if self.heard.load(Ordering::Relaxed) == before => Err(Silence::Dead),
            Err(_) => Err(Silence::Slow),
        }
    }

    /// Ends it, and with it every call that waits for an answer.
    pub(super) fn close(&self) {
        self.task.abort();
    }

    /// Whether it takes calls.
    pub(super) fn is_open(&self) -> bool {
        !self.calls.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

fn ended() -> Silence {
    Silence::Ended("the connection ended".into())
}

async fn next(wire: &mut Wire) -> io::Result<()> {
    let (_, answer) = wire.next().await.ok_or(io::ErrorKind::ConnectionAborted)??;
    answer.map(drop)
}

/// Reads and writes until either ends. Whoever waits then learns it by the end of its channel.
async fn serve(wire: Wire, called: mpsc::Receiver<(CommandPacket, oneshot::Sender<Answered>)>, heard: Arc<AtomicU64>) {
    let (sink, stream) = wire.split();
    let waiting = Waiting::default();
    tokio::select! {
        _ = write(sink, called, waiting.clone()) => {}
        () = read(stream, waiting, heard) => {}
    }
}

async fn write(
    mut sink: SplitSink<Wire, (RequestId, TarantoolRequest)>,
    mut called: mpsc::Receiver<(CommandPacket, oneshot::Sender<Answered>)>,
    waiting: Waiting,
) -> io::Result<()> {
    let mut number = AUTH;
    while let Some(first) = called.recv().await {
        let mut call = Some(first);
        while let Some((packet, answer)) = call {
            number += 1;
            waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, answer);
            sink.feed((number, TarantoolRequest::Command(packet))).await?;
            call = called.try_recv().ok();
        }
        sink.flush().await?;
    }
    Ok(())
}

async fn read(mut stream: SplitStream<Wire>, waiting: Waiting, heard: Arc<AtomicU64>) {
    while let Some(Ok((number, answer))) = stream.next().await {
        heard.fetch_add(1, Ordering::Relaxed);
        let caller = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        if let Some(caller) = caller {
            // Who gave up does not listen.
            let _ = caller.send(answer);
        }
    }
}
