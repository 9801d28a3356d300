//! The commands of the `tidegate` binary, one file a command.
//!
//! This is the only layer that prints, and the only one that uses `anyhow`.

pub mod admin_client;
pub mod backup;
pub mod certificates;
pub mod check;
pub mod experiment;
mod open_files;
pub mod origin;
mod passphrase;
mod progress;
pub mod restore;
pub mod rollout;
pub mod run;
mod state_directory;
pub mod status;
mod table;

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed: a broken configuration, an address that is taken, an edge that does not answer
  2  the command line is wrong";

/// An edge proxy: terminates TLS, routes, balances over healthy endpoints, and reloads while it serves
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Status(status::StatusArgs),
    Rollout(rollout::RolloutArgs),
    Certificates(certificates::CertificatesArgs),
    Experiment(experiment::ExperimentArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Origin(origin::OriginArgs),
    /// Print the version, and that of the engine
    Version,
}

/// Runs the command line; the binary's whole `main`.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => return check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Rollout(args) => rollout::run(args),
        Command::Certificates(args) => certificates::run(args),
        Command::Experiment(args) => experiment::run(args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Origin(args) => origin::run_to_the_end(args),
        Command::Version => {
            version();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn version() {
    println!(
        "tidegate {} (pingora {})",
        env!("CARGO_PKG_VERSION"),
        crate::telemetry::metrics::PINGORA_VERSION
    );
}

/// Prints a command's result as a line.
///
/// # Errors
/// Standard output can't be written.
fn say(text: &str) -> anyhow::Result<()> {
    writeln!(anstream::stdout(), "{text}").context("standard output can't be written")
}

/// Prints what a person should know beside the result.
fn note(text: &str) {
    anstream::eprintln!("note: {}", table::printable(text));
}

fn report(error: &anyhow::Error) {
    anstream::eprintln!("error: {error:#}");
}
