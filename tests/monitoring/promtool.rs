//! What Prometheus' own tool says of configuration and rules.

use std::collections::BTreeSet;

use minitoolstream_testkit::Prometheus;
use serde_yaml_ng::Value;

use crate::{
    HOME, file, known, metrics,
    rules::{alerts, rules},
    text,
};

fn passes(arguments: &[&str]) {
    let output = Prometheus::tool(HOME).args(arguments).current_dir(file("monitoring")).output();
    let output = output.expect("promtool starts: tests/run unpacks it");
    let told = [output.stdout, output.stderr].map(|told| String::from_utf8(told).unwrap()).concat();
    assert!(output.status.success(), "{told}");
}

#[test]
fn configuration_and_rules_are_sound() {
    passes(&["check", "config", "prometheus.yml"]);
    passes(&["check", "rules", "--lint=all", "--lint-fatal", "rules.yml"]);
}

#[test]
fn alerts_fire_and_are_silent_as_their_unit_tests_say() {
    passes(&["test", "rules", "rules.test.yml"]);
}

#[test]
fn every_alert_is_shown_to_fire_and_to_be_silent() {
    let document: Value = serde_yaml_ng::from_str(&text("monitoring/rules.test.yml")).unwrap();
    let tests = document["tests"].as_sequence().unwrap();
    let cases = tests.iter().flat_map(|test| test["alert_rule_test"].as_sequence().unwrap());
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in cases {
        let name = case["alertname"].as_str().unwrap().to_owned();
        if case["exp_alerts"].as_sequence().unwrap().is_empty() { &mut silent } else { &mut fires }.insert(name);
    }
    let all: BTreeSet<_> = alerts().into_iter().collect();
    assert_eq!((&fires, &silent), (&all, &all));
}

#[test]
fn every_rule_asks_for_a_metric_that_exists() {
    let known = known();
    for rule in rules() {
        let asked = metrics(&rule.query);
        assert!(asked.is_subset(&known), "{}: {asked:?}", rule.name);
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let guide = text("docs/monitoring.md");
    let document = crate::rules::document();
    let rules =
        document["groups"].as_sequence().unwrap().iter().flat_map(|group| group["rules"].as_sequence().unwrap());
    for rule in rules.filter(|rule| rule.get("alert").is_some()) {
        let name = rule["alert"].as_str().unwrap();
        assert!(guide.contains(&format!("\n### {name}\n")), "docs/monitoring.md does not tell of {name}");
        let link = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(link.ends_with(&format!("docs/monitoring.md#{}", name.to_lowercase())), "{name}: {link}");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string(), "{name}");
    }
}
