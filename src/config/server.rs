//! `[server]`, `[reload]`, `[admin]`: as written, and parsed.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    limit::{OverloadSettings, RawOverload},
    types::{Cidr, HumanDuration, KeyPath, ListenAddress, Name, Problems, SecretSource, defaults},
};

/// `[server]`: the process.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawServer {
    /// Where certificates, the last good configuration and other state are kept. Not changed by a reload.
    #[schemars(extend("default" = defaults::STATE_DIR))]
    pub state_dir: Option<PathBuf>,
    /// What replicas have in common, at least 16 bytes: their sticky cookies are the same with it. Taken anew at each reload. Without it a
    /// secret of this edge's own is made once and kept in the state directory.
    pub shared_secret: Option<SecretSource>,
    /// Threads of the data plane. Not changed by a reload.
    #[schemars(extend("default" = "the number of cores"))]
    pub threads: Option<NonZeroU32>,
    /// `shared`: one work-stealing runtime. `per-core`: one single-threaded runtime a thread, each with its own socket (`SO_REUSEPORT`). Not changed by a reload.
    #[schemars(extend("default" = "shared"))]
    pub workers: Option<WorkerLayout>,
    /// Where the edge stands: endpoints of this `zone` are preferred.
    pub zone: Option<Name>,
    /// Whose `X-Forwarded-*` and `Forwarded` headers are believed, and on listeners with
    /// `proxy_protocol = true` whose PROXY headers: networks of the proxies in front of the edge.
    pub trusted_proxies: Vec<Cidr>,
    /// The port of https in redirects, for published ports.
    #[schemars(extend("default" = defaults::HTTPS_PORT))]
    pub https_port: Option<u16>,
    /// What repeated slashes in a path mean: `merge` or `keep`.
    #[schemars(extend("default" = "merge"))]
    pub slashes: Option<crate::route::normalise::Slashes>,
    /// The end after SIGTERM: all of it.
    #[schemars(extend("default" = defaults::DRAIN.to_string()))]
    pub drain: Option<HumanDuration>,
    /// Its first part, in which new connections are still taken while `/ready` says 503.
    #[schemars(extend("default" = defaults::LAME_DUCK.to_string()))]
    pub lame_duck: Option<HumanDuration>,
    /// What the whole edge can take before it refuses requests.
    pub overload: RawOverload,
}

/// How workers are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerLayout {
    /// One work-stealing runtime.
    #[default]
    Shared,
    /// One single-threaded runtime a thread.
    PerCore,
}

/// `[reload]`: how changed files are taken.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawReload {
    /// Watch the files. SIGHUP and the API reload in any case.
    #[schemars(extend("default" = true))]
    pub watch: Option<bool>,
    /// How long new endpoints are probed before the new configuration is in force.
    #[schemars(extend("default" = defaults::WARM_UP.to_string()))]
    pub warm_up: Option<HumanDuration>,
}

/// `[admin]`: the listener for status, metrics and control.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAdmin {
    /// Where it is bound. On any other address than loopback it needs `token`. Not changed by a reload.
    #[schemars(extend("default" = defaults::ADMIN_ADDRESS))]
    pub address: Option<ListenAddress>,
    /// Run it at all. Not changed by a reload.
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// The bearer token that requests must carry (`/live` and `/ready` excepted).
    pub token: Option<SecretSource>,
}

/// `[server]`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Where the secret of all replicas is read from.
    pub shared_secret: Option<SecretSource>,
    /// Threads of the data plane; `None` is the number of cores.
    pub threads: Option<u32>,
    /// How workers are laid out.
    pub workers: WorkerLayout,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// The port in redirects to https.
    pub https_port: u16,
    /// What repeated slashes mean.
    pub slashes: crate::route::normalise::Slashes,
    /// The end, all of it.
    pub drain: Duration,
    /// Its first part.
    pub lame_duck: Duration,
    /// What the edge can take.
    pub overload: OverloadSettings,
}

/// `[reload]`, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadConfig {
    /// Watch the files.
    pub watch: bool,
    /// How long new endpoints are probed first.
    pub warm_up: Duration,
}

/// `[admin]`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it is bound; `None` is not at all.
    pub address: Option<ListenAddress>,
    /// The bearer token.
    pub token: Option<SecretSource>,
}

impl RawServer {
    /// Fills in the defaults.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> ServerConfig {
        let drain = self.drain.unwrap_or(defaults::DRAIN);
        let lame_duck = self.lame_duck.unwrap_or_else(|| defaults::LAME_DUCK.min(drain));
        if lame_duck > drain {
            problems
                .error(
                    &path.key("lame_duck"),
                    format!("the lame duck time is part of the drain, which is {drain}"),
                )
                .help("make `drain` longer, or this shorter");
        }
        let from_systemd = || std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        ServerConfig {
            state_dir: self
                .state_dir
                .clone()
                .or_else(from_systemd)
                .unwrap_or_else(|| defaults::STATE_DIR.into()),
            shared_secret: self.shared_secret.clone(),
            threads: self.threads.map(NonZeroU32::get),
            workers: self.workers.unwrap_or_default(),
            trusted_proxies: self.trusted_proxies.clone(),
            https_port: self.https_port.unwrap_or(defaults::HTTPS_PORT),
            slashes: self.slashes.unwrap_or_default(),
            drain: drain.0,
            lame_duck: lame_duck.0,
            overload: self.overload.parse(&path.key("overload"), problems),
        }
    }
}

impl RawReload {
    /// Fills in the defaults.
    pub fn parse(&self) -> ReloadConfig {
        ReloadConfig {
            watch: self.watch.unwrap_or(true),
            warm_up: self.warm_up.unwrap_or(defaults::WARM_UP).0,
        }
    }
}

impl RawAdmin {
    /// Fills in the defaults. An address that is not loopback needs a token.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> AdminConfig {
        if self.enabled == Some(false) {
            return AdminConfig { address: None, token: None };
        }
        let address = self.address.clone().or_else(|| defaults::ADMIN_ADDRESS.parse().ok());
        let is_local = match &address {
            Some(ListenAddress::Tcp(address)) => address.ip().is_loopback(),
            Some(ListenAddress::Unix(_)) | None => true,
        };
        if !is_local && self.token.is_none() {
            problems
                .error(&path.key("address"), "an admin listener that others can reach needs a token")
                .help("add `token = { file = \"/run/secrets/tidegate_admin\" }`, or bind it to 127.0.0.1");
        }
        AdminConfig { address, token: self.token.clone() }
    }
}
