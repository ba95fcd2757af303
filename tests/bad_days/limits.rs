//! What is refused, and how.

use std::time::{Duration, Instant};

use minitoolstream::admission::Purpose;
use minitoolstream_client::proto::{
    AckRequest, FetchRequest, GetLastSequenceRequest, PublishBatchRequest, PublishRequest, PublishStreamRequest,
    PurgeSubjectRequest, ReadMessageRequest, SubscribeRequest, admin_service_client::AdminServiceClient,
};
use minitoolstream_testkit::TestBroker;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::api::{Api, message};

async fn start(settings: &[(&str, &str)]) -> (TestBroker, Api) {
    let broker = TestBroker::start(settings).await;
    let api = Api::connect(broker.ingress).await;
    (broker, api)
}

/// Asserts that a request breaks a rule on this field.
fn assert_invalid(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().iter().flat_map(|bad| &bad.field_violations).map(|v| &v.field).collect();
    assert_eq!(fields, [field], "{status:?}");
}

/// Asserts that a limit is reached for now, and that the caller is told when to come back.
fn assert_exhausted(status: &Status, limit: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains(limit), "{status:?}");
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
}

/// Sends frames over one PublishStream and gives how it ended.
async fn stream(api: &Api, frames: Vec<PublishStreamRequest>) -> Result<usize, Status> {
    let mut acks = api.ingress.clone().publish_stream(tokio_stream::iter(frames)).await?.into_inner();
    let mut acknowledged = 0;
    while let Some(response) = acks.message().await? {
        let stored = response.acks.iter().filter(|ack| ack.error.is_none());
        acknowledged += stored.map(|ack| usize::try_from(ack.count).unwrap()).sum::<usize>();
    }
    Ok(acknowledged)
}

fn frame(messages: Vec<PublishRequest>) -> PublishStreamRequest {
    PublishStreamRequest { first_id: 0, messages }
}

#[tokio::test]
async fn data_just_below_at_and_above_the_limit() {
    const MAX: usize = 64 << 10;
    let (broker, api) = start(&[("LIMITS_MESSAGE_MAX", "64KiB")]).await;
    assert_eq!(api.publish(message("a", 1, MAX - 1)).await.unwrap(), 1);
    assert_eq!(api.publish(message("a", 1, MAX)).await.unwrap(), 2);
    assert_invalid(&api.publish(message("a", 1, MAX + 1)).await.unwrap_err(), "data");
    let results = api.publish_batch([MAX + 1, MAX].map(|len| message("a", 1, len)).into()).await.unwrap();
    assert_eq!(results[0].error.as_ref().unwrap().code, i32::from(Code::InvalidArgument), "one does not spoil a batch");
    assert_eq!(results[1].sequence, 3);
    assert_eq!(stream(&api, vec![frame([MAX + 1, MAX].map(|len| message("a", 1, len)).into())]).await.unwrap(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn data_far_above_what_is_decoded_is_invalid_too() {
    // The transport refuses it, as out of range: a client would take that for something else.
    const FAR: usize = 8 << 20;
    let (broker, api) = start(&[("LIMITS_MESSAGE_MAX", "64KiB")]).await;
    let refusals = [
        api.publish(message("a", 1, FAR)).await.unwrap_err(),
        api.publish_batch(vec![message("a", 1, FAR)]).await.unwrap_err(),
        stream(&api, vec![frame(vec![message("a", 1, 1)]), frame(vec![message("a", 1, FAR)])]).await.unwrap_err(),
    ];
    for status in refusals {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("are allowed in one piece"), "{status:?}");
    }
    let mut admin = AdminServiceClient::connect(format!("http://{}", broker.ingress)).await.unwrap();
    let subject = "x".repeat(FAR);
    let status =
        admin.purge_subject(PurgeSubjectRequest { subject, up_to_sequence: None, keep_last: None }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    broker.stop().await;
}

#[tokio::test]
async fn too_many_headers() {
    let (broker, api) = start(&[]).await;
    let with_headers = |count: usize, len: usize| {
        let headers = (0..count).map(|index| (format!("h{index:05}"), "v".repeat(len))).collect();
        PublishRequest { headers, ..message("a", 1, 1) }
    };
    assert_eq!(api.publish(with_headers(64, 1)).await.unwrap(), 1);
    for (count, len) in [(65, 1), (10_000, 1), (1, 16 << 10)] {
        assert_invalid(&api.publish(with_headers(count, len)).await.unwrap_err(), "headers");
    }
    broker.stop().await;
}

#[tokio::test]
async fn batches_that_are_empty_or_too_long() {
    let (broker, api) = start(&[("LIMITS_BATCH_MAX", "10")]).await;
    let messages = |count: usize| vec![message("a", 1, 1); count];
    assert_eq!(api.publish_batch(messages(10)).await.unwrap().len(), 10);
    assert_eq!(stream(&api, vec![frame(messages(10))]).await.unwrap(), 10);
    for count in [0, 11] {
        assert_invalid(&api.publish_batch(messages(count)).await.unwrap_err(), "messages");
        assert_invalid(&stream(&api, vec![frame(messages(count))]).await.unwrap_err(), "messages");
    }
    let fetch = |batch_size| FetchRequest { subject: "a".into(), batch_size, ..Default::default() };
    assert_eq!(api.read(fetch(10)).await.0.len(), 10);
    for batch_size in [-1, 11] {
        assert_invalid(&api.read(fetch(batch_size)).await.1.unwrap_err(), "batch_size");
    }
    broker.stop().await;
}

#[tokio::test]
async fn subjects_that_are_none() {
    let (broker, api) = start(&[]).await;
    let mut admin = AdminServiceClient::connect(format!("http://{}", broker.ingress)).await.unwrap();
    let mut egress = api.egress.clone();
    assert_eq!(api.publish(message(&"x".repeat(255), 1, 1)).await.unwrap(), 1);
    let too_long = "x".repeat(256);
    for subject in ["", ".", "a..b", "a b", "a\n", "a.*b", ">.a", too_long.as_str()].map(str::to_owned) {
        let durable_name = "d".to_owned();
        let refusals = [
            api.publish(message(&subject, 1, 1)).await.unwrap_err(),
            api.fetch(&subject, 1).await.1.unwrap_err(),
            egress
                .subscribe(SubscribeRequest { subject: subject.clone(), start_sequence: None, durable_name: "".into() })
                .await
                .unwrap_err(),
            egress
                .read_message(ReadMessageRequest { subject: subject.clone(), sequence: 1, ..Default::default() })
                .await
                .unwrap_err(),
            egress.get_last_sequence(GetLastSequenceRequest { subject: subject.clone() }).await.unwrap_err(),
            egress.ack_message(AckRequest { durable_name, subject: subject.clone(), sequence: 1 }).await.unwrap_err(),
            admin
                .purge_subject(PurgeSubjectRequest { subject, up_to_sequence: None, keep_last: None })
                .await
                .unwrap_err(),
        ];
        for status in &refusals {
            assert_invalid(status, "subject");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn ttls_out_of_range() {
    let (broker, api) = start(&[("TTL_MAX", "2d")]).await;
    let with_ttl = |seconds, nanos| {
        let ttl = Some(prost_types::Duration { seconds, nanos });
        PublishRequest { ttl, ..message("a", 1, 1) }
    };
    let day = 86_400;
    for (seconds, nanos) in [(0, 1_000_000), (day, 0), (2 * day, 0)] {
        api.publish(with_ttl(seconds, nanos)).await.unwrap();
    }
    for (seconds, nanos) in [(0, 0), (0, 999_999), (-1, 0), (0, -1), (2 * day, 1), (i64::MAX, 0), (i64::MIN, i32::MIN)]
    {
        assert_invalid(&api.publish(with_ttl(seconds, nanos)).await.unwrap_err(), "ttl");
    }
    broker.stop().await;
}

#[tokio::test]
async fn acks_beyond_the_end_and_backwards() {
    let (broker, api) = start(&[]).await;
    for _ in 0..3 {
        api.publish(message("a", 1, 1)).await.unwrap();
    }
    let ack = async |durable: &str, subject: &str, sequence| {
        let (durable_name, subject) = (durable.into(), subject.into());
        let answer = api.egress.clone().ack_message(AckRequest { durable_name, subject, sequence }).await;
        answer.map(|response| response.into_inner().position)
    };
    assert_invalid(&ack("d", "a", 4).await.unwrap_err(), "sequence");
    assert_eq!(ack("d", "a", 3).await.unwrap(), 3);
    assert_eq!(ack("d", "a", 1).await.unwrap(), 3, "a position never moves back");
    assert_eq!(ack("d", "a", 0).await.unwrap(), 3);
    assert_invalid(&ack("d", "a", u64::MAX).await.unwrap_err(), "sequence");
    assert_eq!(ack("never seen before", "a", 0).await.unwrap(), 0);
    assert_invalid(&ack("d", "silent", 1).await.unwrap_err(), "sequence");
    for durable in ["", &"x".repeat(256), "a\u{0}b"] {
        assert_invalid(&ack(durable, "a", 1).await.unwrap_err(), "durable_name");
    }
    broker.stop().await;
}

#[tokio::test]
async fn message_ids_that_are_too_long() {
    let (broker, api) = start(&[]).await;
    let with_id = |len| PublishRequest { message_id: "x".repeat(len), ..message("a", 1, 1) };
    assert_eq!(api.publish(with_id(128)).await.unwrap(), 1);
    assert_invalid(&api.publish(with_id(129)).await.unwrap_err(), "message_id");
    broker.stop().await;
}

#[tokio::test]
async fn in_flight_bytes_of_the_broker() {
    let (broker, api) = start(&[]).await;
    // Others have taken all there is, in as many connections as it needs.
    let mut permits = Vec::new();
    while let Some(permit) = broker.broker.admission.connection().try_bytes(Purpose::Message, 1 << 20) {
        permits.push(permit);
        assert!(permits.len() < 100, "bytes in flight are bounded");
    }
    let since = Instant::now();
    assert_exhausted(&api.publish(message("a", 1, 1)).await.unwrap_err(), "limits.inflight_bytes");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_exhausted(&api.publish_batch(vec![message("a", 1, 1)]).await.unwrap_err(), "limits.inflight_bytes");
    drop(permits);
    api.publish(message("a", 1, 1)).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn in_flight_messages_of_the_broker() {
    let (broker, api) = start(&[("LIMITS_INFLIGHT_REQUESTS", "10")]).await;
    let permit = broker.broker.admission.connection().requests(10).await.unwrap();
    assert_exhausted(&api.publish(message("a", 1, 1)).await.unwrap_err(), "limits.inflight_requests");
    let results = api.publish_batch(vec![message("a", 1, 1)]).await.unwrap();
    let error = results[0].error.clone().unwrap();
    assert_eq!((error.code, error.retry_after.is_some()), (i32::from(Code::ResourceExhausted), true), "{error:?}");
    drop(permit);
    api.publish(message("a", 1, 1)).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn p6_nothing_is_read_before_there_is_room_for_it() {
    let (broker, api) = start(&[("LIMITS_READ_BYTES", "4MiB")]).await;
    api.publish(message("a", 1, 1000)).await.unwrap();
    let taken = broker.broker.admission.read(broker.broker.config.read_bytes.as_usize()).await.unwrap();
    let open = async || {
        let request = ReadMessageRequest { subject: "a".into(), sequence: 1, ..Default::default() };
        api.egress.clone().read_message(request).await.unwrap().into_inner()
    };
    let head = async |path| {
        let mut stream = TcpStream::connect(broker.http).await.unwrap();
        stream.write_all(format!("HEAD /v1/messages/a/{path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let not_yet = Duration::from_millis(200);
    assert!(timeout(not_yet, open()).await.is_err(), "others have all the room");
    for path in ["1", "last"] {
        assert!(timeout(not_yet, head(path)).await.is_err(), "others have all the room: {path}");
    }
    drop(taken);
    let patience = Duration::from_secs(10);
    for path in ["1", "last"] {
        let answer = timeout(patience, head(path)).await.expect("there is room");
        assert!(answer.contains("200 OK") && answer.contains("content-length: 1000"), "{answer}");
    }
    // Each holds as much as its message takes, not a page, while its client takes its time.
    let mut reads = Vec::new();
    for _ in 0..10 {
        reads.push(timeout(patience, open()).await.expect("there is room"));
    }
    for mut read in reads {
        assert_eq!(read.message().await.unwrap().unwrap().data.len(), 1000);
    }
    broker.stop().await;
}

#[tokio::test]
async fn subscriptions() {
    let (broker, api) = start(&[("LIMITS_SUBSCRIPTIONS", "2")]).await;
    let follow = || FetchRequest { subject: "a".into(), start_sequence: Some(1), follow: true, ..Default::default() };
    let subscribe = || SubscribeRequest { subject: "a".into(), start_sequence: None, durable_name: "".into() };
    let first = api.open_fetch(follow()).await.unwrap();
    let _second = api.egress.clone().subscribe(subscribe()).await.unwrap();
    assert_exhausted(&api.open_fetch(follow()).await.unwrap_err(), "limits.subscriptions");
    assert_exhausted(&api.egress.clone().subscribe(subscribe()).await.unwrap_err(), "limits.subscriptions");
    drop(first);
    let since = Instant::now();
    while api.open_fetch(follow()).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(5), "one that left makes room");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn connections() {
    for swapped in [false, true] {
        let broker = TestBroker::start(&[("LIMITS_CONNECTIONS", "1")]).await;
        let (one, other) = if swapped { (broker.egress, broker.ingress) } else { (broker.ingress, broker.egress) };
        let first = Api::connect(one).await;
        let published = timeout(Duration::from_secs(5), first.publish(message("a", 1, 1))).await;
        assert_eq!(published.expect("either port serves").unwrap(), 1);
        let second = Api::connect(other).await;
        let publish = second.publish(message("a", 1, 1));
        tokio::pin!(publish);
        let early = timeout(Duration::from_millis(300), &mut publish).await;
        assert!(early.is_err(), "one too many waits");
        first.publish(message("a", 1, 1)).await.unwrap();
        drop(first);
        let served = timeout(Duration::from_secs(5), publish).await;
        assert_eq!(served.expect("one that left makes room").unwrap(), 3);
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_refused_batch_stores_nothing() {
    let (broker, api) = start(&[("LIMITS_BATCH_MAX", "2")]).await;
    let request = PublishBatchRequest { messages: vec![message("a", 1, 1); 3] };
    assert_invalid(&api.ingress.clone().publish_batch(request).await.unwrap_err(), "messages");
    assert_eq!(api.fetch("a", 1).await.0, []);
    broker.stop().await;
}
