use std::{fs, path::Path, process::Command};

use crate::{
    file,
    object::Object,
    tools::{output, program},
};

/// Everything that one command sends to a cluster.
pub(crate) struct Rendering {
    /// What was rendered.
    pub(crate) name: String,
    pub(crate) objects: Vec<Object>,
}

/// What the chart is compared with, and its values for it.
pub(crate) const TWINS: [(&str, Option<&str>); 3] = [
    ("kustomize/base", None),
    ("kustomize/overlays/development", Some("values-development.yaml")),
    ("kustomize/overlays/production", Some("values-production.yaml")),
];

impl Rendering {
    /// `kubectl kustomize` of a directory of the repository.
    pub(crate) fn of(directory: &str) -> Self {
        Self { name: directory.into(), objects: Object::all_of(&kustomize(&program("kubectl"), &file(directory))) }
    }

    /// A directory with components over it.
    pub(crate) fn with(directory: &str, components: &[&str]) -> Self {
        let components: Vec<_> =
            components.iter().map(|name| format!("  - ROOT/kustomize/components/{name}\n")).collect();
        Self::of_text(&format!("resources:\n  - ROOT/{directory}\ncomponents:\n{}", components.concat()))
    }

    /// A kustomization that speaks of directories of the repository, as `ROOT/…`.
    pub(crate) fn of_text(text: &str) -> Self {
        Self::of_text_by(&program("kubectl"), text)
    }

    /// The same, by a kubectl of one's own.
    pub(crate) fn of_text_by(kubectl: &Path, text: &str) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Kustomize takes no absolute paths.
        let here = dir.path().canonicalize().unwrap();
        let up = "../".repeat(here.components().count() - 1);
        let root = file("").canonicalize().unwrap();
        let root = format!("{up}{}", root.strip_prefix("/").unwrap().display());
        fs::write(here.join("kustomization.yaml"), text.replace("ROOT", &root)).unwrap();
        Self { name: text.into(), objects: Object::all_of(&kustomize(kubectl, &here)) }
    }

    /// `helm template` of the chart, with the files of values that it ships and settings of one's own.
    pub(crate) fn of_chart(values: Option<&str>, settings: &[&str]) -> Self {
        let text = output(&mut chart("template", values, settings));
        Self { name: format!("chart with {values:?} and {settings:?}"), objects: Object::all_of(&text) }
    }

    /// All that the repository describes.
    pub(crate) fn all() -> Vec<Self> {
        let directories = TWINS.map(|(directory, _)| directory).into_iter().chain(["kustomize/load"]);
        let mut all: Vec<_> = directories.map(Self::of).collect();
        all.extend(components().iter().map(|name| Self::with("kustomize/base", &[name])));
        all.extend(TWINS.map(|(_, values)| Self::of_chart(values, &[])));
        all.push(Self::of_chart(None, &["monitoring.enabled=true"]));
        all
    }

    pub(crate) fn find(&self, kind: &str, name: &str) -> &Object {
        let found = self.objects.iter().find(|object| object.kind() == kind && without_hash(object.name()) == name);
        found.unwrap_or_else(|| panic!("{}: there is no {kind} {name}", self.name))
    }

    pub(crate) fn has(&self, kind: &str, name: &str) -> bool {
        self.objects.iter().any(|object| object.kind() == kind && object.name() == name)
    }
}

/// The components there are.
pub(crate) fn components() -> Vec<String> {
    let entries = fs::read_dir(file("kustomize/components")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A command of Helm about the chart, as release `minitoolstream` in the namespace of that name.
pub(crate) fn chart(verb: &str, values: Option<&str>, settings: &[&str]) -> Command {
    let mut command = Command::new(program("helm"));
    let directory = file("helm/minitoolstream");
    match verb {
        "template" | "install" => command.args([verb, "minitoolstream"]).arg(&directory),
        verb => command.args([verb, "--strict"]).arg(&directory),
    };
    command.args(["--namespace", "minitoolstream"]);
    values.map(|values| command.arg("--values").arg(directory.join(values)));
    settings.iter().for_each(|setting| {
        command.args(["--set", setting]);
    });
    command
}

/// The name that a generated ConfigMap has in the files: without the hash of its content.
pub(crate) fn without_hash(name: &str) -> &str {
    let is_hash = |end: &str| end.len() == 10 && end.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.rsplit_once('-').filter(|(_, end)| is_hash(end)).map_or(name, |(name, _)| name)
}

fn kustomize(kubectl: &Path, directory: &Path) -> String {
    output(Command::new(kubectl).arg("kustomize").arg(directory))
}
