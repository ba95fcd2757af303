//! P3: what is uploaded is read back, at every size.

use minitoolstream_client::proto::{UploadCommit, UploadHeader};
use minitoolstream_testkit::TestBroker;

use crate::{
    api::{Api, header},
    pattern::Pattern,
};

/// Around every limit that a message can meet.
pub(crate) fn sizes() -> Vec<u64> {
    let limits = [64 << 10, 1 << 20, 4 << 20];
    let mut sizes = vec![0, 1];
    sizes.extend(limits.into_iter().flat_map(|limit| [limit - 25, limit - 1, limit, limit + 1]));
    sizes.push(64 << 20);
    if std::env::var_os("LARGE").is_some() {
        sizes.push(1 << 30);
    }
    sizes
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_what_is_uploaded_is_read_back_at_every_size() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    for (size, sequence) in sizes().into_iter().zip(1..) {
        let data = Pattern::new(usize::try_from(sequence).unwrap(), size);
        let known = size % 2 == 0;
        let opening = UploadHeader { size: known.then_some(size), ..header(&format!("u{size}"), "sizes") };
        let sha256 = data.sha256().to_vec();
        let upload = api.begin(opening).await;
        upload.send_all(data.pieces(0)).await;
        let commit = UploadCommit { size: Some(size), sha256: sha256.clone().into() };
        let stored = upload.commit(commit).await.unwrap();
        assert_eq!((stored.sequence, stored.size, stored.duplicate), (sequence, size, false));
        assert_eq!(stored.sha256, sha256, "{size} bytes");
        api.assert_is("sizes", sequence, data).await;
        let known = api.get(&format!("u{size}")).await.unwrap();
        assert_eq!((known.offset, known.published), (size, Some(stored)));
    }
    broker.stop().await;
}

#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(3, (3 << 20) + 77);
    let whole = data.whole();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 1..=10 {
        let upload = api.begin(header(&format!("u{round}"), "frames")).await;
        let mut rest = whole.clone();
        while !rest.is_empty() {
            let most = [1, 100, 70_000, 4 << 20][random.usize(..4)];
            assert!(upload.send(rest.split_to(random.usize(0..=most).min(rest.len()))).await, "seed {seed}");
            if random.u8(..) < 20 {
                // Long enough for what was sent to be written by itself.
                tokio::time::sleep(std::time::Duration::from_millis(40)).await;
            }
            if rest.len() > 3 << 19 && random.bool() {
                let len = rest.len() / 2;
                assert!(upload.send(rest.split_to(len)).await, "seed {seed}");
            }
        }
        let stored = upload.commit(UploadCommit::default()).await.unwrap();
        assert_eq!(stored.size, data.size, "seed {seed}");
        api.assert_is("frames", round, data).await;
    }
    broker.stop().await;
}
