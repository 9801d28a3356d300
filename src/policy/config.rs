//! `[policies.<name>]`: a bundle of one or more kinds of policy.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    concurrency::{ConcurrencyConfig, RawConcurrency},
    experiment::{ExperimentConfig, RawExperiment},
    fault::{FaultConfig, RawFault},
    headers::{HeadersConfig, RawHeaders},
};
use crate::types::{KeyPath, Name, Problems};

/// `[policies.<name>]`, one table a kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawPolicy {
    /// Delays, aborts or slows some requests on purpose, until a stated time.
    pub fault: Option<RawFault>,
    /// Limits how many requests there are at once, of a route or of each client.
    pub concurrency: Option<RawConcurrency>,
    /// Feature flags and A/B tests: tells endpoints which variant a client sees.
    pub experiment: Option<RawExperiment>,
    /// Sets, adds and removes headers.
    pub headers: Option<RawHeaders>,
}

/// Kinds that the design names and this version does not have. They are refused: a policy that does nothing would let everybody in.
pub const PLANNED_KINDS: [&str; 11] = [
    "ip_filter",
    "request_limits",
    "cors",
    "rate_limit",
    "client_certificate",
    "jwt",
    "api_key",
    "basic_auth",
    "oidc",
    "forward_auth",
    "authorize",
];

/// A bundle, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Its name.
    pub name: Name,
    /// Faults on purpose.
    pub fault: Option<FaultConfig>,
    /// Limits how many requests there are at once.
    pub concurrency: Option<ConcurrencyConfig>,
    /// A feature flag or A/B test.
    pub experiment: Option<Arc<ExperimentConfig>>,
    /// Sets, adds and removes headers.
    pub headers: Option<HeadersConfig>,
}

impl RawPolicy {
    /// Parses every kind of the bundle.
    pub fn parse(&self, name: &Name, path: &KeyPath, problems: &mut Problems) -> PolicyConfig {
        if self.fault.is_none()
            && self.concurrency.is_none()
            && self.experiment.is_none()
            && self.headers.is_none()
        {
            problems
                .error(path, "the policy does nothing")
                .help("add a kind, such as `headers = { preset = \"strict\" }`");
        }
        PolicyConfig {
            name: name.clone(),
            fault: self.fault.as_ref().and_then(|raw| raw.parse(&path.key("fault"), problems)),
            concurrency: self
                .concurrency
                .as_ref()
                .map(|raw| raw.parse(&path.key("concurrency"), problems)),
            experiment: self
                .experiment
                .as_ref()
                .and_then(|raw| raw.parse(&path.key("experiment"), problems))
                .map(Arc::new),
            headers: self.headers.as_ref().map(|raw| raw.parse(&path.key("headers"), problems)),
        }
    }
}
