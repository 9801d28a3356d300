//! `[acme.dns]`: as written, and parsed.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::rr::{Name, rdata::tsig::TsigAlgorithm};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{HumanDuration, KeyPath, NameServer, Problems, SecretSource, defaults};

/// The longest time of any kind here, for records that are there for minutes.
const MAX_TIME: HumanDuration = HumanDuration::from_secs(86_400);

/// `[acme.dns]`, as written: how challenge records (dns-01) get into DNS. Exactly one of `rfc2136` and `command`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAcmeDns {
    /// By dynamic update (RFC 2136), signed with TSIG.
    pub rfc2136: Option<RawDnsUpdate>,
    /// By a program: its path and arguments. It is run without a shell, with `present` or `clean-up`, the record's name and its value added.
    pub command: Option<Vec<String>>,
    /// Name servers that are asked for CNAMEs and for the record, in place of the system's resolvers and the zone's own servers.
    pub servers: Option<Vec<NameServer>>,
    /// How long to wait until the record is seen; `"0s"` does not look for it.
    #[schemars(extend("default" = defaults::ACME_DNS_PROPAGATION.to_string()))]
    pub propagation_timeout: Option<HumanDuration>,
    /// One run of the command (default 60s), or one answer of the server (default 10s).
    pub timeout: Option<HumanDuration>,
}

/// `[acme.dns.rfc2136]`, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawDnsUpdate {
    /// The zone's primary: `"10.0.0.2"`, or with a port `"127.0.0.1:5353"`. It is spoken to by TCP.
    pub server: Option<NameServer>,
    /// The zone that is written to. Default: what the server says that the name is in.
    pub zone: Option<String>,
    /// The name of the TSIG key, as the server has it.
    pub key_name: Option<String>,
    /// `hmac-sha256`, `hmac-sha384` or `hmac-sha512`, as the server has it.
    #[schemars(extend("default" = "hmac-sha256"))]
    pub algorithm: Option<TsigHash>,
    /// The secret of the key in base64.
    pub secret: Option<SecretSource>,
    /// The time to live of the records.
    #[schemars(extend("default" = defaults::ACME_DNS_TTL.to_string()))]
    pub ttl: Option<HumanDuration>,
}

/// How updates are signed. MD5, SHA-1 and truncated codes are not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum TsigHash {
    /// HMAC with SHA-256.
    #[default]
    #[serde(rename = "hmac-sha256")]
    Sha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    Sha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    Sha512,
}

impl TsigHash {
    pub(super) fn algorithm(self) -> TsigAlgorithm {
        match self {
            Self::Sha256 => TsigAlgorithm::HmacSha256,
            Self::Sha384 => TsigAlgorithm::HmacSha384,
            Self::Sha512 => TsigAlgorithm::HmacSha512,
        }
    }
}

/// `[acme.dns]`, parsed. It knows where the secret is, not the secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcmeDnsConfig {
    pub(super) method: Method,
    /// None are the system's resolvers and the zone's own servers.
    pub(super) servers: Vec<SocketAddr>,
    /// Zero does not look.
    pub(super) propagation_timeout: Duration,
    /// One run, or one answer.
    pub(super) timeout: Duration,
}

/// What writes the records.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Method {
    Update(DnsUpdate),
    Command(DnsCommand),
}

/// Updates by RFC 2136.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DnsUpdate {
    pub(super) server: SocketAddr,
    pub(super) zone: Option<Name>,
    pub(super) key_name: Name,
    pub(super) hash: TsigHash,
    pub(super) secret: SecretSource,
    pub(super) ttl_seconds: u32,
}

/// A program and its first arguments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DnsCommand {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

impl RawAcmeDns {
    /// Fills in the defaults; `None` where something that is needed is missing or wrong, with a problem that says so.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<AcmeDnsConfig> {
        let (method, timeout) = match (&self.rfc2136, &self.command) {
            (Some(update), None) => (
                update.parse(&path.key("rfc2136"), problems).map(Method::Update),
                defaults::ACME_DNS_UPDATE_TIMEOUT,
            ),
            (None, Some(words)) => (
                command(words, &path.key("command"), problems).map(Method::Command),
                defaults::ACME_DNS_COMMAND_TIMEOUT,
            ),
            _ => {
                problems.error(path, "challenge records are written in exactly one way").help(
                    "write `rfc2136 = { server = \"…\", key_name = \"…\", secret = { file = \"…\" } }` or `command = [\"…\"]`",
                );
                return None;
            }
        };
        if self.servers.as_ref().is_some_and(Vec::is_empty) {
            problems
                .error(&path.key("servers"), "the list of name servers is empty")
                .help("leave it out for the system's");
        }
        let timeout = self.timeout.unwrap_or(timeout).0;
        if timeout.is_zero() {
            problems.error(&path.key("timeout"), "a timeout of zero fails every time");
            return None;
        }
        let propagation = self.propagation_timeout.unwrap_or(defaults::ACME_DNS_PROPAGATION);
        for (key, time) in [("timeout", timeout), ("propagation_timeout", propagation.0)] {
            if time > MAX_TIME.0 {
                problems.error(&path.key(key), format!("no order waits longer than {MAX_TIME}"));
                return None;
            }
        }
        Some(AcmeDnsConfig {
            method: method?,
            servers: self.servers.iter().flatten().map(|server| server.0).collect(),
            propagation_timeout: propagation.0,
            timeout,
        })
    }
}

impl RawDnsUpdate {
    fn parse(&self, path: &KeyPath, problems: &mut Problems) -> Option<DnsUpdate> {
        let mut missing = |key: &str, what: &str, example: &str| {
            problems
                .error(path, format!("{what} is missing"))
                .help(format!("add `{key} = {example}`"));
        };
        if self.server.is_none() {
            missing("server", "the name server that takes the updates", "\"10.0.0.2\"");
        }
        if self.key_name.is_none() {
            missing("key_name", "the name of the TSIG key", "\"tidegate\"");
        }
        if self.secret.is_none() {
            let example = "{ file = \"/etc/tidegate/tsig.secret\" }";
            missing("secret", "the secret of the TSIG key", example);
        }
        let mut name = |key: &str, text: &Option<String>| {
            let text = text.as_ref()?;
            let parsed = name(text);
            if parsed.is_none() {
                problems.error(&path.key(key), format!("\"{text}\" is not a name in DNS"));
            }
            Some(parsed)
        };
        let (key_name, zone) = (name("key_name", &self.key_name), name("zone", &self.zone));
        let ttl = self.ttl.unwrap_or(defaults::ACME_DNS_TTL);
        if ttl > MAX_TIME || ttl.0.subsec_nanos() != 0 {
            problems.error(
                &path.key("ttl"),
                format!("a time to live is whole seconds up to {MAX_TIME}"),
            );
            return None;
        }
        Some(DnsUpdate {
            server: self.server?.0,
            zone: match zone {
                Some(zone) => Some(zone?),
                None => None,
            },
            key_name: key_name??,
            hash: self.algorithm.unwrap_or_default(),
            secret: self.secret.clone()?,
            ttl_seconds: u32::try_from(ttl.0.as_secs()).ok()?,
        })
    }
}

/// A whole name, with or without the dot at its end. Not the root.
pub(super) fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    (!name.is_root()).then_some(name)
}

fn command(words: &[String], path: &KeyPath, problems: &mut Problems) -> Option<DnsCommand> {
    if words.iter().any(|word| word.contains('\0')) {
        problems.error(path, "no program can be given a NUL byte");
        return None;
    }
    match words.split_first() {
        Some((program, arguments)) if !program.is_empty() => {
            Some(DnsCommand { program: program.clone(), arguments: arguments.to_vec() })
        }
        _ => {
            problems
                .error(path, "the command has no program")
                .help("write the program and its arguments: [\"/etc/tidegate/dns.sh\"]");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AcmeDnsConfig, Vec<String>> {
        let raw: RawAcmeDns = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut problems = Problems::new();
        let config = raw.parse(&KeyPath::of(&["acme", "dns"]), &mut problems);
        let said: Vec<_> = problems
            .iter()
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect();
        if said.is_empty() { Ok(config.expect("a configuration")) } else { Err(said) }
    }

    #[test]
    fn an_update_needs_server_key_and_secret_only() {
        let config = parse(
            "[rfc2136]\nserver = '10.0.0.2'\nkey_name = 'tidegate'\nsecret = { file = '/run/tsig' }",
        );
        let update = DnsUpdate {
            server: "10.0.0.2:53".parse().unwrap(),
            zone: None,
            key_name: Name::from_ascii("tidegate.").unwrap(),
            hash: TsigHash::Sha256,
            secret: SecretSource::File("/run/tsig".into()),
            ttl_seconds: 60,
        };
        let expected = AcmeDnsConfig {
            method: Method::Update(update),
            servers: Vec::new(),
            propagation_timeout: Duration::from_mins(2),
            timeout: Duration::from_secs(10),
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn everything_can_be_set() {
        let config = parse(
            "servers = ['127.0.0.1:5353', '::1']\npropagation_timeout = '0s'\ntimeout = '3s'\n\
             [rfc2136]\nserver = '127.0.0.1:54'\nzone = 'Example.com'\nkey_name = 'k.'\n\
             algorithm = 'hmac-sha512'\nsecret = { env = 'TSIG' }\nttl = '5m'",
        )
        .unwrap();
        assert_eq!(config.servers.len(), 2);
        assert_eq!(config.propagation_timeout, Duration::ZERO);
        assert_eq!(config.timeout, Duration::from_secs(3));
        let Method::Update(update) = config.method else { panic!("an update") };
        assert_eq!(update.zone, Name::from_ascii("example.com.").ok());
        assert_eq!((update.hash, update.ttl_seconds), (TsigHash::Sha512, 300));
        let command = parse("command = ['dns.sh', '--really']").unwrap();
        assert_eq!(command.timeout, Duration::from_mins(1));
        let expected = DnsCommand { program: "dns.sh".into(), arguments: vec!["--really".into()] };
        assert_eq!(command.method, Method::Command(expected));
    }

    #[test]
    fn what_is_missing_or_wrong_is_said_at_its_key() {
        let update = "[rfc2136]\nserver = '10.0.0.2'\nkey_name = 'k'\nsecret = { env = 'S' }\n";
        for (text, expected) in [
            (String::new(), &["acme.dns: challenge records are written in exactly one way"][..]),
            (
                format!("command = ['x']\n{update}"),
                &["acme.dns: challenge records are written in exactly one way"],
            ),
            (
                "rfc2136 = {}".into(),
                &[
                    "acme.dns.rfc2136: the name server that takes the updates is missing",
                    "acme.dns.rfc2136: the name of the TSIG key is missing",
                    "acme.dns.rfc2136: the secret of the TSIG key is missing",
                ],
            ),
            (
                format!("{update}zone = 'a..b'"),
                &["acme.dns.rfc2136.zone: \"a..b\" is not a name in DNS"],
            ),
            (format!("{update}zone = '.'"), &["acme.dns.rfc2136.zone: \".\" is not a name in DNS"]),
            (
                format!("{update}ttl = '2d'"),
                &["acme.dns.rfc2136.ttl: a time to live is whole seconds up to 1d"],
            ),
            (
                format!("{update}ttl = '1500ms'"),
                &["acme.dns.rfc2136.ttl: a time to live is whole seconds up to 1d"],
            ),
            ("command = []".into(), &["acme.dns.command: the command has no program"]),
            ("command = ['']".into(), &["acme.dns.command: the command has no program"]),
            (
                "command = [\"x\", \"\\u0000\"]".into(),
                &["acme.dns.command: no program can be given a NUL byte"],
            ),
            (
                "command = ['x']\nservers = []".into(),
                &["acme.dns.servers: the list of name servers is empty"],
            ),
            (
                "command = ['x']\ntimeout = '0s'".into(),
                &["acme.dns.timeout: a timeout of zero fails every time"],
            ),
            (
                "command = ['x']\npropagation_timeout = '25h'".into(),
                &["acme.dns.propagation_timeout: no order waits longer than 1d"],
            ),
        ] {
            assert_eq!(
                parse(&text),
                Err(expected.iter().map(ToString::to_string).collect()),
                "{text}"
            );
        }
        for weak in ["hmac-md5", "hmac-sha1", "hmac-sha256-128"] {
            let refused = parse(&format!("{update}algorithm = '{weak}'")).unwrap_err();
            assert!(refused.concat().contains("unknown variant"), "{refused:?}");
        }
        let secret = update.replace("{ env = 'S' }", "'hunter2'");
        assert!(
            !format!("{:?}", toml::from_str::<RawAcmeDns>(&secret).unwrap_err().message())
                .contains("hunter2")
        );
    }
}
