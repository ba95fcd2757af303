use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use serde_yaml_ng::Value as Yaml;

use super::value::{ByteSize, LogFormat, Role, TtlRule, Value};
use crate::store::s3::Secret;

/// What the reference page says of one setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its dotted key in the file.
    pub key: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// Its default, as it would stand in the file.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static [&'static str],
}

impl Setting {
    /// Another name of its environment variable: that of S3, for variables named after MinIO.
    pub fn other_env(&self) -> Option<String> {
        self.env.strip_prefix("MINIO_").map(|rest| format!("S3_{rest}"))
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty, $key:literal, $env:literal, $default:literal;)+) => {
        /// The effective configuration.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        /// Every setting there is, in the order of the reference page.
        pub const SETTINGS: &[Setting] = &[
            $(Setting { key: $key, env: $env, default: $default, doc: &[$($doc),+] },)+
        ];

        impl Config {
            pub(super) fn from_values(
                mut values: BTreeMap<String, (Yaml, String)>,
                faults: &mut Vec<String>,
            ) -> Self {
                let config = Self { $($field: take(&mut values, $key, $default, faults),)+ };
                for (key, (_, origin)) in values {
                    faults.push(format!("{origin}: unknown key '{key}'{}", suggestion(&key)));
                }
                config
            }

            pub(super) fn values(&self) -> Vec<(&'static str, Yaml)> {
                vec![$(($key, self.$field.show()),)+]
            }
        }
    };
}

settings! {
    /// Address that gRPC and HTTP listen on. `0.0.0.0` opens the broker to the network.
    host: IpAddr, "server.host", "SERVER_HOST", "127.0.0.1";
    /// `all`, `ingress` (publishing, on `server.port`) or `egress` (consuming, on `server.egress_port`). With `all`, both
    /// ports serve all calls.
    role: Role, "server.role", "SERVER_ROLE", "all";
    /// gRPC port for publishing. 0 lets the system choose.
    port: u16, "server.port", "SERVER_PORT", "50051";
    /// gRPC port for consuming.
    egress_port: u16, "server.egress_port", "EGRESS_PORT", "50052";
    /// A gRPC connection this old is ended in good order, so that its client comes back and may meet another broker; each a
    /// little earlier or later, by up to a tenth. 0 for never.
    connection_age: Duration, "server.connection_age", "SERVER_CONNECTION_AGE", "30m";
    /// How long calls, reads, uploads and leases of such a connection may go on before it is cut.
    connection_age_grace: Duration, "server.connection_age_grace", "SERVER_CONNECTION_AGE_GRACE", "1h";
    /// Port of health checks, metrics, and messages over HTTP.
    http_port: u16, "http.port", "HTTP_PORT", "8080";
    /// Instances of Tarantool, `host:port`, separated by commas: then metadata is there and payload in S3, and many brokers
    /// may work on both. Empty: the embedded stores.
    tarantool_address: Vec<String>, "tarantool.address", "TARANTOOL_ADDRESS", "";
    /// The brokers' user of Tarantool.
    tarantool_user: String, "tarantool.user", "TARANTOOL_USER", "minitoolstream";
    /// Its password.
    tarantool_password: Secret, "tarantool.password", "TARANTOOL_PASSWORD", "";
    /// How long one call of Tarantool may take.
    tarantool_timeout: Duration, "tarantool.timeout", "TARANTOOL_TIMEOUT", "5s";
    /// After so long a silence a broker counts as dead, and what its workers have is given to others.
    tarantool_liveness: Duration, "tarantool.liveness", "TARANTOOL_LIVENESS", "5s";
    /// Blocks of at most so many bytes are rows of Tarantool and cost no request to S3: up to 1 MiB. While more than half of its
    /// memory is taken, 4 KiB.
    tarantool_inline_max: ByteSize, "tarantool.inline_max", "TARANTOOL_INLINE_MAX", "64KiB";
    /// Where S3 is: `host:port` or a URL. Needed with `tarantool.address`.
    s3_endpoint: String, "s3.endpoint", "MINIO_ENDPOINT", "";
    /// Names the key that requests to S3 are signed with.
    s3_access_key: String, "s3.access_key", "MINIO_ACCESS_KEY_ID", "";
    /// The key that requests to S3 are signed with.
    s3_secret_key: Secret, "s3.secret_key", "MINIO_SECRET_ACCESS_KEY", "";
    /// Comes with temporary keys of S3.
    s3_session_token: Secret, "s3.session_token", "MINIO_SESSION_TOKEN", "";
    /// The bucket.
    s3_bucket: String, "s3.bucket", "MINIO_BUCKET_NAME", "minitoolstream";
    /// Makes the bucket at the start if it is not there.
    s3_create_bucket: bool, "s3.create_bucket", "MINIO_CREATE_BUCKET", "true";
    /// Part of the signature; servers that have no regions take the default.
    s3_region: String, "s3.region", "MINIO_REGION", "us-east-1";
    /// `true` for `host/bucket/key`, `false` for `bucket.host/key`.
    s3_path_style: bool, "s3.path_style", "MINIO_PATH_STYLE", "true";
    /// Speaks HTTPS with S3, and checks its certificate against the public authorities.
    s3_use_ssl: bool, "s3.use_ssl", "MINIO_USE_SSL", "false";
    /// What all keys in the bucket begin with: empty, or a text that ends with a slash.
    s3_prefix: String, "s3.prefix", "MINIO_PREFIX", "";
    /// Bytes of a part of a large message in S3. Each upload keeps up to three in memory.
    s3_part_size: ByteSize, "s3.part_size", "MINIO_PART_SIZE", "8MiB";
    /// Parts of all uploads under way to S3 at a time.
    s3_parts: usize, "s3.parts", "MINIO_PARTS", "8";
    /// How long S3 may say nothing.
    s3_timeout: Duration, "s3.timeout", "MINIO_TIMEOUT", "10s";
    /// Bytes of recent blocks that a broker keeps in memory, in front of S3.
    cache_bytes: ByteSize, "cache.bytes", "CACHE_BYTES", "64MiB";
    /// Directory of the embedded stores; made if missing. One broker at a time.
    data_dir: PathBuf, "data.dir", "DATA_DIR", "./data";
    /// Disk space that publishes leave free, so that reads, acks and the reaper go on when the disk fills up.
    free_min: ByteSize, "data.free_min", "DATA_FREE_MIN", "128MiB";
    /// Most bytes that the files of the data directory may have, besides what a commit adds; 0 for no quota.
    quota: ByteSize, "data.quota", "DATA_QUOTA", "0";
    /// Whether messages without a TTL of their own get one from the rules below.
    ttl_enabled: bool, "ttl.enabled", "TTL_ENABLED", "true";
    /// TTL of messages that no rule below and no publisher gives one.
    ttl_default: Duration, "ttl.default", "TTL_DEFAULT", "24h";
    /// Longest TTL: what a publisher asks beyond it is refused.
    ttl_max: Duration, "ttl.max", "TTL_MAX", "365d";
    /// TTL by subject pattern; the first match counts: `[{channel: "logs.>", duration: 7d}]`.
    ttl_channels: Vec<TtlRule>, "ttl.channels", "TTL_CHANNELS", "[]";
    /// How long dead letters live, if their consumer does not say.
    dead_letter_ttl: Duration, "consumers.dead_letter_ttl", "CONSUMERS_DEAD_LETTER_TTL", "30d";
    /// How long a message id is remembered for deduplication.
    dedup_window: Duration, "dedup.window", "DEDUP_WINDOW", "2m";
    /// Largest data of one message that is published in one piece. Larger ones are uploaded.
    message_max: ByteSize, "limits.message_max", "LIMITS_MESSAGE_MAX", "8MiB";
    /// Largest data of one message that is uploaded.
    upload_max: ByteSize, "limits.upload_max", "LIMITS_UPLOAD_MAX", "64GiB";
    /// Most uploads under way or interrupted.
    uploads: usize, "limits.uploads", "LIMITS_UPLOADS", "1000";
    /// How long an interrupted upload can be continued.
    upload_retention: Duration, "uploads.retention", "UPLOADS_RETENTION", "24h";
    /// Bytes of uploads accepted and not yet written, over all connections.
    upload_bytes: ByteSize, "limits.upload_bytes", "LIMITS_UPLOAD_BYTES", "32MiB";
    /// Most uploads at work at a time, of more than 1 MiB each; more wait, and are told to come again.
    upload_streams: usize, "limits.upload_streams", "LIMITS_UPLOAD_STREAMS", "128";
    /// Most headers of one message.
    header_count_max: usize, "limits.header_count_max", "LIMITS_HEADER_COUNT_MAX", "64";
    /// Largest sum of header keys and values of one message.
    header_bytes_max: ByteSize, "limits.header_bytes_max", "LIMITS_HEADER_BYTES_MAX", "16KiB";
    /// Most messages of one PublishBatch or one frame of a PublishStream, and of one Fetch.
    batch_max: usize, "limits.batch_max", "LIMITS_BATCH_MAX", "10000";
    /// Bytes accepted and not yet stored, over all connections.
    inflight_bytes: ByteSize, "limits.inflight_bytes", "LIMITS_INFLIGHT_BYTES", "16MiB";
    /// Messages accepted and not yet stored, over all connections.
    inflight_requests: usize, "limits.inflight_requests", "LIMITS_INFLIGHT_REQUESTS", "100000";
    /// Bytes accepted and not yet stored, of one connection.
    connection_inflight_bytes: ByteSize, "limits.connection_inflight_bytes", "LIMITS_CONNECTION_INFLIGHT_BYTES", "12MiB";
    /// Messages accepted and not yet stored, of one connection.
    connection_inflight_requests: usize, "limits.connection_inflight_requests", "LIMITS_CONNECTION_INFLIGHT_REQUESTS", "20000";
    /// Bytes read for clients and not yet taken by them, over all connections.
    read_bytes: ByteSize, "limits.read_bytes", "LIMITS_READ_BYTES", "16MiB";
    /// Most connections at a time; more wait to be accepted.
    connections: usize, "limits.connections", "LIMITS_CONNECTIONS", "1024";
    /// Most concurrent calls and streams of one connection.
    streams_per_connection: usize, "limits.streams_per_connection", "LIMITS_STREAMS_PER_CONNECTION", "2048";
    /// Most live subscriptions and following reads.
    subscriptions: usize, "limits.subscriptions", "LIMITS_SUBSCRIPTIONS", "10000";
    /// Most durable consumers.
    consumers: usize, "limits.consumers", "LIMITS_CONSUMERS", "20000";
    /// How long a client may leave its stream unread before the stream is ended.
    stall_timeout: Duration, "limits.stall_timeout", "LIMITS_STALL_TIMEOUT", "30s";
    /// Most subjects with metric series of their own; the others are counted as `other`.
    metric_subjects: usize, "limits.metric_subjects", "LIMITS_METRIC_SUBJECTS", "100";
    /// Most consumers with metric series of their own; the others are counted as `other`.
    metric_consumers: usize, "limits.metric_consumers", "LIMITS_METRIC_CONSUMERS", "100";
    /// How often the lag of consumers is measured for metrics.
    lag_interval: Duration, "consumers.lag_interval", "CONSUMERS_LAG_INTERVAL", "15s";
    /// How often expired messages and garbage are looked for.
    reaper_interval: Duration, "reaper.interval", "REAPER_INTERVAL", "1s";
    /// How long the bytes of removed messages stay, for reads under way.
    reaper_grace: Duration, "reaper.grace", "REAPER_GRACE", "10s";
    /// How long a stop may take before streams are cut.
    shutdown_deadline: Duration, "shutdown.deadline", "SHUTDOWN_DEADLINE", "20s";
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,minitoolstream=debug`.
    log_level: String, "log.level", "LOG_LEVEL", "info";
    /// `text` or `json`.
    log_format: LogFormat, "log.format", "LOG_FORMAT", "text";
}

/// Takes a setting's value out of the map, or its default; a value that cannot be read is a fault.
fn take<T: Value>(
    values: &mut BTreeMap<String, (Yaml, String)>,
    key: &str,
    default: &str,
    faults: &mut Vec<String>,
) -> T {
    let given = values.remove(key).and_then(|(value, origin)| match T::read(&value) {
        Ok(value) => Some(value),
        Err(problem) => {
            faults.push(format!("{origin}: {key}: {problem}"));
            None
        }
    });
    given.unwrap_or_else(|| {
        let default = serde_yaml_ng::from_str(default).unwrap_or_else(|_| Yaml::String(default.into()));
        T::read(&default).expect("every default is a valid value: the tests load them all")
    })
}

fn suggestion(key: &str) -> String {
    SETTINGS
        .iter()
        .map(|setting| (strsim::damerau_levenshtein(key, setting.key), setting.key))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map_or_else(
            || ": see 'minitoolstream config' for the keys".into(),
            |(_, nearest)| format!(": did you mean '{nearest}'?"),
        )
}
