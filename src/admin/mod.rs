//! The admin listener: liveness, readiness, metrics, status, reload, log level.
//!
//! Not on the request path: it has its own listener and its own task, so that it answers when the data plane is busy.
//! What it shows and does comes from a [`Control`]; this module only speaks HTTP and decides who may ask.
//!
//! Invariants: `/live` and `/ready` are open to everybody. All else needs the token where one is configured, and a
//! loopback host name where none is (DNS rebinding). Nothing is changed by a request from another site's page.

mod access;
mod certificates;
mod experiments;
mod handle;
mod log_level;
mod rollouts;
mod server;
mod status;
mod token;
mod webhooks;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    rollout::{Command, RolloutStatus},
    telemetry::{
        audit::{AdminPeer, Entry},
        logging::Logging,
    },
};

pub use self::{
    server::AdminServer,
    status::{
        CertificateOrigin, CertificateStatus, ConfigurationStatus, EjectionStatus, EndpointStatus,
        ExperimentStatus, ExperimentsStatus, HealthStatus, LimitsStatus, ListenerStatus,
        NameStatus, OverloadStatus, ReloadStatus, RouteStatus, SiteStatus, Status, UpstreamStatus,
        VariantStatus,
    },
    token::{Token, TokenError},
};

/// What the admin listener shows and does.
pub trait Control: Send + Sync + 'static {
    /// Whether traffic should be sent to this edge. Never depends on the health of upstreams.
    fn readiness(&self) -> Readiness;

    /// Everything `tidegate status` shows.
    fn status(&self) -> Status;

    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;

    /// The process's log; `None` where it is not the edge's own.
    fn logging(&self) -> Option<Logging> {
        None
    }

    /// Reads the configuration again and puts it in force if it is right. Runs to its end, also when the client that
    /// asked for it goes away. Calls may overlap.
    fn reload(&self, by: AdminPeer) -> BoxFuture<'_, ReloadOutcome>;

    /// Has the certificate of a site ordered now, without waiting for it.
    fn renew(&self, _site: &str, _by: AdminPeer) -> RenewalOutcome {
        RenewalOutcome::NoSite
    }

    /// How all rollouts are.
    fn rollouts(&self) -> Vec<RolloutStatus> {
        Vec::new()
    }

    /// Asks something of a rollout.
    fn command_rollout(
        &self,
        name: String,
        _command: Command,
        _by: AdminPeer,
    ) -> BoxFuture<'_, RolloutOutcome> {
        Box::pin(async move { RolloutOutcome::Unknown(format!("there is no rollout \"{name}\"")) })
    }

    /// Feature flags and A/B tests.
    fn experiments(&self) -> ExperimentsStatus {
        ExperimentsStatus::default()
    }

    /// Switches an experiment, for the next request on. Runs to its end, also when the client goes away.
    fn switch_experiment(
        &self,
        _name: String,
        _to: ExperimentSwitch,
    ) -> BoxFuture<'_, SwitchOutcome> {
        Box::pin(async { SwitchOutcome::Unknown { near: None } })
    }

    /// Has the account with an ACME authority take a new key.
    ///
    /// # Errors
    /// Why not, in words.
    fn roll_account_key(
        &self,
        _authority: String,
        _by: AdminPeer,
    ) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("there is no such authority".to_owned()) })
    }

    /// Tells a webhook an event of the kind `test`, without waiting for it. `false` where there is no such webhook.
    fn test_webhook(&self, _name: &str, _by: AdminPeer) -> bool {
        false
    }

    /// Writes down what was done by what this does not do itself.
    fn record(&self, _entry: Entry) {}
}

/// What asking something of a rollout came to.
#[derive(Clone, Debug, PartialEq)]
pub enum RolloutOutcome {
    /// It is done; how the rollout is now.
    Done(Box<RolloutStatus>),
    /// There is no such rollout.
    Unknown(String),
    /// It can't be done now, and why.
    Refused(String),
    /// It is in force, and a restart would not know of it.
    NotKept(String),
}

/// What is asked of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExperimentSwitch {
    /// To be on.
    On,
    /// To be off.
    Off,
    /// To be what the configuration says.
    Reset,
}

/// What asking it came to.
#[derive(Clone, Debug, PartialEq)]
pub enum SwitchOutcome {
    /// It is so.
    Switched {
        /// How it is now.
        now: ExperimentStatus,
        /// Why it will not outlive the process, where it will not.
        not_kept: Option<String>,
    },
    /// There is no such experiment.
    Unknown {
        /// Which one may be meant.
        near: Option<String>,
    },
    /// It could not be done.
    Failed,
}

/// What asking for a renewal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalOutcome {
    /// It is ordered.
    Ordered,
    /// The site's certificate is not one that is ordered.
    NotOrdered,
    /// There is no such site with TLS.
    NoSite,
}

/// Whether traffic should be sent to this edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// Not yet.
    #[default]
    Starting,
    /// Yes.
    Ready,
    /// No more.
    Draining,
}

impl Readiness {
    /// The word that `/ready` and the status show.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ReloadOutcome {
    /// A new configuration is in force.
    Taken {
        /// Its number.
        generation: u64,
    },
    /// The files say what is in force already.
    Unchanged {
        /// The number of what is in force.
        generation: u64,
    },
    /// The old configuration stays.
    Refused {
        /// The located problems.
        problems: serde_json::Value,
    },
}

#[cfg(test)]
mod tests;
