//! The configuration: defaults, then one YAML file, then the environment.
//!
//! Every setting is declared once in [`settings`]: its key, environment variable, default and meaning. A file with
//! unknown keys is refused, and all faults are reported together.

mod settings;
mod value;

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use serde_yaml_ng::Value as Yaml;

use crate::{
    block,
    error::{Error, Result as BrokerResult},
    store::{s3, shared, tarantool},
    types::time,
};

pub use settings::{Config, SETTINGS, Setting};
pub use value::{ByteSize, LogFormat, Role, TtlRule};

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "the configuration has {} fault{plural}:", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  - {fault}"))
    }
}

/// Smallest quota: one segment is reserved whole.
/// Largest value of `tarantool.inline_max`: a group of blocks goes in one call of at most 16 MiB.
const INLINE_LIMIT: u64 = 1 << 20;

const QUOTA_MIN: u64 = 128 << 20;

impl Config {
    /// Reads the file, if one is given, and the environment over it.
    ///
    /// # Errors
    /// Every unknown key, unreadable value and broken rule, all at once.
    pub fn load(file: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut values = match file.map(read_file) {
            Some(Ok(values)) => values,
            Some(Err(fault)) => {
                faults.push(fault);
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        for setting in SETTINGS {
            let other = setting.other_env();
            let given = env(setting.env).map(|text| (setting.env, text));
            let given = given.or_else(|| other.as_deref().and_then(|name| Some((name, env(name)?))));
            if let Some((name, text)) = given {
                values.insert(setting.key.into(), (env_value(&text), format!("environment {name}")));
            }
        }
        let config = Self::from_values(values, &mut faults);
        config.check_ranges(&mut faults);
        if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
    }

    /// The effective settings as a YAML document that [`Config::load`] reads back.
    pub fn to_yaml(&self) -> String {
        let mut root = serde_yaml_ng::Mapping::new();
        for (key, value) in self.values() {
            let mut at = &mut root;
            let mut parts = key.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    at.insert(part.into(), value.clone());
                    break;
                }
                let inner = at.entry(part.into()).or_insert_with(|| Yaml::Mapping(Default::default()));
                let Yaml::Mapping(inner) = inner else { break };
                at = inner;
            }
        }
        serde_yaml_ng::to_string(&root).unwrap_or_default()
    }

    /// Where the stores are that many brokers share, if they are to be used.
    pub fn shared(&self) -> Option<shared::Settings> {
        if self.tarantool_address.is_empty() {
            return None;
        }
        let tarantool = tarantool::Config {
            addresses: self.tarantool_address.clone(),
            user: self.tarantool_user.clone(),
            password: self.tarantool_password.expose().into(),
            timeout: self.tarantool_timeout,
            liveness: self.tarantool_liveness,
            ..tarantool::Config::default()
        };
        let given = |secret: &s3::Secret| (!secret.expose().is_empty()).then(|| secret.clone());
        let s3 = s3::Settings {
            session_token: given(&self.s3_session_token),
            region: self.s3_region.clone(),
            path_style: self.s3_path_style,
            use_ssl: self.s3_use_ssl,
            prefix: self.s3_prefix.clone(),
            create_bucket: self.s3_create_bucket,
            part_size: self.s3_part_size.0,
            parts: self.s3_parts,
            timeout: self.s3_timeout,
            ..s3::Settings::new(&self.s3_endpoint, &self.s3_access_key, self.s3_secret_key.expose(), &self.s3_bucket)
        };
        Some(shared::Settings { tarantool, s3, cache_bytes: self.cache_bytes.0 })
    }

    /// Blocks of at most so many bytes are stored in their rows.
    pub fn inline_max(&self) -> usize {
        if self.tarantool_address.is_empty() {
            return block::INLINE_MAX;
        }
        usize::try_from(self.tarantool_inline_max.0).unwrap_or(block::INLINE_MAX)
    }

    fn check_ranges(&self, faults: &mut Vec<String>) {
        let mut check = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        let sizes = [
            ("limits.message_max", self.message_max, 1, 256 << 20),
            ("limits.upload_max", self.upload_max, 1, 1 << 40),
            ("limits.upload_bytes", self.upload_bytes, 8 << 20, 2 << 30),
            ("limits.header_bytes_max", self.header_bytes_max, 0, 1 << 20),
            ("data.free_min", self.free_min, 0, 1 << 50),
            ("limits.inflight_bytes", self.inflight_bytes, 1 << 20, 2 << 30),
            ("limits.read_bytes", self.read_bytes, 4 << 20, 2 << 30),
            ("limits.connection_inflight_bytes", self.connection_inflight_bytes, 1 << 20, 2 << 30),
        ];
        for (key, size, min, max) in sizes {
            check(
                (min..=max).contains(&size.0),
                format!("{key}: {size} is out of range: {} to {}", ByteSize(min), ByteSize(max)),
            );
        }
        let counts = [
            ("limits.uploads", self.uploads, 1, 1_000_000),
            ("limits.upload_streams", self.upload_streams, 1, 100_000),
            ("limits.header_count_max", self.header_count_max, 0, 10_000),
            ("limits.batch_max", self.batch_max, 1, 100_000),
            ("limits.inflight_requests", self.inflight_requests, 1, 10_000_000),
            ("limits.connection_inflight_requests", self.connection_inflight_requests, 1, 10_000_000),
            ("limits.connections", self.connections, 1, 100_000),
            ("limits.streams_per_connection", self.streams_per_connection, 1, 100_000),
            ("limits.subscriptions", self.subscriptions, 1, 1_000_000),
            ("limits.metric_subjects", self.metric_subjects, 0, 1_000),
        ];
        for (key, count, min, max) in counts {
            check((min..=max).contains(&count), format!("{key}: {count} is out of range: {min} to {max}"));
        }
        check(
            self.quota.0 == 0 || self.quota.0 >= QUOTA_MIN,
            format!("data.quota: {} is out of range: 0 for none, or {} and more", self.quota, ByteSize(QUOTA_MIN)),
        );
        check(
            self.tarantool_address.is_empty() == self.s3_endpoint.is_empty(),
            "tarantool.address and s3.endpoint: give both, or none for the embedded stores".into(),
        );
        check(
            self.tarantool_inline_max.0 <= INLINE_LIMIT,
            format!(
                "tarantool.inline_max: {} is out of range: 0 to {}",
                self.tarantool_inline_max,
                ByteSize(INLINE_LIMIT)
            ),
        );
        let day = Duration::from_secs(86_400);
        let durations = [
            ("server.connection_age_grace", self.connection_age_grace, Duration::from_millis(100), 365 * day),
            ("ttl.default", self.ttl_default, Duration::from_millis(1), 36_500 * day),
            ("ttl.max", self.ttl_max, Duration::from_millis(1), 36_500 * day),
            ("dedup.window", self.dedup_window, Duration::from_secs(1), day),
            ("tarantool.timeout", self.tarantool_timeout, Duration::from_millis(100), Duration::from_secs(15)),
            ("tarantool.liveness", self.tarantool_liveness, Duration::from_secs(1), Duration::from_mins(5)),
            ("s3.timeout", self.s3_timeout, Duration::from_millis(100), Duration::from_mins(10)),
            ("uploads.retention", self.upload_retention, Duration::from_millis(100), 365 * day),
            ("limits.stall_timeout", self.stall_timeout, Duration::from_millis(100), day),
            ("reaper.interval", self.reaper_interval, Duration::from_millis(10), day),
            ("reaper.grace", self.reaper_grace, Duration::ZERO, day),
            ("shutdown.deadline", self.shutdown_deadline, Duration::from_millis(100), day),
        ];
        for (key, duration, min, max) in durations {
            let (shown, min_shown, max_shown) = (time::show(duration), time::show(min), time::show(max));
            check(
                (min..=max).contains(&duration),
                format!("{key}: {shown} is out of range: {min_shown} to {max_shown}"),
            );
        }
        let age = self.connection_age;
        check(
            age.is_zero() || (Duration::from_millis(100)..=365 * day).contains(&age),
            format!("server.connection_age: {} is out of range: 0 for never, or 100ms to 365d", time::show(age)),
        );
        check(
            self.ttl_default <= self.ttl_max,
            "ttl.default is longer than ttl.max: lower the one or raise the other".into(),
        );
        for rule in &self.ttl_channels {
            check(
                rule.duration <= self.ttl_max && !rule.duration.is_zero(),
                format!("ttl.channels: the duration of '{}' must lie between 1ms and ttl.max", rule.channel),
            );
        }
        for (key, bytes) in [
            ("limits.inflight_bytes", self.inflight_bytes),
            ("limits.connection_inflight_bytes", self.connection_inflight_bytes),
        ] {
            check(
                self.message_max.0 <= bytes.0,
                format!(
                    "{key}: {bytes} is below limits.message_max ({}): no such message could pass",
                    self.message_max
                ),
            );
        }
        if let Some(shared) = self.shared() {
            faults_of(shared.s3.validate(), &mut check);
            check(
                self.upload_max.0 <= shared.s3.object_max(),
                format!(
                    "limits.upload_max: {} does not fit 10000 parts of s3.part_size: lower the one or raise the other",
                    self.upload_max
                ),
            );
        }
        let ports = [self.port, self.egress_port, self.http_port];
        for (index, port) in ports.iter().enumerate() {
            check(
                *port == 0 || !ports[..index].contains(port),
                format!("port {port} is given to two of server.port, server.egress_port and http.port"),
            );
        }
    }
}

/// The reference page of all settings, in Markdown.
pub fn reference() -> String {
    let mut page = String::from("| key | environment | default | meaning |\n|---|---|---|---|\n");
    for Setting { key, env, default, doc } in SETTINGS {
        let doc: Vec<_> = doc.iter().map(|line| line.trim().replace('|', "\\|")).collect();
        page.push_str(&format!("| `{key}` | `{env}` | `{default}` | {} |\n", doc.join(" ")));
    }
    page
}

type Values = BTreeMap<String, (Yaml, String)>;

/// Adds the rules that are broken.
fn faults_of(checked: BrokerResult<()>, check: &mut impl FnMut(bool, String)) {
    if let Err(Error::Invalid(violations)) = checked {
        violations.iter().for_each(|violation| check(false, format!("{}: {}", violation.field, violation.problem)));
    }
}

fn read_file(path: &Path) -> Result<Values, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    let document: Yaml = serde_yaml_ng::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
    let mut values = BTreeMap::new();
    match document {
        Yaml::Null => {}
        Yaml::Mapping(root) => flatten("", root, &name.to_string(), &mut values),
        _ => {
            return Err(format!("{name}: a mapping of sections is expected, such as 'limits:'"));
        }
    }
    Ok(values)
}

fn flatten(prefix: &str, mapping: serde_yaml_ng::Mapping, origin: &str, values: &mut Values) {
    for (key, value) in mapping {
        let key = match key.as_str() {
            Some(key) => format!("{prefix}{key}"),
            None => format!("{prefix}{key:?}"),
        };
        match value {
            Yaml::Mapping(inner) => flatten(&format!("{key}."), inner, origin, values),
            Yaml::Null => {}
            leaf => {
                values.insert(key, (leaf, origin.into()));
            }
        }
    }
}

/// The text of a variable as YAML, so that lists can be given too; text that is no YAML stands for itself.
fn env_value(text: &str) -> Yaml {
    serde_yaml_ng::from_str(text).unwrap_or_else(|_| Yaml::String(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, env: &[(&str, &str)]) -> Result<Config, Faults> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), yaml).unwrap();
        let faults = |Faults(faults)| {
            let name = file.path().display().to_string();
            Faults(faults.into_iter().map(|fault: String| fault.replace(&name, "FILE")).collect())
        };
        Config::load(Some(file.path()), |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
        })
        .map_err(faults)
    }

    #[test]
    fn environment_wins_over_file_wins_over_default() {
        let config = load(
            "server: {port: 1000, egress_port: 1001}\nttl: {channels: [{channel: 'logs.>', duration: 7d}]}",
            &[("SERVER_PORT", "2000"), ("TTL_MAX", "3650d")],
        )
        .unwrap();
        assert_eq!((config.port, config.egress_port, config.http_port), (2000, 1001, 8080));
        assert_eq!(config.ttl_channels[0].duration, Duration::from_secs(7 * 86_400));
    }

    #[test]
    fn the_reference_page_tells_of_every_setting() {
        let page = include_str!("../../docs/configuration.md");
        assert!(page.contains(&reference()), "write it anew with 'just docs'");
    }

    #[test]
    fn the_printed_configuration_reads_back() {
        let config = load("limits: {message_max: 3MiB}\nttl: {channels: [{channel: a.*, duration: 1h}]}", &[]).unwrap();
        assert_eq!(load(&config.to_yaml(), &[]).unwrap().to_yaml(), config.to_yaml());
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let Faults(faults) = load(
            "sever: {port: 1}\nserver: {port: high}\nlimits: {message_max: 1TiB, batch_max: 0}\n\
             ttl: {default: 2d, max: 1d, channels: [{channel: 'a..b', duration: 1h}]}",
            &[("DEDUP_WINDOW", "soon")],
        )
        .unwrap_err();
        insta::assert_snapshot!(faults.join("\n"));
    }
}
