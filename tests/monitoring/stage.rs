//! Real brokers, what they depend on, and a real Prometheus that watches them: in a minute that takes a second.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use minitoolstream_client::{Client, ConsumerSettings, NewMessage};
use minitoolstream_testkit::{Cluster, Prometheus, Replicas, TestBroker};
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};
use tokio_stream::StreamExt;

use crate::{HOME, kubernetes::Kubernetes, rules};

/// Where the brokers of the cluster say that they are.
const NAMESPACE: &str = "minitoolstream";

/// Little memory for Tarantool, so that it is soon used up.
const MEMORY: &str = "67108864";

/// The instance of Tarantool that takes writes.
pub(crate) const LEADER: usize = 0;

/// The least that a quota can be.
const QUOTA: &str = "128MiB";

/// How long an alert may take: the longest windows and waits of the rules, and some.
const PATIENCE: Duration = Duration::from_secs(50);

/// An ingress and an egress over shared stores, and a broker with embedded ones.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster<Replicas>,
    pub(crate) embedded: TestBroker,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) watch: Watch,
}

/// The Prometheus that watches all of them.
pub(crate) struct Watch(pub(crate) Prometheus);

impl Stage {
    pub(crate) async fn set() -> Self {
        let lag = ("CONSUMERS_LAG_INTERVAL", "250ms");
        let tarantool = Replicas::told(&[("MTS_MEMORY", MEMORY)]).await;
        let config = tarantool.config();
        let cluster = Cluster::over((tarantool, &config), env!("CARGO_BIN_EXE_minitoolstream"), HOME, 1, &[lag]);
        let embedded = TestBroker::start(&[lag, ("DATA_QUOTA", QUOTA)]).await;
        let kubernetes = Kubernetes::start().await;
        let targets = [
            (cluster.ingress[0].address("http"), NAMESPACE, "ingress"),
            (cluster.egress[0].address("http"), NAMESPACE, "egress"),
            (embedded.http.to_string(), "laptop", "all"),
        ];
        let config = configuration(&targets, &kubernetes.address.to_string());
        let files = [("prometheus.yml", config.as_str()), ("rules.yml", &rules::hurried())];
        let watch = Watch(Prometheus::start(HOME, &files).await);
        Self { cluster, embedded, kubernetes, watch }
    }

    /// Where messages are published.
    pub(crate) fn ingress(&self) -> Client {
        self.cluster.ingress[0].client()
    }

    /// Where messages are consumed.
    pub(crate) fn egress(&self) -> Client {
        self.cluster.egress[0].client()
    }

    /// Publishes small and larger messages, and consumes them, for as long as the handle is not aborted.
    pub(crate) async fn load(&self) -> JoinHandle<()> {
        let worker = self.egress().consumer("orders").settings(ConsumerSettings::of("orders.>"));
        let mut deliveries = worker.messages().await.unwrap();
        let publisher = self.ingress().publisher();
        tokio::spawn(async move {
            let consume = async {
                while let Some(delivery) = deliveries.next().await {
                    if let Ok(delivery) = delivery {
                        let _ = delivery.ack().await;
                    }
                }
            };
            let publish = async {
                for number in 0_u32.. {
                    // One in ten goes to S3.
                    let size = if number.is_multiple_of(10) { 100_000 } else { 1_000 };
                    let publisher = publisher.clone();
                    tokio::spawn(async move {
                        let _ = publisher.publish(NewMessage::new("orders.new", vec![7; size])).await;
                    });
                    sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::join!(consume, publish);
        })
    }
}

impl Watch {
    /// Alerts that fire now, each with the values of these labels.
    pub(crate) async fn firing(&self) -> BTreeSet<String> {
        let alerts = self.0.alerts().await;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| named(&alert["labels"])).collect()
    }

    /// Waits until all of these fire.
    pub(crate) async fn must_fire(&self, wanted: &[&str]) {
        let started = Instant::now();
        let mut missing: Vec<_> = wanted.to_vec();
        while !missing.is_empty() {
            let firing = self.firing().await;
            missing.retain(|name| {
                let fires = firing.contains(*name);
                if fires {
                    eprintln!("{name} fired after {:.1?}", started.elapsed());
                }
                !fires
            });
            assert!(started.elapsed() < PATIENCE, "{missing:?} did not fire; these do: {firing:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until it fires no more.
    pub(crate) async fn must_end(&self, name: &str) {
        let started = Instant::now();
        while self.firing().await.contains(name) {
            assert!(started.elapsed() < PATIENCE, "{name} does not end");
            sleep(Duration::from_millis(200)).await;
        }
        eprintln!("{name} ended after {:.1?}", started.elapsed());
    }
}

/// `StoreFull payload of laptop`: the name of an alert, what tells it from others of its name, and whose it is if it is not
/// the cluster's.
fn named(labels: &Value) -> String {
    let mut name = labels["alertname"].as_str().unwrap().to_owned();
    let which = ["service", "consumer", "store", "actor", "pod", "horizontalpodautoscaler"];
    if let Some(which) = which.iter().find_map(|label| labels[*label].as_str()) {
        name.push_str(&format!(" {which}"));
    }
    match labels["namespace"].as_str() {
        Some(NAMESPACE) | None => name,
        Some(other) => format!("{name} of {other}"),
    }
}

/// As the operator would make it of the ServiceMonitors: with labels of the target beside those of the metrics.
fn configuration(brokers: &[(String, &str, &str)], kubernetes: &str) -> String {
    let broker = |(address, namespace, role): &(String, &str, &str)| {
        let pod = format!("minitoolstream-{role}-0");
        format!(
            "      - targets: ['{address}']\n        labels: {{namespace: {namespace}, pod: {pod}, container: broker, \
             service: minitoolstream-{role}-service}}\n"
        )
    };
    let brokers: String = brokers.iter().map(broker).collect();
    format!(
        "global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}\n\
         rule_files: [rules.yml]\n\
         scrape_configs:\n  \
         - job_name: minitoolstream\n    honor_labels: true\n    static_configs:\n{brokers}  \
         - job_name: kube-state-metrics\n    honor_labels: true\n    static_configs:\n      - targets: ['{kubernetes}']\n"
    )
}
