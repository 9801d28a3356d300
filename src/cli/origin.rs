//! `tidegate origin`: demo origins to try the edge against.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use clap::Args;
use http::StatusCode;

use crate::{
    origin::{Origins, Percent, Settings, Spec, health, start},
    types::HumanDuration,
};

/// Names of origins that got none, in turn.
const NAMES: [&str; 8] = ["blue", "green", "red", "yellow", "white", "black", "orange", "violet"];
/// The most origins of one process.
const MOST_ORIGINS: usize = 64;

const EXAMPLES: &str = "\
Examples:
  One origin:
    tidegate origin --listen 127.0.0.1:9001 --name blue
  Three, on ports 9001 to 9003, called blue, green and red:
    tidegate origin --count 3
  A slow one that fails one request in a hundred:
    tidegate origin --listen 127.0.0.1:9004 --latency 50ms --jitter 20ms --error-rate 1%
  Change one while it runs, and see its settings:
    curl -X POST 'http://127.0.0.1:9001/-/origin?latency=50ms&error_rate=5%&health=503'
    curl http://127.0.0.1:9001/-/origin

Paths:
  /                  what the origin saw of the request: method, path, headers (any other path does the same)
  /healthz           200, or the status set by --health
  /echo              the request's body
  /bytes?n=1MiB      so many bytes
  /sse?interval=1s   server-sent events
  /slow?for=2s       an answer after that time
  /status/503        that status
  /-/origin          settings: GET shows them, POST changes them

It is for trying things out: whoever reaches it can change its settings.";

/// Demo origins: small servers to balance over, that can be made slow, faulty or unhealthy while they run.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OriginArgs {
    /// Where an origin listens; may be repeated
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    pub listen: Vec<SocketAddr>,
    /// What an origin calls itself; may be repeated, in the order of the addresses
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Origins in all: those beyond the addresses take the next ports of the last one
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// Waited before each answer
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub latency: HumanDuration,
    /// Up to this is waited more, at random
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub jitter: HumanDuration,
    /// Share of the answers that are a 500
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    pub error_rate: Percent,
    /// The status of /healthz
    #[arg(long, value_name = "STATUS", default_value = "200", value_parser = health)]
    pub health: StatusCode,
}

impl OriginArgs {
    /// The origins that the arguments ask for.
    ///
    /// # Errors
    /// More names than origins, more origins than are allowed, a port beyond 65535.
    fn specs(&self) -> anyhow::Result<Vec<Spec>> {
        let count = self.count.unwrap_or(self.listen.len().max(self.name.len()));
        if !(1..=MOST_ORIGINS).contains(&count) {
            bail!("--count is a number from 1 to {MOST_ORIGINS}");
        }
        if count < self.listen.len() {
            bail!(
                "there are {} addresses for {count} origins; leave --count out",
                self.listen.len()
            );
        }
        if count < self.name.len() {
            bail!("there are {} names for {count} origins", self.name.len());
        }
        let settings = Settings {
            latency: self.latency.0,
            jitter: self.jitter.0,
            error_rate: self.error_rate,
            health: self.health,
        };
        (0..count)
            .map(|i| Ok(Spec { name: self.name_of(i), listen: self.address_of(i)?, settings }))
            .collect()
    }

    fn name_of(&self, i: usize) -> String {
        match (self.name.get(i), NAMES.get(i)) {
            (Some(given), _) => given.clone(),
            (None, Some(name)) => (*name).to_owned(),
            (None, None) => format!("origin-{}", i + 1),
        }
    }

    fn address_of(&self, i: usize) -> anyhow::Result<SocketAddr> {
        if let Some(given) = self.listen.get(i) {
            return Ok(*given);
        }
        let last = self.listen.last().context("--listen is missing")?;
        let beyond = u16::try_from(i + 1 - self.listen.len())?;
        let port = match last.port() {
            0 => 0,
            port => port
                .checked_add(beyond)
                .with_context(|| format!("no port is left {beyond} after {last}"))?,
        };
        Ok(SocketAddr::new(last.ip(), port))
    }
}

/// Runs demo origins until Ctrl-C or SIGTERM, on a runtime of their own.
///
/// # Errors
/// As [`run`]; or the runtime can't be started.
pub fn run_to_the_end(args: OriginArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime can't be started")?;
    runtime.block_on(run(args))
}

/// Runs demo origins until Ctrl-C or SIGTERM.
///
/// # Errors
/// Arguments that do not fit each other, or an address that can't be bound.
pub async fn run(args: OriginArgs) -> anyhow::Result<()> {
    let mut origins = start(args.specs()?).await?;
    announce(&origins);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("can't wait for Ctrl-C")?,
        _ = terminate.recv() => {}
        () = origins.ended() => bail!("the origins have ended by themselves"),
    }
    Ok(())
}

fn announce(origins: &Origins) {
    for (name, address) in origins.addresses() {
        anstream::println!("origin {name} listens on http://{address}");
    }
    if let Some((_, address)) = origins.addresses().first() {
        anstream::println!();
        anstream::println!("  curl http://{address}/");
        anstream::println!(
            "  curl -X POST 'http://{address}/-/origin?latency=50ms&error_rate=5%&health=503'"
        );
        anstream::println!("  Ctrl-C ends it");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        origin: OriginArgs,
    }

    fn specs(line: &str) -> Result<Vec<(String, String)>, String> {
        let words = std::iter::once("origin").chain(line.split_whitespace());
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        let specs = command.origin.specs().map_err(|error| error.to_string())?;
        Ok(specs.into_iter().map(|spec| (spec.name, spec.listen.to_string())).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect()
    }

    #[test]
    fn names_and_ports_are_filled_in() {
        for (line, expected) in [
            ("", pairs(&[("blue", "127.0.0.1:9001")])),
            ("--count 2", pairs(&[("blue", "127.0.0.1:9001"), ("green", "127.0.0.1:9002")])),
            (
                "--listen 127.0.0.1:80 --listen [::1]:0 --name a --count 3",
                pairs(&[("a", "127.0.0.1:80"), ("green", "[::1]:0"), ("red", "[::1]:0")]),
            ),
            ("--name a --name b", pairs(&[("a", "127.0.0.1:9001"), ("b", "127.0.0.1:9002")])),
        ] {
            assert_eq!(specs(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for line in [
            "--count 0",
            "--count 65",
            "--count 1 --name a --name b",
            "--count 1 --listen 127.0.0.1:1 --listen 127.0.0.1:2",
            "--listen 127.0.0.1:65535 --count 2",
            "--health 99",
            "--error-rate 200%",
            "--latency 5",
            "--listen example.com:80",
        ] {
            assert!(specs(line).is_err(), "{line}");
        }
    }

    #[test]
    fn settings_come_from_the_arguments() {
        let command = Command::try_parse_from(
            "origin --latency 5ms --jitter 1ms --error-rate 1% --health 503".split(' '),
        )
        .unwrap();
        let specs = command.origin.specs().unwrap();
        assert_eq!(
            specs[0].settings,
            Settings {
                latency: Duration::from_millis(5),
                jitter: Duration::from_millis(1),
                error_rate: "1%".parse().unwrap(),
                health: StatusCode::SERVICE_UNAVAILABLE,
            }
        );
    }
}
