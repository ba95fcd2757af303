//! The chart.

use std::process::Command;

use serde_json::Value;

use crate::{
    file,
    object::Object,
    rendering::{Rendering, TWINS, chart, without_hash},
    tools::{output, program},
};

/// What must be equal of two descriptions of one object: all but labels of its own, annotations and what is added to names. What
/// selects stays.
fn essence(object: &Object) -> (String, Value) {
    let mut value = object.0.clone();
    strip(&mut value);
    let name = without_hash(object.name()).to_owned();
    let name = if object.kind() == "Job" { name.trim_end_matches("-1").to_owned() } else { name };
    value["metadata"]["name"] = name.clone().into();
    (format!("{} {name}", object.kind()), value)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("labels");
                metadata.remove("annotations");
            }
            // Their order means nothing, as long as they refer to earlier ones: that is a rule of its own.
            if let Some(variables) = map.get_mut("env").and_then(Value::as_array_mut) {
                variables.sort_by_key(|variable| variable["name"].to_string());
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::String(text) => *text = without_hash(text).to_owned(),
        _ => {}
    }
}

/// Where two values differ.
fn differences(path: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
                let side = |map: &serde_json::Map<_, _>| map.get(key).cloned().unwrap_or_default();
                differences(&format!("{path}/{key}"), &side(left), &side(right), found);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                differences(&format!("{path}/{index}"), left, right, found);
            }
        }
        _ if left == right => {}
        _ => found.push(format!("{path}: {left} and {right}")),
    }
}

#[test]
fn the_chart_describes_what_kustomize_does() {
    let mut found = Vec::new();
    let overlays = TWINS.map(|(directory, values)| (Rendering::of(directory), Rendering::of_chart(values, &[])));
    let options = [
        ("monitoring", "monitoring.enabled=true"),
        (
            "custom-metrics-hpa",
            "ingress.autoscaling.targetMessagesPerSecond=1000,ingress.autoscaling.maxReplicas=20,\
             egress.autoscaling.targetMessagesPerSecond=1000,egress.autoscaling.maxReplicas=20",
        ),
    ];
    let options = options.map(|(component, setting)| {
        (Rendering::with("kustomize/base", &[component]), Rendering::of_chart(None, &[setting]))
    });
    for (kustomize, chart) in overlays.into_iter().chain(options) {
        // A chart is installed into a namespace that is there, and brings a test that is run on demand.
        let own = |object: &&Object| {
            object.kind() != "Namespace" && object.at("/metadata/annotations/helm.sh~1hook").is_null()
        };
        let [left, right] = [&kustomize, &chart].map(|rendering| {
            let objects = rendering.objects.iter().filter(own).map(essence);
            Value::Object(objects.collect())
        });
        assert!(left.as_object().unwrap().len() > 20);
        differences(&kustomize.name, &left, &right, &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_chart_is_clean() {
    for (_, values) in TWINS {
        let report = output(&mut chart("lint", values, &[]));
        assert!(report.contains("1 chart(s) linted, 0 chart(s) failed"), "{report}");
    }
}

#[test]
fn all_charts_values_are_in_the_schema_and_wrong_ones_are_refused() {
    let refused = [
        ("ingress.replicas=5", "replicas"),
        ("ingress.image.tag=latest", "tag"),
        ("tarantool.replicaCount=2", "replicaCount"),
        ("vault.enabled=true", "enabled"),
        ("ingress.autoscaling.minReplicas=0", "minReplicas"),
        ("egress.service.type=Loadbalancer", "type"),
        ("global.config.MINIO_SECRET_ACCESS_KEY=secret", "MINIO_SECRET_ACCESS_KEY"),
        ("ingress.secrets.tarantoolPassword=secret", "give all three"),
        ("minio.secrets.rootUser=root", "give both"),
        ("monitoring.labels.release=1", "release"),
    ];
    for (setting, told) in refused {
        let output = chart("template", None, &[setting]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(told), "{setting}: {error}");
    }
}

#[test]
fn values_have_an_effect() {
    let settings = [
        "ingress.replicaCount=5",
        "ingress.autoscaling.enabled=false",
        "ingress.resources.limits.memory=1Gi",
        "egress.autoscaling.maxReplicas=20",
        "egress.autoscaling.targetMessagesPerSecond=1000",
        "egress.config.LOG_LEVEL=debug",
        "egress.podDisruptionBudget.enabled=false",
        "global.storageClass=local-path",
        "ingress.image.tag=0.2.0",
        "ingress.secrets.tarantoolPassword=a,ingress.secrets.minioAccessKeyId=b,ingress.secrets.minioSecretAccessKey=c",
        "networkPolicy.enabled=false",
        "ingress.service.type=LoadBalancer,ingress.service.port=6000,ingress.service.annotations.example\\.com/internal=yes",
    ];
    let rendering = Rendering::of_chart(None, &settings);
    let ingress = rendering.find("Deployment", "minitoolstream-ingress");
    assert_eq!(ingress.at("/spec/replicas"), 5);
    let container = ingress.at("/spec/template/spec/containers/0");
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(container["image"], "ghcr.io/moroshma/minitoolstream:0.2.0");
    assert_eq!(container["ports"][0]["containerPort"], 50051, "the broker listens where it did");
    let service = rendering.find("Service", "minitoolstream-ingress-service");
    assert_eq!((service.at("/spec/type"), service.at("/spec/ports/0/port")), (&"LoadBalancer".into(), &6000.into()));
    assert_eq!(service.at("/metadata/annotations/example.com~1internal"), "yes");
    assert!(!rendering.has("HorizontalPodAutoscaler", "minitoolstream-ingress-hpa"));
    let autoscaler = rendering.find("HorizontalPodAutoscaler", "minitoolstream-egress-hpa");
    assert_eq!(autoscaler.at("/spec/maxReplicas"), 20);
    assert_eq!(autoscaler.at("/spec/metrics/2/pods/target/averageValue"), "1000");
    let egress =
        rendering.find("Deployment", "minitoolstream-egress").at("/spec/template/spec/containers/0/env").clone();
    assert!(egress.as_array().unwrap().contains(&serde_json::json!({"name": "LOG_LEVEL", "value": "debug"})));
    assert!(!rendering.has("PodDisruptionBudget", "minitoolstream-egress-pdb"));
    assert_eq!(
        rendering.find("StatefulSet", "tarantool").at("/spec/volumeClaimTemplates/0/spec/storageClassName"),
        "local-path"
    );
    assert_eq!(rendering.find("Secret", "minitoolstream-ingress-secret").at("/stringData/MINIO_ACCESS_KEY_ID"), "b");
    assert!(!rendering.objects.iter().any(|object| object.kind() == "NetworkPolicy"));
}

#[test]
fn a_change_of_settings_rolls_the_pods() {
    let annotation = |settings: &[&str]| {
        let rendering = Rendering::of_chart(None, settings);
        let deployment = rendering.find("Deployment", "minitoolstream-egress");
        deployment.at("/spec/template/metadata/annotations").clone()
    };
    assert_eq!(annotation(&[]), annotation(&["ingress.replicaCount=4"]));
    assert_ne!(annotation(&[]), annotation(&["global.config.LOG_LEVEL=debug"]));
}

#[test]
fn other_modules_restart_tarantool() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("minitoolstream");
    output(Command::new("cp").args(["--recursive", "--dereference"]).arg(file("helm/minitoolstream")).arg(&copy));
    let annotations = || {
        let mut template = Command::new(program("helm"));
        let objects = Object::all_of(&output(template.args(["template", "minitoolstream"]).arg(&copy)));
        let tarantool = objects.iter().find(|object| object.title() == "StatefulSet tarantool").unwrap();
        tarantool.at("/spec/template/metadata/annotations").clone()
    };
    let before = annotations();
    std::fs::write(copy.join("files/tarantool/mts/head.lua"), "-- another").unwrap();
    assert_ne!(annotations(), before);
}

#[test]
fn the_chart_can_be_packed_and_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut package = Command::new(program("helm"));
    output(package.arg("package").arg(file("helm/minitoolstream")).arg("--destination").arg(dir.path()));
    let archive = dir.path().join(format!("minitoolstream-{}.tgz", env!("CARGO_PKG_VERSION")));
    let mut template = Command::new(program("helm"));
    let text = output(template.args(["template", "minitoolstream", "-n", "minitoolstream"]).arg(archive));
    assert_eq!(Object::all_of(&text), Rendering::of_chart(None, &[]).objects, "links are followed");
}

#[test]
fn the_notes_say_what_is_left_to_do() {
    let notes = |settings: &[&str]| {
        let mut install = chart("install", None, settings);
        let text = output(install.arg("--dry-run=client"));
        text.split_once("\nNOTES:\n").unwrap().1.to_owned()
    };
    let plain = notes(&[]);
    for secret in ["minitoolstream-ingress-secret", "minitoolstream-egress-secret"] {
        assert!(plain.contains(secret), "{plain}");
    }
    assert!(plain.contains("minitoolstream-client=true") && !plain.contains("<no value>"), "{plain}");
    let keys = ["tarantoolPassword", "minioAccessKeyId", "minioSecretAccessKey"];
    let secrets: Vec<_> = keys.iter().map(|key| format!("ingress.secrets.{key}=secret")).collect();
    let given = notes(&[&secrets.join(","), "networkPolicy.everyoneIsClient=true"]);
    assert!(
        !given.contains("minitoolstream-ingress-secret") && given.contains("minitoolstream-egress-secret"),
        "{given}"
    );
    assert!(!given.contains("minitoolstream-client"), "{given}");
}
