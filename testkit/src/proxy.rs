use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

/// How long a test waits for bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network between a client and a broker, which can be made to break or to stall after so many bytes.
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    up: Way,
    down: Way,
    cuts: usize,
    /// What passes waits this long first.
    delay: Duration,
    connections: Vec<TcpStream>,
    is_over: bool,
}

/// One direction.
#[derive(Default)]
struct Way {
    passed: u64,
    /// The connection that carries byte number `cut` is cut before it.
    cut: Option<u64>,
    /// Nothing passes from this byte on.
    stall: Option<u64>,
}

/// Which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// From clients to the broker.
    Broker,
    /// From the broker to clients.
    Client,
}

impl State {
    fn way(&mut self, towards: Towards) -> &mut Way {
        match towards {
            Towards::Broker => &mut self.up,
            Towards::Client => &mut self.down,
        }
    }
}

impl Proxy {
    /// A network to the broker at an address, on a free port.
    pub fn start(target: impl std::fmt::Display) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, target, line) = (listener.local_addr().unwrap(), target.to_string(), Arc::new(Line::default()));
        let shared = line.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.lock().is_over {
                    return;
                }
                // A broker that is down looks to its clients as one that ends the connection.
                let (Ok(client), Ok(broker)) = (client, TcpStream::connect(&target)) else { continue };
                shared.lock().connections.push(client.try_clone().unwrap());
                for (towards, from, to) in [(Towards::Broker, &client, &broker), (Towards::Client, &broker, &client)] {
                    from.set_nodelay(true).unwrap();
                    let (from, to, line) = (from.try_clone().unwrap(), to.try_clone().unwrap(), shared.clone());
                    thread::spawn(move || line.carry(towards, from, to));
                }
            }
        });
        Self { address, line }
    }

    /// Cuts the connection that would carry more than this many bytes from now on.
    pub fn cut_after(&self, towards: Towards, bytes: u64) {
        let mut state = self.line.lock();
        let way = state.way(towards);
        way.cut = Some(way.passed + bytes);
        drop(state);
        self.line.changed.notify_all();
    }

    /// Cuts the connections that there are.
    pub fn cut_now(&self) {
        for connection in self.line.lock().connections.drain(..) {
            // It may be over.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets this many bytes pass from now on, and no more until [`go_on`](Self::go_on).
    pub fn stall_after(&self, towards: Towards, bytes: u64) {
        let mut state = self.line.lock();
        let way = state.way(towards);
        way.stall = Some(way.passed + bytes);
        drop(state);
        self.line.changed.notify_all();
    }

    /// Lets what passes from now on, in either direction, wait this long; zero ends that.
    pub fn delay(&self, by: Duration) {
        self.line.lock().delay = by;
    }

    /// Waits until the bytes that may pass have passed.
    pub fn wait_for_stall(&self) {
        let waits = |state: &mut State| {
            [&state.up, &state.down].iter().all(|way| way.stall.is_none_or(|stall| way.passed < stall))
        };
        let (_state, waited) = self.line.changed.wait_timeout_while(self.line.lock(), PATIENCE, waits).unwrap();
        assert!(!waited.timed_out(), "the bytes that may pass do not come");
    }

    /// Ends a stall.
    pub fn go_on(&self) {
        let mut state = self.line.lock();
        (state.up.stall, state.down.stall) = (None, None);
        drop(state);
        self.line.changed.notify_all();
    }

    /// Bytes that passed so far.
    pub fn passed(&self, towards: Towards) -> u64 {
        self.line.lock().way(towards).passed
    }

    /// Connections that were cut so far.
    pub fn cuts(&self) -> usize {
        self.line.lock().cuts
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.lock().is_over = true;
        self.line.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn carry(&self, towards: Towards, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let delay = self.lock().delay;
            if !delay.is_zero() {
                thread::sleep(delay);
            }
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let Some(len) = self.admit(towards, rest.len() as u64) else {
                    rest = &[];
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    continue;
                };
                let (now, later) = rest.split_at(usize::try_from(len).unwrap());
                if to.write_all(now).is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
                self.lock().way(towards).passed += len;
                self.changed.notify_all();
                rest = later;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    /// How many bytes may pass now; `None` if the connection is to be cut.
    fn admit(&self, towards: Towards, bytes: u64) -> Option<u64> {
        let mut state = self.lock();
        loop {
            let is_over = state.is_over;
            let way = state.way(towards);
            if is_over || way.cut.is_some_and(|cut| way.passed >= cut) {
                way.cut = None;
                state.cuts += 1;
                return None;
            }
            let until = |limit: Option<u64>| limit.map_or(u64::MAX, |limit| limit.saturating_sub(way.passed));
            let len = bytes.min(until(way.cut)).min(until(way.stall));
            if len > 0 {
                return Some(len);
            }
            state = self.changed.wait(state).unwrap();
        }
    }
}
