use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::tls::fixture::{DAY as ONE_DAY, listing};

fn open(state_dir: &Path) -> Result<InternalAuthority, AuthorityError> {
    InternalAuthority::open(state_dir, SystemTime::now())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn hosts(texts: &[&str]) -> Vec<HostPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn it_is_made_once_and_then_kept() {
    let state = tempfile::tempdir().unwrap();
    let made = open(state.path()).unwrap();
    let directory = state.path().join(DIRECTORY);
    assert_eq!(listing(&directory), ["ca-key.pem", "ca.pem", "lock"]);
    assert_eq!(mode(&directory.join(KEY_FILE)), 0o600);
    assert_eq!(mode(&directory.join(CERTIFICATE_FILE)), 0o644);
    let id = made.name().strip_prefix("Tidegate internal authority ").unwrap();
    assert!(id.len() == 8 && u32::from_str_radix(id, 16).is_ok(), "{id}");
    let opened = open(state.path()).unwrap();
    assert_eq!(opened.certificate(), made.certificate());
    let (_, parsed) = X509Certificate::from_der(made.certificate()).unwrap();
    assert!(parsed.is_ca());
    let years = (parsed.validity().not_after.timestamp() - unix_seconds(SystemTime::now()))
        / (365 * 86_400);
    assert!((9..=10).contains(&years), "{years}");
    assert!(!format!("{made:?}").contains("PRIVATE"));
}

#[test]
fn after_a_crash_both_files_belong_together() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join(DIRECTORY);
    // What a crash leaves: nothing, a temporary file, a key alone. What a hand leaves: a certificate alone.
    for lost in [&[][..], &[CERTIFICATE_FILE], &[KEY_FILE], &[CERTIFICATE_FILE, KEY_FILE]] {
        let before = open(state.path()).unwrap();
        for file in lost {
            fs::remove_file(directory.join(file)).unwrap();
        }
        if !lost.is_empty() {
            fs::write(directory.join(".new-left"), "half").unwrap();
        }
        let after = open(state.path()).unwrap();
        assert_eq!(after.name() == before.name(), lost.is_empty(), "{lost:?}");
        assert_eq!(listing(&directory), ["ca-key.pem", "ca.pem", "lock"], "{lost:?}");
        assert_eq!(open(state.path()).unwrap().certificate(), after.certificate());
    }
}

#[test]
fn a_new_key_never_stands_beside_an_old_certificate() {
    let state = tempfile::tempdir().unwrap();
    open(state.path()).unwrap();
    let directory = state.path().join(DIRECTORY);
    fs::remove_file(directory.join(KEY_FILE)).unwrap();
    // The crash comes after the key was written: what `make` does up to there.
    clear(&directory).unwrap();
    let key = KeyPair::generate().unwrap().serialize_pem();
    write(&directory, KEY_FILE, 0o600, key.as_bytes()).unwrap();
    open(state.path()).unwrap();
}

#[test]
fn a_damaged_file_is_named_and_kept() {
    let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(state.path()).unwrap();
    open(other.path()).unwrap();
    let directory = state.path().join(DIRECTORY);
    let read = |state: &Path, file| fs::read(state.join(DIRECTORY).join(file)).unwrap();
    let leaf = crate::tls::fixture::Authority::root("r").leaf(&["a.test"]);
    let cases = [
        (CERTIFICATE_FILE, Vec::new()),
        (CERTIFICATE_FILE, read(state.path(), CERTIFICATE_FILE)[..100].to_vec()),
        (CERTIFICATE_FILE, leaf.pem.into_bytes()),
        (KEY_FILE, b"\xff\xff".to_vec()),
        (KEY_FILE, read(state.path(), KEY_FILE)[..100].to_vec()),
        (KEY_FILE, read(other.path(), KEY_FILE)),
    ];
    for (file, damage) in cases {
        let path = directory.join(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, &damage).unwrap();
        match open(state.path()) {
            Err(AuthorityError::Damaged { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{file}: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), damage, "nothing is written over");
        fs::write(&path, good).unwrap();
    }
    open(state.path()).unwrap();
}

#[test]
fn an_authority_that_ends_is_replaced() {
    let state = tempfile::tempdir().unwrap();
    let first = open(state.path()).unwrap();
    let at = |days| InternalAuthority::open(state.path(), SystemTime::now() + ONE_DAY * days);
    assert_eq!(at(3600).unwrap().name(), first.name());
    let second = at(3630).unwrap();
    assert_ne!(second.name(), first.name());
    assert_eq!(at(3630).unwrap().name(), second.name());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(open(file.path()), Err(AuthorityError::Io { .. })));
}

#[test]
fn leaves_say_what_was_asked_for() {
    let state = tempfile::tempdir().unwrap();
    let authority = open(state.path()).unwrap();
    let long = format!("{}.{}.test", "a".repeat(60), "b".repeat(60));
    let names = [long.as_str(), "*.a.test", "localhost", "127.0.0.1", "[::1]"];
    let now = SystemTime::now();
    let leaf = authority.issue(&hosts(&names), now).unwrap();
    assert_eq!(leaf.names.0, names);
    assert_eq!(leaf.issuer, authority.name());
    assert_eq!(leaf.not_before, unix_seconds(now) - 3600);
    assert_eq!(leaf.not_after - leaf.not_before, 30 * 86_400);
    assert_eq!(renew_at(leaf.not_before, leaf.not_after), leaf.not_after - 10 * 86_400);
    leaf.key.keys_match().unwrap();
}

#[test]
fn no_two_leaves_have_one_serial_number() {
    let state = tempfile::tempdir().unwrap();
    let authority = open(state.path()).unwrap();
    let serials: std::collections::HashSet<Vec<u8>> = (0..100)
        .map(|_| {
            let leaf = authority.issue(&hosts(&["a.test"]), SystemTime::now()).unwrap();
            X509Certificate::from_der(&leaf.key.cert[0]).unwrap().1.raw_serial().to_owned()
        })
        .collect();
    assert_eq!(serials.len(), 100);
    // At most 20 octets (RFC 5280, section 4.1.2.2).
    assert!(serials.iter().all(|serial| serial.len() <= 20));
}
