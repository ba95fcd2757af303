use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How long a connection may say nothing before the proxy closes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most bytes of a request's body that are taken.
const BODY_MAX: usize = 1 << 30;

/// What becomes of a request on its way.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is answered with a status and a code of S3, and the server never sees it.
    Refuse(u16, &'static str),
    /// The connection is closed, and the server never sees the request.
    Drop,
    /// The server carries it out, and the answer is lost.
    LoseReply,
    /// The server carries it out, and no answer comes for this long.
    Silence(Duration),
    /// The server gets the request this much later, also if nobody waits for the answer any more.
    Late(Duration),
    /// Half of the answer's body comes, and then the connection breaks.
    CutBody,
    /// Half of the answer's body comes, as if it were all of it.
    ShortBody,
    /// The second half of the answer's body comes this much later.
    SlowBody(Duration),
}

/// Stands between a client and an HTTP/1.1 server and spoils the requests that it is told to. One request a connection.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    /// First lines of the requests that came, spoilt or not.
    seen: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

struct Rule {
    part_of_line: String,
    fault: Fault,
    times: usize,
}

impl FaultProxy {
    /// A proxy on a free port of the loopback interface.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (rules, seen, is_over) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { server, rules, seen, is_over });
        let of_thread = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if of_thread.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = of_thread.clone();
                // A connection that fails is the client's to notice.
                thread::spawn(move || client.and_then(|client| shared.serve(client)));
            }
        });
        Self { address, shared }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Spoils the next `times` requests whose first line, like `GET /bucket/key HTTP/1.1`, contains `part_of_line`. Rules
    /// count in the order that they were given.
    pub fn spoil(&self, part_of_line: &str, times: usize, fault: Fault) {
        let part_of_line = part_of_line.into();
        lock(&self.shared.rules).push(Rule { part_of_line, fault, times });
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        lock(&self.shared.rules).clear();
    }

    /// How many requests came whose first line contains `part_of_line`.
    pub fn seen(&self, part_of_line: &str) -> usize {
        lock(&self.shared.seen).iter().filter(|line| line.contains(part_of_line)).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(client.try_clone()?);
        let request = Message::read(&mut reader, false)?;
        lock(&self.seen).push(request.line().into());
        let fault = self.fault(request.line());
        match fault {
            Some(Fault::Refuse(status, code)) => return refuse(client, status, code),
            Some(Fault::Drop) => return Ok(()),
            Some(Fault::Late(pause)) => thread::sleep(pause),
            _ => {}
        }
        let answer = self.ask(&request)?;
        let half = answer.body.len() / 2;
        match fault {
            Some(Fault::LoseReply) => Ok(()),
            Some(Fault::Silence(pause)) => {
                thread::sleep(pause);
                answer.send(client)
            }
            Some(Fault::CutBody) => {
                let body = answer.body[..half].to_vec();
                Message { body, ..answer }.send(client)
            }
            Some(Fault::ShortBody) => {
                let head = answer.head_without("content-length") + &format!("Content-Length: {half}\r\n");
                Message { head, body: answer.body[..half].to_vec() }.send(client)
            }
            Some(Fault::SlowBody(pause)) => {
                let mut late = client.try_clone()?;
                let second = answer.body[half..].to_vec();
                Message { head: answer.head, body: answer.body[..half].to_vec() }.send(client)?;
                thread::sleep(pause);
                late.write_all(&second)
            }
            _ => answer.send(client),
        }
    }

    /// Takes the first rule that fits.
    fn fault(&self, line: &str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && line.contains(&rule.part_of_line))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn ask(&self, request: &Message) -> io::Result<Message> {
        let mut server = TcpStream::connect(self.server)?;
        server.set_nodelay(true)?;
        server.set_read_timeout(Some(PATIENCE))?;
        server.write_all(request.head_without("connection").as_bytes())?;
        server.write_all(b"Connection: close\r\n\r\n")?;
        server.write_all(&request.body)?;
        Message::read(&mut BufReader::new(server), true)
    }
}

/// A request or an answer.
struct Message {
    /// All lines but the empty one, each with its end.
    head: String,
    body: Vec<u8>,
}

impl Message {
    /// The body of an answer goes to the end of the connection.
    fn read(from: &mut impl BufRead, is_answer: bool) -> io::Result<Self> {
        let (mut head, mut body) = (String::new(), Vec::new());
        while from.read_line(&mut head)? > 2 {}
        head.truncate(head.trim_end().len());
        head.push_str("\r\n");
        let len =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let len: usize = if is_answer { BODY_MAX } else { len.unwrap_or(0).min(BODY_MAX) };
        from.take(len as u64).read_to_end(&mut body)?;
        Ok(Self { head, body })
    }

    fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    fn head_without(&self, header: &str) -> String {
        let others = self.head.lines().filter(|line| !line.to_lowercase().starts_with(&format!("{header}:")));
        others.map(|line| format!("{line}\r\n")).collect()
    }

    fn send(&self, mut to: TcpStream) -> io::Result<()> {
        to.write_all(self.head_without("connection").as_bytes())?;
        to.write_all(b"Connection: close\r\n\r\n")?;
        to.write_all(&self.body)
    }
}

fn refuse(mut client: TcpStream, status: u16, code: &str) -> io::Result<()> {
    let body = if code.is_empty() { String::new() } else { format!("<Error><Code>{code}</Code></Error>") };
    let len = body.len();
    write!(client, "HTTP/1.1 {status} Spoilt\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}")
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
