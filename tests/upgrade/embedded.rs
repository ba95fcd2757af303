//! P1: a data directory of the version before is taken over, and that version refuses it from then on.

use crate::{
    uploads::{begin, finish, read},
    version::{Version, in_dir},
    world::{assert_goes_on, contents, fill},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the version before this one: tests/run builds it"]
async fn p1_a_data_directory_is_taken_over_and_refused_by_the_version_before() {
    let (previous, present) = (Version::previous(), Version::present());
    let dir = tempfile::tempdir().unwrap();
    let mut broker = previous.serve(dir.path());
    let (client, stores) = (broker.client(), in_dir(&broker.data_dir()));
    let worker = fill(&client, &client, &broker.client()).await;
    begin(&client, "old").await;
    let before = contents(&client).await;
    // Its journal is to be replayed by another version, and leases end with it.
    broker.kill();
    drop(worker);

    let mut broker = present.serve(dir.path());
    let client = broker.client();
    assert_eq!(contents(&client).await, before);
    begin(&client, "newer").await;
    // What it adds is in its journal alone.
    assert_goes_on(&client, &client, &before).await;
    let after = contents(&client).await;
    broker.kill();

    let refusal = previous.refuses(dir.path());
    assert!(refusal.contains("has format 4, and this version reads format 3"), "{refusal}");
    present.check(&stores);

    let mut broker = present.serve(dir.path());
    let client = broker.client();
    assert_eq!(contents(&client).await, after, "the refusal has changed nothing");
    finish(&client, &client, "newer").await;
    read(&client, "newer", 1).await;
    finish(&client, &client, "old").await;
    assert!(broker.terminate().success());
    present.check(&stores);
}
