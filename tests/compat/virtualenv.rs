use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// What the client is written with. All packages of gRPC share one version.
const GRPC_VERSION: &str = "1.76.0";
const PACKAGES: [&str; 5] = ["grpcio", "grpcio-tools", "grpcio-status", "grpcio-health-checking", "grpcio-reflection"];
const MODULES: &str = "import grpc, grpc_tools.protoc, grpc_status, grpc_health.v1, grpc_reflection.v1alpha";

/// A Python with gRPC's packages, made once and kept below the target directory.
pub(crate) struct Virtualenv(PathBuf);

impl Virtualenv {
    /// The one of an earlier run if it works, or a new one.
    pub(crate) fn find_or_make() -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(home).unwrap();
        // Two tests that make it at a time would spoil it for each other.
        let lock = File::create(home.join("virtualenv.lock")).unwrap();
        lock.lock().unwrap();
        let virtualenv = Self(home.join(format!("virtualenv-grpcio-{GRPC_VERSION}")));
        if !virtualenv.works() {
            virtualenv.make();
        }
        virtualenv
    }

    /// Runs a script.
    pub(crate) fn run(&self, script: &Path, arguments: &[&str]) -> Output {
        // Compiled files belong to no source tree.
        Command::new(self.python()).arg("-B").arg(script).args(arguments).output().expect("python3 runs")
    }

    fn python(&self) -> PathBuf {
        self.0.join("bin/python")
    }

    fn works(&self) -> bool {
        let imported = Command::new(self.python()).args(["-c", MODULES]).output();
        imported.is_ok_and(|output| output.status.success())
    }

    fn make(&self) {
        let _ = fs::remove_dir_all(&self.0);
        must(Command::new("python3").args(["-m", "venv"]).arg(&self.0));
        let packages = PACKAGES.map(|package| format!("{package}=={GRPC_VERSION}"));
        must(
            Command::new(self.python()).args(["-m", "pip", "install", "--quiet", "--only-binary=:all:"]).args(packages),
        );
        assert!(self.works(), "the packages of gRPC were installed and cannot be imported");
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: install Python 3.9 or later"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
