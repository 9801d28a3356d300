//! `fallback` of a route: what is done where its upstream has no answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{config::RespondConfig, raw::RawRespond};
use crate::types::{KeyPath, Name, Problems};

/// `fallback`, as written: one of its keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawFallback {
    /// Another upstream, by name. It has its own tries and timeouts, and no fallback after it.
    pub upstream: Option<Name>,
    /// An answer given here.
    pub respond: Option<RawRespond>,
}

/// What is done where the upstream has no answer.
#[derive(Clone, Debug)]
pub enum FallbackConfig {
    /// The request goes to another upstream.
    Upstream(Name),
    /// An answer from here.
    Respond(RespondConfig),
}

impl RawFallback {
    /// Parses it for a route; `target` is the upstream that it has by itself.
    pub(super) fn parse(
        &self,
        target: Option<&Name>,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<FallbackConfig> {
        match (&self.upstream, &self.respond) {
            (Some(_), Some(_)) => {
                problems
                    .error(&path.key("respond"), "the fallback has both `upstream` and `respond`")
                    .at_key()
                    .help("keep one of them: there is no fallback of a fallback")
                    .related(path.key("upstream"), "and here");
                None
            }
            (None, None) => {
                problems
                    .error(path, "the fallback says nothing")
                    .help("add `upstream = \"…\"`, or `respond = { status = 503 }`");
                None
            }
            (Some(name), None) if Some(name) == target => {
                problems
                    .error(
                        &path.key("upstream"),
                        format!("\"{name}\" is the route's own upstream, which has failed then"),
                    )
                    .help("name another one, or use `respond`");
                None
            }
            (Some(name), None) => Some(FallbackConfig::Upstream(name.clone())),
            (None, Some(respond)) => {
                respond.parse(&path.key("respond"), problems).map(FallbackConfig::Respond)
            }
        }
    }
}
