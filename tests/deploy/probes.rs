//! What a kubelet would see of a broker, by the probes and with the environment of the manifests.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minitoolstream_testkit::{SeaweedFs, Tarantool, http};
use serde_json::Value;

use crate::{
    rendering::Rendering,
    settings::{SECRET, brokers},
};

const SOON: Duration = Duration::from_secs(30);

/// A broker, killed with the test.
struct Pod {
    child: Child,
    http: SocketAddr,
    probes: Value,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pod {
    fn start(tarantool: &Tarantool, s3: &SeaweedFs) -> Self {
        let base = Rendering::of("kustomize/base");
        let (deployment, mut environment) =
            brokers(&base).into_iter().find(|(object, _)| object.name().ends_with("egress")).unwrap();
        let (metadata, payload) = (tarantool.config(), s3.settings("letters"));
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let http = free.port().to_string();
        let here = [
            ("SERVER_HOST", "127.0.0.1"),
            ("EGRESS_PORT", "0"),
            ("HTTP_PORT", &http),
            ("TARANTOOL_ADDRESS", &metadata.addresses[0]),
            ("MINIO_ENDPOINT", &payload.endpoint),
            ("MINIO_CREATE_BUCKET", "true"),
            ("MINIO_ACCESS_KEY_ID", &payload.access_key),
        ];
        environment.extend(here.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (name, secret) in [
            ("TARANTOOL_PASSWORD", metadata.password.as_str()),
            ("MINIO_SECRET_ACCESS_KEY", payload.secret_key.expose()),
        ] {
            assert_eq!(environment.insert(name.into(), secret.into()).as_deref(), Some(SECRET));
        }
        let container = deployment.at("/spec/template/spec/containers/0").clone();
        let arguments = container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_minitoolstream"));
        command.args(arguments).env_clear().envs(environment).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), http: free, probes: container }
    }

    /// What the kubelet would hear: whether the probe passes.
    async fn passes(&self, probe: &str) -> bool {
        let path = self.probes[probe]["httpGet"]["path"].as_str().unwrap();
        http::get(self.http, path).await.0 == 200
    }

    /// Waits until a probe passes, or does not any more.
    async fn until(&self, probe: &str, passes: bool) {
        let started = Instant::now();
        while self.passes(probe).await != passes {
            assert!(started.elapsed() < SOON, "{probe} does not become {passes}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn no_store_that_is_away_costs_a_restart() {
    let (mut tarantool, mut s3) = (Tarantool::start(&[]), SeaweedFs::start(env!("CARGO_TARGET_TMPDIR")));
    tarantool.kill();
    let mut pod = Pod::start(&tarantool, &s3);
    let started = Instant::now();
    while tokio::net::TcpStream::connect(pod.http).await.is_err() {
        assert!(started.elapsed() < SOON && pod.child.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, body) = http::get(pod.http, "/readyz").await;
    assert!(status == 503 && body.contains("waits for its stores"), "{body}");
    assert_eq!(http::get(pod.http, "/metrics").await.0, 200, "what it tries is counted");
    for _ in 0..20 {
        assert!(pod.passes("startupProbe").await && pod.passes("livenessProbe").await, "it starts before its stores");
        assert!(!pod.passes("readinessProbe").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tarantool.restart();
    pod.until("readinessProbe", true).await;

    tarantool.kill();
    pod.until("readinessProbe", false).await;
    assert!(pod.passes("livenessProbe").await);
    tarantool.restart();
    pod.until("readinessProbe", true).await;

    s3.kill();
    pod.until("readinessProbe", false).await;
    assert!(pod.passes("livenessProbe").await);
    assert_eq!(pod.child.try_wait().unwrap(), None);
}
