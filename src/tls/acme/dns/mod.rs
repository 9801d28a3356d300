//! Challenge records (dns-01, RFC 8555, section 8.4): put into DNS, seen there, and taken away again.
//!
//! By dynamic update or by a program (`[acme.dns]`). A name that is a CNAME is followed, so that a zone of the edge's own can
//! hold the records of all. Orders call [`DnsWriter`]; what goes into a record and when is theirs. Not on the request path.
//! Everything here ends within a time of the configuration, and dropping a future leaves no process and no connection.

mod command;
mod config;
mod error;
mod exchange;
mod names;
mod update;
mod visible;

use hickory_proto::rr::Name;
use tokio::sync::Semaphore;
use tracing::debug;

pub use config::{AcmeDnsConfig, RawAcmeDns, RawDnsUpdate, TsigHash};
pub use error::{Action, DnsError, SignatureProblem};
pub use exchange::ExchangeError;

use config::Method;
use names::Names;
use update::Change;
use visible::Viewers;

/// The longest string of a TXT record (RFC 1035, section 3.3).
const MAX_VALUE: usize = 255;

/// Puts challenge records into DNS and takes them away.
#[derive(Debug)]
pub struct DnsWriter {
    config: AcmeDnsConfig,
    /// One run of the command at a time: the tools of providers read the records, change them, and write them back.
    runs: Semaphore,
}

impl DnsWriter {
    /// Nothing is opened yet.
    pub fn new(config: AcmeDnsConfig) -> Self {
        Self { config, runs: Semaphore::new(1) }
    }

    /// Adds a TXT record `name` (`_acme-challenge.example.com`) with `value` beside what is there, and returns once the zone's
    /// servers answer with it.
    ///
    /// # Errors
    /// [`DnsError`]. The record may be there all the same, above all after [`DnsError::NotVisible`] and a timeout: clean it up.
    pub async fn present(&self, name: &str, value: &str) -> Result<(), DnsError> {
        let wanted = record_name(name, value)?;
        let names = Names::new(&self.config.servers);
        let within = self.config.propagation_timeout;
        let (name, viewers) = match &self.config.method {
            Method::Update(update) => {
                let record = (&wanted, value);
                let mut written =
                    update::apply(update, self.config.timeout, &names, record, Change::Add).await?;
                debug!(name = %written.name, zone = %written.zone, "a challenge record is written");
                if within.is_zero() {
                    return Ok(());
                }
                let mut servers = vec![update.server];
                if self.config.servers.is_empty() {
                    let zone = names.zone_servers(Some(&mut written.primary), &written.zone).await;
                    servers.extend(zone.iter().filter(|server| server.ip() != update.server.ip()));
                }
                (written.name, Viewers { servers, with_authority: true, or_resolvers: false })
            }
            Method::Command(command) => {
                let name = names.follow(None, &wanted).await?;
                self.run(command, (&name, value), Change::Add).await?;
                if within.is_zero() {
                    return Ok(());
                }
                let servers = match names.zone(&name).await {
                    Some(zone) if self.config.servers.is_empty() => {
                        names.zone_servers(None, &zone).await
                    }
                    _ => Vec::new(),
                };
                (name, Viewers { servers, with_authority: true, or_resolvers: true })
            }
        };
        let viewers = if self.config.servers.is_empty() {
            viewers
        } else {
            let servers = self.config.servers.clone();
            Viewers { servers, with_authority: false, or_resolvers: false }
        };
        visible::wait(&viewers, &names, (&name, value), within).await
    }

    /// Takes exactly that record away. Others of the same name stay: a name and its wildcard have two values at once.
    ///
    /// # Errors
    /// [`DnsError`]. A record that is not there is none by dynamic update; by a command that is the program's to say.
    pub async fn clean_up(&self, name: &str, value: &str) -> Result<(), DnsError> {
        let wanted = record_name(name, value)?;
        let names = Names::new(&self.config.servers);
        match &self.config.method {
            Method::Update(update) => {
                let record = (&wanted, value);
                update::apply(update, self.config.timeout, &names, record, Change::Remove)
                    .await
                    .map(drop)
            }
            Method::Command(command) => {
                let name = names.follow(None, &wanted).await?;
                self.run(command, (&name, value), Change::Remove).await
            }
        }
    }

    async fn run(
        &self,
        command: &config::DnsCommand,
        (name, value): (&Name, &str),
        change: Change,
    ) -> Result<(), DnsError> {
        // Never closed; if it were, runs would only not wait for each other.
        let _turn = self.runs.acquire().await;
        let name = error::plain(name);
        command::run(command, self.config.timeout, (&name, value), change).await
    }
}

fn record_name(name: &str, value: &str) -> Result<Name, DnsError> {
    if value.is_empty() || value.len() > MAX_VALUE {
        return Err(DnsError::Value(value.len()));
    }
    config::name(name).ok_or_else(|| DnsError::Name(name.to_owned()))
}
