//! `server.overload`: as written, and what it comes to on this machine.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OverloadConfig, memory};
use crate::types::{KeyPath, MemoryLimit, Problems, defaults};

/// `server.overload`: what the whole edge can take. Over it, requests get 503 before anything is done for them, by the
/// `criticality` of their routes: `low` from 80 % of a limit on, `normal` from 90 %, `high` from 95 %, `critical` at the
/// limit itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawOverload {
    /// Requests in flight on all routes, those included that wait; long streams count until their head. Default: no limit.
    pub max_requests: Option<NonZeroU32>,
    /// Resident memory: `"2GiB"`, `"90%"` of what the control group may use (no limit where that has none), or `"off"`.
    #[schemars(extend("default" = defaults::OVERLOAD_MEMORY.to_string()))]
    pub max_memory: Option<MemoryLimit>,
}

/// `server.overload`, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadSettings {
    max_requests: Option<u32>,
    max_memory: MemoryLimit,
}

impl RawOverload {
    /// Fills in the defaults.
    pub fn parse(self, path: &KeyPath, problems: &mut Problems) -> OverloadSettings {
        let max_memory = self.max_memory.unwrap_or(MemoryLimit::Share(defaults::OVERLOAD_MEMORY));
        let is_nothing = match max_memory {
            MemoryLimit::Off => false,
            MemoryLimit::Share(share) => share.millionths() == 0,
            MemoryLimit::Size(size) => size.0 == 0,
        };
        if is_nothing {
            problems
                .error(&path.key("max_memory"), "without memory nobody is served")
                .help("write \"off\" for no limit");
        }
        OverloadSettings { max_requests: self.max_requests.map(NonZeroU32::get), max_memory }
    }
}

impl OverloadSettings {
    /// What they come to here. Reads the control group's limit.
    pub fn resolve(self) -> OverloadConfig {
        let max_memory = match self.max_memory {
            MemoryLimit::Off => None,
            MemoryLimit::Size(size) => Some(size.0),
            MemoryLimit::Share(share) => memory::allowed().map(|allowed| {
                (u128::from(allowed) * u128::from(share.millionths()) / 1_000_000) as u64
            }),
        };
        OverloadConfig { max_requests: self.max_requests, max_memory }
    }
}
