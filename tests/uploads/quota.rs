//! A disk quota refuses uploads before and while they come.

use minitoolstream_client::proto::{UploadCommit, UploadHeader};
use minitoolstream_testkit::TestBroker;
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    api::{Api, header},
    pattern::Pattern,
};

#[tokio::test]
async fn p6_a_quota_is_kept_and_what_goes_makes_room() {
    let broker = TestBroker::start(&[("DATA_QUOTA", "160MiB")]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(1, 100 << 20);
    let refused = UploadHeader { size: Some(200 << 20), ..header("before", "a") };
    let refused = api.begin(refused).await.end().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("data.quota"), "{refused:?}");
    assert!(refused.get_details_retry_info().is_some());
    assert_eq!(api.get("before").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api.upload(header("first", "a"), data).await.unwrap().sequence, 1);
    let upload = api.begin(header("during", "a")).await;
    upload.send_all(data.pieces(0)).await;
    let full = upload.commit(UploadCommit::default()).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    assert_eq!(broker.client().await.last_sequence("a").await.unwrap(), 1);
    // What was written is kept, and the upload goes on once there is room.
    broker.client().await.purge("a", None).await.unwrap();
    let is_done = async {
        loop {
            let offset = api.get("during").await.map_or(0, |upload| upload.offset);
            let upload = api.begin(UploadHeader { offset, ..header("during", "a") }).await;
            upload.send_all(data.pieces(offset)).await;
            match upload.commit(UploadCommit::default()).await {
                Ok(stored) => return stored,
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let stored = tokio::time::timeout(std::time::Duration::from_secs(60), is_done).await.expect("there is room");
    assert_eq!((stored.sequence, stored.size), (2, data.size));
    api.assert_is("a", 2, data).await;
    broker.stop().await;
}
