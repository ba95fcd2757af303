//! Rules that hold for everything that is sent to a cluster.

use serde_json::{Value, json};

use crate::{
    object::{Object, containers, quantity, selects},
    rendering::Rendering,
};

/// Breaches of a rule about one object among those it comes with.
type Rule = fn(&Object, &[Object]) -> Vec<String>;

const RULES: [(&str, Rule); 10] = [
    ("images are pinned", images),
    ("limits and requests", limits),
    ("probes", probes),
    ("restricted pod security", security),
    ("homes are writable", homes),
    ("no account of its own without need", account),
    ("no secret in the open", secrets),
    ("selectors find pods", selectors),
    ("variables refer to earlier ones", references),
    ("namespace", namespace),
];

#[test]
fn all_rules_hold_everywhere() {
    let mut breaches = Vec::new();
    for rendering in Rendering::all() {
        for object in &rendering.objects {
            for (rule, check) in RULES {
                let found = check(object, &rendering.objects);
                let text = |what| format!("{}: {}: {rule}: {what}", rendering.name, object.title());
                breaches.extend(found.into_iter().map(text));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// Spoils an object, and tells which rules notice.
fn noticed(objects: &[Object], spoil: impl Fn(&mut Object)) -> Vec<&'static str> {
    let mut objects = objects.to_vec();
    let ingress = objects.iter().position(|object| object.title() == "Deployment minitoolstream-ingress").unwrap();
    spoil(&mut objects[ingress]);
    let broken = |(_, check): &(&str, Rule)| objects.iter().any(|object| !check(object, &objects).is_empty());
    RULES.into_iter().filter(broken).map(|(name, _)| name).collect()
}

#[test]
fn every_rule_can_be_broken() {
    let container = |object: &mut Object, path: &str, value: Value| {
        *object.0.pointer_mut(&format!("/spec/template/spec/containers/0{path}")).unwrap() = value;
    };
    let pod = |object: &mut Object, path: &str, value: Value| {
        *object.0.pointer_mut(&format!("/spec/template{path}")).unwrap() = value;
    };
    let base = Rendering::of("kustomize/base").objects;
    let noticed = |spoil: &dyn Fn(&mut Object)| noticed(&base, spoil);
    assert_eq!(noticed(&|_| {}), [""; 0]);
    assert_eq!(noticed(&|o| container(o, "/image", "broker:latest".into())), ["images are pinned"]);
    assert_eq!(noticed(&|o| container(o, "/image", "registry:5000/broker".into())), ["images are pinned"]);
    assert_eq!(noticed(&|o| container(o, "/resources/limits/memory", Value::Null)), ["limits and requests"]);
    assert_eq!(noticed(&|o| container(o, "/resources/requests/memory", "4Gi".into())), ["limits and requests"]);
    assert_eq!(noticed(&|o| container(o, "/livenessProbe", Value::Null)), ["probes"]);
    assert_eq!(noticed(&|o| container(o, "/livenessProbe/httpGet/path", "/readyz".into())), ["probes"]);
    assert_eq!(noticed(&|o| container(o, "/readinessProbe/httpGet/port", "htpt".into())), ["probes"]);
    assert_eq!(noticed(&|o| container(o, "/securityContext", json!({}))), ["restricted pod security"]);
    assert_eq!(noticed(&|o| pod(o, "/spec/securityContext/runAsUser", 0.into())), ["restricted pod security"]);
    assert_eq!(noticed(&|o| pod(o, "/spec/securityContext/seccompProfile", Value::Null)), ["restricted pod security"]);
    let home = json!({"name": "HOME", "value": "/tmp"});
    assert_eq!(noticed(&|o| container(o, "/env/0", home.clone())), ["homes are writable"]);
    let token = ["no account of its own without need"];
    assert_eq!(noticed(&|o| pod(o, "/spec/automountServiceAccountToken", true.into())), token);
    assert_eq!(noticed(&|o| pod(o, "/spec/serviceAccountName", "stranger".into())), token);
    let in_the_open = json!({"name": "TARANTOOL_PASSWORD", "value": "supersecret"});
    assert_eq!(noticed(&|o| container(o, "/env/1", in_the_open.clone())), ["no secret in the open"]);
    assert_eq!(noticed(&|o| pod(o, "/metadata/labels/app", "other".into())), ["selectors find pods"]);
    let forward = json!({"name": "FIRST", "value": "$(SERVER_ROLE)-1"});
    assert_eq!(noticed(&|o| container(o, "/env/0", forward.clone())), ["variables refer to earlier ones"]);
    assert_eq!(noticed(&|o| o.0["metadata"]["namespace"] = "default".into()), ["selectors find pods", "namespace"]);
}

fn images(object: &Object, _: &[Object]) -> Vec<String> {
    let pinned = |image: &str| {
        let tag = image.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
        tag.is_some_and(|tag| !tag.is_empty() && tag != "latest")
    };
    let images = object.pod().map(containers).unwrap_or_default();
    let images = images.iter().map(|container| container["image"].as_str().unwrap());
    images.filter(|image| !pinned(image)).map(|image| format!("{image} has no tag that stays")).collect()
}

fn limits(object: &Object, _: &[Object]) -> Vec<String> {
    let mut breaches = Vec::new();
    for container in object.pod().map(containers).unwrap_or_default() {
        for resource in ["cpu", "memory"] {
            let [request, limit] = ["requests", "limits"].map(|kind| &container["resources"][kind][resource]);
            if request.is_null() || limit.is_null() {
                breaches.push(format!("{resource} lacks a request or a limit"));
            } else if quantity(request) > quantity(limit) {
                breaches.push(format!("{resource}: {request} is above {limit}"));
            }
        }
    }
    breaches
}

fn probes(object: &Object, _: &[Object]) -> Vec<String> {
    let mut breaches = Vec::new();
    for container in object.pod().filter(|_| object.serves()).map(containers).unwrap_or_default() {
        let port_is_there = |probe: &Value| {
            let target = ["httpGet", "tcpSocket", "grpc"].iter().find_map(|way| probe.get(way));
            let named =
                |port: &Value| container["ports"].as_array().into_iter().flatten().any(|there| there["name"] == *port);
            target.is_none_or(|target| named(&target["port"]))
        };
        for name in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let probe = &container[name];
            if probe.is_null() {
                breaches.push(format!("there is no {name}"));
            } else if !port_is_there(probe) {
                breaches.push(format!("{name} asks a port that is not listed"));
            }
            // A restart mends no store.
            let asks_readiness =
                probe["httpGet"]["path"].as_str().is_some_and(|path| path.contains("ready") || path == "/healthz");
            if name != "readinessProbe" && asks_readiness {
                breaches.push(format!("{name} fails with a store"));
            }
        }
    }
    breaches
}

fn security(object: &Object, _: &[Object]) -> Vec<String> {
    let Some(pod) = object.pod() else { return Vec::new() };
    let mut breaches = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            breaches.push(what.to_owned());
        }
    };
    let context = &pod["spec"]["securityContext"];
    demand(context["runAsNonRoot"] == true, "runAsNonRoot");
    demand(context["runAsUser"].as_u64().is_some_and(|user| user > 0), "runAsUser is a number above 0");
    demand(context["seccompProfile"]["type"] == "RuntimeDefault", "seccompProfile");
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        demand(pod["spec"][host].is_null(), host);
    }
    let allowed = ["configMap", "emptyDir", "secret", "projected", "downwardAPI", "persistentVolumeClaim"];
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        demand(allowed.iter().any(|kind| volume.get(kind).is_some()), "kind of volume");
    }
    for container in containers(pod) {
        let context = &container["securityContext"];
        demand(context["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
        demand(context["readOnlyRootFilesystem"] == true, "readOnlyRootFilesystem");
        demand(context["capabilities"] == json!({"drop": ["ALL"]}), "capabilities");
        demand(context["privileged"].is_null(), "privileged");
    }
    breaches
}

/// The file system of a container is read-only: what writes into its home needs one of its own.
fn homes(object: &Object, _: &[Object]) -> Vec<String> {
    let mut breaches = Vec::new();
    for container in object.pod().map(containers).unwrap_or_default() {
        let mounts = || container["volumeMounts"].as_array().into_iter().flatten();
        let writable = |path: &str| {
            let holds =
                |mount: &&Value| mount["readOnly"] != true && path.starts_with(mount["mountPath"].as_str().unwrap());
            mounts().any(|mount| holds(&mount))
        };
        let variables = container["env"].as_array().into_iter().flatten();
        let homes: Vec<_> = variables
            .filter(|variable| ["HOME", "MC_CONFIG_DIR", "MTS_DIR"].iter().any(|name| variable["name"] == *name))
            .map(|variable| variable["value"].as_str().unwrap())
            .collect();
        breaches.extend(homes.iter().filter(|home| !writable(home)).map(|home| format!("{home} cannot be written to")));
        if homes.is_empty() && container["image"].as_str().unwrap().contains("minio") {
            breaches.push("MinIO does not start without a home".into());
        }
    }
    breaches
}

fn account(object: &Object, all: &[Object]) -> Vec<String> {
    let mut breaches = Vec::new();
    if let Some(pod) = object.pod() {
        if pod["spec"]["automountServiceAccountToken"] != false {
            breaches.push("it gets a token for Kubernetes".into());
        }
        let account = pod["spec"]["serviceAccountName"].as_str();
        let is_there = |name| all.iter().any(|other| other.kind() == "ServiceAccount" && other.name() == name);
        if account.is_some_and(|name| !is_there(name)) {
            breaches.push("its account is not there".into());
        }
    }
    if matches!(object.kind(), "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding") {
        breaches.push("nothing here needs a right".into());
    }
    breaches
}

fn secrets(object: &Object, _: &[Object]) -> Vec<String> {
    let mut breaches = Vec::new();
    if object.kind() == "Secret" {
        breaches.push("values belong into no file".into());
    }
    let secretive = |name: &str| ["PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY"].iter().any(|part| name.contains(part));
    for container in object.pod().map(containers).unwrap_or_default() {
        for variable in container["env"].as_array().into_iter().flatten() {
            if secretive(variable["name"].as_str().unwrap()) && variable["valueFrom"]["secretKeyRef"].is_null() {
                breaches.push(format!("{} comes from no Secret", variable["name"]));
            }
        }
    }
    if object.kind() == "ConfigMap" && object.at("/data").as_object().unwrap().keys().any(|key| secretive(key)) {
        breaches.push("a ConfigMap is read by everyone".into());
    }
    breaches
}

fn selectors(object: &Object, all: &[Object]) -> Vec<String> {
    let here = object.at("/metadata/namespace");
    let pods = || all.iter().filter(|other| other.at("/metadata/namespace") == here).filter_map(Object::pod);
    let labels = |pod: &Value| pod["metadata"]["labels"].clone();
    let found = match object.kind() {
        "Service" => {
            let selector = json!({ "matchLabels": object.at("/spec/selector") });
            let ports = object.at("/spec/ports").as_array().unwrap();
            let offered = |pod: &Value| {
                let names: Vec<_> = containers(pod)
                    .into_iter()
                    .flat_map(|container| container["ports"].as_array().into_iter().flatten())
                    .map(|port| port["name"].clone())
                    .collect();
                ports.iter().all(|port| names.contains(&port["targetPort"]))
            };
            pods().any(|pod| selects(&selector, &labels(pod)) && offered(pod))
        }
        "ServiceMonitor" => {
            let scraped = all.iter().filter(|other| {
                let mut ports = other.at("/spec/ports").as_array().into_iter().flatten();
                other.kind() == "Service"
                    && selects(object.at("/spec/selector"), other.at("/metadata/labels"))
                    && ports.any(|port| port["name"] == *object.at("/spec/endpoints/0/port"))
            });
            // By two each pod would be counted twice.
            scraped.count() == 1
        }
        "Deployment" | "StatefulSet" => selects(object.at("/spec/selector"), &labels(object.pod().unwrap())),
        "PodDisruptionBudget" => pods().any(|pod| selects(object.at("/spec/selector"), &labels(pod))),
        "NetworkPolicy" if object.name() != "clients" => {
            pods().any(|pod| selects(object.at("/spec/podSelector"), &labels(pod)))
        }
        "HorizontalPodAutoscaler" | "VerticalPodAutoscaler" | "ScaledObject" => {
            let target = object.0["spec"].get("targetRef").unwrap_or(object.at("/spec/scaleTargetRef"));
            all.iter().any(|other| {
                other.kind() == "Deployment"
                    && target["name"] == other.name()
                    && other.at("/metadata/namespace") == here
            })
        }
        _ => true,
    };
    if found { Vec::new() } else { vec!["finds nothing that offers what it asks for".into()] }
}

fn references(object: &Object, _: &[Object]) -> Vec<String> {
    let mut breaches = Vec::new();
    for container in object.pod().map(containers).unwrap_or_default() {
        let mut known: Vec<&str> = Vec::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let text = variable["value"].as_str().unwrap_or_default();
            for reference in text.split("$(").skip(1).filter_map(|rest| rest.split_once(')')) {
                if !known.contains(&reference.0) {
                    breaches.push(format!("$({}) is not known yet", reference.0));
                }
            }
            known.push(variable["name"].as_str().unwrap());
        }
    }
    breaches
}

fn namespace(object: &Object, _: &[Object]) -> Vec<String> {
    let namespaced = object.kind() != "Namespace";
    let found = object.at("/metadata/namespace");
    let right = if namespaced { found == "minitoolstream" || found == "monitoring" } else { found.is_null() };
    if right { Vec::new() } else { vec![format!("it is in {found}")] }
}
