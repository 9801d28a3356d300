//! `[acme]`: as written, and parsed.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, sync::Arc};

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dns::{AcmeDnsConfig, RawAcmeDns};
use crate::types::{KeyPath, Name, Problems, SecretSource, defaults, did_you_mean};

/// Authorities that are known by name: their directory, and who they are in CAA records.
const KNOWN: [(&str, &str, &[&str]); 3] = [
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory", &["letsencrypt.org"]),
    (
        "letsencrypt-staging",
        "https://acme-staging-v02.api.letsencrypt.org/directory",
        &["letsencrypt.org"],
    ),
    (
        "zerossl",
        "https://acme.zerossl.com/v2/DV90",
        &["sectigo.com", "trust-provider.com", "usertrust.com", "comodoca.com", "comodo.com"],
    ),
];
const DEFAULT_AUTHORITY: &str = "letsencrypt";

/// `[acme]`: certificates that are ordered and renewed (RFC 8555).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAcme {
    /// Order certificates. Without, sites that would get one are served with the internal authority's.
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// Where authorities write to about an account. With an order, their terms of service are agreed to.
    pub email: Option<String>,
    /// The authorities that are asked, by name: the next one where one is out of reach or refuses for reasons of its own. `letsencrypt`, `letsencrypt-staging` and `zerossl` are known.
    #[schemars(extend("default" = "the one in `[acme.authorities]`, else `letsencrypt`"))]
    pub order_from: Option<Vec<Name>>,
    /// Authorities by name.
    pub authorities: BTreeMap<Name, RawAuthority>,
    /// How control over a name is shown, the first that the authority offers and that has not just failed.
    #[schemars(extend("default" = "`dns-01` where `[acme.dns]` is there, `http-01`, `tls-alpn-01`"))]
    pub challenges: Option<Vec<ChallengeKind>>,
    /// The keys of certificates; a site may say otherwise.
    #[schemars(extend("default" = "ecdsa"))]
    pub key_type: Option<KeyType>,
    /// Orders under way at once.
    #[schemars(extend("default" = defaults::ACME_ORDERS))]
    pub max_orders: Option<NonZeroU32>,
    /// Failed orders an hour for one name, after which it waits. Authorities count too.
    #[schemars(extend("default" = defaults::ACME_FAILURES_PER_HOUR))]
    pub max_failures: Option<NonZeroU32>,
    /// How challenge records get into DNS, for `dns-01` and with it for wildcards.
    pub dns: Option<RawAcmeDns>,
    /// Look before an order whether it can succeed: names that resolve, CAA records that allow it.
    #[schemars(extend("default" = true))]
    pub preflight: Option<bool>,
}

/// An authority, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAuthority {
    /// The URL of its directory. Not needed for those that are known.
    pub directory: Option<String>,
    /// A PEM file with the authorities of its own HTTPS, in place of the system's.
    pub ca: Option<PathBuf>,
    /// The account that it knows its customer by (external account binding).
    pub eab: Option<RawEab>,
    /// The certificate profile that is ordered, such as `shortlived`.
    pub profile: Option<String>,
}

/// External account binding, as written.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEab {
    /// The key's identifier.
    pub key_id: String,
    /// The key, as the authority shows it: base64url.
    pub hmac_key: SecretSource,
}

/// How control over a name is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum ChallengeKind {
    /// By an answer on port 80 (RFC 8555, section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// By a handshake on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a TXT record (RFC 8555, section 8.4), as `[acme.dns]` says. Wildcards are validated by it alone.
    #[serde(rename = "dns-01")]
    Dns01,
}

/// The keys that a site's certificates have.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Deserialize,
    Serialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// ECDSA P-256.
    #[default]
    Ecdsa,
    /// RSA with 2048 bits.
    Rsa,
    /// A certificate with each: RSA for clients that can't verify ECDSA.
    Both,
}

/// `[acme]`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Order certificates.
    pub enabled: bool,
    /// The contact of accounts.
    pub email: Option<String>,
    /// Whom to ask, in this order; at least one.
    pub authorities: Vec<Arc<Authority>>,
    /// How control over a name is shown, the first first; at least one.
    pub challenges: Vec<ChallengeKind>,
    /// The keys of certificates of sites that do not say.
    pub key_type: KeyType,
    /// Orders under way at once.
    pub max_orders: u32,
    /// Failed orders an hour for one name.
    pub max_failures: u32,
    /// How challenge records get into DNS.
    pub dns: Option<AcmeDnsConfig>,
    /// Look before an order.
    pub preflight: bool,
}

/// An authority, parsed.
#[derive(Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its name here.
    pub name: Name,
    /// The URL of its directory.
    pub directory: String,
    /// The authorities of its HTTPS; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// External account binding.
    pub eab: Option<Eab>,
    /// The certificate profile.
    pub profile: Option<String>,
    /// Who it is in CAA records, where that is known.
    pub caa: Option<&'static [&'static str]>,
}

/// External account binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eab {
    /// The key's identifier.
    pub key_id: String,
    /// The key.
    pub hmac_key: SecretSource,
}

impl ChallengeKind {
    /// The word that is shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }
}

impl RawAcme {
    /// Fills in the defaults.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> AcmeConfig {
        if let Some(email) = &self.email
            && !is_address(email)
        {
            problems
                .error(&path.key("email"), format!("\"{email}\" is not an e-mail address"))
                .help("write it as \"ops@example.com\"");
        }
        if self.challenges.as_ref().is_some_and(Vec::is_empty) {
            problems
                .error(&path.key("challenges"), "without a challenge nothing can be ordered")
                .help("leave it out for all, or `enabled = false` for no orders");
        }
        let at = path.key("dns");
        let dns = self.dns.as_ref().and_then(|dns| dns.parse(&at, problems));
        let named = self.challenges.iter().flatten();
        if let Some(place) = named.clone().position(|kind| *kind == ChallengeKind::Dns01)
            && self.dns.is_none()
        {
            problems
                .error(
                    &path.key("challenges").index(place),
                    "nothing says how records get into DNS",
                )
                .help("add [acme.dns] with `rfc2136` or `command`");
        }
        let all = || vec![ChallengeKind::Http01, ChallengeKind::TlsAlpn01];
        let mut challenges: Vec<_> =
            if self.challenges.is_some() { named.copied().collect() } else { all() };
        if dns.is_some() && !challenges.contains(&ChallengeKind::Dns01) {
            // Named ones go first; wildcards have no other.
            let place = if self.challenges.is_some() { challenges.len() } else { 0 };
            challenges.insert(place, ChallengeKind::Dns01);
        }
        AcmeConfig {
            enabled: self.enabled.unwrap_or(true),
            email: self.email.clone(),
            authorities: self.authorities(path, problems),
            challenges,
            dns,
            key_type: self.key_type.unwrap_or_default(),
            max_orders: self.max_orders.unwrap_or(defaults::ACME_ORDERS).get(),
            max_failures: self.max_failures.unwrap_or(defaults::ACME_FAILURES_PER_HOUR).get(),
            preflight: self.preflight.unwrap_or(true),
        }
    }

    fn authorities(&self, path: &KeyPath, problems: &mut Problems) -> Vec<Arc<Authority>> {
        let written = path.key("authorities");
        let mut all: BTreeMap<&str, Arc<Authority>> = BTreeMap::new();
        for (name, raw) in &self.authorities {
            if let Some(authority) = raw.parse(name, &written.key(name), problems) {
                all.insert(name, Arc::new(authority));
            }
        }
        let order = path.key("order_from");
        let Some(names) = &self.order_from else {
            let mut all = all.into_values();
            let first = all.next();
            if all.next().is_some() {
                problems
                    .error(&written, "which of the authorities comes first is not said")
                    .at_key()
                    .help("add `order_from = [\"…\", \"…\"]` to [acme]");
            }
            return first.or_else(|| known(DEFAULT_AUTHORITY).map(Arc::new)).into_iter().collect();
        };
        if names.is_empty() {
            problems
                .error(&order, "without an authority nothing can be ordered")
                .help("leave it out for Let's Encrypt, or `enabled = false` for no orders");
        }
        let mut authorities: Vec<Arc<Authority>> = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            if names.iter().take(i).any(|earlier| earlier == name) {
                problems.warning(&order.index(i), format!("\"{name}\" stands here twice"));
                continue;
            }
            let found = all.get(&**name).cloned().or_else(|| known(name).map(Arc::new));
            if let Some(authority) = found {
                authorities.push(authority);
            } else if !self.authorities.contains_key(name) {
                let names = all.keys().copied().chain(KNOWN.iter().map(|(name, ..)| *name));
                let message = match did_you_mean(name, names) {
                    Some(near) => format!("no authority \"{name}\"; did you mean \"{near}\"?"),
                    None => format!("no authority \"{name}\""),
                };
                problems.error(&order.index(i), message).help(format!(
                    "describe it: [acme.authorities.{name}] with `directory = \"https://…\"`"
                ));
            }
        }
        authorities
    }
}

impl Default for AcmeConfig {
    fn default() -> Self {
        RawAcme::default().parse(&KeyPath::root(), &mut Problems::new())
    }
}

impl RawAuthority {
    fn parse(&self, name: &Name, path: &KeyPath, problems: &mut Problems) -> Option<Authority> {
        let known = known(name);
        let directory = match (&self.directory, &known) {
            (Some(directory), _) => directory.clone(),
            (None, Some(known)) => known.directory.clone(),
            (None, None) => {
                problems.error(path, "the authority has no directory").at_key().help(
                    "add `directory = \"https://…\"`, the URL that the authority names for ACME",
                );
                return None;
            }
        };
        let is_https = directory
            .parse::<Uri>()
            .is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
        if !is_https {
            problems
                .error(&path.key("directory"), format!("\"{directory}\" is not an https URL"))
                .help("ACME is spoken over https only (RFC 8555, section 6.1)");
            return None;
        }
        if &**name == "zerossl" && self.eab.is_none() {
            problems
                .error(path, "ZeroSSL knows its customers by an external account binding")
                .at_key()
                .help(
                    "add `eab = { key_id = \"…\", hmac_key = { file = \"…\" } }` from its web site",
                );
        }
        let eab = self.eab.clone();
        Some(Authority {
            name: name.clone(),
            directory,
            ca: self.ca.clone(),
            eab: eab.map(|eab| Eab { key_id: eab.key_id, hmac_key: eab.hmac_key }),
            profile: self.profile.clone(),
            caa: known.and_then(|known| known.caa),
        })
    }
}

fn known(name: &str) -> Option<Authority> {
    let (name, directory, caa) = KNOWN.iter().find(|(known, ..)| *known == name)?;
    Some(Authority {
        name: name.parse().ok()?,
        directory: (*directory).to_owned(),
        ca: None,
        eab: None,
        profile: None,
        caa: Some(caa),
    })
}

/// Whether this can be the address of a contact: authorities look closer (RFC 8555, section 7.3).
fn is_address(text: &str) -> bool {
    let has_odd = |c: char| c.is_whitespace() || c.is_control() || ",<>?".contains(c);
    text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && domain.contains('.')
            && !domain.contains('@')
            && !text.contains(has_odd)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (AcmeConfig, Vec<String>) {
        let raw: RawAcme = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let config = raw.parse(&KeyPath::of(&["acme"]), &mut problems);
        let told = problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message));
        (config, told.collect())
    }

    fn names(config: &AcmeConfig) -> Vec<&str> {
        config.authorities.iter().map(|authority| &*authority.name).collect()
    }

    #[test]
    fn lets_encrypt_is_asked_unless_somebody_else_is_named() {
        let (config, problems) = parse("");
        assert_eq!((names(&config), problems.len()), (vec!["letsencrypt"], 0));
        let (config, problems) = parse("[authorities.own]\ndirectory = \"https://ca.test/dir\"");
        assert_eq!((names(&config), problems.len()), (vec!["own"], 0));
        let (config, problems) = parse(
            "order_from = [\"letsencrypt\", \"own\"]\n[authorities.own]\ndirectory = \"https://ca.test/dir\"",
        );
        assert_eq!((names(&config), problems.len()), (vec!["letsencrypt", "own"], 0));
        // A known one with another setting keeps its directory.
        let (config, _) = parse("[authorities.letsencrypt]\nprofile = \"shortlived\"");
        assert_eq!(config.authorities[0].profile.as_deref(), Some("shortlived"));
        assert!(config.authorities[0].directory.contains("letsencrypt.org"));
    }

    #[test]
    fn mistakes_are_told_with_what_would_be_right() {
        for (text, problem) in [
            (
                "order_from = [\"letsencrpt\"]",
                "acme.order_from[0]: no authority \"letsencrpt\"; did you mean \"letsencrypt\"?",
            ),
            ("order_from = []", "acme.order_from: without an authority nothing can be ordered"),
            (
                "challenges = [\"dns-01\"]",
                "acme.challenges[0]: nothing says how records get into DNS",
            ),
            ("challenges = []", "acme.challenges: without a challenge nothing can be ordered"),
            ("email = \"ops\"", "acme.email: \"ops\" is not an e-mail address"),
            ("[authorities.own]", "acme.authorities.own: the authority has no directory"),
            (
                "[authorities.own]\ndirectory = \"http://x/dir\"",
                "acme.authorities.own.directory: \"http://x/dir\" is not an https URL",
            ),
            (
                "[authorities.zerossl]",
                "acme.authorities.zerossl: ZeroSSL knows its customers by an external account binding",
            ),
            (
                "[authorities.a]\ndirectory = \"https://a/\"\n[authorities.b]\ndirectory = \"https://b/\"",
                "acme.authorities: which of the authorities comes first is not said",
            ),
        ] {
            let (_, problems) = parse(text);
            assert_eq!(problems, [problem], "{text}");
        }
    }
}
