//! kustomize/components/monitoring, and the values of charts beside it.

use std::{collections::BTreeMap, process::Command};

use serde_yaml_ng::Value;

use crate::{file, rules, text};

/// What kustomize makes of the component, by kind and name.
fn objects() -> BTreeMap<(String, String), Value> {
    let output = Command::new("kubectl").arg("kustomize").arg(file("kustomize/components/monitoring")).output();
    let output = output.expect("kubectl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents = String::from_utf8(output.stdout).unwrap();
    let objects = documents.split("\n---\n").map(|document| serde_yaml_ng::from_str::<Value>(document).unwrap());
    let name = |object: &Value| {
        let name = |value: &Value| value.as_str().unwrap().to_owned();
        (name(&object["kind"]), name(&object["metadata"]["name"]))
    };
    objects.map(|object| (name(&object), object)).collect()
}

fn key(kind: &str, name: &str) -> (String, String) {
    (kind.into(), name.into())
}

#[test]
fn the_component_has_the_rules_and_the_dashboard_that_compose_has() {
    let objects = objects();
    let rule = &objects[&key("PrometheusRule", "minitoolstream")];
    assert_eq!(rule["spec"], rules::document(), "write it anew with 'just docs'");
    let dashboard = &objects[&key("ConfigMap", "minitoolstream-dashboard")];
    let shown = dashboard["data"]["minitoolstream.json"].as_str().unwrap();
    assert_eq!(shown, text("monitoring/grafana/dashboards/minitoolstream.json"));
    let values: Value = serde_yaml_ng::from_str(&text("monitoring/values/kube-prometheus-stack.yaml")).unwrap();
    let sidecar = &values["grafana"]["sidecar"]["dashboards"];
    let label = &dashboard["metadata"]["labels"][sidecar["label"].as_str().unwrap()];
    assert_eq!((label, sidecar["searchNamespace"].as_str()), (&sidecar["labelValue"], Some("ALL")));
    for ((kind, name), object) in &objects {
        assert_eq!(object["metadata"]["namespace"].as_str(), Some("minitoolstream"), "{kind} {name}");
    }
}

#[test]
fn both_services_are_scraped_under_the_name_that_rules_look_for() {
    let objects = objects();
    for role in ["ingress", "egress"] {
        let spec = &objects[&key("ServiceMonitor", &format!("minitoolstream-{role}"))]["spec"];
        // The value of this label is the name of the job.
        assert_eq!(spec["jobLabel"].as_str(), Some("app.kubernetes.io/name"));
        let selected = &spec["selector"]["matchLabels"];
        assert_eq!(selected["app.kubernetes.io/name"].as_str(), Some("minitoolstream"));
        assert_eq!(selected["app.kubernetes.io/component"].as_str(), Some(role));
        let endpoint = &spec["endpoints"][0];
        assert_eq!((endpoint["port"].as_str(), endpoint["path"].as_str()), (Some("http"), Some("/metrics")));
        assert_eq!(endpoint["honorLabels"].as_bool(), Some(true), "or 'service' is the Service's and not the metric's");
    }
    let compose: Value = serde_yaml_ng::from_str(&text("monitoring/prometheus.yml")).unwrap();
    let job = &compose["scrape_configs"][0];
    assert_eq!((job["job_name"].as_str(), job["honor_labels"].as_bool()), (Some("minitoolstream"), Some(true)));
}

#[test]
fn values_of_charts_hold_no_password() {
    let values: Value = serde_yaml_ng::from_str(&text("monitoring/values/kube-prometheus-stack.yaml")).unwrap();
    assert!(values["grafana"].get("adminPassword").is_none());
    assert_eq!(values["grafana"]["admin"]["existingSecret"].as_str(), Some("grafana-admin"));
    let spec = &values["prometheus"]["prometheusSpec"];
    for selector in ["serviceMonitor", "podMonitor", "rule"] {
        let key = format!("{selector}SelectorNilUsesHelmValues");
        assert_eq!(spec[&key].as_bool(), Some(false), "{key}: what others install is not seen");
    }
}
