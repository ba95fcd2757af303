//! The commands of docs/deployment.md. What needs no cluster is run; of all else, programs and options must be there.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    file,
    rendering::{Rendering, components},
    tools::{output, program},
};

const PAGE: &str = include_str!("../../docs/deployment.md");

/// kubectl for a reader without a cluster: renders what would be applied, and reads the options of all else.
const KUBECTL: &str = r#"
case "$*" in
kustomize*) exec "$KUBECTL" "$@" ;;
"apply -k "* | "delete -k "*) "$KUBECTL" kustomize "$3" >/dev/null ;;
"apply -f -") test -n "$(cat)" && touch "$HOME/secrets" ;;
"apply -f "*) test -s "$3" ;;
*--dry-run=client*) exec "$KUBECTL" "$@" ;;
*"get secret tarantool-secret") test -e "$HOME/secrets" ;;
*"get storageclass"*) echo local-path ;;
*"get deployments"*) echo deployment.apps/minitoolstream-ingress ;;
*) "$KUBECTL" "$@" --help >/dev/null ;;
esac
"#;

/// Helm likewise: an upgrade is rendered.
const HELM: &str = r#"
verb=$1
shift
case "$verb" in
lint) exec "$HELM" lint "$@" ;;
upgrade)
    "$HELM" upgrade "$@" --help >/dev/null
    for word; do
        shift
        case "$word" in
        --install | --reuse-values) ;;
        *) set -- "$@" "$word" ;;
        esac
    done
    "$HELM" template "$@" >/dev/null
    ;;
*) "$HELM" "$verb" "$@" --help >/dev/null ;;
esac
"#;

/// A directory like that of the repository, with programs that say what they were asked for.
fn stage() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["Cargo.toml", "deploy", "helm", "kustomize", "tarantool", "monitoring"] {
        symlink(file(name), dir.path().join(name)).unwrap();
    }
    let client = format!("exec '{}' \"$@\" --help >/dev/null", env!("CARGO_BIN_EXE_minitoolstream"));
    let programs = [
        ("kubectl", KUBECTL),
        ("helm", HELM),
        ("minitoolstream", &client),
        ("docker", ""),
        ("k3d", ""),
        ("kubeseal", "cat"),
    ];
    fs::create_dir(dir.path().join("bin")).unwrap();
    for (name, text) in programs {
        let path = dir.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/bash\nset -euo pipefail\necho {name} \"$@\" >>\"$CALLS\"\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn bash(stage: &Path, text: &str) -> Command {
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", text]).current_dir(stage).stdin(Stdio::null()).env_clear();
    bash.env("PATH", format!("{}:/usr/bin:/bin", stage.join("bin").display())).env("HOME", stage);
    bash.env("CALLS", stage.join("calls")).env("KUBECTL", program("kubectl")).env("HELM", program("helm"));
    bash
}

fn blocks(language: &str) -> Vec<&str> {
    let fence = format!("```{language}\n");
    PAGE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_command_can_be_given() {
    let stage = stage();
    let examples = blocks("sh");
    assert!(examples.len() >= 7);
    for example in examples {
        output(&mut bash(stage.path(), example));
    }
    let calls = fs::read_to_string(stage.path().join("calls")).unwrap();
    let called: BTreeSet<_> = calls.lines().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(called, BTreeSet::from(["docker", "helm", "k3d", "kubectl", "kubeseal", "minitoolstream"]));
    for wrong in
        ["kubectl get hpa --wacht", "kubectl apply -k kustomize/overlays/prod", "minitoolstream tale greetings"]
    {
        assert!(!bash(stage.path(), wrong).output().unwrap().status.success(), "{wrong}");
    }
    let wrong = "helm upgrade x helm/minitoolstream --set ingress.replicas=3";
    assert!(!bash(stage.path(), wrong).output().unwrap().status.success());
}

#[test]
fn bringing_a_cluster_up_makes_secrets_once() {
    let stage = stage();
    let made = || {
        let _ = fs::remove_file(stage.path().join("calls"));
        output(&mut bash(stage.path(), "deploy/up"));
        let calls = fs::read_to_string(stage.path().join("calls")).unwrap();
        let image = format!("ghcr.io/moroshma/minitoolstream:{}", env!("CARGO_PKG_VERSION"));
        for call in [
            format!("docker build --tag {image} ."),
            format!("k3d image import {image} --cluster minitoolstream"),
            "kubectl apply -k kustomize/overlays/development".into(),
        ] {
            assert!(calls.lines().any(|line| line == call), "{call}: {calls}");
        }
        calls.contains("kubectl apply -f -")
    };
    assert!(made());
    assert!(!made(), "the stores have the passwords of the first run");
}

#[test]
fn the_overlay_of_ones_own_works() {
    let examples = blocks("yaml");
    let [example] = examples[..] else { panic!("one overlay is shown") };
    let remote = format!(
        "https://github.com/minitoolstream/minitoolstream//kustomize/overlays/production?ref=v{}",
        env!("CARGO_PKG_VERSION")
    );
    assert!(example.contains(&remote));
    let rendering = Rendering::of_text(&example.replace(&remote, "ROOT/kustomize/overlays/production"));
    assert_eq!(rendering.find("ConfigMap", "minitoolstream-config").at("/data/TTL_DEFAULT"), "7d");
    let image = rendering.find("Deployment", "minitoolstream-egress").at("/spec/template/spec/containers/0/image");
    assert_eq!(image, &format!("registry.example.com/minitoolstream:{}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_component_is_described() {
    for name in components() {
        assert!(PAGE.contains(&format!("\n| `{name}` |")), "{name}");
    }
}
