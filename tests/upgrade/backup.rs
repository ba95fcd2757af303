//! P1: a backup is restored by the other version.

use crate::{
    version::{Version, in_dir},
    world::{assert_goes_on, contents, fill},
};

async fn moves(from: &Version, to: &Version) {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("backup").display().to_string();
    let mut broker = from.serve(&dir.path().join("a"));
    let client = broker.client();
    let worker = fill(&client, &client, &broker.client()).await;
    let before = contents(&client).await;
    drop(worker);
    assert!(broker.terminate().success());
    let taken = from.run(&in_dir(&broker.data_dir()), &["backup", &backup]);

    let home = dir.path().join("b");
    let stores = in_dir(&home.join("data"));
    let restored = to.run(&stores, &["restore", &backup]);
    assert_eq!((&restored[0]["rows"], &restored[0]["objects"]), (&taken[0]["rows"], &taken[0]["objects"]));
    to.check(&stores);
    let broker = to.serve(&home);
    let client = broker.client();
    assert_eq!(contents(&client).await, before);
    assert_goes_on(&client, &client, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the version before this one: tests/run builds it"]
async fn p1_a_backup_is_restored_by_the_next_version() {
    moves(&Version::previous(), &Version::present()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the version before this one: tests/run builds it"]
async fn p1_a_backup_is_restored_by_the_version_before() {
    moves(&Version::present(), &Version::previous()).await;
}
