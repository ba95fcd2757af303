use std::{
    path::{Path, PathBuf},
    process::Command,
};

use minitoolstream_testkit::Process;
use serde_json::Value;

/// Nothing expires or is forgotten while a test runs.
const SETTINGS: [(&str, &str); 3] = [("TTL_DEFAULT", "1h"), ("DEDUP_WINDOW", "1h"), ("SHUTDOWN_DEADLINE", "300ms")];

/// A version: its program, and its functions for Tarantool.
pub(crate) struct Version {
    pub(crate) binary: String,
    pub(crate) modules: PathBuf,
}

impl Version {
    /// The one that is tested.
    pub(crate) fn present() -> Self {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tarantool");
        Self { binary: env!("CARGO_BIN_EXE_minitoolstream").into(), modules }
    }

    /// The one before it.
    pub(crate) fn previous() -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("previous").join(include_str!("previous").trim());
        let binary = home.join("minitoolstream");
        assert!(binary.exists(), "'{}' is missing: tests/previous builds it", binary.display());
        Self { binary: binary.display().to_string(), modules: home.join("tarantool") }
    }

    /// Starts a broker with embedded stores below a directory.
    pub(crate) fn serve(&self, dir: &Path) -> Process {
        Process::start(&self.binary, dir, &SETTINGS)
    }

    /// Tries to start a broker with embedded stores below a directory; gives why it refuses to.
    pub(crate) fn refuses(&self, dir: &Path) -> String {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--port", "0", "--egress-port", "0", "--http-port", "0", "--data-dir"]);
        let output = command.arg(dir.join("data")).envs(SETTINGS).output().unwrap();
        assert!(!output.status.success(), "it was opened");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command that succeeds, with nothing but these settings in its environment; gives what it prints as JSON.
    pub(crate) fn run<V: AsRef<str>>(&self, settings: &[(&str, V)], words: &[&str]) -> Vec<Value> {
        let mut command = Command::new(&self.binary);
        command.args(words).args(["-o", "json"]).env_clear();
        let output = command.envs(settings.iter().map(|(name, value)| (name, value.as_ref()))).output().unwrap();
        let (text, errors) = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).into();
        assert!(output.status.success(), "{} {words:?}: {text}{errors}", self.binary);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks the stores that settings name: nothing may be found.
    pub(crate) fn check<V: AsRef<str>>(&self, settings: &[(&str, V)]) {
        let found = self.run(settings, &["check", "--stores"]);
        assert_eq!((found.len(), &found[0]["findings"]), (1, &0.into()), "{found:?}");
    }
}

/// Settings that name a data directory.
pub(crate) fn in_dir(data: &Path) -> [(&'static str, String); 1] {
    [("DATA_DIR", data.display().to_string())]
}
