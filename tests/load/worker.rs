use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use minitoolstream_testkit::Process;
use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// A worker as users run it: `minitoolstream consume`, in a process of its own, which is killed with the value.
pub(crate) struct Worker {
    child: Child,
    output: PathBuf,
}

/// A message that a worker printed, and thereby handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Handled {
    /// Its place in the order of all messages.
    pub(crate) place: u64,
    pub(crate) attempt: u64,
}

impl Worker {
    /// Works for a consumer and prints into a file of this name.
    pub(crate) fn start(broker: &Process, consumer: &str, output: &Path) -> Self {
        let child = consume(broker, consumer).stdout(File::create_new(output).unwrap()).spawn().unwrap();
        Self { child, output: output.into() }
    }

    /// Works for a consumer and comes to a stop with the first message that is larger than a pipe: nobody reads.
    pub(crate) fn start_stuck(broker: &Process, consumer: &str) -> Self {
        let child = consume(broker, consumer).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, output: PathBuf::new() }
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Asks it to stop with SIGTERM and waits for its end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// Bytes that it printed so far.
    pub(crate) fn printed(&self) -> u64 {
        std::fs::metadata(&self.output).unwrap().len()
    }

    /// What it handled so far. Half a line is of a message that it was about to handle when it was killed.
    pub(crate) fn handled(&self) -> Vec<Handled> {
        let text = std::fs::read_to_string(&self.output).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let number = |value: &Value, name: &str| value[name].as_u64().unwrap();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .map(|value| Handled { place: number(&value, "stream_sequence"), attempt: number(&value, "attempt") })
            .collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn consume(broker: &Process, consumer: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["--address", &broker.address("ingress"), "--output", "json", "consume", consumer]);
    command.stdin(Stdio::null());
    command
}
