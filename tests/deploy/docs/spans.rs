//! Commands within sentences and tables: `minitoolstream purge SUBJECT`.

use std::collections::BTreeSet;

use super::{page::Page, programs, stage::Stage};
use crate::tools::output;

/// What stands for what readers fill in.
const SAMPLES: [(&str, &str); 6] =
    [("SUBJECT", "orders.new"), ("NAME", "billing"), ("CONSUMER", "billing"), ("ID", "film"), ("N", "3"), ("PID", "1")];

/// Commands of the binary, which sentences name without the binary.
fn verbs(stage: &Stage) -> BTreeSet<String> {
    let help = output(&mut stage.bash("minitoolstream --help"));
    let list = help.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap();
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// What a span tells people to type; several commands where it has alternatives, as in `dlq list|show`. None if it is no command.
fn commands(span: &str, verbs: &BTreeSet<String>, programs: &BTreeSet<String>) -> Vec<String> {
    let is_variable = |word: &&str| word.split_once('=').is_some_and(|(name, _)| is_upper(name));
    let words: Vec<_> = span.split(' ').collect();
    let Some(at) = words.iter().position(|word| !is_variable(word)) else { return vec![] };
    let is_script = ["deploy/", "tests/run", ".ci/run"].iter().any(|start| words[at].starts_with(start));
    let is_command = programs.contains(words[at]) || is_script || verbs.contains(words[at]);
    // A name alone speaks of the program.
    if !is_command || words.len() == 1 || span.contains('…') {
        return vec![];
    }
    let given: Vec<_> = words.iter().map(|word| sample(word).unwrap_or(word).to_owned()).collect();
    let program = if verbs.contains(words[at]) { "minitoolstream" } else { "" };
    let open = [given[..at].join(" "), program.into(), given[at..].join(" ")].join(" ").trim().to_owned();
    let alternatives =
        open.split(' ').find(|word| word.contains('|') && *word != "|" && !word.contains(['\'', '"', '(']));
    match alternatives {
        Some(word) => word.split('|').map(|one| open.replacen(word, one, 1)).collect(),
        None => vec![open],
    }
}

fn is_upper(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
}

fn sample(word: &str) -> Option<&'static str> {
    let found = SAMPLES.iter().find(|(name, _)| *name == word).map(|(_, sample)| *sample);
    assert!(found.is_some() || !is_upper(word), "there is no sample for '{word}'");
    found
}

#[test]
fn commands_in_sentences_can_be_typed() {
    let stage = Stage::with_stores();
    let (verbs, programs) = (verbs(&stage), programs());
    let (mut typed, mut wrong) = (BTreeSet::new(), Vec::new());
    for page in Page::all() {
        for span in page.spans() {
            for command in commands(&span, &verbs, &programs) {
                // What a sentence speaks of may be missing: a consumer, an upload.
                if typed.insert(command.clone()) {
                    let ended = stage.bash(&command).env("LENIENT", "1").output().unwrap();
                    if !ended.status.success() {
                        let why = String::from_utf8_lossy(&ended.stderr).into_owned();
                        wrong.push(format!("{}: `{span}`: {command}: {}: {why}", page.name, ended.status));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(typed.len() > 30, "{typed:?}");
}
