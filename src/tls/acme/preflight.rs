//! What would make an order fail, found before it is made: names that nobody finds, CAA records that forbid it.
//!
//! Failed orders count against the names, so what is certain to fail is not tried. What is only likely to fail (port 80
//! looks like somebody else's from here, which a router may be the reason for) is told as a doubt, and tried.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::challenges::{Challenges, HTTP_PATH};

/// One look at port 80.
const LOOK: Duration = Duration::from_secs(5);
/// What is read of an answer on port 80.
const MAX_BODY_BYTES: usize = 4096;
/// Addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 4;

/// Why an order can't succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// DNS does not know a name.
    #[error("{0} has no address in DNS: no authority could reach it")]
    NoAddress(String),
    /// A CAA record names others (RFC 8659).
    #[error("a CAA record of {at} lets only {allowed} certify {name}, not {authority}")]
    Caa {
        /// The name.
        name: String,
        /// Where the record stands.
        at: String,
        /// Whom it names.
        allowed: String,
        /// The authority.
        authority: String,
    },
}

/// What DNS knows, as the rest of the edge asks it.
pub trait LookUp: Send + Sync {
    /// The addresses of a name.
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, LookUpFailure>>;
    /// The CAA records at exactly this name.
    fn caa<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Caa>, LookUpFailure>>;
}

/// Why a look-up gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookUpFailure {
    /// There is nothing.
    Nothing,
    /// It is not known.
    Failed(String),
}

/// A CAA record (RFC 8659, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caa {
    /// Who does not know the tag must not issue.
    pub is_critical: bool,
    /// `issue`, `issuewild`, `iodef` or another.
    pub tag: String,
    /// The authority that an issue tag names, lower case; empty for nobody.
    pub issuer: String,
}

/// Looks for what would make an order fail. An authority that connects to a name `needs_address`. `identities` are the authority's in CAA records; without any, they are not
/// judged.
///
/// # Errors
/// The first obstacle that is certain. What DNS can't tell now is none.
pub(super) async fn look(
    names: &[String],
    needs_address: bool,
    authority: &str,
    identities: &[String],
    dns: &dyn LookUp,
) -> Result<(), Obstacle> {
    for name in names {
        let (host, is_wildcard) = match name.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (&**name, false),
        };
        if needs_address && !is_wildcard && dns.addresses(host).await == Err(LookUpFailure::Nothing)
        {
            return Err(Obstacle::NoAddress(name.clone()));
        }
        if identities.is_empty() {
            continue;
        }
        if let Some((at, records)) = relevant_caa(host, dns).await
            && let Err(allowed) = judge_caa(&records, identities, is_wildcard)
        {
            let authority = authority.to_owned();
            return Err(Obstacle::Caa { name: name.clone(), at, allowed, authority });
        }
    }
    Ok(())
}

/// The records that count for a name: its own, or those of the nearest parent that has some (RFC 8659, section 3).
async fn relevant_caa(host: &str, dns: &dyn LookUp) -> Option<(String, Vec<Caa>)> {
    let mut at = host;
    loop {
        match dns.caa(at).await {
            Ok(records) if !records.is_empty() => return Some((at.to_owned(), records)),
            // The authority will ask again, and know better.
            Err(LookUpFailure::Failed(_)) => return None,
            Ok(_) | Err(LookUpFailure::Nothing) => {}
        }
        at = at.split_once('.')?.1;
    }
}

/// Whether one of `identities` may issue; else who may.
fn judge_caa(records: &[Caa], identities: &[String], is_wildcard: bool) -> Result<(), String> {
    let has = |tag: &str| records.iter().any(|record| record.tag == tag);
    let known =
        ["issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"];
    if let Some(odd) = records.iter().find(|r| r.is_critical && !known.contains(&&*r.tag)) {
        return Err(format!("those that know its tag \"{}\"", odd.tag));
    }
    let tag = if is_wildcard && has("issuewild") { "issuewild" } else { "issue" };
    if !has(tag) {
        return Ok(());
    }
    let allowed = || records.iter().filter(|record| record.tag == tag).map(|record| &record.issuer);
    if allowed().any(|issuer| identities.iter().any(|own| own.eq_ignore_ascii_case(issuer))) {
        return Ok(());
    }
    let named: Vec<&str> =
        allowed().filter(|issuer| !issuer.is_empty()).map(String::as_str).collect();
    Err(if named.is_empty() { "nobody".to_owned() } else { named.join(", ") })
}

/// What speaks against this edge being reached on port 80 under `name`; `None` where nothing does.
pub(super) async fn doubt_of_port_80(
    name: &str,
    challenges: &Arc<Challenges>,
    dns: &dyn LookUp,
) -> Option<String> {
    let addresses = dns.addresses(name).await.ok()?;
    let (token, proof) =
        (format!("look-{:016x}", fastrand::u64(..)), fastrand::u64(..).to_string());
    let _shown = challenges.show_http(&token, &proof);
    let mut doubts = Vec::new();
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        let target = SocketAddr::new(address, 80);
        match tokio::time::timeout(LOOK, fetch(target, name, &token)).await {
            Ok(Ok(body)) if body == proof.as_bytes() => {}
            Ok(Ok(_)) => doubts.push(format!("{target} is answered by somebody else")),
            Ok(Err(error)) => doubts.push(format!("{target}: {error}")),
            Err(_) => doubts.push(format!("{target} does not answer")),
        }
    }
    (!doubts.is_empty()).then(|| doubts.join(", "))
}

async fn fetch(
    target: SocketAddr,
    name: &str,
    token: &str,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(target).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(format!("{HTTP_PATH}{token}"))
        .header(HOST, name)
        .body(Empty::<Bytes>::new())?;
    let answered = async {
        let answer = sender.send_request(request).await?;
        Ok(Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await?.to_bytes())
    };
    tokio::pin!(connection);
    tokio::select! {
        answered = answered => answered,
        // It ends before the answer only where it fails.
        ended = &mut connection => Err(ended.err().map_or_else(|| "it closes the connection".into(), Into::into)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Zone {
        addresses: Vec<&'static str>,
        caa: HashMap<&'static str, Vec<Caa>>,
        is_down: bool,
    }

    impl LookUp for Zone {
        fn addresses<'a>(
            &'a self,
            name: &'a str,
        ) -> BoxFuture<'a, Result<Vec<IpAddr>, LookUpFailure>> {
            let found = if self.is_down {
                Err(LookUpFailure::Failed("timeout".to_owned()))
            } else if self.addresses.contains(&name) {
                Ok(vec![IpAddr::from([127, 0, 0, 1])])
            } else {
                Err(LookUpFailure::Nothing)
            };
            Box::pin(async move { found })
        }

        fn caa<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Caa>, LookUpFailure>> {
            let found = self.caa.get(name).cloned().ok_or(LookUpFailure::Nothing);
            Box::pin(async move { found })
        }
    }

    fn caa(tag: &str, issuer: &str, is_critical: bool) -> Caa {
        Caa { is_critical, tag: tag.to_owned(), issuer: issuer.to_owned() }
    }

    async fn look_for(name: &str, zone: &Zone) -> Result<(), Obstacle> {
        look(&[name.to_owned()], true, "le", &["letsencrypt.org".to_owned()], zone).await
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_not_ordered() {
        let mut zone = Zone { addresses: vec!["a.example.com"], ..Zone::default() };
        assert_eq!(look_for("a.example.com", &zone).await, Ok(()));
        let obstacle = look_for("b.example.com", &zone).await.unwrap_err();
        assert_eq!(obstacle, Obstacle::NoAddress("b.example.com".to_owned()));
        assert_eq!(look_for("*.b.example.com", &zone).await, Ok(()), "a wildcard needs none");
        let by_dns = look(&["b.example.com".to_owned()], false, "le", &[], &zone).await;
        assert_eq!(by_dns, Ok(()), "nobody connects to it");
        zone.is_down = true;
        assert_eq!(look_for("b.example.com", &zone).await, Ok(()), "not known is no obstacle");
    }

    #[tokio::test]
    async fn caa_records_are_kept() {
        let own = || vec![caa("issue", "letsencrypt.org", false)];
        let other = || vec![caa("issue", "other.test", false)];
        let wild = vec![caa("issue", "letsencrypt.org", false), caa("issuewild", "", false)];
        for (records, name, allowed) in [
            (vec![("example.com", own())], "a.example.com", None),
            (vec![("com", other())], "a.example.com", Some("other.test")),
            (vec![("a.example.com", own()), ("com", other())], "a.example.com", None),
            (vec![("a.example.com", wild.clone())], "a.example.com", None),
            (vec![("a.example.com", wild)], "*.a.example.com", Some("nobody")),
            (vec![("example.com", vec![caa("iodef", "", false)])], "a.example.com", None),
            (
                vec![("example.com", vec![caa("new", "", true)])],
                "a.example.com",
                Some("those that know its tag \"new\""),
            ),
            (
                vec![("example.com", vec![caa("issue", "", false)])],
                "*.a.example.com",
                Some("nobody"),
            ),
        ] {
            let caa = records.into_iter().collect();
            let zone = Zone { addresses: vec!["a.example.com"], caa, is_down: false };
            let found = look_for(name, &zone).await.err().map(|obstacle| match obstacle {
                Obstacle::Caa { allowed, .. } => allowed,
                other @ Obstacle::NoAddress(_) => panic!("{other}"),
            });
            assert_eq!(found.as_deref(), allowed, "{name}");
        }
    }
}
