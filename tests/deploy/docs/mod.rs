//! The documentation: what it tells people to type can be typed, and what it names is there.

mod deployment;
mod names;
mod page;
mod spans;
mod stage;

use std::{collections::BTreeSet, fs, process::Command};

use page::Page;
use stage::Stage;

use crate::{
    file,
    tools::{checkers, output},
};

/// Programs in the place of those that need what is not here.
const PROGRAMS: &str = "tests/deploy/docs/programs";

fn programs() -> BTreeSet<String> {
    let entries = fs::read_dir(file(PROGRAMS)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Runs all commands of a page, one block after another, as one who reads it would.
fn follow(name: &str, stage: &Stage) {
    let page = Page::read(name);
    let blocks = page.blocks_of("sh");
    assert!(!blocks.is_empty(), "{name} has no commands: leave it out");
    for block in blocks {
        let ended = stage.bash(&block.text).output().unwrap();
        let shown = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        let calls = stage.calls();
        assert!(ended.status.success(), "{name}:{}: {}: {shown:?}, after\n{calls}", block.line, ended.status);
    }
}

macro_rules! pages {
    ($($test:ident: $name:literal on $stage:ident,)*) => {
        /// Pages with commands.
        const FOLLOWED: &[&str] = &[$($name),*];
        $(
            #[test]
            fn $test() {
                follow($name, &Stage::$stage());
            }
        )*
    };
}

pages! {
    the_readme_can_be_followed: "README.md" on set,
    contributing_can_be_followed: "CONTRIBUTING.md" on set,
    configuration_can_be_followed: "docs/configuration.md" on set,
    consumers_can_be_followed: "docs/consumers.md" on set,
    deployment_can_be_followed: "docs/deployment.md" on set,
    http_can_be_followed: "docs/http.md" on set,
    monitoring_can_be_followed: "docs/monitoring.md" on set,
    operations_can_be_followed: "docs/operations.md" on with_stores,
    replicas_can_be_followed: "docs/replicas.md" on with_stores,
    troubleshooting_can_be_followed: "docs/troubleshooting.md" on with_stores,
}

#[test]
fn every_block_is_looked_at() {
    for page in Page::all() {
        for block in page.blocks() {
            let place = format!("{}:{}", page.name, block.line);
            match block.language.as_str() {
                "sh" => assert!(FOLLOWED.contains(&page.name.as_str()), "{place}: nobody runs these commands"),
                "yaml" => drop(serde_yaml_ng::from_str::<serde_yaml_ng::Value>(&block.text).expect(&place)),
                "json" => drop(serde_json::from_str::<serde_json::Value>(&block.text).expect(&place)),
                "rust" => is_compiled(&block.text, &place),
                // Drawings, and the form of a decision record.
                "text" | "markdown" => {}
                other => panic!("{place}: a block of '{other}', which no test looks at"),
            }
        }
    }
}

/// Rust of a page is that of an example, which is compiled.
fn is_compiled(text: &str, place: &str) {
    let examples = fs::read_dir(file("client/examples")).unwrap();
    let examples = examples.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let lines = |text: &str| -> Vec<String> { text.lines().map(|line| line.trim().to_owned()).collect() };
    let wanted = lines(text.trim());
    let holds = |example: &str| lines(example).windows(wanted.len()).any(|window| *window == wanted[..]);
    assert!(
        examples.into_iter().any(|example| holds(&example)),
        "{place}: this is part of no example below client/examples"
    );
}

#[test]
fn shellcheck_finds_nothing_in_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let mut check = Command::new(checkers().program("shellcheck"));
    check.args(["--severity", "style", "--shell", "bash"]);
    check.args(programs().iter().map(|name| file(PROGRAMS).join(name)));
    for name in FOLLOWED {
        for block in Page::read(name).blocks_of("sh") {
            let path = dir.path().join(format!("{}-{}", name.replace('/', "-"), block.line));
            fs::write(&path, block.text).unwrap();
            check.arg(path);
        }
    }
    output(&mut check);
}

#[test]
fn wrong_commands_are_noticed() {
    let stage = Stage::set();
    for wrong in [
        "minitoolstream tale greetings",
        "minitoolstream fetch greetings --form 1",
        "LENIENT=1 minitoolstream fetch greetings --from 1 --all --last",
        "minitoolstream serve --config nowhere.yaml",
        "minitoolstream restore /backup/never --verify",
        "kubectl get hpa --wacht",
        "kubectl apply -k kustomize/overlays/prod",
        "helm upgrade x helm/minitoolstream --set ingress.replicas=3",
        "helm install x prometheus-community/kube-prometheus-stack --values monitoring/values/none.yaml",
        "docker compose up --detatch",
        "docker compose stop tarantula",
        "cargo run --relase -- serve",
        "cargo run -- tale greetings",
        "cargo run -p minitoolstream-kit --bin stores -- true",
        "cargo nextest run --test repplicas",
        "cargo nextest run -E 'test(p9_)'",
        "just doc",
        "curl -s http://127.0.0.1:8080/redyz",
        "MTS_REPLIKATION=a:1 tarantool tarantool/init.lua",
        "tarantool tarantool/start.lua",
        "deploy/upp",
        "vim README.md",
    ] {
        assert!(!stage.bash(wrong).output().unwrap().status.success(), "{wrong}");
    }
}
