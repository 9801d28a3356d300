//! The command line.

use std::{fmt, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    contestants::{Contestant, bare},
    origin,
};

const EXAMPLES: &str = "\
Examples:
  make bench-compare                                  everything, about 20 minutes
  make bench-compare ARGS=--quick                     a first look, under 2 minutes
  make bench-compare ARGS='--only plain,tls'          two of the series
  make bench-compare ARGS='--only slow --rounds 9'    more rounds, less noise
  make bench-compare ARGS='--contestants nginx,tidegate --seconds 10'
The results are written to target/compare/: compare.txt, compare.json, compare.svg.";

/// Compare Tidegate with nginx, HAProxy and a bare Pingora proxy
#[derive(Debug, Parser)]
#[command(name = "compare", after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    #[command(flatten)]
    pub(crate) options: Options,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What this binary starts of itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    #[command(hide = true)]
    Origin(origin::Args),
    #[command(hide = true)]
    Bare(bare::Args),
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct Options {
    /// Fewer and shorter rounds, and only the series plain, tls, http2, handshakes and slow
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these series
    #[arg(long, value_delimiter = ',', value_name = "SERIES")]
    only: Vec<Series>,
    /// Only these contestants
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    contestants: Vec<Contestant>,
    /// Rounds, of which the median counts [default: 5, quick: 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds that each round measures each contestant [default: 4, quick: 1]
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Requests at once: connections, or HTTP/2 streams on a sixteenth as many connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) concurrency: u32,
    /// Bytes of the origin's answer
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) body_bytes: u32,
    /// Requests a second of the open loop [default: half of what the slowest can do; slow: 2,000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    /// Where the results go
    #[arg(long, default_value = "target/compare")]
    pub(crate) output: PathBuf,
    /// The core of the proxy [default: the last one]
    #[arg(long)]
    pub(crate) proxy_core: Option<usize>,
}

impl Options {
    pub(crate) fn series(&self) -> Vec<Series> {
        match (self.only.is_empty(), self.quick) {
            (false, _) => self.only.clone(),
            (true, true) => Series::value_variants()
                .iter()
                .copied()
                .filter(|series| {
                    !matches!(
                        series,
                        Series::Resumed
                            | Series::Logged
                            | Series::Even
                            | Series::Failures
                            | Series::Overload
                    )
                })
                .collect(),
            (true, false) => Series::value_variants().to_vec(),
        }
    }

    /// Those of a series, in the order of a round.
    pub(crate) fn contestants(&self, series: Series) -> Vec<Contestant> {
        Contestant::value_variants()
            .iter()
            .copied()
            .filter(|one| self.contestants.is_empty() || self.contestants.contains(one))
            .filter(|one| one.takes_part(series))
            .collect()
    }

    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    pub(crate) fn window(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 4.0 });
        Duration::from_secs_f64(seconds)
    }

    /// Before the window: connections are made, caches and pools fill.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { 500 })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 600".to_owned()),
    }
}

/// What is done with the contestants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Series {
    /// HTTP/1.1 without TLS, connections kept.
    Plain,
    /// HTTP/1.1 over TLS 1.3, connections kept.
    Tls,
    /// HTTP/2 over TLS 1.3, connections kept.
    #[value(name = "http2")]
    Http2,
    /// A new connection with a full TLS 1.3 handshake for each request.
    Handshakes,
    /// A new connection with a resumed TLS 1.3 session for each request.
    Resumed,
    /// As `handshakes`, with the hybrid key exchange X25519MLKEM768.
    Hybrid,
    /// As `plain`, with an access log that is written to a file.
    Logged,
    /// As `plain`, over three endpoints of which one is slow.
    Slow,
    /// As `slow`, without the slow one.
    Even,
    /// Five endpoints, of which some are killed, hang, or reset.
    Failures,
    /// An endpoint that gets more requests than it can answer.
    Overload,
}

impl Series {
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Http2) || self.is_handshakes()
    }

    /// Whether what happens to the endpoints is the point, and not the rounds.
    pub(crate) fn is_scenario(self) -> bool {
        matches!(self, Self::Failures | Self::Overload)
    }

    /// Whether each request is a connection of its own.
    pub(crate) fn is_handshakes(self) -> bool {
        matches!(self, Self::Handshakes | Self::Resumed | Self::Hybrid)
    }

    /// What is counted.
    pub(crate) fn unit(self) -> &'static str {
        if self.is_handshakes() { "handshakes" } else { "requests" }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Plain => "plain: HTTP/1.1, keep-alive",
            Self::Tls => "tls: HTTP/1.1 over TLS 1.3, keep-alive",
            Self::Http2 => "http2: HTTP/2 over TLS 1.3",
            Self::Handshakes => "handshakes: full TLS 1.3 handshake for each request",
            Self::Resumed => "resumed: resumed TLS 1.3 session for each request",
            Self::Hybrid => "hybrid: full TLS 1.3 handshake by X25519MLKEM768 for each request",
            Self::Logged => "logged: as plain, with an access log",
            Self::Slow => "slow: three endpoints (50 ms, 1 ms, 1 ms)",
            Self::Even => "even: as slow, without the slow one",
            Self::Failures => "failures: 200 requests a second over five endpoints",
            Self::Overload => "overload: an endpoint that can answer 1,000 requests a second",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no series is hidden");
        f.pad(value.get_name())
    }
}
