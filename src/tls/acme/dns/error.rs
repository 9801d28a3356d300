//! Why a challenge record could not be written, in words that say what to do.

use std::{fmt, io, net::SocketAddr, process::ExitStatus};

use hickory_proto::{ProtoError, dnssec::DnsSecError, op::ResponseCode, rr::Name};

use super::{config::TsigHash, exchange::ExchangeError};
use crate::{
    state::SecretError,
    types::{HumanDuration, SecretSource},
};

/// A record that was not written, or was not seen. None of it is secret.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No DNS server could have such a name.
    #[error("\"{0}\" is not a name in DNS")]
    Name(String),
    /// More than one string of a TXT record holds (RFC 1035, section 3.3), or nothing.
    #[error("the value of a challenge record has 1 to 255 bytes, this one {0}")]
    Value(usize),
    /// The secret is not where it should be.
    #[error("there is no TSIG secret")]
    Secret(#[source] SecretError),
    /// Something else than a key is there.
    #[error(
        "the TSIG secret from {0} is not base64; it is the text between the quotes of `secret` in the server's key"
    )]
    SecretNotBase64(SecretSource),
    /// No connection, no answer, or none that can be read.
    #[error("{action} at {server}")]
    Exchange {
        /// The name server.
        server: SocketAddr,
        /// What was tried.
        action: Box<Action>,
        /// What came of it.
        source: Box<ExchangeError>,
    },
    /// The server has no zone that the name is in.
    #[error(
        "{server} is not authoritative for a zone that {name} is in; is `server` the primary? Else set `zone`"
    )]
    NoZone {
        /// The name server.
        server: SocketAddr,
        /// The record's name, after CNAMEs.
        name: String,
    },
    /// The zone of the configuration is another one.
    #[error("{name} is not in the zone {zone}; leave `zone` out, or set the one that it is in")]
    OutsideZone {
        /// The record's name, after CNAMEs.
        name: String,
        /// As configured.
        zone: String,
    },
    /// A chain of aliases that does not end.
    #[error("{0} leads through more than 8 CNAMEs, or around in a circle")]
    Aliases(String),
    /// The update was answered with an error.
    #[error("{action} at {server} came back with {}: {}", code_name(*code), advice(*code))]
    Rejected {
        /// The name server.
        server: SocketAddr,
        /// What was tried.
        action: Box<Action>,
        /// The answer's code.
        code: ResponseCode,
    },
    /// The server did not take our signature.
    #[error("{action} at {server} came back with {problem}")]
    Signature {
        /// The name server.
        server: SocketAddr,
        /// What was tried.
        action: Box<Action>,
        /// Which of the reasons of RFC 8945.
        problem: SignatureProblem,
    },
    /// The update was answered well, by someone who does not show that they have the key.
    #[error(
        "{action} at {server}: the answer is not signed with the key {key_name}, so that it may come from anyone"
    )]
    NotSigned {
        /// The name server.
        server: SocketAddr,
        /// What was tried.
        action: Box<Action>,
        /// The key.
        key_name: String,
        /// What is wrong with the signature, where there is one.
        source: Option<ProtoError>,
    },
    /// Our side of the signature.
    #[error("the update can't be signed")]
    Sign(#[from] DnsSecError),
    /// A message that can't be written.
    #[error("the message to the name server can't be written")]
    Encode(#[from] ProtoError),
    /// It was written and did not get to where the authority looks.
    #[error("{name} was written, and within {after} was not seen with its value at {missing}")]
    NotVisible {
        /// The record's name, after CNAMEs.
        name: String,
        /// The propagation timeout.
        after: HumanDuration,
        /// Servers, and what each said at last.
        missing: String,
    },
    /// The program is not there, or can't be run.
    #[error("the command {program} can't be run")]
    CommandStart {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The program took too long and was killed.
    #[error("the command {program} {action} was killed after {after}{}", said(stderr))]
    CommandTimeout {
        /// The program.
        program: String,
        /// `present` or `clean-up`.
        action: &'static str,
        /// Its time limit.
        after: HumanDuration,
        /// The beginning of what it wrote to standard error.
        stderr: String,
    },
    /// The program says that it could not.
    #[error("the command {program} {action} ended with {status}{}", said(stderr))]
    CommandFailed {
        /// The program.
        program: String,
        /// `present` or `clean-up`.
        action: &'static str,
        /// Its exit code, or the signal that ended it.
        status: ExitStatus,
        /// The beginning of what it wrote to standard error.
        stderr: String,
    },
}

/// What was tried at a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connecting.
    Connect,
    /// Looking for the zone.
    FindZone(String),
    /// Looking for a CNAME.
    FindAlias(String),
    /// Adding a record to a zone.
    Add(String, String),
    /// Removing a record from a zone.
    Remove(String, String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connecting by TCP"),
            Self::FindZone(name) => write!(f, "asking for the zone of {name}"),
            Self::FindAlias(name) => write!(f, "asking for a CNAME of {name}"),
            Self::Add(name, zone) => write!(f, "adding {name} TXT to zone {zone}"),
            Self::Remove(name, zone) => write!(f, "removing {name} TXT from zone {zone}"),
        }
    }
}

/// What a server finds wrong with a signature (RFC 8945, section 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureProblem {
    /// The key's name or its algorithm; some servers say so of a key that may not write the zone.
    Key(String, TsigHash),
    /// The key's secret.
    Secret(String),
    /// The clocks; the server's in seconds since 1970, if it says so.
    Clock {
        /// Our clock.
        ours: u64,
        /// The server's.
        theirs: Option<u64>,
    },
    /// A code of later times.
    Other(u16),
}

impl fmt::Display for SignatureProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name, hash) => write!(
                f,
                "BADKEY: it has no key {name} with {}, or none that may write this zone; compare `key_name` and `algorithm` with the server's",
                hash.algorithm()
            ),
            Self::Secret(name) => write!(
                f,
                "BADSIG: it has the key {name} with another secret; compare `secret` with the server's"
            ),
            Self::Clock { ours, theirs } => {
                let show = |time: u64| crate::tls::date(i64::try_from(time).unwrap_or(i64::MAX));
                write!(
                    f,
                    "BADTIME: the clocks are more than five minutes apart; here it is {}",
                    show(*ours)
                )?;
                if let Some(theirs) = theirs {
                    write!(f, ", there {}", show(*theirs))?;
                }
                f.write_str("; set the one that is wrong")
            }
            Self::Other(code) => write!(f, "TSIG error {code}: see the server's log"),
        }
    }
}

/// A name as people write it, without the dot at its end.
pub(super) fn plain(name: &Name) -> String {
    let mut text = name.to_ascii();
    if text.len() > 1 && text.ends_with('.') {
        text.pop();
    }
    text
}

/// The name of a code as standards write it (RFC 2136, section 2.2).
fn code_name(code: ResponseCode) -> String {
    let name = match code {
        ResponseCode::Refused => "REFUSED",
        ResponseCode::NotAuth => "NOTAUTH",
        ResponseCode::NotZone => "NOTZONE",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NotImp => "NOTIMP",
        other => return format!("code {}", u16::from(other)),
    };
    name.to_owned()
}

/// What to do about a code.
fn advice(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::Refused => {
            "the key may not write this record; allow it (`acl` with `action: update` in Knot, `update-policy` in BIND)"
        }
        ResponseCode::NotAuth => {
            "the server is not the primary of this zone; name the primary in `server`, and in `zone` a zone that it has"
        }
        ResponseCode::NotZone => {
            "the name is not in this zone; leave `zone` out, or set the one that it is in"
        }
        ResponseCode::ServFail => {
            "the server could not write the zone (frozen, read-only, disk full); its log says more"
        }
        ResponseCode::NotImp => "the server does not take updates",
        _ => "the server's log may say more",
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}
