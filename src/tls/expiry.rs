//! Warnings before a certificate ends: at 14, 7 and 1 days, and when it has. Each is told once for a certificate.
//!
//! Certificates that the edge renews by itself are told of only when the time for that is over; those from files when
//! more than half of their lifetime is.

use std::collections::HashMap;

use tracing::{error, warn};

use super::{config::CertificateSource, date, store::CertificateFacts};
use crate::types::Name;

const DAY: i64 = 86_400;
/// Days before the end, and the end.
const STEPS: [i64; 4] = [14, 7, 1, 0];

/// What has been told. Bounded by the sites in use.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<Name, (i64, i64)>);

impl Told {
    /// Tells what is to be told at `now` (seconds since 1970) of the certificates of these sites.
    pub(super) fn tell(&mut self, certificates: &[(&Name, CertificateFacts)], now: i64) {
        self.0.retain(|site, _| certificates.iter().any(|(name, _)| *name == site));
        for (site, facts) in certificates {
            let Some(step) = step(facts, now) else { continue };
            let told = (facts.not_after, step);
            if self.0.get(*site).is_some_and(|(end, last)| *end == told.0 && *last <= step) {
                continue;
            }
            self.0.insert((*site).clone(), told);
            let (names, ends) = (&facts.names, date(facts.not_after));
            let why = facts.last_error.as_deref().unwrap_or("nothing newer is there");
            if step == 0 {
                error!(%site, ?names, ends, why, "the certificate has ended: clients refuse it");
            } else {
                let days = facts.not_after.saturating_sub(now) / DAY;
                warn!(%site, ?names, ends, days, why, "the certificate ends soon");
            }
        }
    }
}

/// The step that a certificate has come to, where it is one to be told.
fn step(facts: &CertificateFacts, now: i64) -> Option<i64> {
    let left = facts.not_after.saturating_sub(now);
    let lifetime = facts.not_after.saturating_sub(facts.not_before).max(0);
    let is_expected = match facts.source {
        CertificateSource::Acme(_) | CertificateSource::Internal => lifetime / 3,
        CertificateSource::Files { .. } => lifetime / 2,
    };
    let reached = STEPS.into_iter().filter(|days| left <= days * DAY);
    reached.filter(|days| *days == 0 || days * DAY < is_expected).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::acme::KeyType;

    fn facts(days: i64, source: CertificateSource) -> CertificateFacts {
        CertificateFacts {
            names: vec!["a.test".to_owned()],
            issuer: String::new(),
            not_before: 0,
            not_after: days * DAY,
            last_error: None,
            source,
            is_standing_in: false,
            renewal: None,
        }
    }

    fn files() -> CertificateSource {
        CertificateSource::Files { chain: "c".into(), key: "k".into() }
    }

    #[test]
    fn steps_are_those_that_nobody_expects() {
        let acme = || CertificateSource::Acme(KeyType::Ecdsa);
        for (days, source, left, expected) in [
            (90, acme(), 15, None),
            (90, acme(), 14, Some(14)),
            (90, acme(), 7, Some(7)),
            (90, acme(), 1, Some(1)),
            (90, acme(), 0, Some(0)),
            (6, acme(), 6, None),
            (6, acme(), 1, Some(1)),
            (6, acme(), -1, Some(0)),
            (30, CertificateSource::Internal, 12, None),
            (30, CertificateSource::Internal, 6, Some(7)),
            (365, files(), 13, Some(14)),
            (10, files(), 6, None),
            (1, files(), 1, None),
            (1, files(), 0, Some(0)),
        ] {
            let facts = facts(days, source);
            assert_eq!(step(&facts, facts.not_after - left * DAY), expected, "{days} {left}");
        }
    }

    #[test]
    fn each_step_is_told_once_and_again_of_another_certificate() {
        let (site, mut told) = ("a".parse().unwrap(), Told::default());
        let facts = facts(365, files());
        let mut tell = |facts: &CertificateFacts, left: i64| {
            let before = told.0.clone();
            told.tell(&[(&site, facts.clone())], facts.not_after - left * DAY);
            told.0 != before
        };
        let steps = [
            (20, false),
            (14, true),
            (13, false),
            (7, true),
            (7, false),
            (1, true),
            (0, true),
            (0, false),
        ];
        for (left, is_told) in steps {
            assert_eq!(tell(&facts, left), is_told, "{left}");
        }
        let newer = CertificateFacts { not_after: facts.not_after + 365 * DAY, ..facts.clone() };
        assert!(!tell(&newer, 20) && tell(&newer, 14));
    }
}
