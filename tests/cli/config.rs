use std::{fs, process::Command};

use serde_json::Value;

use crate::command::{Ended, command, transcript};

fn run(dir: &tempfile::TempDir, line: &str) -> Ended {
    Ended::of(&mut command(dir.path(), line))
}

#[test]
fn what_config_prints_can_be_used_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("mine.yaml"), "limits: {message_max: 3MiB}\nttl: {channels: [{channel: 'logs.>', duration: 7d}]}\n")
        .unwrap();
    let printed = run(&dir, "config --config mine.yaml").text();
    fs::write(path("printed.yaml"), &printed).unwrap();
    assert_eq!(run(&dir, "config --config printed.yaml").text(), printed);
    assert_ne!(run(&dir, "config").text(), printed);

    let json = run(&dir, "config --config mine.yaml --output json").documents().remove(0);
    assert_eq!(json["limits"]["message_max"], "3MiB");
    fs::write(path("printed.json"), json.to_string()).unwrap();
    assert_eq!(run(&dir, "config --config printed.json").text(), printed);
}

#[test]
fn the_environment_wins_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.yaml"), "server: {port: 1111, egress_port: 1112}").unwrap();
    let mut config = command(dir.path(), "config -o json");
    config.env("MINITOOLSTREAM_CONFIG", "mine.yaml").env("SERVER_PORT", "2222").env("TTL_DEFAULT", "1h");
    let printed: Value = Ended::of(&mut config).documents().remove(0);
    assert_eq!((&printed["server"]["port"], &printed["server"]["egress_port"]), (&2222.into(), &1112.into()));
    assert_eq!(printed["ttl"]["default"], "1h");
}

#[test]
fn all_faults_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = "
sever: {port: 1}
server: {port: high}
limits: {message_max: 0, batch_maxx: 5}
nothing: {like: this}
ttl: {default: 2d, max: 1d}
";
    fs::write(dir.path().join("faulty.yaml"), faulty).unwrap();
    fs::write(dir.path().join("list.yaml"), "- a list\n").unwrap();
    fs::write(dir.path().join("broken.yaml"), "server: {port: 1").unwrap();
    fs::write(dir.path().join("good.yaml"), "server: {port: 1}").unwrap();
    fs::write(dir.path().join("empty.yaml"), "").unwrap();
    let lines = [
        "config --check --config faulty.yaml",
        "config --config faulty.yaml",
        "serve --config faulty.yaml",
        "config --check --config list.yaml",
        "config --check --config broken.yaml",
        "config --check --config missing.yaml",
        "config --check --config good.yaml",
        "config --check --config empty.yaml",
        "config --check",
    ];
    insta::assert_snapshot!(transcript(&lines, |line| run(&dir, line)));
}

#[test]
fn the_reference_has_every_setting() {
    let dir = tempfile::tempdir().unwrap();
    let reference = run(&dir, "config --reference").text();
    for setting in minitoolstream::config::SETTINGS {
        let row = format!("| `{}` | `{}` | `{}` |", setting.key, setting.env, setting.default);
        assert!(reference.contains(&row), "{row} is missing");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = tempfile::tempdir().unwrap();
    let script = run(&dir, "completions bash").text();
    fs::write(dir.path().join("completions"), script).unwrap();
    let complete = |words: &str| {
        let line = format!(
            "source ./completions; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _minitoolstream minitoolstream \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("minitoolstream pub"), "publish");
    assert_eq!(complete("minitoolstream su"), "subscribe subjects");
    assert_eq!(complete("minitoolstream publish --rec"), "--recursive");
    assert_eq!(complete("minitoolstream fetch --output j"), "json");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(run(&dir, &format!("completions {shell}")).text().contains("publish"), "{shell}");
    }
}
