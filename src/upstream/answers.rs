//! What both address families of a host name have last said. Pure.
//!
//! A failed look-up says nothing: the family's last answer is used on, for as long as the caller says. "There are no such
//! records" is an answer, and takes the family's addresses away; a name that has none left at all is held by the caller
//! ([`super::discovery`]).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::resolver::{Family, LookUpError};

/// Both families of a host name.
#[derive(Default)]
pub(super) struct Answers {
    v4: FamilyAnswer,
    v6: FamilyAnswer,
}

#[derive(Default)]
struct FamilyAnswer {
    addresses: Vec<IpAddr>,
    /// When the last answer came; `None` before the first.
    answered: Option<Instant>,
    /// What came of the last look-up where it brought no addresses.
    error: Option<LookUpError>,
    is_asked: bool,
}

impl Answers {
    /// Takes what came of a look-up.
    pub(super) fn record(
        &mut self,
        family: Family,
        answer: Result<Vec<IpAddr>, LookUpError>,
        now: Instant,
    ) {
        let mine = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        mine.is_asked = true;
        match answer {
            Ok(mut addresses) => {
                // 0.0.0.0 is how filtering name servers say "no"; connecting to it would reach ourselves.
                addresses.retain(|ip| !ip.is_unspecified() && !ip.is_multicast());
                mine.addresses = addresses;
                mine.answered = Some(now);
                mine.error = None;
            }
            Err(error) => {
                if error.is_answer() {
                    mine.addresses = Vec::new();
                    mine.answered = Some(now);
                }
                mine.error = Some(error);
            }
        }
    }

    /// The addresses that may be used, those of failing look-ups for as long as `keep`.
    pub(super) fn addresses(
        &self,
        now: Instant,
        keep: Duration,
    ) -> impl Iterator<Item = IpAddr> + '_ {
        [&self.v4, &self.v6]
            .into_iter()
            .filter(move |family| family.may_be_used(now, keep))
            .flat_map(|family| family.addresses.iter().copied())
    }

    /// Whether both families have been asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.v4.is_asked && self.v6.is_asked
    }

    /// Whether the last look-up of at least one family brought addresses.
    pub(super) fn is_fresh(&self) -> bool {
        [&self.v4, &self.v6]
            .iter()
            .any(|family| family.error.is_none() && !family.addresses.is_empty())
    }

    /// What is wrong with the name at present: a look-up that failed, or no addresses at all.
    pub(super) fn error(&self) -> Option<String> {
        let errors = || [&self.v4.error, &self.v6.error].into_iter().flatten();
        if let Some(failed) = errors().find(|error| !error.is_answer()) {
            return Some(failed.to_string());
        }
        let has_none = self.v4.addresses.is_empty() && self.v6.addresses.is_empty();
        if !self.is_asked() || !has_none {
            return None;
        }
        let no_name = errors().find(|error| matches!(error, LookUpError::NoName(_)));
        Some(no_name.map_or_else(|| "the name has no addresses".to_owned(), ToString::to_string))
    }
}

impl FamilyAnswer {
    fn may_be_used(&self, now: Instant, keep: Duration) -> bool {
        let is_failing = self.error.as_ref().is_some_and(|error| !error.is_answer());
        !is_failing
            || self.answered.is_some_and(|answered| now.saturating_duration_since(answered) < keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const NONE: LookUpError = LookUpError::NoRecords(Duration::ZERO);

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn texts(answers: &Answers, now: Instant) -> Vec<String> {
        answers.addresses(now, DAY).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn families_are_joined_and_failures_keep_the_last_answer_for_a_day() {
        let now = Instant::now();
        let mut answers = Answers::default();
        answers.record(Family::V4, Ok(ips(&["10.0.0.1", "10.0.0.2"])), now);
        assert_eq!(texts(&answers, now), ["10.0.0.1", "10.0.0.2"]);
        assert!(!answers.is_asked() && answers.is_fresh());
        answers.record(Family::V6, Ok(ips(&["2001:db8::1"])), now);
        assert_eq!(texts(&answers, now), ["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
        let later = now + Duration::from_hours(23);
        answers.record(Family::V4, Err(LookUpError::Timeout), later);
        assert_eq!(texts(&answers, later).len(), 3);
        assert_eq!(answers.error().as_deref(), Some("no name server answered in time"));
        assert_eq!(texts(&answers, now + DAY), ["2001:db8::1"], "too old");
        answers.record(Family::V4, Ok(ips(&["10.0.0.3"])), now + DAY);
        assert_eq!(texts(&answers, now + DAY), ["10.0.0.3", "2001:db8::1"]);
        assert_eq!(answers.error(), None);
    }

    #[test]
    fn one_family_may_go_while_the_other_stays() {
        let now = Instant::now();
        let mut answers = Answers::default();
        answers.record(Family::V6, Err(NONE), now);
        assert_eq!(answers.error(), None, "the other family may have some");
        answers.record(Family::V4, Ok(ips(&["10.0.0.1"])), now);
        answers.record(Family::V6, Ok(ips(&["2001:db8::1"])), now);
        answers.record(Family::V4, Err(NONE), now);
        assert_eq!(texts(&answers, now), ["2001:db8::1"]);
        assert_eq!(answers.error(), None);
        answers.record(Family::V6, Err(NONE), now);
        assert_eq!(answers.error().as_deref(), Some("the name has no addresses"));
        assert!(!answers.is_fresh());
        answers.record(Family::V6, Err(LookUpError::NoName(Duration::ZERO)), now);
        assert_eq!(answers.error().as_deref(), Some("the name does not exist (NXDOMAIN)"));
        answers.record(Family::V4, Err(LookUpError::Timeout), now);
        assert_eq!(answers.error().as_deref(), Some("no name server answered in time"));
    }

    #[test]
    fn addresses_that_lead_nowhere_are_left_out() {
        let now = Instant::now();
        let mut answers = Answers::default();
        answers.record(Family::V4, Ok(ips(&["0.0.0.0", "224.0.0.1", "10.0.0.1"])), now);
        assert_eq!(texts(&answers, now), ["10.0.0.1"]);
    }
}
