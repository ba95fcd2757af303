use std::path::Path;

use crate::command::{Ended, command, transcript};

fn snapshot_of(lines: &[&str]) -> String {
    transcript(lines, |line| Ended::of(&mut command(Path::new("/"), line)))
}

#[test]
fn help_of_the_whole() {
    insta::assert_snapshot!(snapshot_of(&["--help"]));
}

#[test]
fn help_of_each_command() {
    let commands = [
        "serve",
        "publish",
        "fetch",
        "tail",
        "subscribe",
        "ack",
        "consume",
        "consumer",
        "consumer create",
        "consumer get",
        "consumer list",
        "consumer update",
        "consumer pause",
        "consumer resume",
        "consumer reset",
        "consumer delete",
        "lag",
        "dlq",
        "dlq list",
        "dlq show",
        "dlq redrive",
        "subjects",
        "purge",
        "upload",
        "upload show",
        "upload abort",
        "check",
        "backup",
        "restore",
        "bench",
        "config",
        "completions",
    ];
    for command in commands {
        insta::assert_snapshot!(command.replace(' ', "_"), snapshot_of(&[&format!("{command} --help")]));
    }
}

#[test]
fn wrong_arguments_are_explained() {
    insta::assert_snapshot!(snapshot_of(&[
        "",
        "pubish orders",
        "publish",
        "publish orders --data x file",
        "publish orders --data x -H novalue",
        "publish orders --data x --ttl soon",
        "fetch orders --ack",
        "fetch orders --from 1 --durable d",
        "fetch orders --raw --to out",
        "fetch orders --limit 0",
        "fetch orders --since soon",
        "fetch orders --last --all",
        "fetch 'orders.*' --from 1",
        "tail orders --limit 0",
        "publish orders --data x --at noon",
        "publish orders --data x --delay 1h --expect-last 3",
        "consume c --start new",
        "consume c --filter a --start first",
        "consume c --exec true --raw",
        "consume c --concurrency 2",
        "consumer create c",
        "dlq redrive c",
        "purge orders --keep 1 --up-to 1",
        "ack d orders first",
        "config --check --reference",
        "completions tcsh",
        "subjects --output yaml",
    ]));
}

#[test]
fn version_is_that_of_the_package() {
    let version = Ended::of(&mut command(Path::new("/"), "--version")).text();
    assert_eq!(version, format!("minitoolstream {}\n", env!("CARGO_PKG_VERSION")));
}
