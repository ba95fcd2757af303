//! The dashboard of Grafana.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{known, metrics, rules::rules, text};

/// A query of the dashboard.
pub(crate) struct Query {
    /// The title of its panel.
    pub(crate) panel: String,
    /// As it is written, with variables.
    pub(crate) text: String,
}

impl Query {
    /// As Prometheus gets it: for all namespaces, with a window of so many seconds.
    pub(crate) fn filled(&self, window_seconds: u32) -> String {
        let filled = self.text.replace("$namespace", ".*").replace("$__rate_interval", &format!("{window_seconds}s"));
        assert!(!filled.contains('$'), "{}: {filled}: what is this variable?", self.panel);
        filled
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&text("monitoring/grafana/dashboards/minitoolstream.json")).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// All queries.
pub(crate) fn queries() -> Vec<Query> {
    let dashboard = dashboard();
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        targets
            .into_iter()
            .map(move |target| Query { panel: title.clone(), text: target["expr"].as_str().unwrap().to_owned() })
    };
    panels(&dashboard).flat_map(of).collect()
}

#[test]
fn every_query_asks_for_a_metric_that_exists() {
    let (known, recorded) = (known(), rules().into_iter().map(|rule| rule.name).collect::<BTreeSet<_>>());
    for Query { panel, text } in queries() {
        let asked = metrics(&text);
        assert!(asked.is_subset(&known), "{panel}: {asked:?}");
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
        for name in text.split(|letter| !is_name(letter)).filter(|name| name.contains(":minitoolstream")) {
            assert!(recorded.contains(name), "{panel}: no rule records {name}");
        }
    }
}

#[test]
fn every_metric_is_shown() {
    let queries: String = queries().into_iter().map(|query| query.text + "\n").collect();
    let rules: String = rules().into_iter().map(|rule| rule.query + "\n").collect();
    let shown = &metrics(&queries) | &metrics(&rules);
    assert_eq!(shown, known());
}

#[test]
fn panels_lie_beside_each_other_and_ask_the_source_that_is_chosen() {
    let dashboard = dashboard();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let [left, top, width, height] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(left + width <= 24, "{title}");
        let cells = (left..left + width).flat_map(|x| (top..top + height).map(move |y| (x, y)));
        assert!(cells.into_iter().all(|cell| places.insert(cell)), "{title} lies over another");
    }
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter().map(|variable| &variable["name"]);
    assert_eq!(variables.collect::<Vec<_>>(), ["datasource", "namespace"]);
}
