//! What is refused, when, and that nothing is left behind.

use std::time::Duration;

use bytes::Bytes;
use minitoolstream_client::proto::{PublishRequest, UploadCommit, UploadHeader, UploadRequest, upload_request::Frame};
use minitoolstream_testkit::TestBroker;
use tonic::{Code, Status};

use crate::{
    api::{Api, header},
    pattern::Pattern,
};

async fn start(settings: &[(&str, &str)]) -> (TestBroker, Api) {
    let broker = TestBroker::start(settings).await;
    let api = Api::connect(broker.ingress).await;
    (broker, api)
}

fn assert_code(status: &Status, code: Code, word: &str) {
    assert!(status.code() == code && status.message().contains(word), "not {code:?} with '{word}': {status:?}");
}

/// Waits until no object is left: what was refused is garbage, and goes.
async fn assert_nothing_is_left(broker: &TestBroker, api: &Api, id: &str) {
    let gone = api.get(id).await.unwrap_err();
    assert_code(&gone, Code::NotFound, "begin it anew");
    let bytes_go = async {
        while !broker.broker.stores.payload.keys().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), bytes_go).await.expect("no bytes are left");
}

#[tokio::test]
async fn what_is_wrong_in_the_header_is_refused_before_the_data() {
    let (broker, api) = start(&[("LIMITS_UPLOAD_MAX", "10MiB")]).await;
    let with = |change: fn(&mut UploadHeader)| {
        let mut opening = header("u", "a");
        change(&mut opening);
        opening
    };
    let cases = [
        (with(|header| header.upload_id.clear()), "upload_id"),
        (with(|header| header.upload_id = "x".repeat(129)), "upload_id"),
        (with(|header| header.message = None), "message"),
        (with(|header| header.message.as_mut().unwrap().subject = "a.*".into()), "subject"),
        (with(|header| header.message.as_mut().unwrap().data = Bytes::from_static(b"x")), "message.data"),
        (with(|header| header.sha256 = Bytes::from_static(b"short")), "sha256"),
        (with(|header| header.size = Some((10 << 20) + 1)), "10MiB"),
        (with(|header| header.offset = u64::MAX), "10MiB"),
    ];
    for (opening, word) in cases {
        let refused = api.begin(opening).await.end().await.unwrap_err();
        assert_code(&refused, Code::InvalidArgument, word);
    }
    let nothing = api.begin(UploadHeader { offset: 5, ..header("u", "a") }).await.end().await.unwrap_err();
    assert_code(&nothing, Code::NotFound, "at offset 0");
    broker.stop().await;
}

#[tokio::test]
async fn frames_must_come_in_their_order() {
    let (broker, api) = start(&[]).await;
    let send = async |frames: Vec<Option<Frame>>| {
        let frames = frames.into_iter().map(|frame| UploadRequest { frame });
        api.ingress.clone().upload(tokio_stream::iter(frames)).await.unwrap_err()
    };
    let data = || Some(Frame::Data(Bytes::from_static(b"x")));
    let opening = || Some(Frame::Header(header("u", "a")));
    assert_code(&send(vec![]).await, Code::InvalidArgument, "first frame");
    assert_code(&send(vec![data()]).await, Code::InvalidArgument, "first frame");
    assert_code(&send(vec![opening(), opening()]).await, Code::InvalidArgument, "neither data nor a commit");
    assert_code(&send(vec![opening(), None]).await, Code::InvalidArgument, "neither data nor a commit");
    assert_code(&send(vec![opening(), data()]).await, Code::FailedPrecondition, "without a commit");
    let large = Some(Frame::Data(vec![0; 5 << 20].into()));
    assert_code(&send(vec![opening(), large]).await, Code::InvalidArgument, "in one piece");
    assert_nothing_is_left(&broker, &api, "u").await;
    broker.stop().await;
}

#[tokio::test]
async fn p7_data_that_is_not_what_was_announced_is_not_published() {
    let (broker, api) = start(&[]).await;
    for size in [10, 3 << 20] {
        let data = Pattern::new(1, size);
        let wrong = || Pattern::new(2, size).sha256().to_vec();
        let cases = [
            (
                UploadHeader { sha256: wrong().into(), ..header("u", "a") },
                UploadCommit::default(),
                Code::DataLoss,
                "SHA-256",
            ),
            (header("u", "a"), UploadCommit { sha256: wrong().into(), size: None }, Code::DataLoss, "SHA-256"),
            (
                UploadHeader { size: Some(size + 1), ..header("u", "a") },
                UploadCommit::default(),
                Code::InvalidArgument,
                "announced",
            ),
            (
                UploadHeader { size: Some(size - 1), ..header("u", "a") },
                UploadCommit::default(),
                Code::InvalidArgument,
                "announced",
            ),
            (
                header("u", "a"),
                UploadCommit { size: Some(size - 1), ..Default::default() },
                Code::InvalidArgument,
                "announced",
            ),
            (
                UploadHeader { size: Some(size), ..header("u", "a") },
                UploadCommit { size: Some(size + 1), ..Default::default() },
                Code::InvalidArgument,
                "differs",
            ),
        ];
        for (opening, commit, code, word) in cases {
            let upload = api.begin(opening).await;
            upload.send_all(data.pieces(0)).await;
            assert_code(&upload.commit(commit).await.unwrap_err(), code, word);
            assert_nothing_is_left(&broker, &api, "u").await;
        }
    }
    assert_eq!(broker.client().await.last_sequence("a").await.unwrap(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn an_upload_of_unknown_size_stops_at_the_limit() {
    let (broker, api) = start(&[("LIMITS_UPLOAD_MAX", "3MiB")]).await;
    let refused = api.upload(header("u", "a"), Pattern::new(1, 64 << 20)).await.unwrap_err();
    assert_code(&refused, Code::InvalidArgument, "3MiB");
    assert_code(&api.get("u").await.unwrap_err(), Code::NotFound, "begin it anew");
    assert_eq!(api.upload(header("v", "a"), Pattern::new(1, 3 << 20)).await.unwrap().sequence, 1);
    broker.stop().await;
}

#[tokio::test]
async fn an_expectation_is_looked_at_before_and_after_the_data() {
    let (broker, api) = start(&[]).await;
    let expecting = |id: &str, last: u64| {
        let message =
            Some(PublishRequest { subject: "a".into(), expected_last_sequence: Some(last), ..Default::default() });
        UploadHeader { message, ..header(id, "a") }
    };
    let data = Pattern::new(1, 2 << 20);
    let early = api.begin(expecting("early", 7)).await;
    assert_code(&early.end().await.unwrap_err(), Code::Aborted, "is 0");
    let late = api.begin(expecting("late", 0)).await;
    late.send_all(data.pieces(0)).await;
    assert_eq!(api.upload(expecting("first", 0), data).await.unwrap().sequence, 1);
    assert_code(&late.commit(UploadCommit::default()).await.unwrap_err(), Code::Aborted, "is 1");
    assert_code(&api.get("late").await.unwrap_err(), Code::NotFound, "begin it anew");
    assert_eq!(api.upload(expecting("second", 1), data).await.unwrap().sequence, 2);
    broker.stop().await;
}

#[tokio::test]
async fn p6_uploads_under_way_are_limited() {
    let (broker, api) = start(&[("LIMITS_UPLOADS", "2")]).await;
    let known = |id: &str| UploadHeader { size: Some(2 << 20), ..header(id, "a") };
    for id in ["1", "2"] {
        let interrupted = api.begin(known(id)).await.end().await.unwrap_err();
        assert_code(&interrupted, Code::FailedPrecondition, "without a commit");
    }
    let refused = api.begin(known("3")).await.end().await.unwrap_err();
    assert_code(&refused, Code::ResourceExhausted, "limits.uploads");
    assert_eq!(api.upload(header("small", "a"), Pattern::new(1, 100)).await.unwrap().sequence, 1, "small ones pass");
    api.abort("1").await.unwrap();
    assert_code(&api.abort("1").await.unwrap_err(), Code::NotFound, "begin it anew");
    assert_eq!(api.upload(known("3"), Pattern::new(1, 2 << 20)).await.unwrap().sequence, 2);
    assert_code(&api.abort("3").await.unwrap_err(), Code::FailedPrecondition, "is published");
    broker.stop().await;
}

#[tokio::test]
async fn p6_uploads_at_work_are_limited() {
    let (broker, api) = start(&[("LIMITS_UPLOAD_STREAMS", "1")]).await;
    let known = |id: &str| UploadHeader { size: Some(2 << 20), ..header(id, "a") };
    let first = api.begin(known("1")).await;
    while api.get("1").await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let refused = api.begin(known("2")).await.end().await.unwrap_err();
    assert_code(&refused, Code::ResourceExhausted, "limits.upload_streams is used up (1)");
    assert_eq!(api.upload(header("small", "a"), Pattern::new(1, 100)).await.unwrap().sequence, 1, "small ones pass");
    let unknown = api.upload(header("3", "a"), Pattern::new(1, 3 << 20)).await;
    assert_code(&unknown.unwrap_err(), Code::ResourceExhausted, "limits.upload_streams");
    let interrupted = first.end().await.unwrap_err();
    assert_code(&interrupted, Code::FailedPrecondition, "without a commit");
    assert_eq!(api.upload(known("2"), Pattern::new(1, 2 << 20)).await.unwrap().sequence, 2);
    broker.stop().await;
}
