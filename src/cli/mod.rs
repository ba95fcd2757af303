//! The command line: one file a command. The only place where errors are gathered into reports for people.

mod ack;
mod backup;
mod bars;
mod bench;
mod check;
mod config;
mod consume;
mod consumer;
mod dlq;
mod exec;
mod fetch;
mod interruption;
mod lag;
mod moment;
mod output;
mod publish;
mod purge;
mod restore;
mod serve;
mod settings;
mod sink;
mod stores;
mod subjects;
mod subscribe;
mod tail;
mod upload;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};
use minitoolstream_client::{Client, Connect};

use output::Format;

/// A message stream for messages of any size
///
/// From one byte to many gigabytes, with acks, TTL and no loss of what was acknowledged.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 120,
    after_help = "\
Start a broker and try it:
  minitoolstream serve
  echo hello | minitoolstream publish greetings
  minitoolstream fetch greetings"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Where the broker is, or several, separated by commas; dns:///NAME:PORT for all addresses of a name. Calls go to them
    /// in turn.
    #[arg(short, long, global = true, env = "MINITOOLSTREAM_ADDRESS", default_value = "http://127.0.0.1:50051")]
    address: String,

    /// Tables for people, or JSON (one document a line) for scripts.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Publish(publish::Publish),
    Fetch(fetch::Fetch),
    Tail(tail::Tail),
    Subscribe(subscribe::Subscribe),
    Ack(ack::Ack),
    Consume(consume::Consume),
    Consumer(consumer::Consumer),
    Lag(lag::Lag),
    Dlq(dlq::Dlq),
    Subjects(subjects::Subjects),
    Purge(purge::Purge),
    Upload(upload::Upload),
    Check(check::Check),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Bench(bench::Bench),
    Config(config::Config),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What every command of a client needs.
pub(crate) struct Session {
    address: String,
    format: Format,
}

impl Session {
    async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Connect::to(&self.address).attempts(3).connect().await?)
    }
}

/// Runs the command line; the exit code is 0 if all went well, 1 if not, 2 for wrong arguments.
pub(crate) fn run() -> ExitCode {
    let Cli { command, address, output } = Cli::parse();
    let session = Session { address, format: output };
    let result = match command {
        Command::Serve(serve) => serve.run(output),
        Command::Config(config) => config.run(output),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "minitoolstream", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Publish(publish) => in_runtime(publish.run(session)),
        Command::Fetch(fetch) => in_runtime(fetch.run(session)),
        Command::Tail(tail) => in_runtime(tail.run(session)),
        Command::Subscribe(subscribe) => in_runtime(subscribe.run(session)),
        Command::Ack(ack) => in_runtime(ack.run(session)),
        Command::Consume(consume) => in_runtime(consume.run(session)),
        Command::Consumer(consumer) => in_runtime(consumer.run(session)),
        Command::Lag(lag) => in_runtime(lag.run(session)),
        Command::Dlq(dlq) => in_runtime(dlq.run(session)),
        Command::Subjects(subjects) => in_runtime(subjects.run(session)),
        Command::Purge(purge) => in_runtime(purge.run(session)),
        Command::Upload(upload) => in_runtime(upload.run(session)),
        Command::Check(check) => in_runtime(check.run(session)),
        Command::Backup(backup) => in_runtime(backup.run(session)),
        Command::Restore(restore) => in_runtime(restore.run(session)),
        Command::Bench(bench) => in_runtime(bench.run(session)),
    };
    result.unwrap_or_else(|error| {
        if output::is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn in_runtime(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    // A command that was interrupted while it read standard input does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}
