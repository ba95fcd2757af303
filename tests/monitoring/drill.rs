//! Everything goes well and no alert fires; then one thing after the other fails, and each alert does.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use futures_util::future::{join_all, select_all};
use minitoolstream::{actors::supervise::Fault, metrics::FAMILIES};
use minitoolstream_client::{ConsumerSettings, NewMessage, Publisher};
use minitoolstream_testkit::{Tarantool, http};
use serde_yaml_ng::Value as Yaml;
use tokio::time::sleep;
use tokio_stream::StreamExt;

use crate::{
    dashboard::queries,
    rules::{alerts, hurried_windows},
    stage::{LEADER, Stage},
    text,
};

/// So long nothing fails.
const QUIET: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn every_alert_fires_when_it_should_and_every_panel_shows_something() {
    let mut stage = Stage::set().await;
    let load = stage.load().await;
    sleep(QUIET).await;
    assert_eq!(stage.watch.firing().await, BTreeSet::new(), "nothing has failed yet");
    every_panel_shows_something(&stage).await;
    the_adapter_gives_one_figure_for_each_pod(&stage).await;
    every_series_is_documented(&stage).await;

    stage.kubernetes.fall_ill();
    stage.embedded.actors.reaper.tell(Fault::Panic).unwrap();
    stage.cluster.tarantool.contradict().await;
    give_up_messages(&stage).await;
    leave_a_backlog(&stage).await;
    let ill = [
        "PodDown minitoolstream-ingress-0",
        "HPAMaxedOut minitoolstream-egress-hpa",
        "HPAMaxedOut minitoolstream-ingress-hpa",
        "ActorRestarts reaper of laptop",
        "TarantoolReplicationStopped",
        "VolumeNearlyFull",
        "DeadLettersGrowing",
        "ConsumerLagging forgotten",
        "ConsumerStopped forgotten",
        "StoreNearlyFull payload of laptop",
        "StoreFull payload of laptop",
        "HighLatency ingress",
    ];
    tokio::select! {
        () = stage.watch.must_fire(&ill) => {}
        never = fill_the_disk(&stage) => match never {},
        never = slow_down(stage.cluster.tarantool.instance(LEADER)) => match never {},
    }
    stage.cluster.tarantool.instance(LEADER).signal("CONT");

    let refused = ["StoreNearlyFull metadata", "StoreFull metadata", "HighErrorRate ingress"];
    tokio::select! {
        () = stage.watch.must_fire(&refused) => {}
        never = fill_the_memory(&stage) => match never {},
    }

    let (status, why) = http::get(&stage.cluster.egress[0].address("http"), "/readyz").await;
    assert_eq!(status, 200, "who only consumes needs no memory of Tarantool: {why}");

    stage.cluster.tarantool.instance_mut(LEADER).kill();
    stage.cluster.s3.kill();
    stage.cluster.ingress[0].kill();
    let gone = ["StoreUnreachable metadata", "StoreUnreachable payload", "BrokerDown minitoolstream-ingress-service"];
    stage.watch.must_fire(&gone).await;
    load.abort();
    stage.cluster.tarantool.instance_mut(LEADER).restart();
    stage.cluster.s3.restart();
    stage.watch.must_end("StoreUnreachable metadata").await;
    stage.watch.must_end("StoreUnreachable payload").await;

    stage.cluster.egress[0].kill();
    stage.embedded.stop().await;
    stage.watch.must_fire(&["NoBrokers"]).await;

    let fired = "count by (alertname) (count_over_time(ALERTS{alertstate=\"firing\"}[10m]))";
    let fired = stage.watch.0.query(fired).await.unwrap();
    let fired: BTreeSet<_> = fired.iter().map(|one| one["metric"]["alertname"].as_str().unwrap().to_owned()).collect();
    assert_eq!(fired, alerts().into_iter().collect(), "all of them, in this drill");
}

async fn every_panel_shows_something(stage: &Stage) {
    for query in queries() {
        let filled = query.filled(2);
        let samples = stage.watch.0.query(&filled).await;
        let samples = samples.unwrap_or_else(|error| panic!("{}: {filled}: {error}", query.panel));
        let is_number = |sample: &serde_json::Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
        assert!(samples.iter().any(is_number), "{}: {filled}: {samples:?}", query.panel);
    }
}

/// What the adapter makes of its rule when an autoscaler asks for the pods of a namespace.
async fn the_adapter_gives_one_figure_for_each_pod(stage: &Stage) {
    let values: Yaml = serde_yaml_ng::from_str(&text("monitoring/values/prometheus-adapter.yaml")).unwrap();
    let rule = &values["rules"]["custom"][0];
    assert_eq!(rule["name"]["as"].as_str(), Some("minitoolstream_messages_per_second"));
    let series = stage.watch.0.query(rule["seriesQuery"].as_str().unwrap()).await.unwrap();
    assert!(!series.is_empty() && series.iter().all(|one| one["metric"]["pod"].is_string()), "{series:?}");
    let query = rule["metricsQuery"].as_str().unwrap();
    let pods = "namespace=\"minitoolstream\",pod=~\"minitoolstream-ingress-0|minitoolstream-egress-0\"";
    let filled =
        [("<<.Series>>", "minitoolstream_messages_total"), ("<<.LabelMatchers>>", pods), ("<<.GroupBy>>", "pod")];
    let query = filled.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
    let figures = stage.watch.0.query(&hurried_windows(&query)).await.unwrap();
    let pods: BTreeSet<_> = figures.iter().map(|figure| figure["metric"]["pod"].as_str().unwrap()).collect();
    assert_eq!((figures.len(), pods.len()), (2, 2), "{figures:?}");
    for figure in &figures {
        let rate: f64 = figure["value"][1].as_str().unwrap().parse().unwrap();
        assert!((5.0..100.0).contains(&rate), "about 20 a second: {figures:?}");
    }
}

/// Names and labels of what brokers tell are those of docs/metrics.md, which is made of the same table.
async fn every_series_is_documented(stage: &Stage) {
    let cluster = [&stage.cluster.ingress[0], &stage.cluster.egress[0]].map(|broker| broker.address("http"));
    for address in cluster.into_iter().chain([stage.embedded.http.to_string()]) {
        let (_, page) = http::get(&address, "/metrics").await;
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
            let endings = |name: &str| ["_bucket", "_sum", "_count"].map(|ending| format!("{name}{ending}"));
            let family = FAMILIES.iter().find(|family| {
                name == family.name || family.kind == "histogram" && endings(family.name).contains(&name.to_owned())
            });
            let family = family.unwrap_or_else(|| panic!("{line}"));
            let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once('=').unwrap();
                let known = family.labels.iter().find(|known| known.name == name);
                let is_known = known.is_some_and(|known| known.allows(value.trim_matches('"')));
                assert!(is_known || name == "le" && family.kind == "histogram", "{line}: {label}");
            }
        }
    }
}

async fn give_up_messages(stage: &Stage) {
    let publisher = stage.ingress().publisher();
    let mut deliveries =
        stage.egress().consumer("strict").settings(ConsumerSettings::of("poison")).messages().await.unwrap();
    for _ in 0..3 {
        publisher.publish(NewMessage::new("poison", "?")).await.unwrap();
        deliveries.next().await.unwrap().unwrap().terminate("cannot be read").await.unwrap();
    }
}

async fn leave_a_backlog(stage: &Stage) {
    stage.egress().consumer("forgotten").create(ConsumerSettings::of("backlog")).await.unwrap();
    let publisher = stage.ingress().publisher();
    let published = join_all((0..10_500).map(|_| publisher.publish(NewMessage::new("backlog", "later")))).await;
    assert!(published.iter().all(Result::is_ok));
}

/// Publishes large messages to the broker with a quota, for ever: when it is used up they are refused.
async fn fill_the_disk(stage: &Stage) -> Infallible {
    let publisher = stage.embedded.client().await.publisher();
    insist(&publisher, || NewMessage::new("films", vec![7; 2 << 20])).await
}

/// Publishes what lives in rows of Tarantool however scarce its memory is, for ever: when it is used up they are refused.
async fn fill_the_memory(stage: &Stage) -> Infallible {
    let publisher = stage.ingress().publisher();
    let fill = |subject: usize| {
        let message = move || NewMessage::new(format!("rows.{subject}"), vec![7; 4_000]);
        Box::pin(insist(&publisher, message))
    };
    select_all((0..128).map(fill)).await.0
}

async fn insist(publisher: &Publisher, message: impl Fn() -> NewMessage) -> Infallible {
    loop {
        if publisher.publish(message()).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Lets Tarantool answer only now and then.
async fn slow_down(tarantool: &Tarantool) -> Infallible {
    loop {
        tarantool.signal("STOP");
        sleep(Duration::from_millis(1_200)).await;
        tarantool.signal("CONT");
        sleep(Duration::from_millis(100)).await;
    }
}
