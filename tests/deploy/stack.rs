//! docker-compose.yml without containers: its services as processes, with the commands, environments and files of the file, used
//! from end to end. SeaweedFS stands in the place of MinIO, with MinIO's keys. What differs otherwise is where things are:
//!
//! | in containers | here |
//! |---|---|
//! | `tarantool:3301`, `minio:9000`, `ingress:8080`, `egress:8080` | ports of loopback that the system chose |
//! | what services listen on | the same; brokers are told by options, which leaves their environment alone |
//! | volumes | directories; those of the repository are where they are |

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use minitoolstream::config::Config;
use minitoolstream_testkit::{Prometheus, SeaweedFs};
use serde_json::Value;
use serde_yaml_ng::Value as Yaml;

use crate::{
    compose::resolved,
    file,
    service::{Places, Running, Service, volumes},
    tools::output,
};

const HOME: &str = env!("CARGO_TARGET_TMPDIR");

/// A message that is uploaded in parts.
const FILM: usize = 9 << 20;

/// How long what goes on by itself may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker of the file, in an empty directory.
struct Broker<'a> {
    service: Service<'a>,
    running: Running,
    /// What it printed when it was ready.
    ready: Value,
    dir: tempfile::TempDir,
}

impl<'a> Broker<'a> {
    fn start(compose: &'a Yaml, role: &'a str, places: &'a Places) -> Self {
        let service = Service::of(compose, role, places);
        let dir = tempfile::tempdir().unwrap();
        let (running, ready) = serve(&service, dir.path(), &Value::Null);
        Self { service, running, ready, dir }
    }

    /// As `docker compose restart` does: with the same ports.
    fn restart(&mut self) {
        let status = terminate(&mut self.running, self.service.grace());
        assert_eq!(status, Some(0), "{}", self.service.name);
        (self.running, self.ready) = serve(&self.service, self.dir.path(), &self.ready);
    }

    fn http(&self) -> &str {
        self.ready["http"].as_str().unwrap()
    }

    /// What the command line prints at this broker.
    fn run(&self, arguments: &[&str]) -> String {
        let address = format!("http://{}", self.ready[self.service.name].as_str().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_minitoolstream"));
        output(command.args(arguments).env_clear().env("MINITOOLSTREAM_ADDRESS", address))
    }

    fn curl(&self, options: &[&str], path: &str) -> String {
        let url = format!("http://{}{path}", self.http());
        output(Command::new("curl").args(["-sS", "--fail", "--max-time", "20"]).args(options).arg(url))
    }

    /// Why it is not ready; empty if it is.
    fn unready(&self) -> String {
        let mut curl = Command::new("curl");
        let body = output(curl.args(["-sS", "--max-time", "20"]).arg(format!("http://{}/readyz", self.http())));
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["reasons"].as_array().map(|reasons| Value::from(reasons.clone()).to_string()).unwrap_or_default()
    }

    /// The file system of its container cannot be written.
    fn has_written_nothing(&self) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.running.0.id())).unwrap().map(Result::unwrap);
        // The log is a file here.
        let own = open.filter(|entry| !["0", "1", "2"].iter().any(|name| entry.file_name() == *name));
        let mut files = own.filter_map(|entry| fs::read_link(entry.path()).ok());
        let is_file =
            |path: &Path| path.is_absolute() && !["/dev", "/proc", "/sys"].iter().any(|dir| path.starts_with(dir));
        fs::read_dir(self.dir.path()).unwrap().next().is_none() && !files.any(|path| is_file(&path))
    }
}

/// What the image runs, which the file leaves alone.
fn image_command() -> Vec<String> {
    let dockerfile = fs::read_to_string(file("Dockerfile")).unwrap();
    let words = |keyword: &str| -> Vec<String> {
        let line = dockerfile.lines().rev().find_map(|line| line.strip_prefix(keyword)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    [words("ENTRYPOINT "), words("CMD ")].concat()
}

/// Starts a broker on the ports that it had, if any, and waits until it is ready.
fn serve(service: &Service<'_>, dir: &Path, before: &Value) -> (Running, Value) {
    let mut arguments = image_command();
    assert_eq!(Path::new(&arguments.remove(0)).file_name().unwrap(), "minitoolstream");
    arguments.extend(["--output", "json", "--host", "127.0.0.1"].map(Into::into));
    for (option, key) in [("--port", "ingress"), ("--egress-port", "egress"), ("--http-port", "http")] {
        let port = before[key].as_str().map_or("0", |address| address.rsplit(':').next().unwrap());
        arguments.extend([option.into(), port.into()]);
    }
    let mut serve = service.command(Path::new(env!("CARGO_BIN_EXE_minitoolstream")), &arguments, dir);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut running = Running(serve.stdout(Stdio::piped()).stderr(log.reopen().unwrap()).spawn().unwrap());
    let said = running.0.stdout.take().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(BufReader::new(said).lines().next()));
    // One that waits for a store says nothing.
    let line = told.recv_timeout(PATIENCE).ok().flatten().and_then(Result::ok).unwrap_or_default();
    let ready = serde_json::from_str(&line)
        .unwrap_or_else(|_| panic!("{} is not ready:\n{}", service.name, fs::read_to_string(log.path()).unwrap()));
    (running, ready)
}

/// As `docker compose stop` does: the exit code, if the process ended in time.
fn terminate(running: &mut Running, within: Duration) -> Option<i32> {
    assert!(Command::new("kill").arg(running.0.id().to_string()).status().unwrap().success());
    let asked = Instant::now();
    while asked.elapsed() < within {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Starts Tarantool, and waits until its health check says that it is well.
fn tarantool(service: &Service<'_>, dir: &Path) -> Running {
    let program = |words: &[String]| {
        let mut command = service.command(Path::new(&words[0]), &words[1..], dir);
        // The image has one.
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command
    };
    let (check, timeout, within) = service.health_check();
    let healthy = || program(&check).status().unwrap().success();
    assert!(!healthy(), "nobody listens yet");
    let mut running = Running(program(&service.words()).spawn().unwrap());
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        if healthy() {
            assert!(asked.elapsed() < timeout, "the health check took {:?} of {timeout:?}", asked.elapsed());
            return running;
        }
        assert_eq!(running.0.try_wait().unwrap(), None, "it ended");
        assert!(started.elapsed() < within, "compose would have given up");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Prometheus with the files that its service is given; its targets alone are others.
async fn prometheus(compose: &Yaml, brokers: &[&Broker<'_>]) -> Prometheus {
    let mounted = volumes(compose, "prometheus", tempfile::tempdir().unwrap().path());
    let read = |path: &str| {
        let (_, here) = mounted.iter().find(|(there, _)| there == path).unwrap_or_else(|| panic!("no {path}"));
        fs::read_to_string(here).unwrap()
    };
    let mut config = read("/etc/prometheus/prometheus.yml");
    for broker in brokers {
        let inside = Config::load(None, |name| broker.service.environment().0.get(name).cloned()).unwrap();
        let target = format!("{}:{}", broker.service.name, inside.http_port);
        assert_eq!(config.matches(&target).count(), 1, "{target}");
        config = config.replace(&target, broker.http());
    }
    // The rules are named by a path that begins at the configuration.
    let files = [("prometheus.yml", config.as_str()), ("rules.yml", &read("/etc/prometheus/rules.yml"))];
    Prometheus::start(HOME, &files).await
}

#[tokio::test(flavor = "multi_thread")]
async fn services_work_together_without_containers() {
    let compose = resolved();
    let dir = tempfile::tempdir().unwrap();
    let minio = &compose["services"]["minio"]["environment"];
    let key = |name: &str| minio[name].as_str().unwrap();
    let s3 = SeaweedFs::start_with(HOME, key("MINIO_ROOT_USER"), key("MINIO_ROOT_PASSWORD"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut places = volumes(&compose, "tarantool", dir.path());
    let addresses = [("0.0.0.0:3301", port), ("tarantool:3301", port), ("minio:9000", s3.address())];
    places.extend(addresses.map(|(there, here)| (there.to_owned(), here.to_string())));

    let metadata = Service::of(&compose, "tarantool", &places);
    assert_eq!(metadata.environment().1, ["MTS_DIR", "MTS_LISTEN"], "all else is as the file says");
    let mut instance = tarantool(&metadata, dir.path());
    let [mut ingress, egress] = ["ingress", "egress"].map(|role| Broker::start(&compose, role, &places));
    for broker in [&ingress, &egress] {
        assert_eq!(broker.service.environment().1, ["MINIO_ENDPOINT", "TARANTOOL_ADDRESS"]);
        assert_eq!(broker.service.waits_for(), ["minio", "tarantool"]);
    }
    let prometheus = prometheus(&compose, &[&ingress, &egress]).await;

    messages_pass(&ingress, &egress, dir.path());
    assert!(!s3.files("minitoolstream").is_empty(), "the brokers made the bucket, and the film is in it");

    ingress.restart();
    assert!(egress.run(&["fetch", "orders.new"]).contains("42 apples"));
    assert!(ingress.run(&["-o", "json", "publish", "orders.new", "--data", "7 pears"]).contains(r#""sequence":2"#));

    assert_eq!(terminate(&mut instance, PATIENCE), Some(0));
    until("the broker says that Tarantool is away", || ingress.unready().contains("metadata"));
    assert!(ingress.curl(&[], "/livez").contains("true"), "a restart would not mend it");
    drop(instance);
    let _instance = tarantool(&metadata, dir.path());
    until("the brokers are ready again", || ingress.unready().is_empty() && egress.unready().is_empty());
    assert!(egress.run(&["fetch", "orders.new", "--all"]).contains("7 pears"), "it was in the log");

    let since = Instant::now();
    let up = r#"count(up{job="minitoolstream"} == 1)"#;
    while prometheus.query(up).await.unwrap().first().is_none_or(|sample| sample["value"][1] != "2") {
        assert!(since.elapsed() < PATIENCE, "{:?}", prometheus.targets().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(ingress.has_written_nothing() && egress.has_written_nothing(), "containers are read-only");
}

/// As users publish and consume: small messages and a large one, over gRPC and HTTP.
fn messages_pass(ingress: &Broker<'_>, egress: &Broker<'_>, dir: &Path) {
    let film: Vec<u8> = std::iter::repeat_with({
        let mut random = fastrand::Rng::with_seed(7);
        move || random.u8(..)
    })
    .take(FILM)
    .collect();
    let path = dir.join("film.mov");
    let path = path.to_str().unwrap();
    fs::write(path, &film).unwrap();
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));

    ingress.run(&["publish", "orders.new", "--data", "42 apples"]);
    assert!(egress.run(&["consume", "billing", "--filter", "orders.>", "--limit", "1"]).contains("42 apples"));
    let lag: Value = serde_json::from_str(&egress.run(&["-o", "json", "lag", "billing"])).unwrap();
    assert_eq!((&lag["pending"], &lag["unacked"]), (&0.into(), &0.into()), "{lag}");
    let position = ["fetch", "orders.new", "--durable", "reader"];
    assert!(egress.run(&position).contains("42 apples"));
    egress.run(&["ack", "reader", "orders.new", "1"]);
    assert!(!egress.run(&position).contains("42 apples"));

    ingress.run(&["publish", "films", "--file", path]);
    egress.run(&["fetch", "films", "--to", dir.join("fetched").to_str().unwrap()]);
    assert!(read(&dir.join("fetched").join(path.trim_start_matches('/'))) == film);
    ingress.curl(&["-T", path], "/v1/messages/films/");
    let copy = dir.join("copy.mov");
    egress.curl(&["-o", copy.to_str().unwrap()], "/v1/messages/films/2");
    assert!(read(&copy) == film);

    for broker in [ingress, egress] {
        for path in ["/livez", "/readyz", "/healthz"] {
            broker.curl(&[], path);
        }
        let role = format!("minitoolstream_build_info{{role=\"{}\"", broker.service.name);
        assert!(broker.curl(&[], "/metrics").contains(&role));
    }
}
