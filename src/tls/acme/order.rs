//! One order with one authority: from the account to the certificate on disk (RFC 8555, section 7.4).
//!
//! An order is kept as soon as the authority has it, with the key that is to be certified, so that a process that ends
//! in the middle goes on with it. What the authority issues is checked before it takes a place.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeHandle, ChallengeType,
    Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    RsaKeySize,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use super::{
    super::{files::LoadedCertificate, unix_seconds, with_sources},
    challenges::{Challenges, Shown},
    config::{Authority, ChallengeKind},
    dns::DnsWriter,
    failure::{Failure, words_of},
    kept::{Algorithm, CertificateId, KeptCertificate, KeptOrder, SecretText},
    shelf::Shelf,
};
use crate::types::HostPattern;

/// Authorities validate within seconds, and are given minutes.
const VALIDATION: Duration = Duration::from_mins(3);
const ISSUING: Duration = Duration::from_mins(3);

/// What is ordered.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// What it is kept under.
    pub(super) id: CertificateId,
    /// Its names, sorted.
    pub(super) names: Vec<String>,
    pub(super) algorithm: Algorithm,
    /// What it is to replace, where the same authority issued it.
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
    /// The chain that is held: what comes to the same is not new.
    pub(super) held: Option<String>,
}

/// What an order needs of the edge.
pub(super) struct Means<'a> {
    pub(super) authority: &'a Arc<Authority>,
    pub(super) account: &'a Account,
    pub(super) challenges: &'a Arc<Challenges>,
    pub(super) kinds: &'a [ChallengeKind],
    pub(super) dns: Option<&'a Arc<DnsWriter>>,
    pub(super) shelf: &'a Shelf,
}

/// Orders a certificate, or goes on with an order of before, and keeps what is issued.
pub(super) async fn order(
    wanted: &Wanted,
    means: &Means<'_>,
) -> Result<(KeptCertificate, LoadedCertificate), Failure> {
    let (mut order, key) = open(wanted, means).await?;
    let issued = carry_out(&mut order, &key, wanted, means).await;
    let keeps_order = match &issued {
        // Where the disk did not take the certificate, the next process has it by its order.
        Ok(issued) => !issued.is_kept,
        // The authority or the way to it fails: the order may go on later.
        Err(failure) => matches!(
            failure,
            Failure::Unreachable(_)
                | Failure::Rubbish(_)
                | Failure::Unwell(_)
                | Failure::Nonces
                | Failure::RateLimited(_)
                | Failure::TimedOut
        ),
    };
    if !keeps_order {
        let id = wanted.id.clone();
        let forgotten = means.shelf.run(move |store| store.keep_order(&id, None)).await;
        if let Err(failure) = forgotten {
            warn!(names = ?wanted.names, %failure, "an order that has ended can't be forgotten");
        }
    }
    issued.map(|issued| (issued.kept, issued.loaded))
}

/// What came of an order.
struct Issued {
    kept: KeptCertificate,
    loaded: LoadedCertificate,
    /// The disk has it.
    is_kept: bool,
}

/// The order of before, where there is one that can go on; else a new one.
async fn open(wanted: &Wanted, means: &Means<'_>) -> Result<(Order, SecretText), Failure> {
    let id = wanted.id.clone();
    let kept = means.shelf.run(move |store| store.order(&id)).await?;
    if let Some(kept) = kept.filter(|kept| kept.directory == means.authority.directory) {
        match means.account.order(kept.url.clone()).await.map_err(Failure::acme) {
            Ok(mut order) => {
                let status = order.state().status;
                // One that is valid has a certificate for the kept key; the present one may be it.
                let is_over = status == OrderStatus::Invalid
                    || status == OrderStatus::Valid && wanted.held.is_some() && {
                        let chain = order.certificate().await.map_err(Failure::acme)?;
                        chain.is_none() || chain == wanted.held
                    };
                if !is_over {
                    info!(authority = %means.authority.name, names = ?wanted.names, ?status, "going on with an order");
                    return Ok((order, kept.key));
                }
            }
            Err(Failure::NoOrder(_) | Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    let algorithm = wanted.algorithm;
    let key = means.shelf.work(move || new_key(algorithm)).await??;
    let identifiers: Vec<Identifier> = wanted.names.iter().map(|name| identifier(name)).collect();
    let mut new = NewOrder::new(&identifiers);
    if let Some(replaces) = &wanted.replaces {
        new = new.replaces(replaces.clone());
    }
    if let Some(profile) = &means.authority.profile {
        if !means.account.profiles().any(|known| known.name == profile) {
            return Err(Failure::Unsupported("such certificate profile"));
        }
        new = new.profile(profile);
    }
    info!(authority = %means.authority.name, names = ?wanted.names, key = algorithm.word(), "ordering a certificate");
    let order = match means.account.new_order(&new).await.map_err(Failure::acme) {
        // The authority does not take what the order says to replace: it was replaced, or the library sees no echo of it.
        // That is a courtesy, and the certificate is needed (RFC 9773, section 5).
        Err(failure) if wanted.replaces.is_some() && failure.is_about_the_order() => {
            warn!(authority = %means.authority.name, names = ?wanted.names, %failure, "ordering without saying what is replaced");
            let new = match &means.authority.profile {
                Some(profile) => NewOrder::new(&identifiers).profile(profile),
                None => NewOrder::new(&identifiers),
            };
            means.account.new_order(&new).await.map_err(Failure::acme)?
        }
        other => other?,
    };
    let kept = KeptOrder {
        authority: means.authority.name.to_string(),
        directory: means.authority.directory.clone(),
        url: order.url().to_owned(),
        key: key.clone(),
    };
    let id = wanted.id.clone();
    if let Err(failure) = means.shelf.run(move |store| store.keep_order(&id, Some(&kept))).await {
        // Only a process that ends in the middle misses it.
        warn!(names = ?wanted.names, %failure, "an order can't be kept; it is carried out all the same");
    }
    Ok((order, key))
}

async fn carry_out(
    order: &mut Order,
    key: &SecretText,
    wanted: &Wanted,
    means: &Means<'_>,
) -> Result<Issued, Failure> {
    if order.state().status == OrderStatus::Pending {
        validate(order, means).await?;
    }
    if order.state().status == OrderStatus::Ready {
        let request = request(&wanted.names, key)?;
        order.finalize_csr(&request).await.map_err(Failure::acme)?;
    }
    let polling = RetryPolicy::new().timeout(ISSUING);
    let chain = order.poll_certificate(&polling).await.map_err(Failure::acme)?;
    let now = SystemTime::now();
    let kept = KeptCertificate {
        names: wanted.names.clone(),
        algorithm: wanted.algorithm,
        authority: Some(means.authority.name.to_string()),
        chain,
        key: key.clone(),
        issued: unix_seconds(now),
        window: None,
    };
    let loaded = kept.load(&wanted.id, now)?;
    for name in &wanted.names {
        if name.parse::<HostPattern>().is_ok_and(|host| !loaded.names.cover(&host)) {
            return Err(Failure::Certificate(format!("it is not for {name}")));
        }
    }
    let (id, keeping) = (wanted.id.clone(), kept.clone());
    let keep = means.shelf.run(move |store| store.keep_certificate(&id, &keeping)).await;
    if let Err(failure) = &keep {
        // It was issued, and counts at the authority: it is served all the same.
        error!(names = ?wanted.names, %failure, "a certificate that was issued can't be kept");
    }
    Ok(Issued { kept, loaded, is_kept: keep.is_ok() })
}

/// What is shown to the authority while it validates.
#[derive(Default)]
struct Answers {
    dns: Option<Arc<DnsWriter>>,
    /// Taken back when they are dropped.
    shown: Vec<Shown>,
    /// Records in DNS: name and value.
    records: Vec<(String, String)>,
    /// The names that are validated, each with its challenge.
    asked: Vec<(String, &'static str)>,
}

/// Answers the challenges of all names that are not validated yet, and waits for the authority's verdict.
async fn validate(order: &mut Order, means: &Means<'_>) -> Result<(), Failure> {
    let mut answers = Answers::default();
    answers.dns = means.dns.cloned();
    let answered = answer(order, means, &mut answers).await;
    let verdict = match answered {
        Ok(()) => Ok(order.poll_ready(&RetryPolicy::new().timeout(VALIDATION)).await),
        Err(failure) => Err(failure),
    };
    answers.take_back().await;
    match verdict? {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) => {
            let otherwise = || Failure::Refused("the order became invalid".to_owned());
            Err(why_invalid(order, &answers.asked).await.unwrap_or_else(otherwise))
        }
        Err(error @ instant_acme::Error::Api(_)) => {
            let why = why_invalid(order, &answers.asked).await;
            Err(why.unwrap_or_else(|| Failure::acme(error)))
        }
        Err(error) => Err(Failure::acme(error)),
    }
}

async fn answer(
    order: &mut Order,
    means: &Means<'_>,
    answers: &mut Answers,
) -> Result<(), Failure> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(Failure::acme)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(Failure::NoOrder("an authorization has ended".to_owned())),
        }
        let name = authorization.identifier().to_string();
        let offered: Vec<ChallengeType> =
            authorization.challenges.iter().map(|challenge| challenge.r#type.clone()).collect();
        let kind = means.kinds.iter().copied().find(|kind| offered.contains(&kind_of(*kind)));
        let Some(kind) = kind else {
            let offered = offered.iter().map(word_of).collect::<Vec<_>>().join(", ");
            return Err(Failure::NoChallenge { name, offered });
        };
        let Some(mut challenge) = authorization.challenge(kind_of(kind)) else {
            return Err(Failure::Rubbish("a challenge is gone".to_owned()));
        };
        answers.show(&challenge, kind, &name, means).await?;
        answers.asked.push((name, kind.word()));
        challenge.set_ready().await.map_err(Failure::acme)?;
    }
    Ok(())
}

impl Answers {
    async fn show(
        &mut self,
        challenge: &ChallengeHandle<'_>,
        kind: ChallengeKind,
        name: &str,
        means: &Means<'_>,
    ) -> Result<(), Failure> {
        let authorization = challenge.key_authorization();
        match kind {
            ChallengeKind::Http01 => {
                let shown = means.challenges.show_http(&challenge.token, authorization.as_str());
                self.shown.push(shown);
            }
            ChallengeKind::TlsAlpn01 => {
                let digest = authorization.digest();
                self.shown.push(means.challenges.show_tls(name, digest.as_ref())?);
            }
            ChallengeKind::Dns01 => {
                let Some(dns) = means.dns else {
                    let (name, offered) = (name.to_owned(), kind.word().to_owned());
                    return Err(Failure::NoChallenge { name, offered });
                };
                let host = name.strip_prefix("*.").unwrap_or(name);
                let (record, value) =
                    (format!("_acme-challenge.{host}"), authorization.dns_value());
                // Also where this fails: it may be there all the same.
                self.records.push((record.clone(), value.clone()));
                dns.present(&record, &value).await.map_err(|error| Failure::Dns {
                    name: name.to_owned(),
                    reason: with_sources(&error),
                })?;
            }
        }
        Ok(())
    }

    /// Takes back what was shown. A record that stays is told, and does no harm.
    async fn take_back(&mut self) {
        self.shown.clear();
        if let Some(dns) = &self.dns {
            clean_up(dns, std::mem::take(&mut self.records)).await;
        }
    }
}

impl Drop for Answers {
    /// An order that is given up (its site is gone, or its time is over) leaves no record either.
    fn drop(&mut self) {
        let records = std::mem::take(&mut self.records);
        let Some(dns) = self.dns.take().filter(|_| !records.is_empty()) else { return };
        if let Ok(handle) = Handle::try_current() {
            handle.spawn(async move { clean_up(&dns, records).await });
        }
    }
}

async fn clean_up(dns: &DnsWriter, records: Vec<(String, String)>) {
    for (name, value) in records {
        if let Err(error) = dns.clean_up(&name, &value).await {
            warn!(name, error = with_sources(&error), "a challenge record stays in DNS");
        }
    }
}

/// The authority's words on the first name that it could not validate.
async fn why_invalid(order: &mut Order, asked: &[(String, &'static str)]) -> Option<Failure> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = match authorization.refresh().await {
            Ok(state) => state,
            Err(error) => {
                warn!(%error, "the authority does not say why");
                return None;
            }
        };
        let name = state.identifier().to_string();
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            let challenge =
                asked.iter().find(|(asked, _)| *asked == name).map_or("?", |(_, kind)| kind);
            return Some(Failure::Validation { name, challenge, reason: words_of(problem) });
        }
    }
    None
}

fn kind_of(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::Dns01 => ChallengeType::Dns01,
    }
}

fn word_of(kind: &ChallengeType) -> String {
    match kind {
        ChallengeType::Http01 => "http-01".to_owned(),
        ChallengeType::Dns01 => "dns-01".to_owned(),
        ChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        ChallengeType::Unknown(word) => word.chars().take(40).collect(),
        other => format!("{other:?}"),
    }
}

fn identifier(name: &str) -> Identifier {
    Identifier::Dns(name.to_owned())
}

fn new_key(algorithm: Algorithm) -> Result<SecretText, Failure> {
    let key = match algorithm {
        Algorithm::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        Algorithm::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
    };
    Ok(SecretText::new(key.serialize_pem()))
}

/// The request for a certificate, DER: names only (the common name has had its day).
fn request(names: &[String], key: &SecretText) -> Result<Vec<u8>, Failure> {
    let key = KeyPair::from_pem(key.expose())?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// What an authority calls a certificate in ARI and `replaces` (RFC 9773, section 4.1).
pub(super) fn identifier_of(kept: &KeptCertificate) -> Option<CertificateIdentifier<'static>> {
    let leaf = CertificateDer::from_pem_slice(kept.chain.as_bytes()).ok()?;
    CertificateIdentifier::try_from(&leaf).ok().map(CertificateIdentifier::into_owned)
}
