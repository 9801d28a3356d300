//! Look-ups: what a name is an alias of, which zone it is in, and which servers that zone has.
//!
//! The server of the updates is asked first where there is one: what it says with authority holds. Else the resolvers of the
//! configuration, or the system's. They are made anew for each use (a few a month), so that a changed `resolv.conf` counts.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::TXT},
};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{DnsError as Negative, NetError, runtime::TokioRuntimeProvider},
};
use tracing::debug;

use super::{
    error::{Action, DnsError, plain},
    exchange::{Connection, ExchangeError},
};

/// CNAMEs that are followed from one name.
const MAX_ALIASES: usize = 8;
/// Servers of one zone that are looked at; zones have at most 13 by custom.
const MAX_SERVERS: usize = 32;
/// One question to one resolver.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(3);

/// Who is asked.
pub(super) struct Names {
    resolver: Result<TokioResolver, NetError>,
}

impl Names {
    /// With these name servers; none are the system's.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        Self { resolver: resolver(servers) }
    }

    /// Where a record of this name goes: the end of its CNAMEs.
    ///
    /// # Errors
    /// [`DnsError::Aliases`] when there are too many; [`DnsError::Exchange`] when the server of the updates does not answer. A
    /// resolver that finds nothing ends the chain: whether the record is seen at the right place is checked later.
    pub(super) async fn follow(
        &self,
        mut primary: Option<&mut Connection>,
        name: &Name,
    ) -> Result<Name, DnsError> {
        let mut current = name.clone();
        for _ in 0..=MAX_ALIASES {
            match self.alias(primary.as_deref_mut(), &current).await? {
                Some(next) => current = next,
                None => return Ok(current),
            }
        }
        Err(DnsError::Aliases(plain(name)))
    }

    async fn alias(
        &self,
        primary: Option<&mut Connection>,
        name: &Name,
    ) -> Result<Option<Name>, DnsError> {
        let alias = |records: &[Record]| {
            records.iter().find(|record| record.name == *name).and_then(|record| {
                match &record.data {
                    RData::CNAME(target) => Some(target.0.clone()),
                    _ => None,
                }
            })
        };
        if let Some(connection) = primary {
            let server = connection.server();
            let answer = connection.ask(name, RecordType::CNAME).await.map_err(|source| {
                DnsError::Exchange {
                    server,
                    action: Box::new(Action::FindAlias(plain(name))),
                    source: Box::new(source),
                }
            })?;
            if has_authority(&answer) {
                return Ok(alias(&answer.answers));
            }
        }
        Ok(alias(&self.records(name, RecordType::CNAME).await))
    }

    /// The records that the resolvers have; none when they fail.
    async fn records(&self, name: &Name, kind: RecordType) -> Vec<Record> {
        match self.look_up(name, kind).await {
            Ok(records) => records,
            Err(error) => {
                debug!(%name, %kind, %error, "a look-up for a challenge record found nothing");
                Vec::new()
            }
        }
    }

    async fn look_up(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, NetError> {
        let resolver = self.resolver.as_ref().map_err(NetError::clone)?;
        Ok(resolver.lookup(name.clone(), kind).await?.answers().to_vec())
    }

    /// The zone that a name is in, as the resolvers have it.
    pub(super) async fn zone(&self, name: &Name) -> Option<Name> {
        let resolver = self.resolver.as_ref().ok()?;
        let zone = match resolver.lookup(name.clone(), RecordType::SOA).await {
            Ok(answer) => soa_owner(answer.answers()).or_else(|| soa_owner(answer.authorities())),
            Err(NetError::Dns(Negative::NoRecordsFound(nothing))) => {
                nothing.soa.map(|soa| soa.name.clone())
            }
            Err(error) => {
                debug!(%name, %error, "the zone of a challenge record was not found");
                None
            }
        };
        zone.filter(|zone| zone.zone_of(name))
    }

    /// The addresses of the servers that a zone names as its own, at port 53.
    pub(super) async fn zone_servers(
        &self,
        mut primary: Option<&mut Connection>,
        zone: &Name,
    ) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for record in self.ask(primary.as_deref_mut(), zone, RecordType::NS).await {
            let RData::NS(server) = record.data else { continue };
            for kind in [RecordType::A, RecordType::AAAA] {
                for record in self.ask(primary.as_deref_mut(), &server.0, kind).await {
                    let address = match record.data {
                        RData::A(ip) => IpAddr::V4(ip.0),
                        RData::AAAA(ip) => IpAddr::V6(ip.0),
                        _ => continue,
                    };
                    let address = SocketAddr::new(address, 53);
                    if addresses.len() < MAX_SERVERS && !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
            if addresses.len() >= MAX_SERVERS {
                break;
            }
        }
        addresses
    }

    /// The primary's records where it has authority, else those of the resolvers.
    async fn ask(
        &self,
        primary: Option<&mut Connection>,
        name: &Name,
        kind: RecordType,
    ) -> Vec<Record> {
        if let Some(connection) = primary
            && let Ok(answer) = connection.ask(name, kind).await
            && has_authority(&answer)
        {
            return answer.answers;
        }
        self.records(name, kind).await
    }

    /// Whether the resolvers find this value.
    pub(super) async fn finds(&self, name: &Name, value: &str) -> Result<bool, NetError> {
        match self.look_up(name, RecordType::TXT).await {
            Ok(records) => Ok(has_value(&records, name, value)),
            Err(NetError::Dns(Negative::NoRecordsFound(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The zone that a name is in, as its primary has it: the labels are climbed until the server has authority.
pub(super) async fn zone_at(connection: &mut Connection, name: &Name) -> Result<Name, DnsError> {
    let server = connection.server();
    let mut candidate = name.clone();
    while !candidate.is_root() {
        let answer = connection.ask(&candidate, RecordType::SOA).await.map_err(|source| {
            DnsError::Exchange {
                server,
                action: Box::new(Action::FindZone(plain(name))),
                source: Box::new(source),
            }
        })?;
        if has_authority(&answer)
            && let Some(zone) =
                soa_owner(&answer.answers).or_else(|| soa_owner(&answer.authorities))
            && zone.zone_of(name)
        {
            return Ok(zone);
        }
        candidate = candidate.base_name();
    }
    Err(DnsError::NoZone { server, name: plain(name) })
}

/// Whether one server has this value; with `authority`, whether it knows by itself.
pub(super) async fn server_has(
    server: SocketAddr,
    authority: bool,
    name: &Name,
    value: &str,
    timeout: Duration,
) -> Result<bool, NoView> {
    let mut connection = Connection::open(server, timeout).await?;
    let answer = connection.ask(name, RecordType::TXT).await?;
    let code = answer.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(NoView::Code(code));
    }
    if authority && !answer.metadata.authoritative {
        return Err(NoView::NoAuthority);
    }
    Ok(has_value(&answer.answers, name, value))
}

/// Why a server does not say whether it has a record.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoView {
    #[error("{}", crate::tls::with_sources(.0))]
    Exchange(#[from] ExchangeError),
    #[error("answers {0}")]
    Code(ResponseCode),
    #[error("is not authoritative")]
    NoAuthority,
}

fn has_authority(answer: &Message) -> bool {
    answer.metadata.authoritative
        && matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn soa_owner(records: &[Record]) -> Option<Name> {
    records
        .iter()
        .find(|record| record.record_type() == RecordType::SOA)
        .map(|record| record.name.clone())
}

/// Whether one of the TXT records of a name is this text, in one string or several.
fn has_value(records: &[Record], name: &Name, value: &str) -> bool {
    let is_it = |text: &TXT| text.txt_data.concat() == value.as_bytes();
    records.iter().any(|record| {
        record.name == *name && matches!(&record.data, RData::TXT(text) if is_it(text))
    })
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let server = |address: &SocketAddr| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        };
        let servers = servers.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = RESOLVER_TIMEOUT;
    builder.build()
}
