//! Who may speak to whom.

use serde_json::{Value, json};

use crate::{
    object::{Object, containers, selects},
    rendering::{Rendering, TWINS},
};

/// One end of a connection: labels of a namespace and of a pod in it.
struct End {
    namespace: Value,
    pod: Value,
}

fn ours(pod: Value) -> End {
    End { namespace: json!({"kubernetes.io/metadata.name": "minitoolstream"}), pod }
}

fn elsewhere(namespace: Value) -> End {
    End { namespace, pod: json!({}) }
}

/// Whether the policies let the one end through to a port of the other, by name.
fn may(policies: &[&Object], from: &End, to: &End, port: &str) -> bool {
    let is_ours = |end: &End| end.namespace["kubernetes.io/metadata.name"] == "minitoolstream";
    let side = |end: &End, other: &End, direction: &str, rules: &str, peers: &str| {
        if !is_ours(end) {
            return true;
        }
        let about = policies.iter().filter(|policy| {
            let types = policy.at("/spec/policyTypes").as_array().unwrap();
            types.contains(&direction.into()) && selects(policy.at("/spec/podSelector"), &end.pod)
        });
        let rules: Vec<_> = about.flat_map(|policy| policy.at(rules).as_array().into_iter().flatten()).collect();
        rules.iter().any(|rule| {
            let to_port = rule["ports"].as_array().is_none_or(|ports| ports.iter().any(|there| there["port"] == port));
            let peer = |peer: &Value| {
                if !peer["ipBlock"].is_null() {
                    return false;
                }
                let namespace = &peer["namespaceSelector"];
                let namespace = if namespace.is_null() { is_ours(other) } else { selects(namespace, &other.namespace) };
                namespace && (peer["podSelector"].is_null() || selects(&peer["podSelector"], &other.pod))
            };
            to_port && rule[peers].as_array().is_none_or(|all| all.iter().any(peer))
        })
    };
    side(from, to, "Egress", "/spec/egress", "to") && side(to, from, "Ingress", "/spec/ingress", "from")
}

#[test]
fn only_what_is_needed_is_open() {
    for (directory, values) in TWINS {
        for rendering in [Rendering::of(directory), Rendering::of_chart(values, &[])] {
            let policies: Vec<_> = rendering.objects.iter().filter(|object| object.kind() == "NetworkPolicy").collect();
            let pod =
                |kind: &str, name: &str| ours(rendering.find(kind, name).pod().unwrap()["metadata"]["labels"].clone());
            let ingress = pod("Deployment", "minitoolstream-ingress");
            let egress = pod("Deployment", "minitoolstream-egress");
            let tarantool = pod("StatefulSet", "tarantool");
            let client = ours(json!({"minitoolstream-client": "true"}));
            let friend = elsewhere(json!({"minitoolstream-client": "true"}));
            let monitoring = elsewhere(json!({"kubernetes.io/metadata.name": "monitoring"}));
            let (stranger, neighbour) = (ours(json!({})), elsewhere(json!({})));
            let open = directory.ends_with("development");
            let expect = |allowed, from, to, port| {
                assert_eq!(may(&policies, from, to, port), allowed, "{}: {port}", rendering.name);
            };
            for broker in [&ingress, &egress] {
                expect(true, broker, &tarantool, "iproto");
                expect(true, &client, broker, "grpc");
                expect(true, &friend, broker, "http");
                expect(true, &monitoring, broker, "http");
                expect(open, &monitoring, broker, "grpc");
                expect(open, &neighbour, broker, "grpc");
                expect(false, &stranger, broker, "grpc");
            }
            expect(false, &ingress, &egress, "grpc");
            expect(true, &tarantool, &tarantool, "iproto");
            for other in [&client, &stranger, &neighbour, &monitoring] {
                expect(false, other, &tarantool, "iproto");
            }
            expect(false, &tarantool, &ingress, "http");
            if rendering.has("StatefulSet", "minio") {
                let minio = pod("StatefulSet", "minio");
                let bucket = rendering.objects.iter().find(|object| object.kind() == "Job").unwrap();
                let bucket = ours(bucket.pod().unwrap()["metadata"]["labels"].clone());
                for (from, allowed) in [(&ingress, true), (&egress, true), (&bucket, true), (&client, false)] {
                    expect(allowed, from, &minio, "s3");
                }
                expect(false, &bucket, &tarantool, "iproto");
            }
        }
    }
}

/// Peers of all rules of a policy in one direction.
fn peers<'a>(policy: &'a Object, rules: &str, peers: &'a str) -> impl Iterator<Item = &'a Value> {
    let rules = policy.at(rules).as_array().into_iter().flatten();
    rules.flat_map(move |rule| rule[peers].as_array().into_iter().flatten())
}

#[test]
fn every_pod_can_look_names_up() {
    for (directory, values) in TWINS {
        for rendering in [Rendering::of(directory), Rendering::of_chart(values, &[])] {
            let names = rendering.find("NetworkPolicy", "names");
            assert_eq!(names.at("/spec/podSelector"), &json!({}), "{}", rendering.name);
            let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]);
            assert_eq!(names.at("/spec/egress/0/ports"), &ports, "{}", rendering.name);
            let system = json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}});
            assert!(peers(names, "/spec/egress", "to").any(|peer| peer["namespaceSelector"] == system));
        }
    }
}

#[test]
fn brokers_reach_an_s3_outside_and_clients_outside_reach_them_if_they_are_told() {
    let settings = [
        "minio.enabled=false",
        "networkPolicy.clientNetworks={10.0.0.0/8}",
        "networkPolicy.brokerEgress[0].to[0].ipBlock.cidr=192.0.2.1/32,networkPolicy.brokerEgress[0].ports[0].port=9000",
    ];
    let rendering = Rendering::of_chart(None, &settings);
    let brokers = rendering.find("NetworkPolicy", "brokers");
    let blocks = |rules: &str, direction: &str| {
        let cidrs =
            peers(brokers, rules, direction).filter_map(|peer| peer["ipBlock"]["cidr"].as_str().map(str::to_owned));
        cidrs.collect::<Vec<_>>()
    };
    assert_eq!(blocks("/spec/ingress", "from"), ["10.0.0.0/8"]);
    assert_eq!(blocks("/spec/egress", "to"), ["0.0.0.0/0", "192.0.2.1/32"]);
    let closed = Rendering::of("kustomize/base");
    assert_eq!(peers(closed.find("NetworkPolicy", "brokers"), "/spec/egress", "to").count(), 2, "the stores");
    let production = Rendering::of("kustomize/overlays/production");
    let outside = production.objects.iter().filter(|object| object.kind() == "NetworkPolicy");
    assert!(
        outside
            .flat_map(|policy| peers(policy, "/spec/egress", "to"))
            .any(|peer| peer["ipBlock"]["cidr"] == "0.0.0.0/0")
    );
}

#[test]
fn the_load_and_the_charts_test_are_clients() {
    for rendering in [Rendering::of("kustomize/load"), Rendering::of_chart(None, &[])] {
        let asks = |pod: &&Value| {
            let variables =
                containers(pod).into_iter().flat_map(|container| container["env"].as_array().into_iter().flatten());
            variables.into_iter().any(|variable| variable["name"] == "MINITOOLSTREAM_ADDRESS")
        };
        let clients: Vec<_> = rendering.objects.iter().filter_map(Object::pod).filter(asks).collect();
        assert_eq!(clients.len(), 1, "{}", rendering.name);
        assert_eq!(clients[0]["metadata"]["labels"]["minitoolstream-client"], "true", "{}", rendering.name);
    }
}
