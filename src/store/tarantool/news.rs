//! What was committed by any broker: the one call that waits.

use std::time::Duration;

use serde::Deserialize;

use super::{TarantoolMetadata, answers::read_subject};
use crate::{error::Result, store::Raised, types::ConsumerName};

/// A place in the news, and what happened up to it.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// The run of the Tarantool process that tells them.
    run: String,
    number: u64,
    /// False if something may have been missed: then everybody has to look.
    pub is_complete: bool,
    /// Subjects that got messages, and their last sequences.
    pub raised: Raised,
    /// Consumers that have something for a worker, or changed.
    pub rung: Vec<ConsumerName>,
}

#[derive(Deserialize)]
struct NewsAnswer {
    run: String,
    number: u64,
    is_complete: bool,
    raised: Vec<(String, u64)>,
    rung: Vec<String>,
}

/// What the call may take longer than the wait that it was asked for.
const GRACE: Duration = Duration::from_secs(2);

impl TarantoolMetadata {
    /// Waits until something was committed after a place, for at most `timeout`; only what is durable is told. One call of
    /// each broker waits at a time. The first one, from `News::default()`, gives the present place at once.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if Tarantool does not answer.
    pub async fn news(&self, after: &News, timeout: Duration) -> Result<News> {
        let arguments = (&after.run, after.number, timeout.as_secs_f64());
        let answer: NewsAnswer = self.link.call_within(timeout + GRACE, "head_wait", &arguments).await?;
        let NewsAnswer { run, number, is_complete, raised, rung } = answer;
        let raised = raised.into_iter().map(|(subject, last)| Ok((read_subject(&subject)?, last)));
        let rung = rung.iter().filter_map(|name| ConsumerName::parse("name", name).ok()).collect();
        Ok(News { run, number, is_complete, raised: raised.collect::<Result<_>>()?, rung })
    }
}
