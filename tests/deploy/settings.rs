//! The brokers get settings that they know, that fit each other and that fit the pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use minitoolstream::config::{Config, Role, SETTINGS};
use serde_json::Value;

use crate::{
    object::{Object, quantity},
    rendering::{Rendering, TWINS, without_hash},
};

/// What stands for the values of Secrets.
pub(crate) const SECRET: &str = "from-a-secret";

/// The deployments of brokers, each with the environment of its container.
pub(crate) fn brokers(rendering: &Rendering) -> Vec<(&Object, BTreeMap<String, String>)> {
    let is_broker = |object: &&Object| object.at("/spec/template/spec/containers/0/name") == "broker";
    let with_environment = |object| (object, environment(object, rendering));
    rendering.objects.iter().filter(is_broker).map(with_environment).collect()
}

fn environment(object: &Object, rendering: &Rendering) -> BTreeMap<String, String> {
    let container = object.at("/spec/template/spec/containers/0");
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned();
    let mut found = BTreeMap::new();
    for from in container["envFrom"].as_array().into_iter().flatten() {
        let name = from["configMapRef"]["name"].as_str().unwrap();
        let data = rendering.find("ConfigMap", without_hash(name)).at("/data");
        found.extend(data.as_object().unwrap().iter().map(|(key, value)| (key.clone(), text(value))));
    }
    for variable in container["env"].as_array().unwrap() {
        let value = if variable["value"].is_null() { SECRET.into() } else { text(&variable["value"]) };
        found.insert(text(&variable["name"]), value);
    }
    found
}

/// All that run brokers; components leave their settings alone.
fn renderings() -> Vec<Rendering> {
    TWINS
        .into_iter()
        .flat_map(|(directory, values)| [Rendering::of(directory), Rendering::of_chart(values, &[])])
        .collect()
}

#[test]
fn every_variable_is_a_setting() {
    let known: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.env).collect();
    for rendering in renderings() {
        for (broker, environment) in brokers(&rendering) {
            let unknown: Vec<_> = environment.keys().filter(|name| !known.contains(name.as_str())).collect();
            assert!(unknown.is_empty(), "{}: {}: no settings: {unknown:?}", rendering.name, broker.title());
        }
    }
}

#[test]
fn the_binary_takes_the_settings() {
    let mut seen = BTreeSet::new();
    for rendering in renderings() {
        for (broker, environment) in brokers(&rendering) {
            // Many renderings have the same.
            if seen.insert(environment.clone()) {
                let mut check = Command::new(env!("CARGO_BIN_EXE_minitoolstream"));
                let output = check.args(["config", "--check"]).env_clear().envs(&environment).output().unwrap();
                let faults = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{}: {}: {faults}", rendering.name, broker.title());
            }
        }
    }
    assert!(seen.len() >= 6, "two roles in three sizes");
    let spoiled =
        seen.first().unwrap().iter().map(|(key, value)| (key, if key == "TTL_DEFAULT" { "a day" } else { value }));
    let mut check = Command::new(env!("CARGO_BIN_EXE_minitoolstream"));
    assert!(!check.args(["config", "--check"]).env_clear().envs(spoiled).output().unwrap().status.success());
}

#[test]
fn ports_and_role_are_those_of_the_pod() {
    for rendering in renderings() {
        for (broker, environment) in brokers(&rendering) {
            let config = load(&environment);
            let container = broker.at("/spec/template/spec/containers/0");
            let port = |name: &str| {
                let ports = container["ports"].as_array().unwrap();
                ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"].as_u64().unwrap()
            };
            let (role, grpc) = match broker.name() {
                "minitoolstream-ingress" => (Role::Ingress, config.port),
                _ => (Role::Egress, config.egress_port),
            };
            assert_eq!(config.role, role, "{}", rendering.name);
            assert_eq!((port("grpc"), port("http")), (grpc.into(), config.http_port.into()), "{}", rendering.name);
            assert!(config.host.is_unspecified(), "others reach it");
            assert_eq!(config.shared().expect("stores that all pods share").tarantool.password, SECRET);
        }
    }
}

#[test]
fn a_pod_has_time_to_drain() {
    for rendering in renderings() {
        for (broker, environment) in brokers(&rendering) {
            let pod = broker.at("/spec/template/spec");
            let seconds = |value: &Value| Duration::from_secs(value.as_u64().unwrap());
            let grace = seconds(&pod["terminationGracePeriodSeconds"]);
            let sleep = seconds(&pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]);
            let needed = sleep + load(&environment).shutdown_deadline + Duration::from_secs(5);
            assert!(grace >= needed, "{}: {grace:?} is less than {needed:?}", rendering.name);
        }
    }
}

#[test]
fn memory_is_enough_for_all_limits() {
    for rendering in renderings() {
        for (broker, environment) in brokers(&rendering) {
            let config = load(&environment);
            // The formula of docs/operations.md, with all connections in use, and what shared stores add.
            let bytes = (64 << 20)
                + 4 * config.inflight_bytes.0
                + 2 * config.message_max.0
                + (8 << 20)
                + 2 * config.upload_bytes.0
                + 4 * config.read_bytes.0
                + ((config.connections as u64) << 20)
                + ((config.subscriptions as u64) << 13)
                + config.cache_bytes.0
                + config.s3_part_size.0 * (config.s3_parts + config.upload_streams) as u64;
            let limit = quantity(broker.at("/spec/template/spec/containers/0/resources/limits/memory"));
            let (bytes, limit) = (bytes >> 20, limit / 1048576.0);
            assert!(bytes as f64 <= limit, "{}: {}: {bytes} MiB of {limit}", rendering.name, broker.title());
        }
    }
}

#[test]
fn tarantools_volume_holds_its_snapshots_and_log() {
    for rendering in renderings() {
        let tarantool = rendering.find("StatefulSet", "tarantool");
        let environment = tarantool.at("/spec/template/spec/containers/0/env").as_array().unwrap();
        let memory = environment.iter().find(|variable| variable["name"] == "MTS_MEMORY").unwrap();
        let memory: f64 = memory["value"].as_str().unwrap().parse().unwrap();
        let volume = quantity(tarantool.at("/spec/volumeClaimTemplates/0/spec/resources/requests/storage"));
        // tarantool/mts/settings.lua says why.
        assert!(volume >= 5.0 * memory, "{}: {volume} for {memory}", rendering.name);
    }
}

fn load(environment: &BTreeMap<String, String>) -> Config {
    Config::load(None, |name| environment.get(name).cloned()).unwrap_or_else(|faults| panic!("{faults}"))
}
