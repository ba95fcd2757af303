use std::{collections::BTreeMap, process::ExitCode, time::SystemTime};

use anyhow::bail;
use clap::value_parser;
use futures_util::StreamExt;
use minitoolstream_client::{Client, Fetch as Request, Message, Messages};

use super::{
    Session,
    interruption::or_interrupted,
    moment,
    sink::{Sink, SinkArgs, has_wildcards},
};

/// Messages read at a time, and between two acks.
const PAGE: u32 = 500;

/// Reads messages: after a consumer's position, or from a place on.
///
/// Reading moves no position unless --ack is given. With --to, large messages go on where an interrupted run stopped.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream fetch orders.new --from 1 --limit 100
  minitoolstream fetch 'orders.>' --since 1h --all
  minitoolstream fetch 'sensors.*' --last
  minitoolstream fetch site --durable mirror --all --to ./mirror --ack")]
pub(super) struct Fetch {
    /// What to read; may hold wildcards: '*' is one token, '>' the rest.
    subject: String,
    /// Read after the acked position of this durable consumer.
    #[arg(short, long)]
    durable: Option<String>,
    /// Read from this sequence on. Not with wildcards.
    #[arg(short, long, conflicts_with = "durable")]
    from: Option<u64>,
    /// Read from this place in the order of all messages on.
    #[arg(long, conflicts_with_all = ["durable", "from"])]
    from_stream: Option<u64>,
    /// Read what was published since: a time such as 2025-01-31T12:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = moment::since, conflicts_with_all = ["durable", "from", "from_stream"])]
    since: Option<SystemTime>,
    /// Read the last message of each subject that matches.
    #[arg(long, conflicts_with_all = ["durable", "from", "from_stream", "since", "limit", "all"])]
    last: bool,
    /// At most this many messages.
    #[arg(short, long, default_value_t = 10, conflicts_with = "all", value_parser = value_parser!(u32).range(1..))]
    limit: u32,
    /// Everything there is.
    #[arg(long)]
    all: bool,
    /// Acknowledge what was read, after it was written.
    #[arg(long, requires = "durable")]
    ack: bool,
    #[command(flatten)]
    sink: SinkArgs,
}

impl Fetch {
    pub(super) async fn run(mut self, session: Session) -> anyhow::Result<ExitCode> {
        let sink = Sink::new(std::mem::take(&mut self.sink), session.format, &self.subject);
        or_interrupted(&sink.hint, self.fetch(&session, &sink)).await
    }

    async fn fetch(&self, session: &Session, sink: &Sink) -> anyhow::Result<ExitCode> {
        if self.from.is_some() && has_wildcards(&self.subject) {
            bail!("--from counts the messages of one subject: use --from-stream with '{}'", self.subject);
        }
        // Where the consumer stands in each subject is not known here, so there is no place to go on from.
        let one_page = self.durable.is_some() && !self.ack && has_wildcards(&self.subject);
        if one_page && (self.all || self.limit > PAGE) {
            bail!(
                "with wildcards, at most {PAGE} messages are read after the positions of a consumer: add --ack to go on"
            );
        }
        let client = session.connect().await?;
        let progress = sink.bars.counts(None, "messages");
        let mut left = if self.all { u32::MAX } else { self.limit };
        let mut last: Option<Message> = None;
        while left > 0 {
            let step = left.min(PAGE);
            let mut messages = match self.last {
                true => client.fetch_last(&self.subject).await?,
                false => self.page(&client, last.as_ref(), step).await?,
            };
            let mut read = BTreeMap::new();
            let mut count = 0;
            while let Some(message) = messages.next().await {
                let message = message?;
                progress.suspend(|| sink.head(&message, None, last.is_none()))?;
                sink.write(&message, client.open(&message)).await?;
                count += 1;
                progress.inc(1);
                if self.ack {
                    read.insert(message.subject.clone(), message.sequence);
                }
                // What took long to read is not to be read again.
                if message.data.is_none() {
                    self.ack_all(&client, std::mem::take(&mut read)).await?;
                }
                last = Some(message);
            }
            self.ack_all(&client, read).await?;
            if count == 0 || self.last || one_page {
                break;
            }
            left = left.saturating_sub(count);
        }
        progress.finish_and_clear();
        Ok(ExitCode::SUCCESS)
    }

    /// Acknowledges up to these sequences of subjects, if that was asked for.
    async fn ack_all(&self, client: &Client, read: BTreeMap<String, u64>) -> anyhow::Result<()> {
        if let (true, Some(durable)) = (self.ack, &self.durable) {
            for (subject, sequence) in read {
                client.ack(durable, &subject, sequence).await?;
            }
        }
        Ok(())
    }

    /// The messages after the last one, up to `step`.
    async fn page(&self, client: &Client, last: Option<&Message>, step: u32) -> anyhow::Result<Messages> {
        let subject = &self.subject;
        let several = has_wildcards(subject);
        let request = match (&self.durable, last) {
            // The acks moved its positions.
            (Some(durable), last) if last.is_none() || self.ack => Request::durable(subject, durable),
            (_, Some(last)) if several => Request::from_stream_sequence(subject, last.stream_sequence + 1),
            (_, Some(last)) => Request::from_sequence(subject, last.sequence + 1),
            (_, None) => match (self.from, self.from_stream, self.since) {
                (_, Some(from), _) => Request::from_stream_sequence(subject, from),
                (.., Some(since)) => Request::from_time(subject, since),
                _ if several => Request::from_stream_sequence(subject, 1),
                (from, ..) => Request::from_sequence(subject, from.unwrap_or(1)),
            },
        };
        Ok(client.fetch(request.limit(step)).await?)
    }
}
