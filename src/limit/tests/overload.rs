use std::time::{Duration, Instant};

use crate::limit::{Criticality, Overload, OverloadConfig, Shedding};

#[test]
fn the_least_important_are_refused_first() {
    let overload = Overload::new(Instant::now());
    overload.configure(OverloadConfig { max_requests: Some(100), max_memory: None });
    let mut held = Vec::new();
    for (criticality, most) in [
        (Criticality::Low, 80),
        (Criticality::Normal, 90),
        (Criticality::High, 95),
        (Criticality::Critical, 100),
    ] {
        while let Ok(admitted) = overload.admit(criticality) {
            held.push(admitted);
        }
        assert_eq!(held.len(), most, "{criticality:?}");
    }
    held.truncate(79);
    assert_eq!(overload.status().in_flight, 79, "those who were refused don't count");
    assert!(overload.admit(Criticality::Low).is_ok());
}

#[test]
fn want_of_memory_refuses_by_importance_and_lets_go_a_little_later() {
    let overload = Overload::new(Instant::now());
    assert!(!overload.watches_memory());
    overload.configure(OverloadConfig { max_requests: None, max_memory: Some(1_000) });
    assert!(overload.watches_memory());
    let served = || Criticality::ALL.map(|criticality| overload.admit(criticality).is_ok());
    for (memory, expected) in [
        (799, [true, true, true, true]),
        (800, [false, true, true, true]),
        (900, [false, false, true, true]),
        // Not at once.
        (899, [false, false, true, true]),
        (854, [false, true, true, true]),
        (950, [false, false, false, true]),
        (1_000, [false, false, false, false]),
        (100, [true, true, true, true]),
    ] {
        overload.saw_memory(memory);
        assert_eq!(served(), expected, "{memory}");
    }
}

#[test]
fn shedding_begins_and_ends_once() {
    let start = Instant::now();
    let overload = Overload::new(start);
    overload.configure(OverloadConfig { max_requests: Some(1), max_memory: None });
    let held = overload.admit(Criticality::Critical).unwrap();
    let first: Vec<bool> =
        (0..5).map(|_| overload.admit(Criticality::Critical).unwrap_err().is_first).collect();
    assert_eq!(first, [true, false, false, false, false]);
    drop(held);
    let at = |millis| start + Duration::from_millis(millis);
    assert_eq!(overload.look(at(0)), None);
    assert_eq!(overload.look(at(1_900)), None);
    assert_eq!(overload.look(at(2_000)), Some(Shedding { refused: 5 }));
    assert_eq!(overload.look(at(4_000)), None);
    assert!(!overload.status().is_shedding);
}
