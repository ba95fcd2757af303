use std::collections::VecDeque;

use minitoolstream_proto::{ConsumeRequest, LeaseRefused, LeaseRun};

use crate::{
    admission::Permit,
    consumer::{How, Settle, WAIT_MAX, window::Window},
    error::{Error, Result},
    grpc::{status::code, validate},
    types::Timestamp,
};

/// Frames that wait to be carried out; more wait to be read.
const FRAMES_MAX: usize = 64;

/// Acks that may wait for others.
const ACKS_FEW: usize = 32;

/// Longest reason of a worker, in bytes.
const REASON_BYTES_MAX: usize = 255;

/// What a client said and was not carried out yet.
#[derive(Default)]
pub(super) struct Inbox(VecDeque<(Timestamp, ConsumeRequest, Permit)>);

/// Answers of one look: what is asked of the store, and what needs no asking.
#[derive(Default)]
pub(super) struct Answers {
    /// The lease that each answer is about.
    pub(super) leases: Vec<u64>,
    /// The answers, in the same order.
    pub(super) settles: Vec<Settle>,
    /// Answers that cannot be carried out.
    pub(super) refused: Vec<LeaseRefused>,
}

impl Inbox {
    pub(super) fn push(&mut self, now: Timestamp, frame: ConsumeRequest, permit: Permit) {
        self.0.push_back((now, frame, permit));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.0.len() < FRAMES_MAX
    }

    /// If all that waits is a few acks: when the first of them came.
    pub(super) fn acks_since(&self) -> Option<Timestamp> {
        let is_ack = |frame: &ConsumeRequest| {
            let ConsumeRequest { open, credit, ack, ack_up_to: _, nak, extend, terminate, release } = frame;
            let is_other = !(nak.is_empty() && extend.is_empty() && terminate.is_empty() && release.is_empty());
            open.is_none() && credit.is_none() && !is_other && ack.len() <= ACKS_FEW
        };
        let (received, ..) = self.0.front()?;
        (self.0.len() <= ACKS_FEW && self.0.iter().all(|(_, frame, _)| is_ack(frame))).then_some(*received)
    }

    /// Takes frames until they hold about `answers_max` answers. An answered lease leaves the window at once: its credit
    /// serves the same step.
    pub(super) fn take(&mut self, window: &mut Window, answers_max: usize) -> Answers {
        let mut answers = Answers::default();
        while answers.settles.len() < answers_max
            && let Some((received, frame, _permit)) = self.0.pop_front()
        {
            answers.add(received, frame, window);
        }
        answers
    }
}

impl Answers {
    fn add(&mut self, received: Timestamp, frame: ConsumeRequest, window: &mut Window) {
        if let Some(credit) = frame.credit {
            window.set_credit(usize::try_from(credit.messages).unwrap_or(usize::MAX), credit.bytes);
        }
        for lease in frame.ack {
            self.answer(lease, received, Ok(How::Ack), window);
        }
        if let Some(last) = frame.ack_up_to {
            match window.up_to(last) {
                Some(leases) => {
                    for lease in leases {
                        self.answer(lease, received, Ok(How::Ack), window);
                    }
                }
                None => self.refuse(last, &unknown()),
            }
        }
        for nak in frame.nak {
            let how = nak.delay.map(|delay| validate::duration("delay", delay, [std::time::Duration::ZERO, WAIT_MAX]));
            self.answer(nak.lease_id, received, how.transpose().map(How::Nak), window);
        }
        for lease in frame.extend {
            self.answer(lease, received, Ok(How::Extend), window);
        }
        for terminate in frame.terminate {
            self.answer(terminate.lease_id, received, reason(terminate.reason).map(How::Terminate), window);
        }
        for lease in frame.release {
            self.answer(lease, received, Ok(How::Release), window);
        }
    }

    fn answer(&mut self, lease: u64, received: Timestamp, how: Result<How>, window: &mut Window) {
        let how = match how {
            Ok(how) => how,
            Err(error) => return self.refuse(lease, &error),
        };
        let held = if how == How::Extend { window.get(lease) } else { window.end(lease) };
        match held {
            Some(held) => {
                self.leases.push(lease);
                self.settles.push(Settle { at: held.at, attempt: held.attempt, received, how });
            }
            None => self.refuse(lease, &unknown()),
        }
    }

    fn refuse(&mut self, lease: u64, error: &Error) {
        self.refused.push(refusal(lease, error));
    }
}

/// Tells the client why an answer was not carried out.
pub(super) fn refusal(lease: u64, error: &Error) -> LeaseRefused {
    LeaseRefused { lease_id: lease, code: code(error).into(), message: error.to_string() }
}

/// Leases as runs of consecutive ids.
pub(super) fn runs(leases: impl IntoIterator<Item = u64>) -> Vec<LeaseRun> {
    let mut runs: Vec<LeaseRun> = Vec::new();
    for lease in leases {
        match runs.last_mut() {
            Some(run) if run.first_id + u64::from(run.count) == lease => run.count += 1,
            _ => runs.push(LeaseRun { first_id: lease, count: 1 }),
        }
    }
    runs
}

fn unknown() -> Error {
    Error::Precondition(
        "the lease is over, was answered before, or is not of this stream: answer each delivery once, on the stream that \
         it came on"
            .into(),
    )
}

fn reason(text: String) -> Result<String> {
    if text.len() > REASON_BYTES_MAX || text.chars().any(char::is_control) {
        let problem = format!(
            "has {} bytes, or control characters: at most {REASON_BYTES_MAX} bytes without are allowed",
            text.len()
        );
        return Err(Error::invalid("reason", problem));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use minitoolstream_proto::{Credit, Nak, Terminate};

    use super::*;
    use crate::consumer::window::Held;

    fn window() -> (Window, Vec<u64>) {
        let mut window = Window::new(7);
        let leases = (1..=5).map(|at| window.send(Held { at, attempt: 1, bytes: 1, deadline: Timestamp(9) })).collect();
        (window, leases)
    }

    fn take(window: &mut Window, frame: ConsumeRequest) -> Answers {
        let mut inbox = Inbox::default();
        inbox.push(Timestamp(3), frame, Permit::default());
        inbox.take(window, 100)
    }

    #[test]
    fn every_answer_is_asked_once_and_gives_its_credit_back() {
        let (mut window, leases) = window();
        let frame = ConsumeRequest {
            credit: Some(Credit { messages: 10, bytes: 100 }),
            ack: vec![leases[0], leases[0], 99],
            extend: vec![leases[1]],
            release: vec![leases[4]],
            ..Default::default()
        };
        let answers = take(&mut window, frame);
        assert_eq!(answers.leases, [leases[0], leases[1], leases[4]]);
        let refused: Vec<_> = answers.refused.iter().map(|refused| (refused.lease_id, refused.code)).collect();
        assert_eq!(refused, [(leases[0], 9), (99, 9)]);
        assert_eq!((window.count(), window.messages_left()), (3, 7), "an extended lease stays");
    }

    #[test]
    fn acks_up_to_a_lease_leave_later_ones() {
        let (mut window, leases) = window();
        let answers = take(&mut window, ConsumeRequest { ack_up_to: Some(leases[2]), ..Default::default() });
        assert_eq!(answers.leases, leases[..3]);
        let beyond = take(&mut window, ConsumeRequest { ack_up_to: Some(leases[4] + 1), ..Default::default() });
        assert_eq!((beyond.leases.len(), beyond.refused.len()), (0, 1));
    }

    #[test]
    fn bad_delays_and_reasons_are_refused_and_the_lease_stays() {
        let (mut window, leases) = window();
        let delay = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let frame = ConsumeRequest {
            nak: vec![Nak { lease_id: leases[0], delay: delay(-1) }, Nak { lease_id: leases[1], delay: delay(90_000) }],
            terminate: vec![Terminate { lease_id: leases[2], reason: "x".repeat(256) }],
            ..Default::default()
        };
        let answers = take(&mut window, frame);
        assert!(answers.refused.iter().all(|refused| refused.code == 3), "{:?}", answers.refused);
        assert_eq!((answers.refused.len(), window.count()), (3, 5));
    }

    #[test]
    fn only_a_few_acks_may_wait_for_company() {
        let since = |frames: Vec<ConsumeRequest>| {
            let mut inbox = Inbox::default();
            for (frame, received) in frames.into_iter().zip(5..) {
                inbox.push(Timestamp(received), frame, Permit::default());
            }
            inbox.acks_since()
        };
        let acks = |count| ConsumeRequest { ack: vec![1; count], ..Default::default() };
        assert_eq!(since(vec![]), None);
        assert_eq!(since(vec![acks(1), acks(2)]), Some(Timestamp(5)));
        assert_eq!(since(vec![acks(1000)]), None);
        assert_eq!(since(vec![acks(1), ConsumeRequest { extend: vec![1], ..Default::default() }]), None);
        assert_eq!(since(vec![ConsumeRequest { credit: Some(Credit::default()), ..acks(1) }]), None);
    }

    #[test]
    fn neighbours_are_told_as_runs() {
        let runs: Vec<_> = runs([4, 5, 6, 9, 8]).iter().map(|run| (run.first_id, run.count)).collect();
        assert_eq!(runs, [(4, 3), (9, 1), (8, 1)]);
    }
}
