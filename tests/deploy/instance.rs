//! The Tarantool of the manifests: its modules, laid out and started as in the pod.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    file,
    rendering::{Rendering, TWINS},
    service::Running,
};

const READY_WITHIN: Duration = Duration::from_secs(20);

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn it_starts_and_its_probes_find_it() {
    let base = Rendering::of("kustomize/base");
    let pod = base.find("StatefulSet", "tarantool").at("/spec/template/spec").clone();
    let container = &pod["containers"][0];
    let dir = tempfile::tempdir().unwrap();
    let mut places = Vec::new();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let place = dir.path().join(mount["name"].as_str().unwrap());
        let within = place.join(if mount["name"] == "modules" { "mts" } else { "" });
        fs::create_dir_all(&within).unwrap();
        let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]);
        if let Some(name) = volume.and_then(|volume| volume["configMap"]["name"].as_str()) {
            let map = base.objects.iter().find(|object| object.name() == name).unwrap();
            for (name, text) in map.at("/data").as_object().unwrap() {
                fs::write(within.join(name), text.as_str().unwrap()).unwrap();
            }
        }
        let path = mount["mountPath"].as_str().unwrap();
        let path = if mount["name"] == "modules" { path.strip_suffix("/mts").unwrap() } else { path };
        places.push((path.to_owned(), place.to_str().unwrap().to_owned()));
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let here = |text: &str| {
        let text = text.replace("0.0.0.0:3301", "127.0.0.1:3301").replace(":3301", &format!(":{port}"));
        places.iter().fold(text, |text, (path, place)| text.replace(path, place))
    };
    let environment: Vec<_> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| (variable["name"].as_str().unwrap(), here(variable["value"].as_str().unwrap_or("secret"))))
        .collect();
    let command = |list: &Value| {
        let words: Vec<_> = texts(list).iter().map(|word| here(word)).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).current_dir(dir.path());
        command
    };
    let probe = || command(&container["readinessProbe"]["exec"]["command"]).output().unwrap();
    assert!(!probe().status.success(), "nobody listens yet");
    let mut tarantool = Running(command(&container["command"]).stderr(Stdio::null()).spawn().unwrap());
    let started = Instant::now();
    loop {
        let output = probe();
        if output.status.success() {
            break;
        }
        assert_eq!(tarantool.0.try_wait().unwrap(), None, "it ended");
        let late = started.elapsed() > READY_WITHIN;
        assert!(!late, "it does not answer: {}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(fs::read_dir(dir.path().join("data")).unwrap().count() >= 2, "log and snapshot are on the volume");
}

#[test]
fn all_modules_are_there() {
    let files = |directory: &str| -> BTreeSet<String> {
        let names =
            fs::read_dir(file(directory)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".lua") && name != "test.lua").collect()
    };
    for rendering in [Rendering::of("kustomize/base"), Rendering::of_chart(None, &[])] {
        for (map, directory) in [("tarantool-init", "tarantool"), ("tarantool-modules", "tarantool/mts")] {
            let data = rendering.find("ConfigMap", map).at("/data").as_object().unwrap();
            let names: BTreeSet<_> = data.keys().cloned().collect();
            assert_eq!(names, files(directory), "{}: list them in tarantool/kustomization.yaml", rendering.name);
        }
    }
}

#[test]
fn it_is_told_what_it_knows() {
    let known = fs::read_to_string(file("tarantool/init.lua")).unwrap();
    for (directory, values) in TWINS {
        let renderings = [Rendering::of(directory), Rendering::of_chart(values, &[])];
        let sets = renderings.iter().map(|rendering| rendering.find("StatefulSet", "tarantool"));
        let variables = sets.flat_map(|set| set.at("/spec/template/spec/containers/0/env").as_array().unwrap());
        for variable in variables {
            let name = variable["name"].as_str().unwrap();
            assert!(name == "LUA_PATH" || known.contains(&format!("--   {name} ")), "init.lua does not know {name}");
        }
    }
}
