//! `[dns]`: how host names of endpoints are resolved; as written, and parsed.

use std::{net::SocketAddr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{HumanDuration, KeyPath, NameServer, Problems, defaults};

/// `[dns]`: how host names of endpoints are resolved.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawDns {
    /// Name servers: `"10.0.0.2"`, or with a port `"127.0.0.1:5353"`. Default: the system's, with its search list and `/etc/hosts`.
    pub servers: Option<Vec<NameServer>>,
    /// One question to one server; each is asked twice at most.
    #[schemars(extend("default" = defaults::DNS_TIMEOUT.to_string()))]
    pub timeout: Option<HumanDuration>,
    /// A name is looked up again when its time to live is over, and not before this.
    #[schemars(extend("default" = defaults::DNS_MIN_TTL.to_string()))]
    pub min_ttl: Option<HumanDuration>,
    /// And at the latest after this.
    #[schemars(extend("default" = defaults::DNS_MAX_TTL.to_string()))]
    pub max_ttl: Option<HumanDuration>,
    /// How long the last answer is used while look-ups fail or find nothing.
    #[schemars(extend("default" = defaults::DNS_KEEP.to_string()))]
    pub keep: Option<HumanDuration>,
}

/// `[dns]`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers; none are the system's.
    pub servers: Vec<SocketAddr>,
    /// One question to one server.
    pub timeout: Duration,
    /// Not before this.
    pub min_ttl: Duration,
    /// And at the latest after this.
    pub max_ttl: Duration,
    /// How long the last answer is used.
    pub keep: Duration,
}

impl RawDns {
    /// Fills in the defaults; `path` is where problems point to.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> DnsConfig {
        if self.servers.as_ref().is_some_and(Vec::is_empty) {
            problems
                .error(&path.key("servers"), "the list of name servers is empty")
                .help("leave it out for the system's");
        }
        let timeout = self.timeout.unwrap_or(defaults::DNS_TIMEOUT);
        if timeout.0.is_zero() {
            problems.error(&path.key("timeout"), "a timeout of zero fails every look-up");
        }
        let min_ttl = self.min_ttl.unwrap_or(defaults::DNS_MIN_TTL);
        let max_ttl = self.max_ttl.unwrap_or(defaults::DNS_MAX_TTL.max(min_ttl));
        if min_ttl.0 < Duration::from_millis(100) {
            problems.error(
                &path.key("min_ttl"),
                format!("look-ups every {min_ttl} are too many; at least 100ms"),
            );
        }
        if max_ttl < min_ttl {
            problems.error(
                &path.key("max_ttl"),
                format!("{max_ttl} is shorter than `min_ttl`, which is {min_ttl}"),
            );
        }
        let servers = self.servers.iter().flatten().map(|server| server.0).collect();
        let keep = self.keep.unwrap_or(defaults::DNS_KEEP).0;
        DnsConfig { servers, timeout: timeout.0, min_ttl: min_ttl.0, max_ttl: max_ttl.0, keep }
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        RawDns::default().parse(&KeyPath::root(), &mut Problems::new())
    }
}
