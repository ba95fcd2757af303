use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::*;

const WAIT: Duration = Duration::from_secs(30);

/// Leases, a clock, and somebody who waits.
struct Books {
    leases: Leases,
    now: Instant,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Books {
    fn new() -> Self {
        Self::with_hold(Some(Duration::from_secs(3600)))
    }

    fn with_hold(hold: Option<Duration>) -> Self {
        let leases = Leases::new(Terms { ack_wait: WAIT, hold, window: 10 });
        Self { leases, now: Instant::now(), wakes: Arc::default() }
    }

    fn arrive(&mut self, ids: impl IntoIterator<Item = u64>) {
        let deliveries = ids.into_iter().map(|lease_id| Delivery { lease_id, attempt: 1, ..Default::default() });
        self.leases.arrive(deliveries.collect(), self.now);
    }

    fn take(&mut self) -> Poll<Option<u64>> {
        let waker = self.wakes.clone().into();
        let taken = self.leases.poll_take(self.now, &mut Context::from_waker(&waker));
        taken.map(|taken| taken.map(|delivery| delivery.lease_id))
    }

    /// Lets messages arrive and takes them.
    fn take_all(&mut self, ids: impl IntoIterator<Item = u64> + Clone) {
        self.arrive(ids.clone());
        for id in ids {
            assert_eq!(self.take(), Poll::Ready(Some(id)));
        }
    }

    fn outcome(&mut self, id: u64) -> Poll<Result<(), String>> {
        let waker = self.wakes.clone().into();
        let settled = self.leases.poll_settled(id, &mut Context::from_waker(&waker));
        settled.map(|settled| settled.map_err(|error| error.to_string()))
    }

    fn settle(&mut self, first_id: u64, count: u32) {
        self.leases.settled(LeaseRun { first_id, count });
    }

    fn refuse(&mut self, lease_id: u64) {
        let refused = LeaseRefused { lease_id, code: tonic::Code::FailedPrecondition.into(), message: "late".into() };
        self.leases.refused(refused);
    }

    fn woken(&mut self) -> usize {
        self.leases.take_wakers().into_iter().for_each(Waker::wake);
        self.wakes.0.swap(0, Ordering::Relaxed)
    }

    fn slots(&self) -> usize {
        self.leases.slots.len() + self.leases.left_behind.len()
    }

    fn extended(&mut self) -> Vec<u64> {
        self.leases.extend_held(self.now);
        self.leases.answers.next().map_or_else(Vec::new, |frame| frame.extend)
    }
}

fn is_lost(outcome: &Poll<Result<(), String>>) -> bool {
    matches!(outcome, Poll::Ready(Err(text)) if text.contains("delivered again"))
}

#[test]
fn an_ack_is_settled_when_the_broker_says_so() {
    let mut books = Books::new();
    assert_eq!(books.take(), Poll::Pending);
    books.arrive([7, 8]);
    assert_eq!(books.woken(), 1);
    assert_eq!(books.take(), Poll::Ready(Some(7)));
    books.leases.answer(7, Answer::Ack, true);
    assert_eq!(books.leases.answers.next().unwrap().ack, [7]);
    books.settle(8, 1);
    assert_eq!(books.outcome(7), Poll::Pending);
    books.settle(7, 2);
    assert_eq!((books.woken(), books.outcome(7)), (1, Poll::Ready(Ok(()))));
    assert_eq!(books.take(), Poll::Ready(Some(8)), "a confirmation of what was not answered means nothing");
    assert!(!books.leases.is_quiet());
}

#[test]
fn a_refused_ack_is_a_lost_lease() {
    let mut books = Books::new();
    books.take_all(1..4);
    books.leases.answer(1, Answer::Ack, true);
    books.leases.answer(2, Answer::Ack, false);
    books.refuse(1);
    books.refuse(2);
    assert!(is_lost(&books.outcome(1)));
    assert!(books.leases.refusals.is_empty(), "nobody asked for the other");
    // An extension that is refused, and the answer after it.
    books.refuse(3);
    assert!(books.leases.extend(3).is_err());
    books.leases.answer(3, Answer::Nak(None), true);
    assert!(is_lost(&books.outcome(3)));
    assert_eq!(books.leases.answers.next().unwrap().nak, [], "there is nothing to say about it");
    assert_eq!((books.slots(), books.leases.refusals.len()), (0, 0));
}

#[test]
fn what_is_dropped_is_to_be_delivered_again() {
    let mut books = Books::new();
    books.take_all(1..3);
    books.leases.answer(1, Answer::Ack, false);
    books.leases.dropped(1);
    books.leases.dropped(2);
    let frame = books.leases.answers.next().unwrap();
    assert_eq!((frame.ack, frame.nak.len(), frame.nak[0].lease_id, frame.nak[0].delay), (vec![1], 1, 2, None));
}

#[test]
fn a_cumulative_ack_covers_what_is_out_before_it() {
    let mut books = Books::new();
    books.take_all(1..6);
    books.leases.answer(2, Answer::Nak(None), true);
    books.leases.answer(4, Answer::AckUpTo, true);
    books.leases.dropped(1);
    books.leases.answer(3, Answer::Ack, true);
    books.leases.answer(1, Answer::Release, true);
    assert!(matches!(books.outcome(1), Poll::Ready(Err(text)) if text.contains("together with a later one")));
    assert_eq!((books.outcome(3), books.outcome(4)), (Poll::Pending, Poll::Pending));
    books.settle(4, 1);
    assert_eq!((books.outcome(3), books.outcome(4)), (Poll::Ready(Ok(())), Poll::Ready(Ok(()))));
    assert_eq!(books.outcome(2), Poll::Pending);
    assert!(matches!(books.leases.slot(5), Some(slot) if slot.state == State::Out));
    books.leases.answer(5, Answer::AckUpTo, true);
    books.refuse(5);
    assert!(is_lost(&books.outcome(5)));
    assert_eq!(books.outcome(2), Poll::Pending, "it was not covered");
}

#[test]
fn leases_are_extended_while_they_are_held() {
    let mut books = Books::new();
    books.take_all(1..3);
    books.arrive([3, 4]);
    books.leases.answer(2, Answer::Ack, false);
    books.leases.answers.clear();
    assert_eq!(books.extended(), [] as [u64; 0], "they are young");
    books.now += WAIT / 3;
    assert_eq!(books.extended(), [1, 3, 4]);
    books.now += Duration::from_secs(3600) + WAIT;
    assert_eq!(books.extended(), [] as [u64; 0], "they were held for too long");
    assert_eq!(books.take(), Poll::Pending, "they belong to others by now");
}

#[test]
fn leases_that_are_not_extended_grow_old_in_the_buffer() {
    let mut books = Books::with_hold(None);
    books.arrive([1]);
    books.now += WAIT;
    books.arrive([2]);
    assert_eq!(books.extended(), [] as [u64; 0]);
    assert_eq!(books.take(), Poll::Ready(Some(2)));
    assert_eq!(books.slots(), 1);
}

#[test]
fn what_was_not_begun_with_is_given_back() {
    let mut books = Books::new();
    books.take_all(1..3);
    books.arrive([3]);
    books.leases.stop_taking();
    assert_eq!(books.take(), Poll::Ready(None));
    books.arrive([4]);
    assert_eq!(books.leases.answers.next().unwrap().release, [3, 4]);
    books.leases.answer(1, Answer::Ack, false);
    books.leases.answer(2, Answer::Ack, false);
    books.leases.answers.next();
    books.settle(1, 1);
    assert!(!books.leases.is_quiet());
    books.settle(2, 1);
    assert!(books.leases.is_quiet());
}

#[test]
fn the_end_of_a_stream_loses_what_is_not_settled() {
    let mut books = Books::new();
    books.take_all(1..5);
    for id in 1..4 {
        books.leases.answer(id, Answer::Ack, true);
    }
    books.settle(1, 1);
    assert_eq!(books.outcome(2), Poll::Pending);
    books.leases.end("broken, delivered again");
    assert_eq!(books.woken(), 1);
    assert_eq!(books.outcome(1), Poll::Ready(Ok(())));
    assert!(is_lost(&books.outcome(2)));
    books.leases.ask_no_more(3);
    assert!(books.leases.extend(4).is_err());
    books.leases.answer(4, Answer::Ack, true);
    assert!(is_lost(&books.outcome(4)));
    assert_eq!(books.take(), Poll::Ready(None));
    assert_eq!((books.slots(), books.leases.refusals.len()), (0, 0));
}

#[test]
fn a_message_that_takes_long_does_not_make_the_books_grow() {
    let mut books = Books::new();
    books.take_all([0]);
    for id in 1..100_000 {
        books.take_all([id]);
        books.leases.answer(id, Answer::Ack, false);
        books.leases.answers.clear();
        books.settle(id, 1);
        assert!(books.slots() <= 1024 + 20 + 1, "{}", books.slots());
    }
    books.leases.answer(0, Answer::Ack, true);
    assert_eq!(books.outcome(0), Poll::Pending);
    books.settle(0, 1);
    assert_eq!(books.outcome(0), Poll::Ready(Ok(())));
}

#[test]
fn ids_from_a_strange_broker_do_no_harm() {
    let mut books = Books::new();
    books.take_all([10, 11, 5, u64::MAX, 3]);
    books.settle(0, u32::MAX);
    books.settle(u64::MAX, u32::MAX);
    books.refuse(99);
    for id in [10, 11, 5, u64::MAX, 3, 42] {
        books.leases.answer(id, Answer::Ack, true);
    }
    assert_eq!(books.outcome(5), Poll::Pending);
    books.settle(0, u32::MAX);
    assert_eq!((books.outcome(5), books.outcome(42)), (Poll::Ready(Ok(())), Poll::Ready(Ok(()))));
}
