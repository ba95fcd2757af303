//! What is rendered is what clusters take.

use std::{collections::BTreeSet, fs, process::Output};

use crate::{file, rendering::Rendering, tools::checkers};

/// The oldest that is supported (it has `preStop.sleep`) and some after it.
const VERSIONS: [&str; 5] = ["1.30", "1.31", "1.33", "1.35", "1.37"];

/// Checks every object once, however often it was rendered; gives how many there are, too.
fn check(renderings: &[Rendering], versions: &[&str]) -> (usize, Output) {
    let (dir, mut seen) = (tempfile::tempdir().unwrap(), BTreeSet::new());
    let all =
        renderings.iter().flat_map(|rendering| rendering.objects.iter().map(|object| (&rendering.name, &object.0)));
    let objects: Vec<_> = all.filter(|(_, object)| seen.insert(object.to_string())).collect();
    let path = dir.path().join("objects.json");
    fs::write(&path, serde_json::to_vec(&objects).unwrap()).unwrap();
    let custom = file("tests/deploy/custom.json");
    let mut arguments = vec![path.to_str().unwrap(), custom.to_str().unwrap()];
    arguments.extend(versions);
    (objects.len(), checkers().run(&file("tests/deploy/schemas.py"), &arguments))
}

#[test]
fn all_objects_are_valid_in_several_versions_of_kubernetes() {
    let (objects, output) = check(&Rendering::all(), &VERSIONS);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(objects > 60 && checked == objects * VERSIONS.len(), "{checked} of {objects}");
}

#[test]
fn an_unknown_field_is_found_in_every_kind() {
    let mut rendering = Rendering::with("kustomize/base", &["keda", "vpa", "external-secrets"]);
    for object in &mut rendering.objects {
        object.0["metadata"]["nmae"] = "typo".into();
        if !object.at("/spec").is_null() {
            object.0["metadata"].as_object_mut().unwrap().remove("nmae");
            object.0["spec"]["replcias"] = 1.into();
        }
    }
    let (_, output) = check(std::slice::from_ref(&rendering), &VERSIONS[..1]);
    let faults = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for object in &rendering.objects {
        let found = faults.lines().filter(|fault| fault.contains(&format!("{}:", object.title()))).count();
        assert_eq!(found, 1, "{}: {faults}", object.title());
    }
}
