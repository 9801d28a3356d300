//! The contestants: how each is configured and started. One file each; all are told the same by a [`Setup`].
//!
//! Equal for all: one worker thread on the same core, connections to the origin kept and shared, no limit of requests on
//! a connection, the same certificate, the same forwarding headers and request id towards the origin (the bare proxy, which
//! is the engine without our hooks, adds none), the access log off but in the series `logged`.

pub(crate) mod bare;
mod haproxy;
mod nginx;
mod tidegate;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    certificate::Certificate,
    load::{Load, Pace, Protocol},
    options::Series,
    process::Process,
};

/// How long one may take until it answers.
const START: Duration = Duration::from_secs(15);
/// Another process may take the port between our look and the start.
const STARTS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contestant {
    /// No proxy: the client asks the origin itself. It shows what client and origin can do.
    Direct,
    Nginx,
    Haproxy,
    /// A Pingora proxy of a few lines: the engine without Tidegate.
    Bare,
    Tidegate,
    /// Tidegate with `balance = "peak-ewma"`.
    Ewma,
}

/// What a contestant is to do.
pub(crate) struct Setup<'a> {
    /// Its own: configuration, logs.
    pub(crate) folder: &'a Path,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where it forwards to.
    pub(crate) endpoints: &'a [SocketAddr],
    /// Its certificate, where it speaks TLS, and then HTTP/2 too.
    pub(crate) certificate: Option<&'a Certificate>,
    /// What it is for.
    pub(crate) series: Series,
    /// How it chooses an endpoint, where it is Tidegate.
    pub(crate) balance: &'a str,
    pub(crate) core: usize,
}

/// A contestant that answers.
pub(crate) struct Running {
    pub(crate) contestant: Contestant,
    pub(crate) address: SocketAddr,
    process: Option<Process>,
}

impl Running {
    pub(crate) fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }
}

impl Contestant {
    pub(crate) fn takes_part(self, series: Series) -> bool {
        match (self, series) {
            // It speaks neither TLS nor HTTP/2, nor writes a log, nor chooses.
            (Self::Direct, _) => series == Series::Plain,
            // Pingora has neither an access log nor a balancing by requests in flight.
            (
                Self::Bare,
                Series::Logged | Series::Slow | Series::Even | Series::Failures | Series::Overload,
            ) => false,
            // It differs where endpoints do.
            (Self::Ewma, _) => {
                matches!(series, Series::Slow | Series::Even | Series::Failures)
            }
            // The others' TLS libraries, as Debian has them and as Pingora uses it, can't do it.
            (_, Series::Hybrid) => self == Self::Tidegate,
            _ => true,
        }
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(
        self,
        folder: &Path,
        endpoints: &[SocketAddr],
        certificate: Option<&Certificate>,
        series: Series,
        core: usize,
    ) -> Result<Running> {
        if self == Self::Direct {
            let address = *endpoints.first().context("there is no origin")?;
            return Ok(Running { contestant: self, address, process: None });
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let listen = free_address()?;
            let balance = if self == Self::Ewma { "peak-ewma" } else { "least-conn" };
            let setup = Setup { folder, listen, endpoints, certificate, series, balance, core };
            let process = match self {
                Self::Direct => bail!("nothing is started for the direct way"),
                Self::Nginx => nginx::start(&setup),
                Self::Haproxy => haproxy::start(&setup),
                Self::Bare => bare::start(&setup),
                Self::Tidegate | Self::Ewma => tidegate::start(&setup),
            }?;
            let mut running = Running { contestant: self, address: listen, process: Some(process) };
            match running.answers(certificate).await {
                Ok(()) => return Ok(running),
                Err(error) if tries == STARTS => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// The version, for the report.
    pub(crate) fn version(self) -> Result<Option<String>> {
        let said = match self {
            Self::Direct | Self::Ewma => return Ok(None),
            Self::Nginx => said_by(&find("nginx")?, "-v")?.replace("nginx version: ", ""),
            Self::Haproxy => {
                let said = said_by(&find("haproxy")?, "-v")?;
                said.split(" - ").next().unwrap_or_default().to_owned()
            }
            Self::Bare => format!("pingora {}", ::tidegate::telemetry::metrics::PINGORA_VERSION),
            Self::Tidegate => said_by(Path::new(tidegate::PROGRAM), "version")?,
        };
        Ok(Some(said))
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no contestant is hidden");
        f.pad(value.get_name())
    }
}

impl Running {
    /// Waits until a request succeeds.
    async fn answers(&mut self, certificate: Option<&Certificate>) -> Result<()> {
        let protocol = if certificate.is_some() { Protocol::Http1Tls } else { Protocol::Http1 };
        let probe = Load {
            target: self.address,
            protocol,
            trusted: certificate.map(|certificate| certificate.der.clone()),
            pace: Pace::Closed,
            concurrency: 1,
            warm_up: Duration::ZERO,
            window: Duration::from_millis(1),
        };
        let deadline = Instant::now() + START;
        loop {
            let error = match probe.try_one().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let process = self.process.as_mut().context("there is no process")?;
            if Instant::now() > deadline || !process.is_running() {
                let name = self.contestant;
                return Err(error).with_context(|| {
                    format!("{name} does not answer; it printed:\n{}", process.printed())
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A program, also where the user's PATH leaves the servers out.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not installed: run scripts/setup.sh compare"))
}

/// The first line that a program prints, on either stream.
fn said_by(program: &Path, arg: &str) -> Result<String> {
    let output = Command::new(program).arg(arg).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}

/// A loopback address with a port that is free now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
