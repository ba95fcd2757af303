use std::{collections::VecDeque, time::Duration};

use minitoolstream_proto::{ConsumeRequest, Credit, Nak, Terminate};

/// A frame is closed at this many answers: 128 KiB of lease ids.
const FRAME_ANSWERS: usize = 16_384;

/// With so many, waiting for more brings nothing.
const WORTH_A_FRAME: usize = 128;

/// The longest delay that the broker takes.
const DELAY_MAX: Duration = Duration::from_hours(24);

/// The longest reason that the broker keeps, in bytes.
const REASON_MAX: usize = 255;

/// No lease has this id. A broker refuses to extend it once it has heard of all that was said before: what it delivered
/// until then comes before the refusal, and nothing comes after it.
pub(crate) const LAST: u64 = u64::MAX;

/// What a worker says about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done.
    Ack,
    /// Done, with all that came before it.
    AckUpTo,
    /// Not done: again after the delay, or the consumer's back-off.
    Nak(Option<Duration>),
    /// Never again.
    Terminate(String),
    /// Not begun with.
    Release,
}

/// Answers that wait to be sent, in frames.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    frames: VecDeque<ConsumeRequest>,
    /// How many the last frame holds.
    held: usize,
    in_a_hurry: bool,
}

impl Answers {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// True if they are to be sent now: somebody waits for them, or they are many.
    pub(crate) fn in_a_hurry(&self) -> bool {
        self.in_a_hurry
    }

    /// Somebody waits. True if this is news, and the sender should hear of it.
    pub(crate) fn hurry(&mut self) -> bool {
        let is_news = !self.in_a_hurry && !self.frames.is_empty();
        self.in_a_hurry |= is_news;
        is_news
    }

    pub(crate) fn push(&mut self, id: u64, answer: Answer) {
        // The order within a frame is lost, and what was refused before must not be covered by a later cumulative ack.
        if answer == Answer::AckUpTo && self.frames.back().is_some_and(is_mixed) {
            self.held = FRAME_ANSWERS;
        }
        let frame = self.room();
        match answer {
            Answer::Ack => frame.ack.push(id),
            Answer::AckUpTo => frame.ack_up_to = frame.ack_up_to.max(Some(id)),
            Answer::Nak(delay) => {
                let delay = delay.and_then(|delay| delay.min(DELAY_MAX).try_into().ok());
                frame.nak.push(Nak { lease_id: id, delay });
            }
            Answer::Terminate(mut reason) => {
                reason.truncate(reason.floor_char_boundary(REASON_MAX));
                frame.terminate.push(Terminate { lease_id: id, reason });
            }
            Answer::Release => frame.release.push(id),
        }
    }

    pub(crate) fn extend(&mut self, id: u64) {
        self.room().extend.push(id);
    }

    /// Asks for no more deliveries, and to be told when they have ended.
    pub(crate) fn stop(&mut self) {
        let frame = self.room();
        frame.credit = Some(Credit { messages: 0, bytes: 0 });
        frame.extend.push(LAST);
        self.in_a_hurry = true;
    }

    /// The frame to send next.
    pub(crate) fn next(&mut self) -> Option<ConsumeRequest> {
        let frame = self.frames.pop_front();
        if self.frames.is_empty() {
            self.in_a_hurry = false;
        }
        frame
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn room(&mut self) -> &mut ConsumeRequest {
        if self.frames.is_empty() || self.held >= FRAME_ANSWERS {
            self.frames.push_back(ConsumeRequest::default());
            self.held = 0;
        }
        self.held += 1;
        self.in_a_hurry |= self.held >= WORTH_A_FRAME;
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }
}

fn is_mixed(frame: &ConsumeRequest) -> bool {
    !(frame.nak.is_empty() && frame.terminate.is_empty() && frame.release.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_shares_a_frame() {
        let mut answers = Answers::default();
        for id in 0..3 {
            answers.push(id, Answer::Ack);
        }
        answers.extend(9);
        assert!(!answers.in_a_hurry());
        let frame = answers.next().unwrap();
        assert_eq!((frame.ack, frame.extend), (vec![0, 1, 2], vec![9]));
        assert!(answers.next().is_none());
    }

    #[test]
    fn frames_have_a_limit() {
        let mut answers = Answers::default();
        for id in 0..20_000 {
            answers.push(id, Answer::Ack);
        }
        assert!(answers.in_a_hurry());
        assert_eq!(answers.next().unwrap().ack.len(), FRAME_ANSWERS);
        assert!(answers.in_a_hurry(), "the rest was large enough, too");
        assert_eq!(answers.next().unwrap().ack.len(), 20_000 - FRAME_ANSWERS);
        assert!(!answers.in_a_hurry());
    }

    #[test]
    fn a_cumulative_ack_does_not_overtake_a_refusal() {
        let mut answers = Answers::default();
        answers.push(1, Answer::Nak(None));
        answers.push(2, Answer::AckUpTo);
        answers.push(5, Answer::AckUpTo);
        assert_eq!(answers.next().unwrap().nak.len(), 1);
        assert_eq!(answers.next().unwrap().ack_up_to, Some(5));
    }

    #[test]
    fn what_the_broker_would_refuse_is_cut() {
        let mut answers = Answers::default();
        answers.push(1, Answer::Nak(Some(Duration::MAX)));
        answers.push(2, Answer::Terminate("é".repeat(200)));
        let frame = answers.next().unwrap();
        assert_eq!(frame.nak[0].delay.map(|delay| delay.seconds), Some(24 * 3600));
        assert_eq!(frame.terminate[0].reason.len(), 254);
    }
}
