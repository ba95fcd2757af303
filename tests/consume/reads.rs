//! Reading without a durable consumer of messages: patterns, last messages, times, and what is purged or scheduled.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use minitoolstream_client::{
    Client, Error, Fetch, Message, Messages, NewMessage,
    proto::{FetchRequest, egress_service_client::EgressServiceClient},
};
use minitoolstream_testkit::Proxy;
use tokio::time::{sleep, timeout};

use crate::{sdk::PATIENCE, sharing::start};

async fn publish(client: &Client, subjects: &[&'static str]) {
    let publisher = client.publisher();
    for subject in subjects {
        publisher.publish(NewMessage::new(*subject, *subject)).await.unwrap();
    }
}

async fn next(messages: &mut Messages) -> Message {
    timeout(PATIENCE, messages.next()).await.expect("a message comes").expect("and no end").unwrap()
}

async fn all(messages: Result<Messages, Error>) -> Vec<Message> {
    messages.unwrap().map(Result::unwrap).collect().await
}

/// As (subject, sequence).
fn named(messages: &[Message]) -> Vec<(&str, u64)> {
    messages.iter().map(|message| (message.subject.as_str(), message.sequence)).collect()
}

#[tokio::test]
async fn patterns_are_read_from_any_place_and_followed() {
    let broker = start().await;
    let client = broker.client().await;
    publish(&client, &["a.y", "b", "a.x", "a.x.deep", "a.y"]).await;
    let read = all(client.fetch(Fetch::from_stream_sequence("a.*", 1)).await).await;
    assert_eq!(named(&read), [("a.y", 1), ("a.x", 1), ("a.y", 2)]);
    let read = all(client.fetch(Fetch::from_stream_sequence("a.>", read[0].stream_sequence + 1).limit(2)).await).await;
    assert_eq!(named(&read), [("a.x", 1), ("a.x.deep", 1)]);
    let mut followed = client.fetch(Fetch::from_stream_sequence(">", 1).follow()).await.unwrap();
    let mut read = Vec::new();
    for _ in 0..5 {
        read.push(next(&mut followed).await);
    }
    assert_eq!(named(&read), [("a.y", 1), ("b", 1), ("a.x", 1), ("a.x.deep", 1), ("a.y", 2)]);
    publish(&client, &["new.subject"]).await;
    assert_eq!(named(&[next(&mut followed).await]), [("new.subject", 1)]);
    broker.stop().await;
}

#[tokio::test]
async fn a_followed_read_keeps_its_limit_and_its_consumer_when_the_connection_breaks() {
    let broker = start().await;
    let (direct, proxy) = (broker.client().await, Proxy::start(broker.ingress));
    let client = Client::connect(proxy.address.to_string()).await.unwrap();
    publish(&direct, &["a.x", "a.x"]).await;
    let mut followed = client.fetch(Fetch::durable("a.*", "d").limit(4).follow()).await.unwrap();
    assert_eq!(named(&[next(&mut followed).await, next(&mut followed).await]), [("a.x", 1), ("a.x", 2)]);
    proxy.cut_now();
    publish(&direct, &["a.y", "a.x", "a.x", "a.x"]).await;
    direct.ack("d", "a.y", 1).await.unwrap();
    assert_eq!(named(&[next(&mut followed).await, next(&mut followed).await]), [("a.x", 3), ("a.x", 4)]);
    proxy.cut_now();
    assert!(timeout(PATIENCE, followed.next()).await.expect("it ends").is_none(), "all it was to give");
    broker.stop().await;
}

#[tokio::test]
async fn a_read_begins_at_the_later_of_its_place_and_the_position_of_its_consumer() {
    let broker = start().await;
    let client = broker.client().await;
    publish(&client, &["a.x", "a.y", "a.x", "a.y", "a.x"]).await;
    client.ack("d", "a.x", 2).await.unwrap();
    let mut egress = EgressServiceClient::connect(format!("http://{}", broker.egress)).await.unwrap();
    let (request, since) = (FetchRequest { durable_name: "d".into(), ..Default::default() }, Some(Default::default()));
    for (subject, start_sequence, start_stream_sequence, start_time, expected) in [
        ("a.x", Some(1), None, None, &[("a.x", 3)][..]),
        ("a.x", Some(4), None, None, &[]),
        ("a.y", Some(2), None, None, &[("a.y", 2)]),
        ("a.x", None, Some(1), None, &[("a.x", 3)]),
        ("a.*", None, Some(1), None, &[("a.y", 1), ("a.y", 2), ("a.x", 3)]),
        ("a.*", None, Some(4), None, &[("a.y", 2), ("a.x", 3)]),
        ("a.*", None, None, since, &[("a.y", 1), ("a.y", 2), ("a.x", 3)]),
    ] {
        let subject = subject.into();
        let request = FetchRequest { subject, start_sequence, start_stream_sequence, start_time, ..request.clone() };
        let messages = egress.fetch(request.clone()).await.unwrap().into_inner();
        let messages: Vec<_> = messages.map(|message| Message::from(message.unwrap())).collect().await;
        assert_eq!(named(&messages), expected, "{request:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn times_choose_where_reading_begins() {
    let broker = start().await;
    let client = broker.client().await;
    publish(&client, &["a.x", "a.y"]).await;
    // Times are of milliseconds, and a moment must lie between.
    sleep(Duration::from_millis(20)).await;
    let then = SystemTime::now();
    sleep(Duration::from_millis(20)).await;
    publish(&client, &["a.x", "b", "a.y"]).await;
    assert_eq!(named(&all(client.fetch(Fetch::from_time("a.*", then)).await).await), [("a.x", 2), ("a.y", 2)]);
    assert_eq!(named(&all(client.fetch(Fetch::from_time("a.x", then)).await).await), [("a.x", 2)]);
    let long_ago = SystemTime::UNIX_EPOCH;
    assert_eq!(all(client.fetch(Fetch::from_time(">", long_ago)).await).await.len(), 5);
    let later = SystemTime::now() + Duration::from_hours(1);
    assert_eq!(all(client.fetch(Fetch::from_time(">", later)).await).await, []);
    broker.stop().await;
}

#[tokio::test]
async fn the_last_message_of_each_subject_is_read() {
    let broker = start().await;
    let client = broker.client().await;
    assert_eq!(client.last_stream_sequence(">").await.unwrap(), 0);
    publish(&client, &["a.y", "a.x", "b", "a.y", "a.x.deep"]).await;
    let last = all(client.fetch_last("a.*").await).await;
    assert_eq!(named(&last), [("a.x", 1), ("a.y", 2)]);
    assert_eq!(last[1].data.as_deref(), Some("a.y".as_bytes()));
    assert_eq!(client.last_stream_sequence("a.*").await.unwrap(), last[1].stream_sequence);
    assert_eq!(named(&all(client.fetch_last("b").await).await), [("b", 1)]);
    assert_eq!(all(client.fetch_last("nothing.>").await).await, []);
    client.purge("a.y", None).await.unwrap();
    assert_eq!(named(&all(client.fetch_last("a.*").await).await), [("a.x", 1)], "nothing of the other is left");
    broker.stop().await;
}

#[tokio::test]
async fn subscriptions_to_a_pattern_tell_of_each_subject() {
    let broker = start().await;
    let client = broker.client().await;
    publish(&client, &["a.x", "b"]).await;
    let mut news = client.subscribe("a.*", "", None).await.unwrap();
    let mut heard = Vec::new();
    publish(&client, &["a.y", "b", "a.z"]).await;
    while heard.len() < 2 || !heard.contains(&("a.z".to_owned(), 1)) {
        let notification = timeout(PATIENCE, news.next()).await.expect("news come").unwrap().unwrap();
        heard.push((notification.subject, notification.sequence));
    }
    assert!(heard.contains(&("a.y".into(), 1)) && !heard.iter().any(|(subject, _)| subject == "b"), "{heard:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_purge_keeps_the_last_messages_of_each_subject() {
    let broker = start().await;
    let client = broker.client().await;
    publish(&client, &["a.x", "a.x", "a.y", "b", "a.x", "b"]).await;
    assert_eq!(client.purge_but_last("a.*", 1).await.unwrap(), 2);
    let left = all(client.fetch(Fetch::from_stream_sequence(">", 1)).await).await;
    assert_eq!(named(&left), [("a.y", 1), ("b", 1), ("a.x", 3), ("b", 2)]);
    assert_eq!(client.purge_but_last("a.x", 5).await.unwrap(), 0);
    assert_eq!(client.purge("a.>", None).await.unwrap(), 2);
    assert_eq!(client.purge_but_last("b", 0).await.unwrap(), 2);
    assert_eq!(all(client.fetch(Fetch::from_stream_sequence(">", 1)).await).await, []);
    assert!(matches!(client.purge_but_last("nobody.published.here", 1).await, Err(Error::NotFound(_))));
    publish(&client, &["a.x"]).await;
    assert_eq!(named(&all(client.fetch_last("a.x").await).await), [("a.x", 4)], "sequences go on");
    broker.stop().await;
}

#[tokio::test]
async fn a_scheduled_message_is_not_there_before_its_time() {
    let broker = start().await;
    let client = broker.client().await;
    let publisher = client.publisher();
    let mut followed = client.fetch(Fetch::from_sequence("a", 1).follow()).await.unwrap();
    let at = SystemTime::now() + Duration::from_secs(1);
    let ttl = Duration::from_mins(10);
    let scheduled = publisher.publish(NewMessage::new("a", "later").deliver_at(at).ttl(ttl)).await.unwrap();
    assert_eq!((scheduled.scheduled, scheduled.sequence), (true, 0));
    let past = SystemTime::now() - Duration::from_secs(5);
    let now = publisher.publish(NewMessage::new("a", "now").deliver_at(past)).await.unwrap();
    assert_eq!((now.scheduled, now.sequence), (false, 1), "a time that has passed is now");
    assert_eq!(all(client.fetch(Fetch::from_sequence("a", 1)).await).await.len(), 1);
    assert_eq!(next(&mut followed).await.data.unwrap(), "now");
    let later = next(&mut followed).await;
    assert_eq!((later.sequence, later.data.as_deref()), (2, Some("later".as_bytes())));
    assert!(SystemTime::now() >= at, "not before its time");
    let in_an_hour = SystemTime::now() + Duration::from_hours(1);
    let both = NewMessage::new("a", "x").deliver_at(in_an_hour).expect_last_sequence(2);
    assert!(matches!(publisher.publish(both).await, Err(Error::Invalid(_))));
    broker.stop().await;
}
