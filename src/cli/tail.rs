use std::{process::ExitCode, time::SystemTime};

use anyhow::Context;
use clap::value_parser;
use futures_util::StreamExt;
use minitoolstream::shutdown::Signals;
use minitoolstream_client::{Client, Fetch as Request};

use super::{
    Session, moment,
    sink::{Sink, SinkArgs, has_wildcards},
};

/// Prints messages as they come, until interrupted.
///
/// Goes on after a broken connection.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream tail orders.new
  minitoolstream tail 'orders.>' --since 10m")]
pub(super) struct Tail {
    /// What to follow; may hold wildcards: '*' is one token, '>' the rest.
    subject: String,
    /// Begin with this sequence; without it, with what comes from now on. Not with wildcards.
    #[arg(short, long)]
    from: Option<u64>,
    /// Begin with this place in the order of all messages.
    #[arg(long, conflicts_with = "from")]
    from_stream: Option<u64>,
    /// Begin with what was published since: a time such as 2025-01-31T12:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = moment::since, conflicts_with_all = ["from", "from_stream"])]
    since: Option<SystemTime>,
    /// Stop after this many messages.
    #[arg(short, long, value_parser = value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    sink: SinkArgs,
}

impl Tail {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        let request = self.request(&client).await?.follow();
        let request = match self.limit {
            Some(limit) => request.limit(limit),
            None => request,
        };
        let mut messages = client.fetch(request).await?;
        let sink = Sink::new(self.sink, session.format, &self.subject);
        // Listened to in all rounds: a signal that comes while something is printed must not be lost.
        let mut signals = Signals::listen().context("signals cannot be received")?;
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => {
                        let message = message?;
                        sink.head(&message, None, false)?;
                        sink.write(&message, client.open(&message)).await?;
                    }
                    None => return Ok(ExitCode::SUCCESS),
                },
                _ = signals.next() => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    async fn request(&self, client: &Client) -> anyhow::Result<Request> {
        let subject = &self.subject;
        Ok(match (self.from, self.from_stream, self.since) {
            (Some(from), ..) => Request::from_sequence(subject, from),
            (_, Some(from), _) => Request::from_stream_sequence(subject, from),
            (.., Some(since)) => Request::from_time(subject, since),
            _ if has_wildcards(subject) => {
                Request::from_stream_sequence(subject, client.last_stream_sequence(subject).await? + 1)
            }
            _ => Request::from_sequence(subject, client.last_sequence(subject).await? + 1),
        })
    }
}
