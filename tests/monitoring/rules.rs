//! monitoring/rules.yml.

use serde_yaml_ng::Value;

use crate::text;

/// How long a minute is in a drill.
const MINUTE_MILLIS: u64 = 1_000;

/// A rule, as the file says.
pub(crate) struct Rule {
    /// The name of its alert, or of its series.
    pub(crate) name: String,
    pub(crate) is_alert: bool,
    pub(crate) query: String,
}

/// The rules as they are written.
pub(crate) fn document() -> Value {
    serde_yaml_ng::from_str(&text("monitoring/rules.yml")).unwrap()
}

/// All rules.
pub(crate) fn rules() -> Vec<Rule> {
    let rule = |rule: &Value| {
        let text = |key: &str| rule[key].as_str().map(str::to_owned);
        let is_alert = rule.get("alert").is_some();
        let name = text("alert").or_else(|| text("record")).unwrap();
        Rule { name, is_alert, query: text("expr").unwrap() }
    };
    let document = document();
    let groups = document["groups"].as_sequence().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_sequence().unwrap()).map(rule).collect()
}

/// Names of all alerts.
pub(crate) fn alerts() -> Vec<String> {
    rules().into_iter().filter(|rule| rule.is_alert).map(|rule| rule.name).collect()
}

/// The same rules for a drill, in which a minute passes in a second: windows, waiting times, intervals.
pub(crate) fn hurried() -> String {
    let mut document = document();
    for group in document["groups"].as_sequence_mut().unwrap() {
        if let Some(interval) = group.get_mut("interval") {
            *interval = "250ms".into();
        }
        for rule in group["rules"].as_sequence_mut().unwrap() {
            let query = rule["expr"].as_str().unwrap();
            rule["expr"] = hurried_windows(query).into();
            if let Some(wait) = rule.get_mut("for") {
                *wait = format!("{}ms", millis(wait.as_str().unwrap())).into();
            }
        }
    }
    serde_yaml_ng::to_string(&document).unwrap()
}

/// A query whose windows are as much shorter.
pub(crate) fn hurried_windows(query: &str) -> String {
    let mut parts = query.split('[');
    let mut hurried = parts.next().unwrap().to_owned();
    for part in parts {
        let (window, rest) = part.split_once(']').unwrap();
        hurried.push_str(&format!("[{}ms]{rest}", millis(window)));
    }
    hurried
}

fn millis(minutes: &str) -> u64 {
    let number = minutes.strip_suffix('m').unwrap_or_else(|| panic!("{minutes}: minutes are expected"));
    number.parse::<u64>().unwrap() * MINUTE_MILLIS
}
