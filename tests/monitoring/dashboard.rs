//! Dashboards ask for metrics that are documented.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::file;

/// Names of metrics in a text, without the endings of histograms.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let names = text.split(|letter: char| !is_name(letter)).filter(|name| name.starts_with("minitoolstream_"));
    names
        .map(|name| ["_bucket", "_sum", "_count"].iter().fold(name, |name, end| name.trim_end_matches(end)).into())
        .collect()
}

#[test]
fn every_query_asks_for_a_documented_metric() {
    let documented = metrics(&std::fs::read_to_string(file("docs/metrics.md")).unwrap());
    for entry in std::fs::read_dir(file("monitoring/grafana/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(panels.len() >= 8, "{}", path.display());
        for panel in panels {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                let asked = metrics(query);
                assert!(!asked.is_empty(), "{query}");
                assert!(asked.is_subset(&documented), "{query}: not documented");
            }
        }
    }
}
