//! The command line of MiniToolStream.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
