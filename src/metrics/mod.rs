//! Prometheus metrics. Their number is bounded whatever the number of subjects: beyond `limits.metric_subjects`,
//! subjects are counted together as `other`.
//!
//! Every metric is declared once in [`families`], with its meaning and its labels.

mod families;
mod labels;
mod reference;

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus::{Encoder, IntGauge, Registry, TextEncoder};

use crate::{
    consumer::Lag,
    store::tarantool::{Instance, Role},
    types::{ConsumerName, Subject},
};

use families::Families;
pub use families::{FAMILIES, Family};
pub use labels::{Cause, InstanceState, Label, Operation, Part, Service, Unsettled};
pub use reference::reference;

/// The label of subjects and consumers that have no series of their own.
const OTHER: &str = "other";

/// All metrics of one broker; cloning shares them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Families,
    subjects: RwLock<HashSet<Subject>>,
    subjects_max: usize,
}

impl Metrics {
    /// Metrics with series of their own for at most `subjects_max` subjects.
    ///
    /// # Errors
    /// If two metrics share a name.
    pub fn new(subjects_max: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        // A series that begins with its first restart would hide that one from `increase`.
        for (actor, _) in labels::ACTORS {
            for cause in Cause::ALL {
                families.actor_restarts.with_label_values(&[actor, cause.as_str()]);
            }
        }
        Ok(Self(Arc::new(Inner { registry, families, subjects: RwLock::default(), subjects_max })))
    }

    /// Says what runs; `role` is one of the words of `server.role`.
    pub(crate) fn build(&self, role: &str) {
        self.0.families.build.with_label_values(&[env!("CARGO_PKG_VERSION"), role]).set(1);
        // An autoscaler that finds no series of an idle pod does not scale down.
        for service in [Service::Ingress, Service::Egress] {
            if [service.as_str(), "all"].contains(&role) {
                self.refused(service, "ok", 0);
            }
        }
    }

    /// Counts `count` messages of a subject with one outcome; `status` is one of a fixed set of words.
    pub fn messages(&self, service: Service, subject: &Subject, status: &str, count: u64) {
        let labels = |subject: &str| self.0.families.messages.with_label_values(&[service.as_str(), subject, status]);
        if self.has_own_series(subject) { labels(subject.as_str()) } else { labels(OTHER) }.inc_by(count);
    }

    /// Counts messages that were refused before their subject was known to be valid.
    pub fn refused(&self, service: Service, status: &str, count: u64) {
        self.0.families.messages.with_label_values(&[service.as_str(), OTHER, status]).inc_by(count);
    }

    /// Counts payload bytes.
    pub fn bytes(&self, service: Service, bytes: u64) {
        self.0.families.bytes.with_label_values(&[service.as_str()]).inc_by(bytes);
    }

    /// Records how long an operation took.
    pub fn latency(&self, operation: Operation, elapsed: Duration) {
        let labels = [operation.service().as_str(), operation.as_str()];
        self.0.families.latency.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }

    pub(crate) fn committed(&self, elapsed: Duration, stored: bool) {
        self.0.families.commit_latency.observe(elapsed.as_secs_f64());
        if !stored {
            self.0.families.commit_failures.inc();
        }
    }

    pub(crate) fn actor_restarted(&self, actor: &str, cause: Cause) {
        self.0.families.actor_restarts.with_label_values(&[actor, cause.as_str()]).inc();
    }

    pub(crate) fn expired(&self, messages: u64) {
        self.0.families.expired.inc_by(messages);
    }

    pub(crate) fn reclaimed(&self, payloads: u64) {
        self.0.families.reclaimed.inc_by(payloads);
    }

    pub(crate) fn dead_letters(&self, letters: u64) {
        self.0.families.dead_letters.inc_by(letters);
    }

    /// Counts one request; `operation` is one of a fixed set of words, `code` a status or one of a fixed set of words.
    pub(crate) fn s3_request(&self, operation: &str, code: &str, elapsed: Duration) {
        self.0.families.s3_requests.with_label_values(&[operation, code]).inc();
        self.0.families.s3_latency.with_label_values(&[operation]).observe(elapsed.as_secs_f64());
    }

    /// Replaces what is known of the instances of Tarantool.
    pub(crate) fn tarantool_instances(&self, instances: &[Instance]) {
        for state in InstanceState::ALL {
            let is_so = |instance: &&Instance| match state {
                InstanceState::Leader => instance.role == Role::Leader,
                InstanceState::Follower => instance.role == Role::Follower,
                InstanceState::Away => instance.role == Role::Away,
                InstanceState::Stopped => instance.is_stopped,
            };
            let count = instances.iter().filter(is_so).count() as u64;
            self.0.families.tarantool_instances.with_label_values(&[state.as_str()]).set(signed(count));
        }
    }

    /// Replaces what is known of the lag of consumers, by name; the first `consumers_max` have series of their own.
    pub(crate) fn lags(&self, lags: &[(ConsumerName, Lag)], consumers_max: usize) {
        self.0.families.consumer_messages.reset();
        for (index, (name, lag)) in lags.iter().enumerate() {
            let consumer = if index < consumers_max { name.as_str() } else { OTHER };
            for state in Unsettled::ALL {
                let count = match state {
                    Unsettled::Pending => lag.pending,
                    Unsettled::Unacked => lag.unacked,
                    Unsettled::Redeliverable => lag.redeliverable,
                };
                self.0.families.consumer_messages.with_label_values(&[consumer, state.as_str()]).add(signed(count));
            }
        }
    }

    /// Says whether a store answers.
    pub(crate) fn store_answers(&self, part: Part, answers: bool) {
        self.0.families.store_up.with_label_values(&[part.as_str()]).set(answers.into());
    }

    /// Records how often rows that cannot be read were passed over.
    pub(crate) fn unreadable_rows(&self, count: u64) {
        self.0.families.unreadable_rows.set(signed(count));
    }

    /// Says how full a store is.
    pub(crate) fn store_usage(&self, part: Part, used: u64, limit: u64) {
        let Families { store_used, store_limit, .. } = &self.0.families;
        store_used.with_label_values(&[part.as_str()]).set(signed(used));
        store_limit.with_label_values(&[part.as_str()]).set(signed(limit));
    }

    /// Counts a connection until the guard is dropped.
    pub fn connection(&self) -> GaugeGuard {
        GaugeGuard::of(&self.0.families.connections)
    }

    /// Counts a connection that is told to end because of its age.
    pub fn aged_connection(&self) {
        self.0.families.aged_connections.inc();
    }

    /// Counts a subscription until the guard is dropped.
    pub fn subscription(&self) -> GaugeGuard {
        GaugeGuard::of(&self.0.families.subscriptions)
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

/// Gauges have signs.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
