//! The scripts of deploy/, and the other shell scripts of the repository.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    file,
    kustomize::asked_secrets,
    object::Object,
    rendering::{Rendering, TWINS},
    tools::{checkers, output, program},
};

const SCRIPTS: [&str; 9] = [
    "deploy/up",
    "deploy/down",
    "deploy/secrets",
    "deploy/cluster-info",
    "kustomize/base/minio/make-bucket.sh",
    "tests/run",
    "tests/previous",
    "tests/image/run",
    ".ci/run",
];

/// A script of deploy/ with these programs before all others.
fn script(name: &str, programs: &Path) -> Command {
    let mut command = Command::new(file(name));
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    command.env_clear().env("PATH", path).env("HOME", programs);
    command
}

/// Where the real kubectl is.
fn real() -> PathBuf {
    program("kubectl").parent().unwrap().to_owned()
}

#[test]
fn shellcheck_finds_nothing() {
    let mut check = Command::new(checkers().program("shellcheck"));
    output(check.args(["--severity", "style"]).args(SCRIPTS.map(file)));
    for entry in fs::read_dir(file("deploy")).unwrap() {
        let entry = entry.unwrap();
        if entry.metadata().unwrap().permissions().mode() & 0o111 != 0 {
            let name = format!("deploy/{}", entry.file_name().to_str().unwrap());
            assert!(SCRIPTS.contains(&name.as_str()), "{name} is not checked");
        }
    }
}

const VALUES: [(&str, &str); 6] = [
    ("TARANTOOL_PASSWORD", "t =#'\"$x"),
    ("TARANTOOL_REPLICATION_PASSWORD", "r"),
    ("MINIO_ACCESS_KEY_ID", "key"),
    ("MINIO_SECRET_ACCESS_KEY", "s/+=="),
    ("MINIO_ROOT_USER", "root"),
    ("MINIO_ROOT_PASSWORD", "root's"),
];

/// Secrets by name, as a script prints them.
fn secrets(command: &mut Command) -> BTreeMap<String, Value> {
    let objects = Object::all_of(&output(command));
    assert!(
        objects.iter().all(|object| object.kind() == "Secret" && object.at("/metadata/namespace") == "minitoolstream")
    );
    objects.iter().map(|object| (object.name().to_owned(), object.at("/data").clone())).collect()
}

#[test]
fn secrets_have_what_pods_ask_for() {
    use base64::Engine;
    let given = secrets(script("deploy/secrets", &real()).envs(VALUES));
    for (directory, values) in TWINS {
        for rendering in [Rendering::of(directory), Rendering::of_chart(values, &[])] {
            for (name, key) in asked_secrets(&rendering) {
                let variable = key.as_str();
                let encoded = given[&name][variable].as_str().unwrap_or_else(|| panic!("{name} lacks {key}"));
                let value = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
                let expected = VALUES.iter().find(|(name, _)| *name == variable).unwrap().1;
                assert_eq!(String::from_utf8(value).unwrap(), expected, "{name}: {key}");
            }
            for from in rendering.objects.iter().filter_map(|object| object.pod()) {
                let from = &from["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"];
                assert!(from.is_null() || given.contains_key(from.as_str().unwrap()), "{from}");
            }
        }
    }
}

#[test]
fn secrets_are_random_or_refused() {
    let generated = || secrets(script("deploy/secrets", &real()).arg("--generate"));
    let (first, second) = (generated(), generated());
    assert_eq!(first.len(), 4);
    assert!(first.iter().all(|(name, data)| second[name] != *data));
    assert_eq!(first["minitoolstream-ingress-secret"], first["minitoolstream-egress-secret"]);
    let (password, brokers) = (&first["tarantool-secret"], &first["minitoolstream-egress-secret"]);
    assert_eq!(password["TARANTOOL_PASSWORD"], brokers["TARANTOOL_PASSWORD"]);

    let keys_of_s3 = secrets(script("deploy/secrets", &real()).arg("--generate").envs(VALUES[2..4].iter().copied()));
    assert!(!keys_of_s3.contains_key("minio-secret"), "they are those of an S3 outside of the cluster");
    let without_minio = secrets(script("deploy/secrets", &real()).envs(VALUES[..4].iter().copied()));
    assert!(!without_minio.contains_key("minio-secret"));
    let refused = |command: &mut Command, code, told: &str| {
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && error.contains(told), "{error}");
        assert!(output.stdout.is_empty(), "half of it could be applied");
    };
    let nothing = "TARANTOOL_PASSWORD TARANTOOL_REPLICATION_PASSWORD MINIO_ACCESS_KEY_ID MINIO_SECRET_ACCESS_KEY";
    refused(&mut script("deploy/secrets", &real()), 1, nothing);
    refused(script("deploy/secrets", &real()).envs(VALUES[..5].iter().copied()), 1, "MINIO_ROOT_PASSWORD");
    refused(script("deploy/secrets", &real()).arg("--genrate"), 2, "'--genrate' is no option");
}

/// A kubectl of a cluster where all is well but what `ill` tells: shell patterns of arguments. The real one reads what is asked for.
fn cluster(ill: &str) -> tempfile::TempDir {
    let (dir, kubectl) = (tempfile::tempdir().unwrap(), real().join("kubectl"));
    let kubectl = kubectl.display();
    let text = format!(
        r#"#!/bin/sh
for argument; do
    case "$argument" in
    jsonpath=*) '{kubectl}' --kubeconfig /dev/null config view --output "$argument" || exit ;;
    esac
done
case "$*" in
{ill}) echo "not as it should be" >&2; exit 1 ;;
*"get storageclass"*) echo "${{CLASS-local-path}}" ;;
*"get deployments,statefulsets"*) echo "${{RESOURCES-deployment.apps/minitoolstream-ingress
statefulset.apps/tarantool}}" ;;
*"get hpa"*) echo "${{SCALERS-minitoolstream-ingress-hpa True 3 4
minitoolstream-egress-hpa True 3 3}}" ;;
esac
"#
    );
    let path = dir.path().join("kubectl");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn cluster_info(ill: &str, settings: &[(&str, &str)]) -> Output {
    let dir = cluster(ill);
    script("deploy/cluster-info", dir.path()).envs(settings.iter().copied()).output().unwrap()
}

#[test]
fn cluster_info_fails_if_one_thing_is_not_ready() {
    let well = cluster_info("nothing", &[]);
    let report = String::from_utf8(well.stdout).unwrap();
    assert!(well.status.success() && report.lines().count() > 10 && !report.contains("FAILED"), "{report}");
    let ills = [
        "version",
        "wait*nodes*",
        "get*namespace*monitoring",
        "top*nodes",
        "*get*secret*tarantool-secret",
        "*get*serviceaccount*minitoolstream-egress",
        "*rollout*status*",
        "*get*hpa*",
    ];
    for ill in ills {
        let output = cluster_info(ill, &[]);
        let report = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(1) && report.matches("FAILED").count() == 1, "{ill}: {report}");
        assert!(report.contains("not as it should be"), "it tells why: {report}");
    }
    for (setting, told) in [
        (("CLASS", ""), "volumes stay pending"),
        (("RESOURCES", ""), "nothing is deployed"),
        (("SCALERS", "minitoolstream-egress-hpa False 3 3"), "minitoolstream-egress-hpa has no metrics to scale by"),
        (("SCALERS", "a True 1 1\nb True 3 2"), "b has 2 of at least 3 pods"),
        (("SCALERS", "new  3 "), "new has no metrics to scale by"),
    ] {
        let output = cluster_info("nothing", &[setting]);
        let report = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(1) && report.contains(told), "{report}");
    }
}

#[test]
fn cluster_info_waits_as_long_as_it_is_told() {
    let dir = cluster("nothing");
    // Ready when it is asked for the second time.
    let text = fs::read_to_string(dir.path().join("kubectl")).unwrap();
    let text = text
        .replace("nothing)", "*top*nodes) test -e \"$HOME/asked\" || { touch \"$HOME/asked\"; exit 1; } ;;\nnothing)");
    fs::write(dir.path().join("kubectl"), text).unwrap();
    let once = script("deploy/cluster-info", dir.path()).output().unwrap();
    assert_eq!(once.status.code(), Some(1));
    fs::remove_file(dir.path().join("asked")).unwrap();
    let report = output(script("deploy/cluster-info", dir.path()).args(["--wait", "60s"]));
    assert!(!report.contains("FAILED"), "{report}");
    for wrong in ["5m", "-1", ""] {
        let refused = script("deploy/cluster-info", dir.path()).args(["--wait", wrong]).output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && error.contains("give seconds, such as 300s"), "{error}");
    }
}

#[test]
fn the_local_cluster_has_the_ports_of_the_overlay() {
    let text = fs::read_to_string(file("deploy/k3d.yaml")).unwrap();
    let cluster: Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!((&cluster["servers"], &cluster["agents"]), (&json!(1), &json!(2)));
    assert_eq!(cluster["kubeAPI"]["hostPort"], "6550");
    let ports: Vec<_> =
        cluster["ports"].as_array().unwrap().iter().map(|port| port["port"].as_str().unwrap()).collect();
    assert!(ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{ports:?}");
    for port in ["127.0.0.1:8080:80", "127.0.0.1:8443:443"] {
        assert!(ports.contains(&port), "{port}");
    }
    let development = Rendering::of("kustomize/overlays/development");
    for role in ["ingress", "egress"] {
        let service = development.find("Service", &format!("minitoolstream-{role}-service"));
        for port in service.at("/spec/ports").as_array().unwrap() {
            let forwarded = format!(":{}", port["nodePort"]);
            assert!(ports.iter().any(|port| port.ends_with(&forwarded)), "{role}: {forwarded}");
        }
    }
}

#[test]
fn the_dashboard_gets_no_lasting_token() {
    let objects = Object::all_of(&fs::read_to_string(file("deploy/dashboard-admin.yaml")).unwrap());
    let kinds: Vec<_> = objects.iter().map(Object::kind).collect();
    assert_eq!(kinds, ["ServiceAccount", "ClusterRoleBinding", "RoleBinding"], "no Secret with a token");
    let roles: Vec<_> = objects[1..].iter().map(|binding| binding.at("/roleRef/name").clone()).collect();
    assert_eq!(roles, ["view", "admin"], "nobody is admin of the whole cluster");
}
