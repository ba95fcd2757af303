use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_yaml_ng::Value;

/// A service of docker-compose.yml that runs without a container: with the command, the environment and the files that the
/// file gives it. What is another is where things are: see [`Places`].
pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    described: &'a Value,
    places: &'a Places,
}

/// What containers call something, and what it is called here: addresses, and directories with all that is in them.
pub(crate) type Places = Vec<(String, String)>;

impl<'a> Service<'a> {
    pub(crate) fn of(compose: &'a Value, name: &'a str, places: &'a Places) -> Self {
        Self { name, described: &compose["services"][name], places }
    }

    /// Its environment, with the names of all variables whose values are others here.
    pub(crate) fn environment(&self) -> (BTreeMap<&'a str, String>, Vec<&'a str>) {
        let (mut environment, mut moved) = (BTreeMap::new(), Vec::new());
        for (name, value) in self.described["environment"].as_mapping().unwrap() {
            let (name, value) = (name.as_str().unwrap(), text(value));
            let here = self.here(&value);
            if here != value {
                moved.push(name);
            }
            environment.insert(name, here);
        }
        (environment, moved)
    }

    /// A command with its environment and nothing else, in this directory.
    pub(crate) fn command(&self, program: &Path, arguments: &[String], dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(arguments.iter().map(|argument| self.here(argument)));
        command.env_clear().envs(self.environment().0).current_dir(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Words of the command that it runs.
    pub(crate) fn words(&self) -> Vec<String> {
        match self.described["entrypoint"].as_sequence() {
            Some(words) => words.iter().map(text).collect(),
            None => self.described["command"].as_str().unwrap().split(' ').map(Into::into).collect(),
        }
    }

    /// Words of the command that tells whether it is healthy, how long one may take, and how long all may.
    pub(crate) fn health_check(&self) -> (Vec<String>, Duration, Duration) {
        let check = &self.described["healthcheck"];
        let words: Vec<_> = check["test"].as_sequence().unwrap().iter().map(text).collect();
        assert_eq!(words[0], "CMD", "{}: no shell is needed", self.name);
        let within = duration(&check["interval"]) * u32::try_from(check["retries"].as_u64().unwrap()).unwrap();
        (words[1..].to_vec(), duration(&check["timeout"]), within)
    }

    /// How long it may take to stop.
    pub(crate) fn grace(&self) -> Duration {
        duration(&self.described["stop_grace_period"])
    }

    /// Services that must be healthy before it starts.
    pub(crate) fn waits_for(&self) -> Vec<&'a str> {
        let needed = self.described["depends_on"].as_mapping().unwrap();
        let healthy = needed.iter().filter(|(_, how)| how["condition"] == "service_healthy");
        healthy.map(|(name, _)| name.as_str().unwrap()).collect()
    }

    fn here(&self, word: &str) -> String {
        let place = self.places.iter().find_map(|(there, here)| {
            let rest = word.strip_prefix(there.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{here}{rest}"))
        });
        place.unwrap_or_else(|| word.to_owned())
    }
}

/// Where the files of a service are: those of the repository that the file names, and volumes as directories below `dir`.
pub(crate) fn volumes(compose: &Value, name: &str, dir: &Path) -> Places {
    let volume = |volume: &Value| {
        let text = volume.as_str().unwrap();
        let [source, target, _] = text.split(':').collect::<Vec<_>>()[..] else { panic!("{text}") };
        let here = if source.starts_with('/') { source.into() } else { dir.join(source) };
        if !source.starts_with('/') {
            fs::create_dir_all(&here).unwrap();
        }
        (target.to_owned(), here.to_str().unwrap().to_owned())
    };
    compose["services"][name]["volumes"].as_sequence().unwrap().iter().map(volume).collect()
}

/// A process that ends with the value.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| serde_yaml_ng::to_string(value).unwrap().trim_end().into(), Into::into)
}

fn duration(value: &Value) -> Duration {
    humantime::parse_duration(value.as_str().unwrap()).unwrap()
}
