//! `[log]` and `[access_log]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access_log::{AccessLogField, RawSample, SampleConfig};
use crate::types::{KeyPath, Problems};

/// `[log]`: the edge's own messages, on standard error.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawLog {
    /// How much is said: `error`, `warn`, `info`, `debug` or `trace`, which also shows what libraries say, whole heads of requests with their cookies among it. The `--log-level` option and `RUST_LOG` go before it; `PUT /v1/log/level` changes it for a while.
    #[schemars(extend("default" = "info"))]
    pub level: Option<LogLevel>,
    /// `text` for people, `json` for machines.
    #[schemars(extend("default" = "text"))]
    pub format: Option<LogFormat>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Act now.
    Error,
    /// Degraded.
    Warn,
    /// Life cycle.
    #[default]
    Info,
    /// Per request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word that stands for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[access_log]`: one line a request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAccessLog {
    /// Write it at all.
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// `json` (one object a line) or `combined` (the text form that nginx and Apache write).
    #[schemars(extend("default" = "json"))]
    pub format: Option<AccessLogFormat>,
    /// `"stdout"`, or the path of a file that lines are appended to.
    #[schemars(extend("default" = "stdout"))]
    pub output: Option<String>,
    /// What a line in JSON holds, in this order. Default: everything.
    pub fields: Option<Vec<AccessLogField>>,
    /// Which requests get a line. Default: all.
    pub sample: Option<RawSample>,
    /// Request headers to write, by name; those in `mask_headers` are written as `***`.
    #[schemars(extend("default" = ["user-agent", "referer"]))]
    pub headers: Option<Vec<String>>,
    /// Request headers whose value is never written. `authorization`, `proxy-authorization`, `cookie` and `set-cookie` always are among them.
    pub mask_headers: Vec<String>,
    /// Query parameters whose value is written as `***`.
    #[schemars(extend("default" = ["access_token", "token", "api_key", "key", "password", "secret", "code"]))]
    pub mask_query: Option<Vec<String>>,
}

/// The form of an access log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Apache's combined form.
    Combined,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AccessLogOutput {
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// The access log, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// Write it at all.
    pub enabled: bool,
    /// The form of a line.
    pub format: AccessLogFormat,
    /// Where lines go.
    pub output: AccessLogOutput,
    /// What a line in JSON holds, in this order.
    pub fields: Vec<AccessLogField>,
    /// Which requests get a line; `None` is all.
    pub sample: Option<SampleConfig>,
    /// Request headers to write (lower case).
    pub headers: Vec<String>,
    /// Request headers whose value is never written (lower case).
    pub mask_headers: Vec<String>,
    /// Query parameters whose value is never written (lower case).
    pub mask_query: Vec<String>,
}

const ALWAYS_MASKED: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
const MASKED_QUERY: [&str; 7] =
    ["access_token", "token", "api_key", "key", "password", "secret", "code"];

impl RawAccessLog {
    /// Fills in the defaults; `path` is where problems point to.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> AccessLogConfig {
        let lower =
            |list: &[String]| list.iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>();
        let mut mask_headers = lower(&self.mask_headers);
        mask_headers.extend(ALWAYS_MASKED.map(str::to_owned));
        AccessLogConfig {
            enabled: self.enabled.unwrap_or(true),
            format: self.format.unwrap_or_default(),
            output: match self.output.as_deref() {
                None | Some("stdout") => AccessLogOutput::Stdout,
                Some(path) => AccessLogOutput::File(path.into()),
            },
            fields: self.parse_fields(&path.key("fields"), problems),
            sample: self.sample.as_ref().map(|sample| sample.parse(&path.key("sample"), problems)),
            headers: self
                .headers
                .as_deref()
                .map_or_else(|| vec!["user-agent".into(), "referer".into()], lower),
            mask_headers,
            mask_query: self
                .mask_query
                .as_deref()
                .map_or_else(|| MASKED_QUERY.map(str::to_owned).into(), lower),
        }
    }

    fn parse_fields(&self, path: &KeyPath, problems: &mut Problems) -> Vec<AccessLogField> {
        let Some(fields) = &self.fields else { return AccessLogField::ALL.to_vec() };
        if self.format == Some(AccessLogFormat::Combined) {
            problems
                .error(path, "the combined form has fields of its own, so `fields` has no effect")
                .at_key()
                .help("leave it out, or write `format = \"json\"`");
        }
        if fields.is_empty() {
            problems
                .error(path, "a line without fields says nothing")
                .help("name some, or write `enabled = false`");
        }
        for (index, field) in fields.iter().enumerate() {
            let first = fields.iter().take(index).position(|other| other == field);
            if let Some(first) = first {
                problems
                    .error(&path.index(index), format!("\"{}\" stands here twice", field.name()))
                    .related(path.index(first), "first here");
            }
        }
        fields.clone()
    }
}
