//! `[audit_log]`: as written, and parsed.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{KeyPath, Problems};

/// `[audit_log]`: who changed what on the running edge.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAuditLog {
    /// The file that entries are appended to, one JSON object a line; it is made with mode 0600. Default: they go to the edge's own log, with
    /// the target `audit`.
    pub path: Option<PathBuf>,
}

/// `[audit_log]`, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLogConfig {
    /// The file; `None` is the edge's own log.
    pub path: Option<PathBuf>,
}

impl RawAuditLog {
    /// Takes the path as it is.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> AuditLogConfig {
        if self.path.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
            problems
                .error(&path.key("path"), "an empty path is no file")
                .help("leave it out, and entries go to the edge's own log");
        }
        AuditLogConfig { path: self.path.clone() }
    }
}
