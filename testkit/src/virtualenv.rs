use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A Python with packages of its own, made once and kept for later runs.
pub struct Virtualenv(PathBuf);

impl Virtualenv {
    /// The one of an earlier run below `home` if it works, or a new one with `packages` (as `pip` takes them). It works if
    /// Python takes `check`.
    pub fn find_or_make(home: &Path, name: &str, packages: &[String], check: &str) -> Self {
        fs::create_dir_all(home).unwrap();
        // Two tests that make it at a time would spoil it for each other.
        let lock = File::create(home.join(format!("{name}.lock"))).unwrap();
        lock.lock().unwrap();
        let virtualenv = Self(home.join(name));
        if !virtualenv.works(check) {
            virtualenv.make(packages);
            assert!(virtualenv.works(check), "{packages:?} were installed and do not work: '{check}' fails");
        }
        virtualenv
    }

    /// Runs a script.
    pub fn run(&self, script: &Path, arguments: &[&str]) -> Output {
        // Compiled files belong to no source tree.
        Command::new(self.program("python")).arg("-B").arg(script).args(arguments).output().expect("python3 runs")
    }

    /// Where a program of a package is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }

    fn works(&self, check: &str) -> bool {
        let checked = Command::new(self.program("python")).args(["-c", check]).output();
        checked.is_ok_and(|output| output.status.success())
    }

    fn make(&self, packages: &[String]) {
        let _ = fs::remove_dir_all(&self.0);
        must(Command::new("python3").args(["-m", "venv"]).arg(&self.0));
        let pip = ["-m", "pip", "install", "--quiet", "--only-binary=:all:"];
        must(Command::new(self.program("python")).args(pip).args(packages));
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: install Python 3.9 or later"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
