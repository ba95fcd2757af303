//! Message ids are remembered for a window of time.

use minitoolstream::block::guard::Refusal;

use crate::{
    rig::{Rig, WINDOW},
    words::{With, draft, inline, slice},
};

fn window() -> u64 {
    WINDOW.as_millis().try_into().unwrap()
}

pub(crate) async fn an_id_is_known_until_its_window_ends(rig: &mut Rig) {
    rig.store([inline([draft("a", "1")]), slice([draft("a", "2"), draft("a", "3").id("x")])]).await;
    let again = || inline([draft("a", "again").id("x")]);
    rig.pause().await;
    rig.pass(window() - 1);
    assert_eq!(rig.refusals([again()]).await, [(0, 0, Refusal::Duplicate(3))]);
    rig.pass(1);
    assert_eq!(rig.store([again()]).await, [4], "from its deadline on, an id is unknown, forgotten or not");
    rig.pass(window() - 1);
    assert_eq!(rig.refusals([again()]).await, [(0, 0, Refusal::Duplicate(4))], "and its window begins anew");
}

pub(crate) async fn ids_belong_to_their_subject(rig: &mut Rig) {
    let both = rig.store([inline([draft("a", "1").id("x")]), inline([draft("a.b", "1").id("x")])]).await;
    assert_eq!(both, [1, 1]);
    assert_eq!(rig.refusals([inline([draft("a.b", "2").id("x")])]).await, [(0, 0, Refusal::Duplicate(1))]);
    assert_eq!(rig.store([inline([draft("b", "1").id("x")])]).await, [1]);
}

pub(crate) async fn forgetting_is_bounded(rig: &mut Rig) {
    for id in ["1", "2", "3", "4", "5"] {
        rig.store([inline([draft("a", id).id(id)])]).await;
    }
    rig.pass(1);
    rig.store([inline([draft("a", "late").id("late")])]).await;
    rig.pass(window() - 2);
    assert_eq!(rig.metadata().forget_ids(rig.now, 2).await.unwrap(), 0, "none is due");
    rig.pass(1);
    let mut steps = Vec::new();
    for _ in 0..4 {
        steps.push(rig.metadata().forget_ids(rig.now, 2).await.unwrap());
        rig.pause().await;
    }
    assert_eq!(steps, [2, 2, 1, 0]);
    assert_eq!(rig.refusals([inline([draft("a", "x").id("late")])]).await, [(0, 0, Refusal::Duplicate(6))]);
}

pub(crate) async fn a_renewed_id_is_not_forgotten(rig: &mut Rig) {
    rig.store([inline([draft("a", "1").id("x")])]).await;
    rig.pass(window());
    rig.store([inline([draft("a", "2").id("x")])]).await;
    let mut forgotten = 0;
    for _ in 0..3 {
        forgotten += rig.metadata().forget_ids(rig.now, 10).await.unwrap();
    }
    assert!(forgotten <= 1, "at most what is left of the first use");
    assert_eq!(rig.refusals([inline([draft("a", "3").id("x")])]).await, [(0, 0, Refusal::Duplicate(2))]);
}

pub(crate) async fn an_id_outlives_its_message(rig: &mut Rig) {
    let short = draft("b", "1").id("x").expires(rig.now.0 + 10);
    rig.store([inline([draft("a", "1").id("x")]), inline([short])]).await;
    rig.pass(10);
    rig.purge("a", 1, 10).await;
    assert_eq!(rig.expire(10).await, (1, 1));
    rig.pause().await;
    for name in ["a", "b"] {
        assert_eq!(rig.refusals([inline([draft(name, "2").id("x")])]).await, [(0, 0, Refusal::Duplicate(1))]);
    }
}
