//! The rules by which endpoints get requests: health, panic, priorities, zones. Pure: rows in, indexes out.
//!
//! In this order: the healthy ones, or the best there is; all of them in a panic; of these the first priorities that are
//! healthy enough; of these the own zone's, where it is healthy enough. Where less than half of the weight there is
//! left, those that are about to recover stay or come too. A rule that would leave nobody is not applied.
//!
//! Beside them a reserve for retries that have tried all of these: whoever else nothing, or only the traffic, speaks against.

use std::collections::BTreeMap;

use super::eligibility_config::{EligibilityConfig, WhenNoneHealthy};
use crate::types::Percent;

/// A priority is enough alone while at least this share of its weight may get requests.
const ENOUGH_OF_A_PRIORITY: Percent = Percent::whole(50);

/// While less than this share of the weight is in service, those that are about to recover are used too: where all were down, the first
/// one that is back must not bear the load of all.
const ENOUGH_WITHOUT_RECOVERING: Percent = Percent::whole(50);

/// What is known of an endpoint, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Probes find it healthy, or nothing probes it.
    Healthy,
    /// Never probed.
    Unknown,
    /// Worse than the others by their traffic; its probes do not speak against it.
    Ejected,
    /// Its probes failed, and the last one did not: where there are too few others, one good probe is enough.
    Recovering,
    /// Its probes fail.
    Unhealthy,
}

/// An endpoint with a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) standing: Standing,
    pub(super) weight: u32,
    pub(super) priority: u32,
    pub(super) is_own_zone: bool,
}

/// Who gets requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Indexes of rows, in their order.
    pub(super) chosen: Vec<usize>,
    /// Those for a retry that has tried all of them, in groups: each is better than those after it.
    pub(super) reserve: Vec<Vec<usize>>,
    /// They are all there are, because too few are healthy.
    pub(super) is_panicking: bool,
    /// They are known to be healthy, and not only the best there is.
    pub(super) is_healthy: bool,
    /// How many nothing speaks against, in any priority and zone.
    pub(super) in_service: usize,
}

pub(super) fn select(rows: &[Row], rules: &EligibilityConfig) -> Selection {
    let in_service = rows.iter().filter(|row| row.standing <= Standing::Unknown).count();
    let best = rows.iter().map(|row| row.standing).min();
    let is_panicking = in_service < rows.len()
        && rules
            .panic_threshold
            .is_some_and(|threshold| !is_share(in_service as u64, rows.len() as u64, threshold));
    let is_usable = |row: &Row| match best {
        Some(Standing::Unhealthy) => rules.when_none_healthy == WhenNoneHealthy::Try,
        Some(best) => row.standing == best,
        None => false,
    };
    let chosen: Vec<usize> = if is_panicking {
        (0..rows.len()).collect()
    } else {
        let levels = levels_in_use(rows, is_usable);
        let in_levels = |row: &Row| levels.is_none_or(|last| row.priority <= last);
        let only_own_zone = rules.own_zone.is_some()
            && is_own_zone_enough(rows, in_levels, is_usable, rules.zone_threshold);
        let is_in_scope = |row: &Row| in_levels(row) && (row.is_own_zone || !only_own_zone);
        let scope = rows.iter().filter(|row| is_in_scope(row));
        let (serving, all) =
            weights(scope, |row| row.standing <= Standing::Unknown && is_usable(row));
        let takes_recovering = !is_share(serving, all, ENOUGH_WITHOUT_RECOVERING);
        let is_chosen = |row: &Row| {
            let is_recovering = takes_recovering && row.standing == Standing::Recovering;
            (is_usable(row) || is_recovering) && is_in_scope(row)
        };
        (0..rows.len()).filter(|index| rows.get(*index).is_some_and(is_chosen)).collect()
    };
    let reserve = reserve(rows, &chosen);
    let is_healthy = best == Some(Standing::Healthy);
    Selection { chosen, reserve, is_panicking, is_healthy, in_service }
}

/// Those that are not chosen though their probes do not speak against them: the best standing first, then the lowest
/// priority, then the own zone.
fn reserve(rows: &[Row], chosen: &[usize]) -> Vec<Vec<usize>> {
    if chosen.is_empty() {
        return Vec::new();
    }
    let mut groups = BTreeMap::<_, Vec<usize>>::new();
    // They are in order.
    let mut chosen = chosen.iter().peekable();
    for (index, row) in rows.iter().enumerate() {
        if chosen.next_if(|next| **next == index).is_none() && row.standing <= Standing::Ejected {
            let rank = (row.standing, row.priority, !row.is_own_zone);
            groups.entry(rank).or_default().push(index);
        }
    }
    groups.into_values().collect()
}

/// The last priority in use: the first one that is healthy enough, which takes along those before it; `None` where none is.
fn levels_in_use(rows: &[Row], is_usable: impl Fn(&Row) -> bool) -> Option<u32> {
    let mut levels: Vec<u32> = rows.iter().map(|row| row.priority).collect();
    levels.sort_unstable();
    levels.dedup();
    levels.into_iter().find(|level| {
        let (usable, all) = weights(rows.iter().filter(|row| row.priority == *level), &is_usable);
        is_share(usable, all, ENOUGH_OF_A_PRIORITY)
    })
}

fn is_own_zone_enough(
    rows: &[Row],
    in_levels: impl Fn(&Row) -> bool,
    is_usable: impl Fn(&Row) -> bool,
    threshold: Percent,
) -> bool {
    let own = rows.iter().filter(|row| row.is_own_zone && in_levels(row));
    let (usable, all) = weights(own, is_usable);
    usable > 0 && is_share(usable, all, threshold)
}

/// The weight that is usable, and all of it.
fn weights<'a>(
    rows: impl Iterator<Item = &'a Row>,
    is_usable: impl Fn(&Row) -> bool,
) -> (u64, u64) {
    rows.fold((0, 0), |(usable, all), row| {
        let weight = u64::from(row.weight);
        (if is_usable(row) { usable + weight } else { usable }, all + weight)
    })
}

/// Whether `part` of `whole` is at least `share`.
fn is_share(part: u64, whole: u64, share: Percent) -> bool {
    part * u64::from(Percent::ALL.millionths()) >= whole * u64::from(share.millionths())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `h0`, `u1a`: standing, priority, and `a` for the own zone; `*3` for a weight.
    fn rows(text: &str) -> Vec<Row> {
        let row = |word: &str| {
            let (word, weight) = word.split_once('*').unwrap_or((word, "1"));
            let letters: Vec<char> = word.chars().collect();
            Row {
                standing: match letters[0] {
                    'h' => Standing::Healthy,
                    '?' => Standing::Unknown,
                    'e' => Standing::Ejected,
                    'r' => Standing::Recovering,
                    _ => Standing::Unhealthy,
                },
                priority: letters[1].to_digit(10).unwrap(),
                is_own_zone: letters.contains(&'a'),
                weight: weight.parse().unwrap(),
            }
        };
        text.split_whitespace().map(row).collect()
    }

    fn rules() -> EligibilityConfig {
        EligibilityConfig { own_zone: Some("a".parse().unwrap()), ..EligibilityConfig::default() }
    }

    fn chosen(text: &str, rules: &EligibilityConfig) -> String {
        let selection = select(&rows(text), rules);
        selection.chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_best_standing_gets_all() {
        for (text, indexes) in [
            ("h0 u0 e0 ?0 h0", "04"),
            ("u0 e0 ?0", "2"),
            ("u0 e0 e0", "12"), // all that probes do not speak against: rather an outlier than nobody
            ("u0 r0 r0", "12"), // one good probe is enough where all are down
            ("u0 r0 e0", "12"), // not all on one outlier
            ("r0 h0", "1"),     // half is enough
            ("r0 h0 u0", "01"),
            ("r0 h0*2 u0", "1"), // by weight
            ("r0 ?0 u0", "01"),
            ("r0 r0 r0 h0 r0", "01234"), // one must not bear the load of five
            ("r0 h0 h0 h0 r0", "123"),
            ("r0 r0 h1", "012"), // nor a backup
            ("r0 r0 h1 h1", "23"),
            ("h0 u0 r1", "0"), // a priority that is not in use
            ("u0 u0", ""),
            ("", ""),
        ] {
            assert_eq!(chosen(text, &rules()), indexes, "{text}");
        }
        let trying = EligibilityConfig { when_none_healthy: WhenNoneHealthy::Try, ..rules() };
        assert_eq!(chosen("u0 u0", &trying), "01");
        assert_eq!(chosen("u0 e0 h0", &trying), "2");
        assert!(!select(&rows("?0 u0"), &trying).is_healthy);
        assert_eq!(select(&rows("?0 u0 h1 e0"), &trying).in_service, 2);
    }

    #[test]
    fn the_next_priority_is_added_when_less_than_half_is_left() {
        for (text, indexes) in [
            ("h0 h0 h1 h2", "01"),
            ("h0 u0 h1", "0"),        // half is enough
            ("h0 u0 e0 h1 h2", "03"), // a third is not: both together
            ("h0*3 u0 u0 h1", "0"),   // by weight
            ("u0 u0 h1 h2", "2"),
            ("u0 h1 u1 u1 h2", "14"),
            ("h0 u0 u0 h1 u1 u1", "03"), // none is enough: all of them
            ("h3 h7", "0"),
        ] {
            assert_eq!(chosen(text, &rules()), indexes, "{text}");
        }
    }

    #[test]
    fn the_own_zone_is_preferred_while_enough_of_it_is_left() {
        for (text, indexes) in [
            ("h0a h0 h0a", "02"),
            ("h0a h0 u0a", "0"),
            ("h0a h0 u0a u0a", "01"), // a third: all
            ("u0a h0 h0", "12"),
            ("h0 h0", "01"),
            ("h0 h1a", "0"), // a zone does not go before a priority
            ("u0 h1a h1", "1"),
        ] {
            assert_eq!(chosen(text, &rules()), indexes, "{text}");
        }
        let nowhere = EligibilityConfig { own_zone: None, ..rules() };
        assert_eq!(chosen("h0a h0", &nowhere), "01");
        let strict = EligibilityConfig { zone_threshold: Percent::ALL, ..rules() };
        assert_eq!(chosen("h0a h0 u0a", &strict), "01");
    }

    #[test]
    fn in_a_panic_all_are_used() {
        let rules = EligibilityConfig { panic_threshold: Some(Percent::whole(50)), ..rules() };
        for (text, indexes, is_panicking) in [
            ("h0 u0", "0", false), // not fewer than half
            ("h0 u0 e0", "012", true),
            ("h0a u0 u1", "012", true),
            ("?0 ?0", "01", false), // nothing speaks against them
            ("u0 u0", "01", true),
            ("", "", false),
        ] {
            let selection = select(&rows(text), &rules);
            assert_eq!(selection.is_panicking, is_panicking, "{text}");
            assert_eq!(chosen(text, &rules), indexes, "{text}");
        }
    }

    fn reserve_of(text: &str) -> Vec<Vec<usize>> {
        select(&rows(text), &rules()).reserve
    }

    #[test]
    fn who_is_not_chosen_is_in_reserve_unless_its_probes_speak_against_it() {
        for (text, groups) in [
            ("h0 h0", vec![]),
            ("h0 u0 r0", vec![]),
            ("h0a h1 h1a h2 h0", vec![vec![4], vec![2], vec![1], vec![3]]),
            ("h0 e0 h1 e1 h1", vec![vec![2, 4], vec![1], vec![3]]),
            ("h0 ?0 e0 ?0", vec![vec![1, 3], vec![2]]),
            ("e0 e0", vec![]),
            ("u0 r0", vec![]),
            ("u0 u0", vec![]),
        ] {
            assert_eq!(reserve_of(text), groups, "{text}");
        }
    }

    /// Whatever the states, priorities and zones: while one endpoint is healthy, somebody gets requests, and
    /// outside of a panic only the best do, and those that recover where these are less than half.
    #[test]
    fn no_rule_leaves_nobody() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let row = |random: &mut fastrand::Rng| Row {
                standing: [
                    Standing::Healthy,
                    Standing::Unknown,
                    Standing::Ejected,
                    Standing::Recovering,
                    Standing::Unhealthy,
                ][random.usize(0..5)],
                weight: random.u32(1..4),
                priority: random.u32(0..3),
                is_own_zone: random.bool(),
            };
            let rows: Vec<Row> = (0..random.usize(1..8)).map(|_| row(&mut random)).collect();
            let rules = EligibilityConfig {
                panic_threshold: random.bool().then_some(Percent::whole(random.u8(1..100))),
                zone_threshold: Percent::whole(random.u8(0..=100)),
                ..rules()
            };
            let selection = select(&rows, &rules);
            let best = rows.iter().map(|row| row.standing).min().unwrap();
            let is_nobody = best == Standing::Unhealthy && !selection.is_panicking;
            assert_eq!(selection.chosen.is_empty(), is_nobody, "{rows:?} {rules:?}");
            if !selection.is_panicking {
                let mut serving = 0;
                let mut has_recovering = false;
                for row in selection.chosen.iter().map(|index| rows[*index]) {
                    if row.standing == best {
                        serving += row.weight * u32::from(best <= Standing::Unknown);
                    } else {
                        assert_eq!(row.standing, Standing::Recovering, "{rows:?}");
                        has_recovering = true;
                    }
                }
                let all: u32 = rows.iter().map(|row| row.weight).sum();
                assert!(!has_recovering || serving * 2 < all, "{rows:?}");
                let is_short = serving > 0 && serving * 2 < all && best <= Standing::Unknown;
                let is_one_level = rows.iter().all(|row| row.priority == rows[0].priority);
                let is_one_zone = rows.iter().all(|row| !row.is_own_zone);
                if is_short && is_one_level && is_one_zone {
                    let recovering = rows.iter().filter(|row| row.standing == Standing::Recovering);
                    assert_eq!(has_recovering, recovering.count() > 0, "{rows:?}");
                }
            }
            let mut all: Vec<usize> = selection.reserve.concat();
            all.extend(&selection.chosen);
            all.sort_unstable();
            let listed = all.len();
            all.dedup();
            assert_eq!(all.len(), listed, "nobody twice: {rows:?}");
            if !selection.chosen.is_empty() {
                for (index, row) in rows.iter().enumerate() {
                    let is_listed = all.contains(&index);
                    assert!(is_listed || row.standing > Standing::Ejected, "{rows:?}");
                }
            }
        }
    }
}
