//! What pages name: metrics, alerts, settings, variables, files and other pages.

use std::{collections::BTreeSet, fs, path::Path};

use minitoolstream::{
    config::{SETTINGS, Setting},
    metrics::FAMILIES,
};
use serde_yaml_ng::Value;

use super::page::Page;
use crate::file;

/// Programs, scripts and tests that read or set variables besides the settings.
const READERS: [&str; 6] = [
    "tarantool/init.lua",
    "deploy/secrets",
    "docker-compose.yml",
    "src/cli/exec.rs",
    "tests/crash/main.rs",
    "tests/replicas/main.rs",
];

/// Where somebody who has to act looks.
const GUIDES: [&str; 2] = ["docs/operations.md", "docs/troubleshooting.md"];

/// Words of the spans of all pages, each with the page and the span.
fn words() -> Vec<(String, String, String)> {
    let mut words = Vec::new();
    for page in Page::all() {
        for span in page.spans() {
            let is_end = |letter: char| !(letter.is_alphanumeric() || "_.*:/$-<>".contains(letter));
            words.extend(span.split(is_end).map(|word| (page.name.clone(), span.clone(), word.to_owned())));
        }
    }
    words
}

fn text(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

fn rules(kind: &str) -> BTreeSet<String> {
    let document: Value = serde_yaml_ng::from_str(&text("monitoring/rules.yml")).unwrap();
    let groups = document["groups"].as_sequence().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_sequence().unwrap());
    rules.filter_map(|rule| Some(rule.get(kind)?.as_str()?.to_owned())).collect()
}

#[test]
fn metrics_exist() {
    let mut known: BTreeSet<String> = FAMILIES.iter().map(|family| family.name.to_owned()).collect();
    known.extend(rules("record"));
    // What the adapter of Kubernetes makes, a form, and the names of the Rust libraries.
    known.extend(
        ["messages_per_second", "<noun>_<unit>", "client", "proto", "testkit"]
            .map(|end| format!("minitoolstream_{end}")),
    );
    let named = words().into_iter().filter(|(_, _, word)| word.contains("minitoolstream_"));
    let unknown: Vec<_> = named
        .filter(|(_, _, word)| {
            let word = word.split("::").next().unwrap();
            let word = ["_bucket", "_sum", "_count"].iter().fold(word, |word, end| word.trim_end_matches(end));
            !known.contains(word)
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn settings_exist() {
    let keys: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    let sections: BTreeSet<_> = keys.iter().map(|key| key.split('.').next().unwrap()).collect();
    let is_setting = |word: &str| {
        let (section, name) = word.split_once('.').unwrap_or((word, ""));
        let is_name = |name: &str| {
            !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || "_*".contains(letter))
        };
        // Files are called so, too.
        sections.contains(section)
            && is_name(name)
            && !["rs", "md", "lua", "yaml", "yml", "json", "proto"].contains(&name)
    };
    let exists = |word: &str| match word.strip_suffix('*') {
        Some(start) => keys.iter().any(|key| key.starts_with(start)),
        None => keys.contains(word),
    };
    let mut named = 0;
    for (page, span, word) in words() {
        if is_setting(&word) && !span.contains(' ') {
            assert!(exists(&word), "{page}: `{span}`: no setting is called {word}");
            named += 1;
        }
    }
    assert!(named > 100);
}

#[test]
fn variables_exist() {
    let mut known: BTreeSet<String> = SETTINGS.iter().map(|setting| setting.env.to_owned()).collect();
    known.extend(SETTINGS.iter().filter_map(Setting::other_env));
    let prefixes = known.iter().filter_map(|name| Some(format!("{}_", name.split_once('_')?.0)));
    let prefixes: BTreeSet<_> = prefixes.chain(["MTS_".into(), "GF_".into()]).collect();
    let sources: String = READERS.iter().map(|name| text(name)).collect();
    for (page, span, word) in words() {
        let name = word.trim_end_matches(':');
        let is_name = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        let is_variable = prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())) && name.chars().all(is_name);
        // What a name begins with, and a status.
        if is_variable && !name.ends_with('_') && name != "DATA_LOSS" {
            assert!(known.contains(name) || sources.contains(name), "{page}: `{span}`: nothing reads {name}");
        }
    }
}

#[test]
fn every_alert_is_told_of_where_somebody_looks() {
    let alerts = rules("alert");
    let mut linked = BTreeSet::new();
    for page in Page::all() {
        for (shown, target) in page.links() {
            let is_name = shown.chars().all(char::is_alphabetic)
                && shown.chars().filter(|letter| letter.is_uppercase()).count() > 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            if is_name && (path.ends_with("monitoring.md") || path.is_empty()) {
                assert!(alerts.contains(&shown), "{}: there is no alert {shown}", page.name);
                assert_eq!(anchor, shown.to_lowercase(), "{}", page.name);
                if GUIDES.contains(&page.name.as_str()) {
                    linked.insert(shown);
                }
            }
        }
    }
    assert_eq!(linked, alerts);
}

#[test]
fn links_lead_somewhere() {
    for page in Page::all() {
        for (_, target) in page.links().into_iter().filter(|(_, target)| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let name = match path {
                "" => page.name.clone(),
                path => Path::new(&page.name).parent().unwrap().join(path).to_str().unwrap().to_owned(),
            };
            assert!(file(&name).exists(), "{}: {target} is not there", page.name);
            if !anchor.is_empty() {
                assert!(Page::read(&name).anchors().contains(anchor), "{}: {target} has no such heading", page.name);
            }
        }
    }
}

#[test]
fn files_are_there() {
    let tops = [
        "src/",
        "tests/",
        "docs/",
        "client/",
        "proto/",
        "testkit/",
        "tarantool/",
        "kustomize/",
        "helm/",
        "deploy/",
        "monitoring/",
    ];
    for (page, span, word) in words() {
        let path = word.trim_end_matches(['.', ':']);
        let is_path = tops.iter().any(|top| path.starts_with(top)) && !path.contains(['*', '<', '$']);
        if is_path && !span.contains(' ') {
            assert!(file(path).exists(), "{page}: `{span}` is not there");
        }
    }
}

#[test]
fn what_the_program_says_is_said_by_it() {
    let mut sources = String::new();
    for (top, end) in [("src", ".rs"), ("tarantool/mts", ".lua")] {
        gather(&file(top), end, &mut sources);
    }
    // Lines that go on in the next.
    let sources = sources.split("\\\n").map(str::trim_start).collect::<String>();
    let texts = Page::read("docs/troubleshooting.md").column("it says");
    assert!(texts.len() > 20, "{texts:?}");
    for text in texts {
        let missing = text.split('…').find(|part| !sources.contains(part.trim_matches([' ', ':', '(', ')', '\''])));
        assert_eq!(missing, None, "nobody says `{text}`");
    }
}

fn gather(dir: &Path, end: &str, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, end, text);
        } else if path.to_str().unwrap().ends_with(end) {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
