//! Every metric there is: declared once, registered and documented from here.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use super::labels::{
    ACTOR, CAUSE, CODE, CONSUMER, Label, OPERATION, ROLE, S3_OPERATION, SERVICE, STATE, STATUS, STORE, SUBJECT,
    TARANTOOL_STATE, VERSION,
};

/// Answers of the broker and commits.
const ANSWERS: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A request takes a round trip at least, and up to minutes if it completes a large upload.
const REQUESTS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What the reference page says of one metric.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What Prometheus calls its type.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
    /// Upper bounds of its buckets, of a histogram.
    pub buckets: &'static [f64],
    /// What it means.
    pub doc: &'static [&'static str],
}

impl Family {
    /// What it means, on one line.
    pub fn meaning(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

/// A type that a family can have.
trait Kind: Collector + Clone + Sized + 'static {
    const NAME: &'static str;

    fn make(opts: HistogramOpts, labels: &[&str]) -> Result<Self, prometheus::Error>;
}

macro_rules! kinds {
    ($($type:ty, $name:literal, |$opts:ident, $labels:ident| $make:expr;)+) => {
        $(impl Kind for $type {
            const NAME: &'static str = $name;

            fn make($opts: HistogramOpts, $labels: &[&str]) -> Result<Self, prometheus::Error> {
                $make
            }
        })+
    };
}

kinds! {
    IntCounter, "counter", |opts, _labels| Self::with_opts(opts.common_opts);
    IntCounterVec, "counter", |opts, labels| Self::new(opts.common_opts, labels);
    IntGauge, "gauge", |opts, _labels| Self::with_opts(opts.common_opts);
    IntGaugeVec, "gauge", |opts, labels| Self::new(opts.common_opts, labels);
    Histogram, "histogram", |opts, _labels| Self::with_opts(opts);
    HistogramVec, "histogram", |opts, labels| Self::new(opts, labels);
}

fn registered<T: Kind>(registry: &Registry, family: &Family) -> Result<T, prometheus::Error> {
    let common_opts = Opts::new(family.name, family.meaning().replace('`', ""));
    let opts = HistogramOpts { common_opts, buckets: family.buckets.to_vec() };
    let labels: Vec<_> = family.labels.iter().map(|label| label.name).collect();
    let metric = T::make(opts, &labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

macro_rules! families {
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty, $name:literal, [$($label:ident),*] $(, $buckets:ident)?;)+) => {
        /// All metrics of one broker.
        pub(super) struct Families {
            $($(#[doc = $doc])+ pub(super) $field: $type,)+
        }

        /// Every metric there is, in the order of the reference page.
        pub const FAMILIES: &[Family] = &[
            $(Family {
                name: $name,
                kind: <$type as Kind>::NAME,
                labels: &[$($label),*],
                buckets: families!(@buckets $($buckets)?),
                doc: &[$($doc),+],
            },)+
        ];

        impl Families {
            pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
                let mut families = FAMILIES.iter();
                let mut next = || families.next().expect("there is one for each field");
                Ok(Self { $($field: registered(registry, next())?,)+ })
            }
        }
    };
}

families! {
    /// messages published (`ingress`) and delivered (`egress`), by outcome; one that is read whole over HTTP counts as
    /// delivered
    messages: IntCounterVec, "minitoolstream_messages_total", [SERVICE, SUBJECT, STATUS];
    /// bytes of data: of valid messages received, whatever became of them, and of messages sent to consumers
    bytes: IntCounterVec, "minitoolstream_bytes_total", [SERVICE];
    /// time to answer
    latency: HistogramVec, "minitoolstream_latency_seconds", [SERVICE, OPERATION], ANSWERS;
    /// time to make a group of batches and acks durable, failed attempts included
    commit_latency: Histogram, "minitoolstream_commit_seconds", [], ANSWERS;
    /// groups that could not be stored
    commit_failures: IntCounter, "minitoolstream_commit_failures_total", [];
    /// actors rebuilt after a failure
    actor_restarts: IntCounterVec, "minitoolstream_actor_restarts_total", [ACTOR, CAUSE];
    /// messages removed because their time had come
    expired: IntCounter, "minitoolstream_expired_messages_total", [];
    /// segments and objects whose bytes were removed
    reclaimed: IntCounter, "minitoolstream_reclaimed_payloads_total", [];
    /// messages that consumers gave up
    dead_letters: IntCounter, "minitoolstream_dead_letters_total", [];
    /// messages that a durable consumer has not settled, measured every `consumers.lag_interval`; each broker tells of all
    /// consumers, so take the `max` and not the `sum` over brokers
    consumer_messages: IntGaugeVec, "minitoolstream_consumer_messages", [CONSUMER, STATE];
    /// 1 if the store answered when it was last asked, within the last seconds, and 0 if not
    store_up: IntGaugeVec, "minitoolstream_store_up", [STORE];
    /// bytes that are taken: of a quota, of the disk by anybody, or of Tarantool's memory; not told of S3
    store_used: IntGaugeVec, "minitoolstream_store_used_bytes", [STORE];
    /// from so many bytes on publishes are refused
    store_limit: IntGaugeVec, "minitoolstream_store_limit_bytes", [STORE];
    /// rows that could not be read and were passed over, each time they are met: above 0, run `minitoolstream check`
    unreadable_rows: IntGauge, "minitoolstream_unreadable_rows", [];
    /// gRPC connections, over both ports
    connections: IntGauge, "minitoolstream_open_connections", [];
    /// gRPC connections that reached `server.connection_age` and were told to end
    aged_connections: IntCounter, "minitoolstream_aged_connections_total", [];
    /// subscriptions and following reads
    subscriptions: IntGauge, "minitoolstream_live_subscriptions", [];
    /// requests to S3, each attempt counted: a `503` beside a `200` was got over
    s3_requests: IntCounterVec, "minitoolstream_s3_requests_total", [S3_OPERATION, CODE];
    /// time of a request to S3, with its body; each attempt by itself
    s3_latency: HistogramVec, "minitoolstream_s3_request_seconds", [S3_OPERATION], REQUESTS;
    /// instances of Tarantool as this broker sees them, asked every half second
    tarantool_instances: IntGaugeVec, "minitoolstream_tarantool_instances", [TARANTOOL_STATE];
    /// always 1: tells what runs
    build: IntGaugeVec, "minitoolstream_build_info", [VERSION, ROLE];
}
