//! The least that must work, with both drivers.

use crate::harness::{Edge, Origin};

#[test]
fn a_request_reaches_its_origin_and_comes_back() {
    let origin = Origin::answering(200);
    for edge in [Edge::start(&[&origin], ""), Edge::spawn(&[&origin], "")] {
        let before = origin.requests();
        edge.client().get("/hello").send().assert_status(200);
        assert_eq!(origin.requests(), before + 1);
    }
}
