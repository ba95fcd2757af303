//! Consumers in numbers: bounds are generous, and tell a list that is walked from one that is walked for each of its
//! entries.

use std::time::{Duration, Instant};

use minitoolstream::{
    block::Placement,
    consumer::{How, Patch},
    store::{
        Group,
        check::{Kind, Mode, Report},
    },
};
use redb::{Database, TableDefinition};

use crate::{
    backend::{Embedded, Ending},
    rig::Rig,
    words::{draft, many, slice},
    workers::{answer, consumer, on, story, take},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn embedded() -> Rig<Embedded> {
    Rig::new(Embedded::start().await, Ending::Killed)
}

#[tokio::test]
async fn p6_one_consumer_has_100_000_messages_out() {
    let begin = Instant::now();
    let mut rig = embedded().await;
    for _ in 0..100 {
        rig.store([many("a", 1000)]).await;
    }
    let patch = Patch { max_ack_pending: Some(100_000), max_deliver: Some(2), ..on("a") };
    rig.create("c", patch).await;
    let mut out = 0;
    for _ in 0..100 {
        out += rig.take("c", 1, 1000).await.len();
    }
    assert_eq!((out, rig.take("c", 1, 1000).await.len()), (100_000, 0));
    let every_third: Vec<_> = (1..=100_000).step_by(3).map(|at| (at, 1)).collect();
    for some in every_third.chunks(1000) {
        rig.answer("c", 1, some, How::Ack).await;
    }
    rig.pause().await;
    let view = rig.view("c").await.unwrap();
    assert_eq!((view.counts.acked, view.lag.redeliverable, view.ack_floor), (33_334, 66_666, 2));
    let mut again = 0;
    for _ in 0..67 {
        again += rig.take("c", 2, 1000).await.len();
    }
    assert_eq!(again, 66_666);
    rig.pass(100);
    // Nobody answers: they become letters, so many at a time.
    let mut letters = 0;
    for _ in 0..200 {
        let stepped = rig.step(take("c", 2, 1000)).await;
        letters += stepped.letters.len();
        assert_eq!(stepped.runs.len(), 0);
        if !stepped.more {
            break;
        }
    }
    let counts = rig.view("c").await.unwrap().counts;
    assert_eq!((letters, counts.dead_lettered, counts.passed), (66_666, 66_666, 100_000));
    assert_eq!(rig.row("$dlq.c").await.last, 66_666);
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn p6_there_are_10_000_durable_consumers() {
    let begin = Instant::now();
    let mut rig = embedded().await;
    rig.store([many("a", 10)]).await;
    for number in 0..10_000 {
        rig.create(&format!("c{number:05}"), on("a")).await;
    }
    rig.take("c09999", 1, 5).await;
    rig.pause().await;
    assert!(rig.make("one-more", true, on("a")).await.is_err());
    let (mut found, mut after) = (0, String::new());
    loop {
        let page = rig.metadata().consumers(&after, 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().all(|view| view.lag.pending + view.lag.redeliverable == 10));
        after = last.name.to_string();
        found += page.len();
    }
    assert_eq!((found, after.as_str()), (10_000, "c09999"));
    assert_eq!(rig.take("c09999", 2, 99).await.len(), 10);
    assert_eq!(rig.take("c00000", 2, 99).await.len(), 10);
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn p7_a_payload_that_nobody_knows_does_not_stop_a_consumer() {
    let mut rig = embedded().await;
    rig.store([slice([draft("a", "1"), draft("a", "2")]), many("a", 1)]).await;
    let Placement::Slice { segment, .. } = rig.scan("a", 1, 1, 0).await.blocks[0].placement else { panic!("a slice") };
    rig.create("c", on("a")).await;
    let forget = |dir: &std::path::Path| {
        let database = Database::open(dir.join("meta.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("payloads");
        transaction.open_table(table).unwrap().remove(segment.to_be_bytes().as_slice()).unwrap();
        transaction.commit().unwrap();
    };
    rig.backend.tamper(Ending::Closed, forget).await.unwrap();
    assert_eq!(rig.take("c", 1, 9).await, [(1, 1), (2, 1), (3, 1)]);
    rig.answer("c", 1, &[(1, 1), (3, 1)], How::Terminate("no".into())).await;
    let letters = rig.messages("$dlq.c").await;
    let stories: Vec<_> = letters.iter().map(story).collect();
    assert_eq!(stories, [["a", "1", "data-loss", "1", "no"], ["a", "3", "terminated", "1", "no"]]);
    let row = rig.row("$dlq.c").await;
    assert_eq!((row.last, row.live()), (2, 2), "P8 holds");
    let mut said = Vec::new();
    minitoolstream::store::check::check(rig.stores(), Mode::Live, |report| said.push(report)).await.unwrap();
    let found = said.into_iter().filter_map(|report| match report {
        Report::Finding(finding) => Some((finding.kind, finding.detail)),
        Report::Progress(_) => None,
    });
    let unknown = (Kind::UnknownFile, "no row tells of segment-0000000000000001".to_owned());
    assert_eq!(found.collect::<Vec<_>>(), [unknown]);
}

/// Answers and requests of several consumers in one transaction: each is a step of its own.
#[tokio::test]
async fn a_group_takes_steps_of_many_consumers() {
    let mut rig = embedded().await;
    rig.store([many("a", 3)]).await;
    let names: Vec<_> = (0..100).map(|number| format!("c{number}")).collect();
    for name in &names {
        rig.create(name, on("a")).await;
    }
    let mut steps = Vec::new();
    for name in names.iter().chain(["none".to_owned()].iter()) {
        for step in [take(name, 1, 2), answer(name, 1, &[(1, 1)], &How::Ack), answer(name, 2, &[(2, 1)], &How::Ack)] {
            let mut step = minitoolstream::consumer::Step { now: rig.now, ..step };
            step.settles.iter_mut().for_each(|settle| settle.received = rig.now);
            steps.push(std::sync::Arc::new(step));
        }
    }
    let group = Group { steps, now: rig.now, ..Group::default() };
    let minitoolstream::store::Committed::Stored { steps, .. } = rig.metadata().commit(group).await.unwrap() else {
        panic!("refused")
    };
    for of_one in steps[..300].chunks(3) {
        let [took, acked, foreign] = of_one else { panic!("three") };
        assert_eq!(took.as_ref().unwrap().runs.len(), 1);
        assert!(acked.as_ref().unwrap().settled[0].is_ok() && foreign.as_ref().unwrap().settled[0].is_err());
    }
    assert!(steps[300..].iter().all(|step| matches!(step, Err(minitoolstream::Error::NotFound(_)))));
    rig.pause().await;
    for name in &names {
        let view = rig.metadata().consumer(&consumer(name)).await.unwrap().unwrap();
        assert_eq!((view.counts.acked, view.lag.redeliverable, view.lag.pending), (1, 1, 1));
    }
}
