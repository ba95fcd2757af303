use crate::command::Session;

/// What a refusal says is the only help at hand: it names what was refused, why, and what to do next.
#[test]
fn refusals_say_what_to_do() {
    let session = Session::start();
    session.run("publish orders --data first").text();
    session.write("dir/file", "");
    let long = "x".repeat(256);
    let lines = [
        "publish '' --data x",
        "publish 'two words' --data x",
        "publish orders.* --data x",
        "publish orders..new --data x",
        &format!("publish {long} --data x"),
        "publish orders --data x -H Mts-Reason=mine",
        "publish orders --data x -H =nameless",
        "publish orders --data x --ttl 0s",
        "publish orders --data x --ttl 366d",
        &format!("publish orders --data x --message-id {long}"),
        "publish orders --data x --expect-last 7",
        "publish orders missing",
        "publish orders dir",
        "fetch orders.> --from 2",
        "fetch orders>",
        "fetch ''",
        "ack d orders 2",
        "ack d nobody.published.here 1",
        "ack '' orders 1",
        "subscribe orders*",
        "tail ''",
        "subjects 'orders*'",
        "subjects '>.orders'",
        "purge orders.* --up-to 3 --yes",
        "purge nobody.published.here --yes",
        "publish $orders --data x",
        "publish orders --data x --at 2020-13-01",
        "publish orders --data x --delay 1h --expect-last 1",
        "consumer create two.tokens --filter orders",
        "consumer create w",
        "consumer create w --filter orders --ack-wait 1ms --max-ack-pending 0",
        "consumer create w --filter orders.> --dead-letter-subject orders.dead",
        "consumer get nobody",
        "consumer delete nobody",
        "consume nobody",
        "lag nobody",
        "dlq list nobody",
        "dlq redrive nobody",
        "check --data-dir dir",
        "check --data-dir missing",
        "--address 127.0.0.1:1 subjects",
        "--address 'no address' subjects",
    ];
    insta::assert_snapshot!(session.transcript(&lines));
}

#[test]
fn a_broker_that_is_gone_is_named() {
    let mut session = Session::start();
    session.broker.kill();
    for line in ["publish a --data x", "fetch a", "tail a", "subscribe a", "ack d a 1", "purge a -y", "check"] {
        let refusal = session.run(line).refusal();
        let address = session.broker.address("ingress");
        assert!(refusal.contains(&address) && refusal.contains("start one with 'minitoolstream serve'"), "{refusal}");
    }
}
