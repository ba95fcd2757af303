use std::{
    fmt::Write as _,
    io::{Seek, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use minitoolstream_testkit::Process;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// A broker, and a directory in which its users run commands.
pub(crate) struct Session {
    pub(crate) broker: Process,
    /// Where commands run.
    pub(crate) dir: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
}

impl Session {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with settings of the broker.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Process::start(BINARY, &dir.path().join("broker"), settings);
        Self { broker, dir }
    }

    /// A command of a client of this broker, as it stands after `minitoolstream`.
    pub(crate) fn command(&self, line: &str) -> Command {
        command_at(self.dir.path(), &self.broker.address("ingress"), line)
    }

    /// Runs a command without input.
    pub(crate) fn run(&self, line: &str) -> Ended {
        Ended::of(&mut self.command(line))
    }

    /// Runs a command that reads `input`.
    pub(crate) fn run_with_input(&self, line: &str, input: &[u8]) -> Ended {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(input).unwrap();
        file.rewind().unwrap();
        Ended::of(self.command(line).stdin(file))
    }

    /// What a command that succeeds prints with `-o json`.
    pub(crate) fn json(&self, line: &str) -> Vec<Value> {
        self.run(&format!("-o json {line}")).documents()
    }

    /// Runs commands and shows them as in a terminal, with names for what differs from run to run.
    pub(crate) fn transcript(&self, lines: &[&str]) -> String {
        let text = transcript(lines, |line| self.run(line));
        let text = ["ingress", "egress", "http"]
            .iter()
            .fold(text, |text, key| text.replace(&self.broker.address(key), &key.to_uppercase()));
        without_times(&text)
    }

    /// Writes a file into the directory in which commands run.
    pub(crate) fn write(&self, name: &str, data: impl AsRef<[u8]>) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }

    /// Reads a file that a command wrote there.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).unwrap()
    }
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code().expect("it ends by itself"),
            output: output.stdout,
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it printed; it must have succeeded.
    pub(crate) fn text(self) -> String {
        assert_eq!((self.code, self.errors.as_str()), (0, ""));
        String::from_utf8(self.output).unwrap()
    }

    /// The lines it printed as JSON; it must have succeeded.
    pub(crate) fn documents(self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Why it refused; nothing else may have gone wrong.
    pub(crate) fn refusal(self) -> String {
        assert_eq!(self.code, 1, "{}", self.errors);
        self.errors
    }
}

/// A command of a client of the broker at an address.
pub(crate) fn command_at(dir: &Path, address: &str, line: &str) -> Command {
    let mut command = command(dir, line);
    command.env("MINITOOLSTREAM_ADDRESS", address);
    command
}

/// A command without a broker, in an environment without settings.
pub(crate) fn command(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(words(line)).env_clear().current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs commands and shows them as in a terminal.
pub(crate) fn transcript(lines: &[&str], run: impl Fn(&str) -> Ended) -> String {
    let mut text = String::new();
    for line in lines {
        let Ended { code, output, errors } = run(line);
        writeln!(text, "$ {}", format!("minitoolstream {line}").trim_end()).unwrap();
        text += &String::from_utf8(output).unwrap();
        text += &errors;
        if code != 0 {
            writeln!(text, "[exit code {code}]").unwrap();
        }
        text.push('\n');
    }
    text
}

/// Words of a line as a shell has them; quotes are the single ones.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(String::from));
        }
    }
    words
}

/// Puts a word of the same width in place of each time.
fn without_times(text: &str) -> String {
    let separators = [' ', '\n', '"'];
    let is_time = |word: &str| word.len() == 24 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let words = text.split_inclusive(separators).map(|word| match word.trim_end_matches(separators) {
        // At the end of a line nothing has to keep its place.
        time if is_time(time) && word.ends_with('\n') => "TIME\n".to_owned(),
        time if is_time(time) => format!("{:<24}{}", "TIME", &word[24..]),
        _ => word.to_owned(),
    });
    words.collect()
}
