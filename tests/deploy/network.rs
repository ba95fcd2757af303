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
