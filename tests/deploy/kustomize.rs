//! What overlays and components make of the base.

use std::{collections::BTreeSet, fs};

use serde_json::json;

use crate::{
    file,
    object::{Object, containers},
    rendering::{Rendering, TWINS, components, without_hash},
    tools::{oldest, program},
};

fn titles(rendering: &Rendering) -> BTreeSet<String> {
    let title = |object: &Object| format!("{} {}", object.kind(), without_hash(object.name()));
    rendering.objects.iter().map(title).collect()
}

/// What a component brings and takes away.
fn change(component: &str) -> (Vec<String>, Vec<String>) {
    let (before, after) = (Rendering::of("kustomize/base"), Rendering::with("kustomize/base", &[component]));
    let (before, after) = (titles(&before), titles(&after));
    (after.difference(&before).cloned().collect(), before.difference(&after).cloned().collect())
}

#[test]
fn the_objects_of_base_and_overlays() {
    let lists = TWINS.map(|(directory, _)| {
        let titles: Vec<_> = titles(&Rendering::of(directory)).into_iter().collect();
        format!("{directory}\n  {}\n", titles.join("\n  "))
    });
    insta::assert_snapshot!(lists.concat());
}

#[test]
fn development_is_small() {
    let development = Rendering::of("kustomize/overlays/development");
    for object in development.objects.iter().filter(|object| object.serves()) {
        assert_eq!(object.at("/spec/replicas"), 1, "{}", object.title());
    }
    let config = development.find("ConfigMap", "minitoolstream-config");
    assert_eq!(config.at("/data/LOG_LEVEL"), "debug");
    assert!(!development.objects.iter().any(|object| object.kind() == "HorizontalPodAutoscaler"));
}

#[test]
fn the_autoscalers_behave_as_described() {
    let base = Rendering::of("kustomize/base");
    for role in ["ingress", "egress"] {
        let autoscaler = base.find("HorizontalPodAutoscaler", &format!("minitoolstream-{role}-hpa"));
        let spec = autoscaler.at("/spec");
        assert_eq!((&spec["minReplicas"], &spec["maxReplicas"]), (&json!(3), &json!(10)));
        let resource = |name, percent| {
            json!({"type": "Resource", "resource": {"name": name, "target": {
                "type": "Utilization", "averageUtilization": percent}}})
        };
        assert_eq!(spec["metrics"], json!([resource("cpu", 70), resource("memory", 80)]));
        let policy = |kind, value, seconds| json!({"type": kind, "value": value, "periodSeconds": seconds});
        let down = json!({"stabilizationWindowSeconds": 300, "selectPolicy": "Min",
            "policies": [policy("Percent", 50, 60), policy("Pods", 2, 60)]});
        let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [policy("Percent", 100, 30), policy("Pods", 4, 30)]});
        assert_eq!(spec["behavior"], json!({"scaleDown": down, "scaleUp": up}));
        let deployment = base.find("Deployment", &format!("minitoolstream-{role}"));
        assert!(deployment.at("/spec/replicas").is_null(), "every apply would undo what the autoscaler did");
    }
}

#[test]
fn production_has_five_ingress_pods_three_tarantools_and_another_s3() {
    let production = Rendering::of("kustomize/overlays/production");
    assert_eq!(production.find("HorizontalPodAutoscaler", "minitoolstream-ingress-hpa").at("/spec/minReplicas"), 5);
    let tarantool = production.find("StatefulSet", "tarantool");
    assert_eq!(tarantool.at("/spec/replicas"), 3);
    let addresses = production.find("ConfigMap", "minitoolstream-config").at("/data/TARANTOOL_ADDRESS").clone();
    let expected: Vec<_> = (0..3).map(|number| format!("tarantool-{number}.tarantool:3301")).collect();
    assert_eq!(addresses, expected.join(","));
    let environment = tarantool.at("/spec/template/spec/containers/0/env").as_array().unwrap();
    let replication = environment.iter().find(|variable| variable["name"] == "MTS_REPLICATION").unwrap();
    assert_eq!(replication["value"], addresses, "instances and brokers know the same ones");
    assert!(!titles(&production).iter().any(|title| title.contains("minio")));
}

#[test]
fn external_s3_takes_minio_away() {
    let (brings, takes) = change("external-s3");
    assert_eq!(brings, [""; 0]);
    assert!(takes.len() == 7 && takes.iter().all(|title| title.contains(" minio")), "{takes:?}");
    let rendering = Rendering::with("kustomize/base", &["external-s3"]);
    let brokers = rendering.find("NetworkPolicy", "brokers").at("/spec/egress/1/ports");
    assert_eq!(*brokers, json!([{"port": 443}]));
}

#[test]
fn external_secrets_make_every_secret_that_is_asked_for() {
    let rendering = Rendering::with("kustomize/overlays/production", &["external-secrets"]);
    for (name, key) in asked_secrets(&rendering) {
        let made = rendering.find("ExternalSecret", &name);
        let keys: Vec<_> = made.at("/spec/data").as_array().unwrap().iter().map(|data| &data["secretKey"]).collect();
        assert!(keys.contains(&&json!(key)), "{name} lacks {key}");
        assert_eq!(made.at("/spec/target/name"), &json!(name));
    }
}

#[test]
fn keda_takes_the_place_of_the_autoscaler_of_egress() {
    let (brings, takes) = change("keda");
    assert_eq!(brings, ["ScaledObject minitoolstream-egress"]);
    assert_eq!(takes, ["HorizontalPodAutoscaler minitoolstream-egress-hpa"]);
}

#[test]
fn custom_metrics_are_one_more_measure_of_the_same_autoscalers() {
    assert_eq!(change("custom-metrics-hpa"), (Vec::new(), Vec::new()));
    let rendering = Rendering::with("kustomize/base", &["custom-metrics-hpa"]);
    for role in ["ingress", "egress"] {
        let metrics =
            rendering.find("HorizontalPodAutoscaler", &format!("minitoolstream-{role}-hpa")).at("/spec/metrics");
        let messages = json!({"type": "Pods", "pods": {
            "metric": {"name": "minitoolstream_messages_per_second"},
            "target": {"type": "AverageValue", "averageValue": "1000"}}});
        assert_eq!((metrics.as_array().unwrap().len(), &metrics[2]), (3, &messages));
    }
}

#[test]
fn vertical_and_horizontal_autoscalers_do_not_share_a_measure() {
    let rendering = Rendering::with("kustomize/base", &["vpa"]);
    for role in ["ingress", "egress"] {
        let metrics =
            rendering.find("HorizontalPodAutoscaler", &format!("minitoolstream-{role}-hpa")).at("/spec/metrics");
        let names: Vec<_> = metrics.as_array().unwrap().iter().map(|metric| &metric["resource"]["name"]).collect();
        assert_eq!(names, ["cpu"]);
        let policy =
            rendering.find("VerticalPodAutoscaler", &format!("minitoolstream-{role}-vpa")).at("/spec/resourcePolicy");
        assert_eq!(policy["containerPolicies"][0]["controlledResources"], json!(["memory"]));
    }
}

#[test]
fn components_can_be_combined() {
    let hpa = ["custom-metrics-hpa", "external-secrets", "keda"];
    Rendering::with("kustomize/overlays/production", &hpa);
    Rendering::with("kustomize/base", &["external-s3", "vpa", "keda"]);
    assert!(hpa.iter().all(|name| components().contains(&(*name).to_owned())));
}

#[test]
fn the_oldest_kubectl_renders_the_same() {
    let directories = TWINS.map(|(directory, _)| directory).into_iter().chain(["kustomize/load"]);
    let plain = directories.map(|directory| format!("resources: [ROOT/{directory}]\n"));
    let with =
        |name: &String| format!("resources: [ROOT/kustomize/base]\ncomponents: [ROOT/kustomize/components/{name}]\n");
    for text in plain.chain(components().iter().map(with)) {
        let [new, old] = [program("kubectl"), oldest("kubectl")].map(|kubectl| Rendering::of_text_by(&kubectl, &text));
        assert_eq!(new.objects, old.objects, "{text}");
    }
}

/// Name and key of each Secret that a pod needs.
pub(crate) fn asked_secrets(rendering: &Rendering) -> BTreeSet<(String, String)> {
    let pods = rendering.objects.iter().filter_map(Object::pod);
    let variables = pods.flat_map(containers).flat_map(|container| container["env"].as_array().into_iter().flatten());
    let references = variables.map(|variable| &variable["valueFrom"]["secretKeyRef"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    references.filter(|key| !key.is_null()).map(|key| (text(&key["name"]), text(&key["key"]))).collect()
}

#[test]
fn versions_agree() {
    let version = env!("CARGO_PKG_VERSION");
    let mut seen = 0;
    for rendering in Rendering::all() {
        for container in rendering.objects.iter().filter_map(Object::pod).flat_map(containers) {
            let image = container["image"].as_str().unwrap();
            if image.contains("minitoolstream") {
                assert_eq!(image, format!("ghcr.io/moroshma/minitoolstream:{version}"), "{}", rendering.name);
                seen += 1;
            }
        }
    }
    assert!(seen >= 20);
    let compose = fs::read_to_string(file("docker-compose.yml")).unwrap();
    for image in ["tarantool/tarantool:2.11.9", "minio/minio:RELEASE.2025-04-22T22-12-26Z"] {
        assert!(compose.contains(image), "compose runs another {image}");
    }
    let deprecated = ["commonLabels", "bases:", "patchesStrategicMerge", "patchesJson6902", "vars:"];
    for directory in ["kustomize", "tarantool"] {
        for path in files_below(&file(directory)) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!deprecated.iter().any(|old| text.contains(old)), "{}: deprecated syntax", path.display());
        }
    }
}

fn files_below(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
