//! Tidegate beside nginx, HAProxy and a bare Pingora proxy: the same work, the same core, interleaved rounds.
//! `make bench-compare` runs it; docs/benchmarks.md says what is measured, and what the results are.
//!
//! - `contestants/`: how each proxy is configured and started; `origin.rs`: what they forward to.
//! - `load/`: the client, in this process. `measure.rs`: what a run costs in CPU and memory, from /proc.
//! - `series.rs`: the rounds of one series; `scenario/`: endpoints that fail or are overloaded; `report/`: the terminal, JSON, the chart.
//!
//! The origin and the bare proxy are sub-commands of this binary, so that each is a process with a core of its own.
//! Whatever is started ends with this process: on an error, a panic, Ctrl-C, and by the kernel where it is killed.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench asserts by panicking, prints, and its data has a known shape"
)]

mod certificate;
mod contestants;
mod cores;
mod load;
mod machine;
mod measure;
mod options;
mod origin;
mod process;
mod report;
mod scenario;
mod series;

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    options::{Cli, Options, Part},
    report::Report,
    series::Bench,
};

// The bare proxy is to differ from the edge by its hooks only.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.part {
        Some(Part::Origin(args)) => origin::run(&args),
        Some(Part::Bare(args)) => contestants::bare::run(&args),
        None => compare(&cli.options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    // What is started is dropped, and so ended, with the future that lost.
    runtime.block_on(local.run_until(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = measure_all(options) => result,
            _ = interrupt.recv() => anyhow::bail!("interrupted; everything that was started is ended"),
            _ = terminate.recv() => anyhow::bail!("ended by a signal, with everything that was started"),
        }
    }))
}

async fn measure_all(options: &Options) -> Result<()> {
    let folder = options.output.clone();
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let bench = Bench::new(options)?;
    let mut report = Report::new(options, &bench)?;
    println!("{}", report.heading());
    for series in options.series() {
        let result = bench
            .run(series)
            .await
            .with_context(|| format!("in the series {series}; logs are in {}", bench.folder()))?;
        println!("{}", report::text::series(&result));
        report.series.push(result);
    }
    report.judge();
    println!("{}", report::text::verdicts(&report));
    report.write(&folder)?;
    println!("Written: compare.txt, compare.json and compare.svg in {}", folder.display());
    Ok(())
}
