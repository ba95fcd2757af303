use std::process::Stdio;

use tokio::process::Command;

use crate::curl::{Stage, bytes};

/// Runs all examples of the page, one after another, as one who reads it would.
#[tokio::test]
async fn the_examples_in_the_documentation_work() {
    let stage = Stage::set(&[]).await;
    let page = include_str!("../../docs/http.md");
    let examples: Vec<&str> = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 4);
    let script = examples.concat().replace("127.0.0.1:8080", &stage.broker.http.to_string());
    let film = bytes(3_000_000);
    std::fs::write(stage.path("film.mp4"), &film).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).current_dir(stage.path("")).stdin(Stdio::null());
    let output = tokio::time::timeout(crate::curl::PATIENCE, bash.output()).await.unwrap().unwrap();
    let shown = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown:?}");
    assert!(std::fs::read(stage.path("copy.mp4")).unwrap() == film);
    stage.broker.stop().await;
}
