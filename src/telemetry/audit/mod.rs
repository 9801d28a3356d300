//! The audit log: who changed what on a running edge, and what came of it. One line of JSON an entry.
//!
//! Off the path of requests. [`Audit::record`] leaves a line with a thread, which writes it to the file of
//! `audit_log.path` at once; without a path, entries go to the edge's own log with the target `audit`. Nothing waits for
//! the file and nothing fails with it: an entry that can't be written goes to the edge's own log, and is counted.
//! Invariant: an entry never has a secret in it; that is its author's duty, since only they know what is one.

mod config;
mod writer;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus::IntCounter;
use serde::Serialize;
use serde_json::Value;

pub use self::config::{AuditLogConfig, RawAuditLog};
use self::writer::Writer;
use super::time::rfc3339;

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The edge by itself.
    Edge,
    /// Somebody, by the admin listener.
    Admin(AdminPeer),
    /// Somebody, by a signal to the process.
    Signal,
    /// Somebody, by changing the files of the configuration.
    File,
}

/// Where a request to the admin listener came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminPeer {
    /// From there.
    Tcp(SocketAddr),
    /// By a Unix socket, which has no addresses.
    UnixSocket,
}

impl fmt::Display for AdminPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::UnixSocket => f.write_str("unix socket"),
        }
    }
}

impl Actor {
    const fn word(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Admin(_) => "admin",
            Self::Signal => "signal",
            Self::File => "file",
        }
    }
}

/// Something that was done, or was asked for and refused.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was over.
    pub time: SystemTime,
    /// Who did it.
    pub actor: Actor,
    /// What: a word of ours, such as `reload`.
    pub action: &'static str,
    /// To what: a name of the configuration, or a word of ours.
    pub subject: String,
    /// What came of it: a word of ours, such as `done` or `refused`.
    pub outcome: &'static str,
    /// More about it, as an object. Never a secret.
    pub detail: Value,
}

impl Entry {
    /// An entry of now, without detail.
    pub fn new(
        actor: Actor,
        action: &'static str,
        subject: impl Into<String>,
        outcome: &'static str,
    ) -> Self {
        Self {
            time: SystemTime::now(),
            actor,
            action,
            subject: subject.into(),
            outcome,
            detail: Value::Object(serde_json::Map::new()),
        }
    }

    /// Says more about it; `detail` is an object.
    pub fn detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// The line, without its end.
    fn into_line(self) -> String {
        /// In the order in which it is read by people.
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            actor: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            peer: Option<String>,
            action: &'static str,
            subject: &'a str,
            outcome: &'static str,
            detail: &'a Value,
        }
        let peer = match self.actor {
            Actor::Admin(peer) => Some(peer.to_string()),
            Actor::Edge | Actor::Signal | Actor::File => None,
        };
        let line = Line {
            time: rfc3339(self.time),
            actor: self.actor.word(),
            peer,
            action: self.action,
            subject: &self.subject,
            outcome: self.outcome,
            detail: &self.detail,
        };
        // Only a map with keys that are no text can fail, and there is none.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// The audit log of an edge. It is the same one over reloads.
#[derive(Debug)]
pub struct Audit {
    present: Mutex<Present>,
    failures: IntCounter,
}

#[derive(Debug, Default)]
struct Present {
    config: AuditLogConfig,
    /// `None`: entries go to the edge's own log.
    writer: Option<Writer>,
}

impl Audit {
    /// One that writes to the edge's own log, until a configuration says otherwise.
    pub fn new(failures: IntCounter) -> Arc<Self> {
        Arc::new(Self { present: Mutex::default(), failures })
    }

    /// Takes the settings of a configuration that comes into force. Lines of before are written where they were to go.
    pub fn configure(&self, config: &AuditLogConfig) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.config == *config {
            return;
        }
        present.config = config.clone();
        present.writer = config.path.as_ref().and_then(|path| {
            Writer::start(path, self.failures.clone())
                .inspect_err(|error| {
                    tracing::error!(%error, "audit log has no thread: its entries go to the edge's own log");
                })
                .ok()
        });
    }

    /// Writes an entry. Never waits.
    pub fn record(&self, entry: Entry) {
        let line = entry.into_line();
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        match &present.writer {
            Some(writer) => writer.push(line),
            None => tell(&line),
        }
    }

    /// Has the file opened again, after it was moved. Does not wait for it.
    pub fn reopen(&self) {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = &present.writer {
            writer.reopen();
        }
    }

    /// Waits until every line of before is written, at most for `deadline`; `false` where that was too short.
    pub fn flush(&self, deadline: Duration) -> bool {
        let flushed = {
            let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
            present.writer.as_ref().map(Writer::flushed)
        };
        flushed.is_none_or(|flushed| flushed.recv_timeout(deadline).is_ok())
    }
}

/// Writes an entry to the edge's own log.
fn tell(line: &str) {
    tracing::info!(target: "audit", entry = line, "audit");
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_says_who_did_what_to_what_and_what_came_of_it() {
        let peer = AdminPeer::Tcp("127.0.0.1:5000".parse().unwrap());
        let mut entry = Entry::new(Actor::Admin(peer), "reload", "configuration", "taken")
            .detail(json!({ "generation": 2 }));
        entry.time = UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(
            entry.into_line(),
            r#"{"time":"1970-01-01T00:00:01.500Z","actor":"admin","peer":"127.0.0.1:5000","action":"reload","subject":"configuration","outcome":"taken","detail":{"generation":2}}"#
        );
        for (actor, who) in [
            (Actor::Edge, r#""actor":"edge","action""#),
            (Actor::Signal, r#""actor":"signal","action""#),
            (Actor::File, r#""actor":"file","action""#),
            (Actor::Admin(AdminPeer::UnixSocket), r#""actor":"admin","peer":"unix socket""#),
        ] {
            let line = Entry::new(actor, "a", "two\nlines", "done").into_line();
            assert!(line.contains(who), "{line}");
            assert!(!line.contains('\n') && line.ends_with(r#""detail":{}}"#), "{line}");
        }
    }
}
