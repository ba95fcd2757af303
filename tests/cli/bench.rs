use crate::command::Session;

#[test]
fn bench_measures_a_running_broker() {
    let session = Session::start();
    let rows = session.json("bench a e --duration 300ms --remote");
    assert_eq!(rows.len(), 2);
    let table = session.run("bench e --duration 300ms --remote").text();
    assert_eq!(table.lines().count(), 2, "{table}");
}

#[test]
fn bench_leaves_nothing_behind() {
    let session = Session::start();
    std::fs::create_dir(session.dir.path().join("scratch")).unwrap();
    assert_ne!(session.json("bench d --duration 300ms --dir scratch").len(), 0);
    assert_eq!(std::fs::read_dir(session.dir.path().join("scratch")).unwrap().count(), 0);
}
