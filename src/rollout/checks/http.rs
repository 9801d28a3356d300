//! The answer to a check by HTTP. Pure.

use super::{Outcome, config::HttpExpectation};

/// Judges an answer by its status and body.
pub(super) fn judge(status: u16, body: &[u8], expected: &HttpExpectation) -> Outcome {
    if !expected.statuses.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        let wanted: Vec<String> = expected
            .statuses
            .iter()
            .map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") })
            .collect();
        return Outcome::fails(format!("the answer is {status}, wanted {}", wanted.join(", ")));
    }
    match &expected.body_contains {
        Some(text) if memchr::memmem::find(body, text.as_bytes()).is_none() => {
            Outcome::fails(format!("the body does not contain \"{text}\""))
        }
        _ => Outcome::Passes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_must_be_as_expected() {
        let expected = |text: Option<&str>| HttpExpectation {
            statuses: vec![(200, 200), (300, 399)],
            body_contains: text.map(str::to_owned),
        };
        assert_eq!(judge(200, b"", &expected(None)), Outcome::Passes);
        assert_eq!(judge(304, b"", &expected(None)), Outcome::Passes);
        assert_eq!(
            judge(201, b"", &expected(None)),
            Outcome::fails("the answer is 201, wanted 200, 300-399")
        );
        assert_eq!(judge(200, b"all is \xff well", &expected(Some("well"))), Outcome::Passes);
        assert_eq!(
            judge(200, b"all is lost", &expected(Some("well"))),
            Outcome::fails("the body does not contain \"well\"")
        );
        assert!(matches!(judge(500, b"well", &expected(Some("well"))), Outcome::Fails { .. }));
    }
}
