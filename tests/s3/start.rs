//! The bucket at the start, and whether it can be written.

use minitoolstream::{
    Error,
    metrics::Metrics,
    store::{
        PayloadStore,
        s3::{S3Payload, Secret, Settings},
    },
};
use minitoolstream_testkit::Fault;

use crate::rig::Rig;

fn problem<T>(refused: Result<T, Error>) -> String {
    match refused {
        Err(Error::Unavailable { what, .. }) => what,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[tokio::test]
async fn the_bucket_is_looked_for_and_made() {
    let rig = Rig::start();
    let connect = async |settings: Settings| S3Payload::connect(settings, Metrics::new(1).unwrap()).await;
    let absent = problem(connect(Settings { create_bucket: false, ..rig.settings.clone() }).await);
    assert!(absent.contains("NoSuchBucket") && absent.contains("s3.bucket"), "{absent}");
    for _ in 0..2 {
        let payload = connect(rig.settings.clone()).await.unwrap();
        payload.append(1, vec!["x".into()]).await.unwrap();
    }
    assert_eq!(rig.proxy.seen("PUT /letters HTTP"), 1, "made once");
    let stranger = Settings { secret_key: Secret::new("another"), ..rig.settings.clone() };
    let refused = problem(connect(stranger).await);
    assert!(refused.contains("403 SignatureDoesNotMatch") && refused.contains("s3.secret_key"), "{refused}");
    assert!(!refused.contains("another"), "{refused}");
    let nowhere = problem(connect(Settings { endpoint: "127.0.0.1:1".into(), ..rig.settings.clone() }).await);
    assert!(nowhere.contains("no connection") && nowhere.contains("5 attempts"), "{nowhere}");
    let elsewhere = Settings { region: "eu-central-1".into(), bucket: "other-letters".into(), ..rig.settings.clone() };
    connect(elsewhere).await.unwrap();
    assert!(matches!(connect(Settings { parts: 0, ..rig.settings.clone() }).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn writable_asks_once_a_second() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let asked = || rig.proxy.seen("GET /letters/?");
    let before = asked();
    for _ in 0..20 {
        payload.writable().await.unwrap();
    }
    assert_eq!(asked(), before + 1);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    rig.proxy.spoil("GET /letters/?", 1, Fault::Refuse(503, "SlowDown"));
    assert!(problem(payload.writable().await).contains("503"));
    assert!(payload.writable().await.is_err(), "the answer is kept");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    payload.writable().await.unwrap();
}
