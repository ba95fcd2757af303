use std::{path::Path, process::Command};

use minitoolstream::{config::Config, opened::Kept};
use minitoolstream_testkit::Cluster;
use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// Who runs commands on stores.
pub(crate) struct Keeper {
    settings: Vec<(&'static str, String)>,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) documents: Vec<Value>,
    pub(crate) errors: String,
}

impl Keeper {
    /// Of the stores of a cluster.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self { settings: cluster.settings() }
    }

    /// Of the embedded stores in a directory.
    pub(crate) fn of_dir(dir: &Path) -> Self {
        Self { settings: vec![("DATA_DIR", dir.display().to_string())] }
    }

    /// Opens the stores, for what no command tells.
    pub(crate) async fn open(&self) -> Kept {
        let lookup = |name: &str| self.settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        Kept::open(&Config::load(None, lookup).unwrap()).await.unwrap()
    }

    /// Runs `minitoolstream` with words, and prints JSON.
    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(BINARY);
        command.args(words).args(["-o", "json"]).env_clear();
        command.envs(self.settings.iter().map(|(key, value)| (key, value)));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        Ended {
            code: output.status.code(),
            documents: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// The documents of a command that succeeded.
    pub(crate) fn documents(self) -> Vec<Value> {
        assert_eq!((self.code, self.errors.as_str()), (Some(0), ""), "{:?}", self.documents);
        self.documents
    }

    /// Why a command refused to do anything.
    pub(crate) fn refusal(self) -> String {
        assert_eq!((self.code, self.documents.len()), (Some(1), 0), "{self:?}");
        self.errors
    }

    /// The kinds of what a check found, and what was done about each.
    pub(crate) fn findings(&self) -> Vec<(&str, Option<&str>)> {
        let (summary, findings) = self.documents.split_last().unwrap();
        assert_eq!(summary["findings"], findings.len(), "{self:?}");
        assert_eq!(self.code, Some(i32::from(!findings.is_empty())), "{self:?}");
        findings.iter().map(|finding| (finding["kind"].as_str().unwrap(), finding["repair"].as_str())).collect()
    }
}
