use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use minitoolstream_testkit::TestBroker;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

/// Longest wait for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, and the real `curl` beside it.
pub(crate) struct Stage {
    pub(crate) broker: TestBroker,
    dir: tempfile::TempDir,
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// How `curl` ended; 0 if all went well.
    pub(crate) exit: i32,
    /// 0 if there was no answer.
    pub(crate) status: u16,
    head: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.head.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }

    /// Checks the status, and shows the answer if it is another.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        assert_eq!(self.status, status, "curl ended with {}: {:?} {shown}", self.exit, self.head);
        self
    }

    /// Reads the last head of what was received.
    fn parse_head(&mut self, text: &str) {
        let head = text.trim_end().split("\r\n\r\n").last().unwrap_or_default();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        self.status = status.unwrap_or(0);
        let header = |line: &str| line.split_once(": ").map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
        self.head = lines.filter_map(header).collect();
    }
}

impl Stage {
    pub(crate) async fn set(settings: &[(&str, &str)]) -> Self {
        Self { broker: TestBroker::start(settings).await, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.broker.http)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with bytes that no other seed has.
    pub(crate) fn file(&self, name: &str, len: usize) -> (String, Vec<u8>) {
        let data = bytes(len);
        let path = self.path(name);
        std::fs::write(&path, &data).unwrap();
        (path.display().to_string(), data)
    }

    /// Runs `curl` with these arguments and a path as the last.
    pub(crate) async fn curl(&self, args: &[&str], path: &str) -> Answer {
        let body = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        self.curl_into(body.path(), args, path).await
    }

    /// The same, with the body in a file.
    pub(crate) async fn curl_into(&self, body: &Path, args: &[&str], path: &str) -> Answer {
        let head = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "-D"]).arg(head.path()).arg("-o").arg(body).args(args);
        let ended = command.arg(self.url(path)).kill_on_drop(true).status().await.unwrap();
        let mut answer = Answer { exit: ended.code().unwrap_or(-1), ..Answer::default() };
        answer.parse_head(&std::fs::read_to_string(head.path()).unwrap());
        answer.body = std::fs::read(body).unwrap_or_default();
        answer
    }

    /// Sends bytes as they are, ends what it sends if told so, and waits for the answer.
    pub(crate) async fn raw(&self, request: &[u8], ends: bool) -> Answer {
        let mut stream = TcpStream::connect(self.broker.http).await.unwrap();
        stream.write_all(request).await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
        }
        received(stream).await
    }

    /// The head of a request that publishes.
    pub(crate) fn put_head(&self, subject: &str, len: usize, headers: &str) -> Vec<u8> {
        let host = self.broker.http;
        format!("PUT /v1/messages/{subject} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len}\r\n{headers}\r\n")
            .into_bytes()
    }

    /// Files of objects that are there.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let dir = std::fs::read_dir(self.broker.data_dir().join("objects")).unwrap();
        dir.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    }
}

/// Reads an answer up to the end of the connection.
pub(crate) async fn received(mut stream: TcpStream) -> Answer {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    read.expect("the connection ends").unwrap();
    let mut answer = Answer::default();
    if let Some(end) = all.windows(4).position(|end| end == b"\r\n\r\n") {
        answer.parse_head(&String::from_utf8_lossy(&all[..end]));
        answer.body = all.split_off(end + 4);
    }
    answer
}

/// Waits until something holds; for what nothing announces.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let since = std::time::Instant::now();
    while !holds().await {
        assert!(since.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes that look like nothing, the same for the same length.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut data);
    data
}

pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}
