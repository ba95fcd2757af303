use std::fmt;

/// How far a transfer has come, in bytes of the message's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that an interruption cannot take back: known to be on the broker's stable storage, or written to the file.
    pub durable: u64,
    /// Bytes handed to the connection, or received from it. Falls back when a transfer goes on after an interruption.
    pub transferred: u64,
    /// Bytes in all, if that is known.
    pub total: Option<u64>,
}

/// Is told of progress, many times a second: it must not block.
pub(crate) struct Observer(Option<Box<dyn FnMut(Progress) + Send>>);

impl Observer {
    pub(crate) fn nobody() -> Self {
        Self(None)
    }

    pub(crate) fn new(tell: impl FnMut(Progress) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    pub(crate) fn tell(&mut self, progress: Progress) {
        if let Some(tell) = &mut self.0 {
            tell(progress);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observer" } else { "nobody" })
    }
}
