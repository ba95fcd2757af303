//! The Dockerfile. That it builds, and what the image does, is tried by `tests/image/run`.

use std::{fs, path::Path, process::Command};

use minitoolstream::config::{Config, SETTINGS};
use serde_json::Value;

use crate::{
    file,
    rendering::{Rendering, TWINS},
    tools::{checkers, output},
};

/// The instructions of the last stage, the image itself: words of each, without their quotes.
fn instructions() -> Vec<Vec<String>> {
    let text = fs::read_to_string(file("Dockerfile")).unwrap().replace("\\\n", " ");
    let (_, last) = text.rsplit_once("\nFROM ").unwrap();
    last.lines().filter(|line| !line.starts_with('#')).map(words).collect()
}

fn words(line: &str) -> Vec<String> {
    let mut quoted = false;
    let ends = |c: char| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    };
    line.split(ends).filter(|word| !word.is_empty()).map(|word| word.replace('"', "")).collect()
}

/// What the instructions of a name say.
fn all(name: &str) -> Vec<Vec<String>> {
    instructions()
        .into_iter()
        .filter(|words| words.first().is_some_and(|first| first == name))
        .map(|words| words[1..].to_vec())
        .collect()
}

/// What the only one says.
fn one(name: &str) -> Vec<String> {
    let [words] = all(name).try_into().unwrap_or_else(|all| panic!("one {name}, not {all:?}"));
    words
}

#[test]
fn hadolint_finds_nothing() {
    output(&mut lint("Dockerfile"));
    let dir = tempfile::tempdir().unwrap();
    let careless = dir.path().join("Dockerfile");
    fs::write(&careless, "FROM debian\nRUN cd /tmp && sudo apt-get upgrade\n").unwrap();
    let found = lint(careless.to_str().unwrap()).output().unwrap();
    assert!(!found.status.success() && String::from_utf8(found.stdout).unwrap().contains("DL3006"), "it would tell");
}

fn lint(path: &str) -> Command {
    let mut lint = Command::new(checkers().program("hadolint"));
    lint.arg("--config").arg(file(".hadolint.yaml")).args(["--failure-threshold", "style"]).arg(file(path));
    lint
}

#[test]
fn labels_are_those_of_the_package() {
    let labels = one("LABEL");
    let label = |name: &str| {
        let start = format!("org.opencontainers.image.{name}=");
        labels.iter().find_map(|label| label.strip_prefix(&start)).unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(label("title"), "MiniToolStream");
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("source"), env!("CARGO_PKG_REPOSITORY"));
    assert_eq!([label("version"), label("revision"), label("created")], ["$VERSION", "$REVISION", "$CREATED"]);
    assert_eq!(all("ARG").concat(), [concat!("VERSION=", env!("CARGO_PKG_VERSION")), "REVISION", "CREATED"]);
}

#[test]
fn the_compiler_is_the_one_that_the_package_asks_for() {
    let text = fs::read_to_string(file("Dockerfile")).unwrap();
    assert!(text.contains(concat!("/rust:", env!("CARGO_PKG_RUST_VERSION"), "-bookworm\n")));
}

#[test]
fn user_and_ports_are_those_of_the_brokers() {
    let user = one("USER").concat();
    let exposed: Vec<u16> = one("EXPOSE").iter().map(|port| port.parse().unwrap()).collect();
    let defaults = Config::load(None, |_| None).unwrap();
    assert_eq!(exposed, [defaults.port, defaults.egress_port, defaults.http_port]);
    for (directory, values) in TWINS {
        for rendering in [Rendering::of(directory), Rendering::of_chart(values, &[])] {
            for role in ["ingress", "egress"] {
                let pod = rendering.find("Deployment", &format!("minitoolstream-{role}")).pod().unwrap();
                let context = &pod["spec"]["securityContext"];
                assert_eq!(format!("{}:{}", context["runAsUser"], context["runAsGroup"]), user, "{}", rendering.name);
                let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
                let known = |port: &Value| exposed.iter().any(|exposed| port["containerPort"] == *exposed);
                assert!(ports.iter().all(known), "{}: {ports:?}", rendering.name);
            }
        }
    }
}

#[test]
fn the_volume_is_where_the_broker_keeps_its_data() {
    assert_eq!((one("WORKDIR"), one("CMD")), (vec!["/".into()], vec!["[serve]".into()]));
    let defaults = Config::load(None, |_| None).unwrap();
    assert_eq!(Path::new("/").join(defaults.data_dir.strip_prefix(".").unwrap()), Path::new("/data"));
    let owner = format!("--chown={}", one("USER").concat());
    assert!(all("COPY").iter().any(|copy| copy[1..] == [owner.as_str(), "/volumes", "/"]));
    for variable in one("ENV") {
        let (name, _) = variable.split_once('=').unwrap();
        assert!(name == "PATH" || SETTINGS.iter().any(|setting| setting.env == name), "{name} is no setting");
    }
}

#[test]
fn the_builder_gets_all_members_of_the_workspace() {
    let context = fs::read_to_string(file(".dockerignore")).unwrap();
    let let_in: Vec<_> = context.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest = fs::read_to_string(file("Cargo.toml")).unwrap();
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).unwrap();
    let members = members.trim_end_matches(']').split(", ").map(|member| member.trim_matches('"'));
    for needed in members.chain(["Cargo.toml", "Cargo.lock", "src"]) {
        assert!(let_in.contains(&needed), "{needed} is kept from the builder");
    }
}

#[test]
fn compose_runs_the_image_of_this_repository_without_writing_to_it() {
    let compose: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(&fs::read_to_string(file("docker-compose.yml")).unwrap()).unwrap();
    let broker = &compose["x-broker"];
    assert_eq!((broker["build"].as_str(), broker["read_only"].as_bool()), (Some("."), Some(true)));
    assert!(broker["user"].is_null(), "the user is the image's");
}
