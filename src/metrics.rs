//! Prometheus metrics. Their number is bounded whatever the number of subjects: beyond `limits.metric_subjects`,
//! subjects are counted together as `other`.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::{
    consumer::Lag,
    store::tarantool::{Instance, Role},
    types::{ConsumerName, Subject},
};

const LATENCY_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A request takes a round trip at least, and up to minutes if it completes a large upload.
const S3_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The label of subjects that have no series of their own.
const OTHER: &str = "other";

/// All metrics of one broker; cloning shares them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    messages: IntCounterVec,
    bytes: IntCounterVec,
    latency: HistogramVec,
    commit_latency: Histogram,
    commit_failures: IntCounter,
    actor_restarts: IntCounterVec,
    expired: IntCounter,
    reclaimed: IntCounter,
    dead_letters: IntCounter,
    consumer_messages: IntGaugeVec,
    connections: IntGauge,
    subscriptions: IntGauge,
    s3_requests: IntCounterVec,
    s3_latency: HistogramVec,
    tarantool_instances: IntGaugeVec,
    subjects: RwLock<HashSet<Subject>>,
    subjects_max: usize,
}

/// Which side of the broker a series belongs to: the values of the label `service`.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    /// Publishing.
    Ingress,
    /// Consuming.
    Egress,
}

impl Service {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl Metrics {
    /// Metrics with series of their own for at most `subjects_max` subjects.
    ///
    /// # Errors
    /// If two metrics share a name.
    pub fn new(subjects_max: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let single = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let opts = HistogramOpts::new("minitoolstream_latency_seconds", "Time to answer, by operation")
            .buckets(LATENCY_BUCKETS.into());
        let latency = HistogramVec::new(opts, &["service", "operation"])?;
        registry.register(Box::new(latency.clone()))?;
        let opts = HistogramOpts::new("minitoolstream_commit_seconds", "Time to make a group of batches durable")
            .buckets(LATENCY_BUCKETS.into());
        let commit_latency = Histogram::with_opts(opts)?;
        registry.register(Box::new(commit_latency.clone()))?;
        let inner = Inner {
            messages: counter(
                "minitoolstream_messages_total",
                "Messages published and delivered, by outcome",
                &["service", "subject", "status"],
            )?,
            bytes: counter("minitoolstream_bytes_total", "Payload bytes received and delivered", &["service"])?,
            latency,
            commit_latency,
            commit_failures: single("minitoolstream_commit_failures_total", "Groups that could not be stored")?,
            actor_restarts: counter(
                "minitoolstream_actor_restarts_total",
                "Actors rebuilt after a failure, by cause",
                &["actor", "cause"],
            )?,
            expired: single("minitoolstream_expired_messages_total", "Messages removed because their time had come")?,
            reclaimed: single("minitoolstream_reclaimed_payloads_total", "Segments and objects removed")?,
            dead_letters: single("minitoolstream_dead_letters_total", "Messages that consumers gave up")?,
            consumer_messages: {
                let name = "minitoolstream_consumer_messages";
                let help =
                    "Messages that a consumer has not settled: pending (never delivered), unacked, redeliverable";
                let gauges = IntGaugeVec::new(Opts::new(name, help), &["consumer", "state"])?;
                registry.register(Box::new(gauges.clone()))?;
                gauges
            },
            connections: gauge("minitoolstream_open_connections", "gRPC connections")?,
            subscriptions: gauge("minitoolstream_live_subscriptions", "Subscriptions and following reads")?,
            s3_requests: counter(
                "minitoolstream_s3_requests_total",
                "Requests to S3, each attempt counted, by status or what came instead",
                &["operation", "code"],
            )?,
            s3_latency: {
                let opts =
                    HistogramOpts::new("minitoolstream_s3_request_seconds", "Time of a request to S3, with its body")
                        .buckets(S3_BUCKETS.into());
                let latency = HistogramVec::new(opts, &["operation"])?;
                registry.register(Box::new(latency.clone()))?;
                latency
            },
            tarantool_instances: {
                let name = "minitoolstream_tarantool_instances";
                let help = "Instances of Tarantool: leader, follower, away; stopped: do not replicate any more";
                let gauges = IntGaugeVec::new(Opts::new(name, help), &["state"])?;
                registry.register(Box::new(gauges.clone()))?;
                gauges
            },
            subjects: RwLock::default(),
            subjects_max,
            registry,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Counts `count` messages of a subject with one outcome; `status` is one of a fixed set of words.
    pub fn messages(&self, service: Service, subject: &Subject, status: &str, count: u64) {
        let labels = |subject: &str| self.0.messages.with_label_values(&[service.as_str(), subject, status]);
        if self.has_own_series(subject) { labels(subject.as_str()) } else { labels(OTHER) }.inc_by(count);
    }

    /// Counts messages that were refused before their subject was known to be valid.
    pub fn refused(&self, service: Service, status: &str, count: u64) {
        self.0.messages.with_label_values(&[service.as_str(), OTHER, status]).inc_by(count);
    }

    /// Counts payload bytes.
    pub fn bytes(&self, service: Service, bytes: u64) {
        self.0.bytes.with_label_values(&[service.as_str()]).inc_by(bytes);
    }

    /// Records how long an operation took; `operation` is one of the API's calls.
    pub fn latency(&self, service: Service, operation: &str, elapsed: Duration) {
        self.0.latency.with_label_values(&[service.as_str(), operation]).observe(elapsed.as_secs_f64());
    }

    pub(crate) fn committed(&self, elapsed: Duration, stored: bool) {
        self.0.commit_latency.observe(elapsed.as_secs_f64());
        if !stored {
            self.0.commit_failures.inc();
        }
    }

    pub(crate) fn actor_restarted(&self, actor: &str, cause: &str) {
        self.0.actor_restarts.with_label_values(&[actor, cause]).inc();
    }

    pub(crate) fn expired(&self, messages: u64) {
        self.0.expired.inc_by(messages);
    }

    pub(crate) fn reclaimed(&self, payloads: u64) {
        self.0.reclaimed.inc_by(payloads);
    }

    pub(crate) fn dead_letters(&self, letters: u64) {
        self.0.dead_letters.inc_by(letters);
    }

    /// Counts one request; `operation` is one of a fixed set of words, `code` a status or one of a fixed set of words.
    pub(crate) fn s3_request(&self, operation: &str, code: &str, elapsed: Duration) {
        self.0.s3_requests.with_label_values(&[operation, code]).inc();
        self.0.s3_latency.with_label_values(&[operation]).observe(elapsed.as_secs_f64());
    }

    /// Replaces what is known of the instances of Tarantool.
    pub(crate) fn tarantool_instances(&self, instances: &[Instance]) {
        let with = |role| instances.iter().filter(|instance| instance.role == role).count();
        let stopped = instances.iter().filter(|instance| instance.is_stopped).count();
        let counts = [
            ("leader", with(Role::Leader)),
            ("follower", with(Role::Follower)),
            ("away", with(Role::Away)),
            ("stopped", stopped),
        ];
        for (state, count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.0.tarantool_instances.with_label_values(&[state]).set(count);
        }
    }

    /// Replaces what is known of the lag of consumers, by name; the first `consumers_max` have series of their own.
    pub(crate) fn lags(&self, lags: &[(ConsumerName, Lag)], consumers_max: usize) {
        self.0.consumer_messages.reset();
        for (index, (name, lag)) in lags.iter().enumerate() {
            let consumer = if index < consumers_max { name.as_str() } else { OTHER };
            let counts = [("pending", lag.pending), ("unacked", lag.unacked), ("redeliverable", lag.redeliverable)];
            for (state, count) in counts {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.0.consumer_messages.with_label_values(&[consumer, state]).add(count);
            }
        }
    }

    /// Counts a connection until the guard is dropped.
    pub fn connection(&self) -> GaugeGuard {
        GaugeGuard::of(&self.0.connections)
    }

    /// Counts a subscription until the guard is dropped.
    pub fn subscription(&self) -> GaugeGuard {
        GaugeGuard::of(&self.0.subscriptions)
    }

    /// All series in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be rendered");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    fn has_own_series(&self, subject: &Subject) -> bool {
        let subjects = self.0.subjects.read().unwrap_or_else(PoisonError::into_inner);
        if subjects.contains(subject) {
            return true;
        }
        if subjects.len() >= self.0.subjects_max {
            return false;
        }
        drop(subjects);
        let mut subjects = self.0.subjects.write().unwrap_or_else(PoisonError::into_inner);
        if subjects.len() < self.0.subjects_max {
            subjects.insert(subject.clone());
        }
        subjects.contains(subject)
    }
}

/// Keeps a gauge raised while it lives.
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn of(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_subjects_and_consumers_give_fewer_than_2000_series() {
        let metrics = Metrics::new(100).unwrap();
        for index in 0..10_000 {
            let subject = Subject::parse("subject", &format!("s.{index}")).unwrap();
            for status in ["ok", "duplicate", "error"] {
                metrics.messages(Service::Ingress, &subject, status, 1);
                metrics.messages(Service::Egress, &subject, status, 1);
            }
        }
        let name = |index| ConsumerName::parse("name", &format!("c{index}")).unwrap();
        let lags: Vec<_> = (0..10_000).map(|index| (name(index), Lag { pending: 2, ..Lag::default() })).collect();
        metrics.lags(&lags, 100);
        let text = metrics.render();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(series < 2_000, "{series} series");
        assert!(text.contains(r#"minitoolstream_messages_total{service="ingress",status="ok",subject="other"} 9900"#));
        assert!(text.contains(r#"minitoolstream_consumer_messages{consumer="other",state="pending"} 19800"#));
    }
}
