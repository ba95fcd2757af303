//! Reads of ranges, and of what goes meanwhile.

use minitoolstream_client::proto::{ReadMessageRequest, UploadCommit};
use minitoolstream_testkit::TestBroker;
use tonic::Code;

use crate::{
    api::{Api, header},
    pattern::Pattern,
};

#[tokio::test]
async fn any_range_is_read() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    for (size, sequence) in [0, 1, 1000, 70_000, (3 << 20) + 5].into_iter().zip(1..) {
        let data = Pattern::new(size, size as u64);
        api.upload(header(&format!("u{size}"), "a"), data).await.unwrap();
        let whole = data.whole();
        let edges = [0, 1, size / 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, size.saturating_sub(1), size];
        for from in edges.into_iter().filter(|from| *from <= size) {
            for len in [0, 1, 100, 1 << 20, (1 << 20) + 1, usize::MAX] {
                let found = api.range("a", sequence, from as u64, Some(len as u64)).await.unwrap();
                assert_eq!(found, whole[from..from.saturating_add(len).min(size)], "{size}: {len} from {from}");
            }
            assert_eq!(api.range("a", sequence, from as u64, None).await.unwrap(), whole[from..]);
        }
        let beyond = api.range("a", sequence, size as u64 + 1, None).await.unwrap_err();
        assert_eq!(beyond.code(), Code::InvalidArgument, "{beyond:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_first_response_tells_what_is_read() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let mut opening = header("u", "a");
    opening.message.as_mut().unwrap().headers.insert("content-type".into(), "video/mp4".into());
    let data = Pattern::new(1, 2 << 20);
    api.upload(opening, data).await.unwrap();
    let request = ReadMessageRequest { subject: "a".into(), sequence: 1, offset: 2 << 20, ..Default::default() };
    let (message, pieces) = api.read(request).await.unwrap();
    assert!(pieces.concat().is_empty());
    assert_eq!(message.headers["content-type"], "video/mp4");
    let detached = message.detached.unwrap();
    assert_eq!((detached.size, detached.sha256), (2 << 20, data.sha256().to_vec().into()));
    assert_eq!((message.sequence, message.stream_sequence), (1, 1));
    broker.stop().await;
}

#[tokio::test]
async fn p5_a_message_that_goes_while_it_is_read_is_missing_not_damaged() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(1, 64 << 20);
    let upload = api.begin(header("u", "a")).await;
    upload.send_all(data.pieces(0)).await;
    upload.commit(UploadCommit::default()).await.unwrap();
    let request = ReadMessageRequest { subject: "a".into(), sequence: 1, ..Default::default() };
    let mut stream = api.egress.clone().read_message(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(!first.data.is_empty());
    broker.client().await.purge("a", None).await.unwrap();
    // The reaper of the tests waits for nothing.
    let bytes_are_gone = async {
        while !broker.broker.stores.payload.keys().await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), bytes_are_gone).await.unwrap();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended well without all data"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::NotFound, "{ended:?}");
    assert!(ended.message().contains("while it was read"), "{ended:?}");
    broker.stop().await;
}
