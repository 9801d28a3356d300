//! `mirror = { … }` of a rollout: what is copied, and how answers are compared.

use std::time::Duration;

use http::{HeaderName, Method};

use super::raw::{RawBodyComparison, RawBodyWord, RawCompare, RawMirror};
use crate::{
    rollout::{
        plan::{Canary, Step},
        steps,
    },
    types::{ByteSize, KeyPath, Problems, defaults},
};

/// The most copies in flight.
const MOST_IN_FLIGHT: u32 = 1_024;
/// The largest body that is copied or compared.
const LARGEST_BODY: ByteSize = ByteSize(1 << 20);
/// The most pointers to ignore.
const MOST_IGNORED: usize = 64;

/// Copies of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// The stage: the share of the requests that are copied, how long, and how many pairs of answers are compared at least.
    pub stage: Step,
    /// Methods of requests that are copied.
    pub methods: Vec<Method>,
    /// Larger request bodies are not copied.
    pub max_body_bytes: usize,
    /// Copies at the same time.
    pub max_in_flight: usize,
    /// A copy must be answered by then.
    pub timeout: Duration,
    /// How answers are compared.
    pub compare: Compare,
    /// What comes after it.
    pub canary: Option<Canary>,
}

/// How answers are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Whether their statuses must be equal.
    pub status: bool,
    /// Headers that must be equal.
    pub headers: Vec<HeaderName>,
    /// How their bodies are compared.
    pub body: BodyComparison,
    /// What is not looked at in JSON.
    pub ignore: Vec<Pointer>,
    /// So much of a body is compared.
    pub max_body_bytes: usize,
}

/// How bodies are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyComparison {
    /// Not at all.
    None,
    /// As JSON; what is none byte by byte.
    Json,
    /// By a hash.
    Hash,
}

/// A JSON pointer (RFC 6901) taken apart, in which `*` is any key or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(pub(super) Vec<String>);

impl Pointer {
    /// Reads `/items/*/id`; the empty text is the whole document.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let rest = text.strip_prefix('/')?;
        // In this order (RFC 6901, section 4).
        let part = |part: &str| part.replace("~1", "/").replace("~0", "~");
        Some(Self(rest.split('/').map(part).collect()))
    }
}

impl RawMirror {
    pub(in crate::rollout) fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Mirror {
        let share = self.share.unwrap_or(defaults::MIRROR_SHARE);
        if share.millionths() == 0 {
            problems.error(&path.key("share"), "nothing would be copied");
        }
        let duration = self.duration.unwrap_or(defaults::MIRROR_DURATION).0;
        let requests = self.requests.unwrap_or(defaults::MIRROR_REQUESTS);
        let max_in_flight = self.max_in_flight.map_or(defaults::MIRROR_IN_FLIGHT, Into::into);
        if max_in_flight > MOST_IN_FLIGHT {
            problems.error(
                &path.key("max_in_flight"),
                format!("more than {MOST_IN_FLIGHT} copies at a time are too many"),
            );
        }
        let timeout = self.timeout.unwrap_or(defaults::MIRROR_TIMEOUT).0;
        if timeout.is_zero() {
            problems.error(&path.key("timeout"), "nothing answers within that");
        }
        let at = path.key("methods");
        let methods = match &self.methods {
            None => vec![Method::GET, Method::HEAD, Method::OPTIONS],
            Some(written) => {
                if written.is_empty() {
                    problems.error(&at, "nothing would be copied");
                }
                let parse = |(i, method): (usize, &String)| {
                    let parsed = Method::from_bytes(method.as_bytes()).ok();
                    let parsed = parsed.filter(|parsed| *parsed != Method::CONNECT);
                    if parsed.is_none() {
                        let problem = format!("\"{method}\" is not a method that can be copied");
                        problems.error(&at.index(i), problem);
                    }
                    parsed
                };
                written.iter().enumerate().filter_map(parse).collect()
            }
        };
        let compare = self.compare.clone().unwrap_or_default();
        let canary = self.canary.as_ref().map(|canary| Canary {
            steps: steps::parse(
                canary.steps.as_deref(),
                &path.key("canary").key("steps"),
                problems,
            ),
            finish: canary.finish.unwrap_or_default(),
        });
        Mirror {
            stage: Step { share, duration, requests, pause: false },
            methods,
            max_body_bytes: size(
                self.max_body.unwrap_or(defaults::MIRROR_BODY),
                &path.key("max_body"),
                problems,
            ),
            max_in_flight: max_in_flight as usize,
            timeout,
            compare: compare.parse(&path.key("compare"), problems),
            canary,
        }
    }
}

impl RawCompare {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Compare {
        let at = path.key("headers");
        let headers = match &self.headers {
            None => vec![http::header::CONTENT_TYPE],
            Some(written) => {
                let parse = |(i, name): (usize, &String)| {
                    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
                    if parsed.is_none() {
                        problems.error(&at.index(i), format!("\"{name}\" is not a header name"));
                    }
                    parsed
                };
                written.iter().enumerate().filter_map(parse).collect()
            }
        };
        let body = match self.body {
            None | Some(RawBodyComparison::Switch(false)) => BodyComparison::None,
            Some(RawBodyComparison::Switch(true)) => {
                problems
                    .error(&path.key("body"), "how are bodies to be compared?")
                    .help("write \"json\" or \"hash\"");
                BodyComparison::None
            }
            Some(RawBodyComparison::Word(RawBodyWord::Json)) => BodyComparison::Json,
            Some(RawBodyComparison::Word(RawBodyWord::Hash)) => BodyComparison::Hash,
        };
        let at = path.key("ignore");
        if !self.ignore.is_empty() && body != BodyComparison::Json {
            problems
                .error(
                    &at,
                    "what is ignored are places in JSON, and bodies are not compared as JSON",
                )
                .help("write `body = \"json\"`, or leave `ignore` out");
        }
        if self.ignore.len() > MOST_IGNORED {
            problems.error(&at, format!("no more than {MOST_IGNORED} places can be ignored"));
        }
        let ignored = self.ignore.iter().enumerate();
        let ignore = ignored.filter_map(|(i, text)| {
            let pointer = Pointer::parse(text);
            if pointer.is_none() {
                problems.error(&at.index(i), format!("\"{text}\" is not a JSON pointer")).help(
                    "a pointer begins with a slash, and `*` is any key or index: \"/items/*/id\"",
                );
            }
            pointer
        });
        Compare {
            status: self.status.unwrap_or(true),
            headers,
            body,
            ignore: ignore.collect(),
            max_body_bytes: size(
                self.max_body.unwrap_or(defaults::MIRROR_COMPARED_BODY),
                &path.key("max_body"),
                problems,
            ),
        }
    }
}

fn size(size: ByteSize, path: &KeyPath, problems: &mut Problems) -> usize {
    if size.0 > LARGEST_BODY.0 {
        problems.error(path, format!("more than {LARGEST_BODY} are too much to hold in memory"));
    }
    usize::try_from(size.0).unwrap_or(usize::MAX)
}
