//! What callers are told while an actor is down or hangs.

use std::time::{Duration, Instant};

use minitoolstream::{actors::supervise::Fault, types::SubjectFilter};
use minitoolstream_client::proto::{
    AckRequest, PublishRequest, PublishResponse, egress_service_client::EgressServiceClient,
    ingress_service_client::IngressServiceClient,
};
use minitoolstream_testkit::TestBroker;
use tonic::{Code, Response, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::victim::Victim;

/// Longer than any test: who hangs so does not wake any more.
const FOR_EVER: Duration = Duration::from_secs(600);

/// An actor has two seconds to answer a heartbeat, and there is one every half second.
const NOTICED_IN: Duration = Duration::from_secs(4);

async fn ingress(broker: &TestBroker) -> IngressServiceClient<Channel> {
    IngressServiceClient::connect(format!("http://{}", broker.ingress)).await.unwrap()
}

fn message(subject: &str, id: &str) -> PublishRequest {
    PublishRequest { subject: subject.into(), message_id: id.into(), ..Default::default() }
}

fn assert_unavailable(status: &Status, says: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains(says), "{status:?}");
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
}

#[tokio::test]
async fn a_storage_that_never_wakes_keeps_nobody_waiting() {
    let broker = TestBroker::start(&[]).await;
    let mut ingress = ingress(&broker).await;
    let mut egress = EgressServiceClient::connect(format!("http://{}", broker.egress)).await.unwrap();
    assert_eq!(ingress.publish(message("a", "1")).await.unwrap().into_inner().sequence, 1);
    let storage = Victim::new(&broker.actors.storage);
    storage.strike(Fault::Hang(FOR_EVER));
    let since = Instant::now();
    let ack = AckRequest { durable_name: "d".into(), subject: "a".into(), sequence: 1 };
    let (published, acked) = tokio::join!(ingress.publish(message("a", "2")), egress.ack_message(ack.clone()));
    assert_unavailable(&published.unwrap_err(), "the outcome is unknown");
    assert_unavailable(&acked.unwrap_err(), "the outcome is unknown");
    assert!(since.elapsed() < NOTICED_IN, "{:?}", since.elapsed());
    storage.recovers_from("hang", &broker, 0).await;
    let again = ingress.publish(message("a", "2")).await.unwrap().into_inner();
    assert_eq!((again.sequence, again.duplicate), (2, false));
    assert_eq!(egress.ack_message(ack).await.unwrap().into_inner().position, 1);
}

#[tokio::test]
async fn a_publisher_that_never_wakes_keeps_no_permit() {
    const LIMIT: usize = 8;
    let broker = TestBroker::start(&[("LIMITS_CONNECTION_INFLIGHT_REQUESTS", &LIMIT.to_string())]).await;
    let ingress = ingress(&broker).await;
    let publish_to_all = async || -> Vec<Result<Response<PublishResponse>, Status>> {
        // One subject for each permit: both publishers get some.
        let calls = (0..LIMIT).map(|index| {
            let mut ingress = ingress.clone();
            async move { ingress.publish(message(&format!("s.{index}"), "1")).await }
        });
        futures_util::future::join_all(calls).await
    };
    let publisher = Victim::new(&broker.actors.publishers[0]);
    publisher.strike(Fault::Hang(FOR_EVER));
    let since = Instant::now();
    let answers = publish_to_all().await;
    assert!(since.elapsed() < NOTICED_IN, "{:?}", since.elapsed());
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!((1..LIMIT).contains(&refused.len()), "one publisher serves, the other does not: {}", refused.len());
    for status in &refused {
        assert_unavailable(status, "nothing was done");
    }
    publisher.recovers_from("hang", &broker, 0).await;
    let duplicates = publish_to_all().await.into_iter().filter(|answer| answer.as_ref().unwrap().get_ref().duplicate);
    assert_eq!(duplicates.count(), LIMIT - refused.len(), "what was said not to be done was not done");
    broker.stop().await;
}

#[tokio::test]
async fn what_comes_while_an_actor_is_down_is_refused_and_not_kept() {
    for victim in [
        |broker: &TestBroker| Victim::new(&broker.actors.storage),
        |broker: &TestBroker| Victim::new(&broker.actors.publishers[0]),
    ] {
        let broker = TestBroker::start(&[]).await;
        let mut ingress = ingress(&broker).await;
        let victim = victim(&broker);
        // Each failure doubles the pause before the next restart.
        for _ in 0..6 {
            victim.strike_and_recover(Fault::Panic, &broker).await;
        }
        victim.strike(Fault::Panic);
        victim.is_down().await;
        let mut refused = 0;
        for index in 0..8 {
            if let Err(status) = ingress.publish(message(&format!("s.{index}"), "")).await {
                assert_unavailable(&status, "nothing was done");
                refused += 1;
            }
        }
        assert!(refused > 0, "the {} was up again too soon", victim.name);
        victim.recovers_from("panic", &broker, 6).await;
        let all = SubjectFilter::all();
        let rows = broker.broker.stores.metadata.subjects(&all, "", 100);
        assert_eq!(rows.await.unwrap().len(), 8 - refused, "what was refused came to nothing");
        broker.stop().await;
    }
}
