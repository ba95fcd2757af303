//! docker-compose.yml.

use std::{collections::BTreeSet, process::Command};

use minitoolstream::config::{Config, SETTINGS};
use serde_yaml_ng::Value;

use crate::file;

/// The file as docker-compose understands it: defaults filled in, anchors resolved.
pub(crate) fn resolved() -> Value {
    let output = Command::new("docker-compose")
        .arg("--file")
        .arg(file("docker-compose.yml"))
        .args(["--profile", "monitoring", "config"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .output()
        .expect("docker-compose starts: tests/run installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_yaml_ng::from_slice(&output.stdout).unwrap()
}

fn services(compose: &Value) -> impl Iterator<Item = (&str, &Value)> {
    compose["services"].as_mapping().unwrap().iter().map(|(name, service)| (name.as_str().unwrap(), service))
}

#[test]
fn brokers_get_settings_that_exist_and_agree() {
    let compose = resolved();
    let known: BTreeSet<String> =
        SETTINGS.iter().flat_map(|setting| [Some(setting.env.to_owned()), setting.other_env()]).flatten().collect();
    for role in ["ingress", "egress"] {
        let environment = compose["services"][role]["environment"].as_mapping().unwrap();
        let value = |name: &str| environment.get(name).map(|value| value.as_str().unwrap().to_owned());
        for name in environment.keys() {
            assert!(known.contains(name.as_str().unwrap()), "{role}: no setting is called {name:?}");
        }
        let config = Config::load(None, value).unwrap_or_else(|faults| panic!("{role}: {faults}"));
        let shared = config.shared().expect("brokers of compose share their stores");
        assert_eq!(shared.tarantool.addresses, ["tarantool:3301"]);
        let tarantool = &compose["services"]["tarantool"]["environment"];
        assert_eq!(tarantool["MTS_PASSWORD"].as_str(), Some(shared.tarantool.password.as_str()));
        assert_eq!(tarantool["MTS_USER"].as_str(), Some(shared.tarantool.user.as_str()));
        assert_eq!(tarantool["MTS_WAL_MODE"].as_str(), Some("fsync"), "P1");
        let minio = &compose["services"]["minio"]["environment"];
        assert_eq!(minio["MINIO_ROOT_PASSWORD"].as_str(), Some(shared.s3.secret_key.expose()));
        assert_eq!(minio["MINIO_ROOT_USER"].as_str(), Some(shared.s3.access_key.as_str()));
    }
}

#[test]
fn images_are_pinned_and_ports_are_on_loopback() {
    let compose = resolved();
    for (name, service) in services(&compose) {
        let image = service["image"].as_str().unwrap_or_else(|| panic!("{name} has no image"));
        let tag = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: {image} has no tag")).1;
        assert_ne!(tag, "latest", "{name}");
        for port in service["ports"].as_sequence().unwrap() {
            let port = port.as_str().unwrap();
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to the network");
        }
    }
    let text = std::fs::read_to_string(file("docker-compose.yml")).unwrap();
    assert!(text.contains("${TARANTOOL_PASSWORD:-") && text.contains("${MINIO_ROOT_PASSWORD:-"));
}

#[test]
fn published_ports_lead_to_what_listens() {
    let compose = resolved();
    let inside = |name: &str| -> BTreeSet<u16> {
        let ports = compose["services"][name]["ports"].as_sequence().unwrap();
        let port = |port: &Value| port.as_str().unwrap().trim_end_matches("/tcp").rsplit(':').next().unwrap().parse();
        ports.iter().map(|text| port(text).unwrap()).collect()
    };
    let port_of = |address: &str| -> u16 { address.rsplit(':').next().unwrap().parse().unwrap() };
    for role in ["ingress", "egress"] {
        let environment = &compose["services"][role]["environment"];
        let config = Config::load(None, |name| environment[name].as_str().map(Into::into)).unwrap();
        let grpc = if role == "ingress" { config.port } else { config.egress_port };
        assert_eq!(inside(role), BTreeSet::from([grpc, config.http_port]), "{role}");
        assert_eq!(config.host.to_string(), "0.0.0.0", "{role}: a port of a container is reached from outside of it");
        let shared = config.shared().unwrap();
        assert!(inside("tarantool").contains(&port_of(&shared.tarantool.addresses[0])));
        assert!(inside("minio").contains(&port_of(&shared.s3.endpoint)));
    }
    let listen = compose["services"]["tarantool"]["environment"]["MTS_LISTEN"].as_str().unwrap();
    assert_eq!(inside("tarantool"), BTreeSet::from([port_of(listen)]));
}
