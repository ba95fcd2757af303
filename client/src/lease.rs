use std::{task::Waker, time::Instant};

/// One lease in the books.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: State,
    pub(crate) arrived: Instant,
    pub(crate) asker: Asker,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be handed out.
    Waiting,
    /// With a handler.
    Out,
    Answered,
    /// Answered, with all that came before it.
    AnsweredUpTo,
    /// Done with a later one.
    Covered,
    /// Given back without having been handed out.
    Released,
    /// With a handler, which does not know yet that it is over.
    Lost,
    /// Over.
    Gone,
}

/// Who wants to know what became of an answer.
#[derive(Debug)]
pub(crate) enum Asker {
    Nobody,
    Somebody,
    Waiting(Waker),
}

impl State {
    pub(crate) fn is_answered(self) -> bool {
        matches!(self, Self::Answered | Self::AnsweredUpTo | Self::Covered)
    }

    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Waiting | Self::Out)
    }
}

impl Slot {
    /// Ends the lease; gives who wants to know.
    pub(crate) fn leave(&mut self) -> Asker {
        self.state = State::Gone;
        std::mem::replace(&mut self.asker, Asker::Nobody)
    }
}
