//! What docs/deployment.md shows besides commands.

use super::{page::Page, stage::Stage};
use crate::{
    rendering::{Rendering, components},
    tools::output,
};

const PAGE: &str = "docs/deployment.md";

#[test]
fn bringing_a_cluster_up_makes_secrets_once() {
    let stage = Stage::bare();
    let made = || {
        output(&mut stage.bash("deploy/up"));
        let calls = stage.calls();
        let image = format!("ghcr.io/moroshma/minitoolstream:{}", env!("CARGO_PKG_VERSION"));
        for call in [
            format!("docker build --tag {image} ."),
            format!("k3d image import {image} --cluster minitoolstream"),
            "kubectl apply -k kustomize/overlays/development".into(),
        ] {
            assert!(calls.lines().any(|line| line == call), "{call}: {calls}");
        }
        calls.contains("kubectl apply -f -")
    };
    assert!(made());
    assert!(!made(), "the stores have the passwords of the first run");
}

#[test]
fn the_overlay_of_ones_own_works() {
    let examples = Page::read(PAGE).blocks_of("yaml");
    let [example] = &examples[..] else { panic!("one overlay is shown") };
    let example = &example.text;
    let remote = format!(
        "https://github.com/minitoolstream/minitoolstream//kustomize/overlays/production?ref=v{}",
        env!("CARGO_PKG_VERSION")
    );
    assert!(example.contains(&remote));
    let rendering = Rendering::of_text(&example.replace(&remote, "ROOT/kustomize/overlays/production"));
    assert_eq!(rendering.find("ConfigMap", "minitoolstream-config").at("/data/TTL_DEFAULT"), "7d");
    let image = rendering.find("Deployment", "minitoolstream-egress").at("/spec/template/spec/containers/0/image");
    assert_eq!(image, &format!("registry.example.com/minitoolstream:{}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_component_is_described() {
    let described = Page::read(PAGE).spans();
    for name in components() {
        assert!(described.contains(&name), "{name}");
    }
}
