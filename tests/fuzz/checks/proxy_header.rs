//! Whatever the bytes: a PROXY header is one at one length only, and says the same when it is written again.

use tidegate::types::{HeaderProgress, ProxyHeader, ProxyVersion};

/// # Panics
/// When a header is read in two ways.
pub fn check(bytes: &[u8]) {
    match ProxyHeader::parse(bytes) {
        HeaderProgress::Whole { header, length } => {
            let (own, behind) = bytes.split_at(length);
            assert!(!own.is_empty(), "nothing is no header");
            // What follows is not looked at, and a shorter piece is not taken for all of it.
            assert_eq!(ProxyHeader::parse(own), ProxyHeader::parse(bytes), "{behind:?} counts");
            for cut in 0..length {
                assert_eq!(
                    ProxyHeader::parse(&own[..cut]),
                    HeaderProgress::Partial,
                    "cut at {cut}"
                );
            }
            if let ProxyHeader::Relayed { .. } = header {
                for version in [ProxyVersion::V1, ProxyVersion::V2] {
                    let written = header.encode(version);
                    let again = ProxyHeader::parse(&written);
                    assert_eq!(again, HeaderProgress::Whole { header, length: written.len() });
                }
            }
        }
        HeaderProgress::Partial => assert!(bytes.len() <= 4_096, "the wait has no end"),
        HeaderProgress::Malformed => {}
    }
}
