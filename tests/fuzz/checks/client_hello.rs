//! Whatever the bytes: a first message of TLS asks for the same name however it is cut, and all that came is remembered.

use tidegate::{framing::is_valid_host, listener::fuzz::client_hello};

/// # Panics
/// When the name depends on the cut, is none, or bytes are lost.
pub fn check(bytes: &[u8]) {
    let (at_once, in_pieces) = (client_hello(bytes, usize::MAX), client_hello(bytes, 1));
    let (Some(at_once), Some(in_pieces)) = (&at_once, &in_pieces) else {
        assert_eq!(at_once, in_pieces, "the end depends on the cut");
        return;
    };
    assert_eq!(at_once.server_name, in_pieces.server_name, "the name depends on the cut");
    for hello in [at_once, in_pieces] {
        assert!(!hello.remembered.is_empty() && bytes.starts_with(&hello.remembered), "bytes lost");
    }
    if let Some(name) = &at_once.server_name {
        assert!(is_valid_host(name.as_bytes()), "{name} is no host");
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name} is not in lower case");
    }
    let cut = in_pieces.remembered.len() - 1;
    assert_eq!(client_hello(&bytes[..cut], usize::MAX), None, "a part is taken for all of it");
}
