use std::{pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::value_parser;
use futures_util::StreamExt;
use minitoolstream::shutdown::Signals;
use minitoolstream_client::{Client, ConsumerSettings, Deliveries, Delivery, Error, Start};
use tokio::{task::JoinSet, time::timeout};

use super::{
    Session,
    exec::Exec,
    settings::{self, Tuning},
    sink::{Sink, SinkArgs},
};

/// How long the last answers may take to be confirmed.
const CONFIRMING_MAX: Duration = Duration::from_secs(30);

/// Messages asked for ahead of the one that is printed.
const WINDOW: u32 = 1000;

/// Bytes asked for ahead.
const WINDOW_BYTES: u64 = 16 << 20;

/// Works as one of the workers of a durable consumer, until interrupted.
///
/// Each message is acknowledged once it is printed, or once a command has done its work.
#[derive(clap::Args)]
#[command(after_help = "\
With --exec, 'sh -c COMMAND' runs for each message, with the data on standard input and MTS_SUBJECT, MTS_SEQUENCE, \
MTS_STREAM_SEQUENCE, MTS_TIME, MTS_ATTEMPT, MTS_CONSUMER and MTS_HEADER_<NAME> in the environment. Exit code 0: the message \
is done. 100: it can never be done, and is dead-lettered. Any other: it is delivered again after the back-off. The \
lease is extended while the command runs. SIGTERM and SIGINT let commands that run come to their end; a second one ends \
them.

Examples:
  minitoolstream consume billing --filter 'orders.>'
  minitoolstream consume thumbnails --filter 'photos.>' --exec './resize.sh' --concurrency 4")]
pub(super) struct Consume {
    /// The durable consumer.
    consumer: String,
    /// Create the consumer on first use, of these subjects: '*' is one token, '>' the rest.
    #[arg(long)]
    filter: Option<String>,
    /// Where it begins when it is created: all, new, seq:N, stream:N or time:T.
    #[arg(long, value_parser = settings::start, requires = "filter")]
    start: Option<Start>,
    #[command(flatten)]
    tuning: Tuning,
    /// Run this command for each message.
    #[arg(short, long, value_name = "COMMAND", conflicts_with_all = ["to", "raw"])]
    exec: Option<String>,
    /// Commands that run at a time.
    #[arg(short, long, default_value_t = 1, requires = "exec", value_parser = value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// Stop after this many messages.
    #[arg(short, long, value_parser = value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Give a message up to other workers when its command runs for longer than this; 1h without it.
    #[arg(long, requires = "exec", value_parser = humantime::parse_duration)]
    max_hold: Option<Duration>,
    #[command(flatten)]
    sink: SinkArgs,
}

impl Consume {
    pub(super) async fn run(mut self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        // Listened to from now on: a signal that comes while something is printed must not be lost.
        let mut signals = Signals::listen().context("signals cannot be received")?;
        let deliveries = self.open(&client).await?;
        let limit = self.limit.unwrap_or(u32::MAX);
        match self.exec.take() {
            Some(command) => {
                let exec = Arc::new(Exec::new(self.consumer, command, session.format));
                work(deliveries, exec, limit, self.concurrency, &mut signals).await
            }
            None => {
                // A consumer may take from many subjects.
                let sink = Sink::new(self.sink, session.format, ">");
                print(deliveries, &sink, limit, &mut signals).await
            }
        }
    }

    async fn open(&mut self, client: &Client) -> anyhow::Result<Deliveries> {
        let name = &self.consumer;
        let tuning = std::mem::take(&mut self.tuning);
        // What a command at work does not need yet is for other workers.
        let ahead = if self.exec.is_some() { self.concurrency } else { WINDOW };
        let mut consumer = client.consumer(name).window(ahead.min(self.limit.unwrap_or(u32::MAX)), WINDOW_BYTES);
        if let Some(hold) = self.max_hold {
            consumer = consumer.max_hold(hold);
        }
        match self.filter.take() {
            Some(filter) => {
                let settings = tuning.apply(ConsumerSettings::of(filter));
                consumer = consumer.settings(self.start.into_iter().fold(settings, ConsumerSettings::start));
            }
            None if tuning != Tuning::default() => bail!(
                "settings are for a consumer's first use, with --filter: change those of one that exists with \
                 'minitoolstream consumer update {name}'"
            ),
            None => {}
        }
        match consumer.messages().await {
            Err(error @ Error::NotFound(_)) => {
                bail!("{error}: add --filter to create it, as in 'minitoolstream consume {name} --filter '>''")
            }
            deliveries => Ok(deliveries?),
        }
    }
}

async fn print(mut deliveries: Deliveries, sink: &Sink, limit: u32, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    let mut printed = 0;
    let ended = loop {
        if printed == limit {
            break Ok(());
        }
        let delivery = tokio::select! {
            delivery = deliveries.next() => delivery,
            _ = signals.next() => break Ok(()),
        };
        match delivery {
            Some(Ok(delivery)) => {
                let ended = tokio::select! {
                    ended = print_one(sink, &delivery, printed == 0) => ended,
                    // What is written of a large message goes on with the next worker that writes to the same place.
                    _ = signals.next() => {
                        drop(delivery.release());
                        break Ok(());
                    }
                };
                match ended {
                    Ok(()) => delivery.ack_nowait(),
                    Err(error) if matches!(error.downcast_ref(), Some(Error::LeaseLost(_))) => {
                        eprintln!("message {} was not written: {error}", delivery.message.sequence);
                        continue;
                    }
                    Err(error) => {
                        // It was not seen: this was no attempt.
                        drop(delivery.release());
                        break Err(error);
                    }
                }
            }
            Some(Err(error)) => break Err(error.into()),
            None => break Ok(()),
        }
        printed += 1;
    };
    let drained = deliveries.drain(CONFIRMING_MAX).await;
    ended?;
    drained?;
    Ok(ExitCode::SUCCESS)
}

async fn print_one(sink: &Sink, delivery: &Delivery, first: bool) -> anyhow::Result<()> {
    sink.head(&delivery.message, Some(delivery.attempt), first)?;
    sink.write(&delivery.message, delivery.reader()).await
}

async fn work(
    mut deliveries: Deliveries,
    exec: Arc<Exec>,
    limit: u32,
    concurrency: u32,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let mut commands = JoinSet::new();
    let mut left = limit;
    let ended = loop {
        if left == 0 {
            break Ok(());
        }
        tokio::select! {
            delivery = deliveries.next(), if commands.len() < concurrency as usize => match delivery {
                Some(Ok(delivery)) => {
                    left -= 1;
                    commands.spawn(exec.clone().run(delivery));
                }
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(()),
            },
            Some(done) = commands.join_next(), if !commands.is_empty() => {
                if let Err(error) = done.map_err(Into::into).flatten() {
                    break Err(error);
                }
            }
            _ = signals.next() => break Ok(()),
        }
    };
    tokio::select! {
        finished = finish(deliveries, commands) => {
            ended?;
            finished?;
            Ok(ExitCode::SUCCESS)
        }
        // Commands end with the set that holds them.
        _ = signals.next() => Ok(ExitCode::FAILURE),
    }
}

/// Gives back what was not begun with, and lets commands come to their end.
async fn finish(deliveries: Deliveries, mut commands: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut failure = None;
    let commands = async {
        while let Some(done) = commands.join_next().await {
            failure = failure.take().or(done.map_err(Into::into).flatten().err());
        }
    };
    let mut draining = pin!(deliveries.drain(Duration::MAX));
    let drained = tokio::select! {
        () = commands => timeout(CONFIRMING_MAX, draining).await,
        drained = &mut draining => Ok(drained),
    };
    let Ok(drained) = drained else {
        bail!("the last answers were not confirmed in time: their messages may be delivered again");
    };
    failure.map_or(Ok(drained?), Err)
}
