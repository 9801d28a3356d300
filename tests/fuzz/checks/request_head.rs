//! Whatever the bytes: a request's head is judged alike however it is cut, and what is taken another parser reads alike.

use tidegate::framing::{HeadLimits, RequestHead};

const LIMITS: HeadLimits = HeadLimits { max_bytes: 4_096, max_fields: 32, max_target_bytes: 1_024 };

/// # Panics
/// When two readers disagree.
pub fn check(bytes: &[u8]) {
    let at_once = RequestHead::default().judge(bytes, &LIMITS);
    let mut head = RequestHead::default();
    let in_pieces = (0..=bytes.len())
        .find_map(|end| head.judge(&bytes[..end], &LIMITS).transpose())
        .transpose();
    match (&at_once, &in_pieces) {
        (Ok(at_once), Ok(in_pieces)) => {
            assert_eq!(at_once, in_pieces, "the bounds depend on the cut");
        }
        (Err(_), Err(_)) => {}
        _ => panic!("at once {at_once:?}, in pieces {in_pieces:?}"),
    }
    let Ok(Some(whole)) = at_once else { return };
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes).expect("httparse refuses what is taken here");
    assert_eq!(parsed, httparse::Status::Complete(whole.length));
}
