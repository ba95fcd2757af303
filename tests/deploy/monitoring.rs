//! kustomize/components/monitoring, and the values of charts beside it.

use serde_json::Value;

use crate::{file, rendering::Rendering};

/// What kustomize makes of the component.
fn component() -> Rendering {
    Rendering::of("kustomize/components/monitoring")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_yaml_ng::from_str(&text(name)).unwrap()
}

#[test]
fn the_component_has_the_rules_and_the_dashboard_that_compose_has() {
    let component = component();
    let rule = component.find("PrometheusRule", "minitoolstream");
    assert_eq!(rule.at("/spec"), &yaml("monitoring/rules.yml"), "write it anew with 'just docs'");
    let dashboard = &component.find("ConfigMap", "minitoolstream-dashboard").0;
    let shown = dashboard["data"]["minitoolstream.json"].as_str().unwrap();
    assert_eq!(shown, text("monitoring/grafana/dashboards/minitoolstream.json"));
    let values = yaml("monitoring/values/kube-prometheus-stack.yaml");
    let sidecar = &values["grafana"]["sidecar"]["dashboards"];
    let label = &dashboard["metadata"]["labels"][sidecar["label"].as_str().unwrap()];
    assert_eq!((label, sidecar["searchNamespace"].as_str()), (&sidecar["labelValue"], Some("ALL")));
    for object in &component.objects {
        assert_eq!(object.at("/metadata/namespace"), "minitoolstream", "{}", object.title());
    }
}

#[test]
fn both_services_are_scraped_under_the_name_that_rules_look_for() {
    let component = component();
    for role in ["ingress", "egress"] {
        let spec = component.find("ServiceMonitor", &format!("minitoolstream-{role}")).at("/spec");
        // The value of this label is the name of the job.
        assert_eq!(spec["jobLabel"].as_str(), Some("app.kubernetes.io/name"));
        let selected = &spec["selector"]["matchLabels"];
        assert_eq!(selected["app.kubernetes.io/name"].as_str(), Some("minitoolstream"));
        assert_eq!(selected["app.kubernetes.io/component"].as_str(), Some(role));
        let endpoint = &spec["endpoints"][0];
        assert_eq!((endpoint["port"].as_str(), endpoint["path"].as_str()), (Some("http"), Some("/metrics")));
        assert_eq!(endpoint["honorLabels"].as_bool(), Some(true), "or 'service' is the Service's and not the metric's");
    }
    let compose = yaml("monitoring/prometheus.yml");
    let job = &compose["scrape_configs"][0];
    assert_eq!((job["job_name"].as_str(), job["honor_labels"].as_bool()), (Some("minitoolstream"), Some(true)));
}

#[test]
fn values_of_charts_hold_no_password() {
    let values = yaml("monitoring/values/kube-prometheus-stack.yaml");
    assert!(values["grafana"].get("adminPassword").is_none());
    assert_eq!(values["grafana"]["admin"]["existingSecret"].as_str(), Some("grafana-admin"));
    let spec = &values["prometheus"]["prometheusSpec"];
    for selector in ["serviceMonitor", "podMonitor", "rule"] {
        let key = format!("{selector}SelectorNilUsesHelmValues");
        assert_eq!(spec[&key].as_bool(), Some(false), "{key}: what others install is not seen");
    }
}
