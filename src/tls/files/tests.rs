use std::{fs, time::SystemTime};

use super::*;
use crate::tls::fixture::{Authority, DAY, Files};

fn load(files: &Files) -> Result<LoadedCertificate, CertificateError> {
    load_files(&files.chain, &files.key, SystemTime::now())
}

fn host(text: &str) -> HostPattern {
    text.parse().unwrap()
}

#[test]
fn a_good_pair_tells_its_facts() {
    let root = Authority::root("Some root");
    let leaf = root.leaf(&["Shop.example.com", "*.example.org", "192.0.2.7", "2001:db8::1"]);
    let loaded = load(&Files::of(&leaf)).unwrap();
    assert_eq!(loaded.names.0, ["shop.example.com", "*.example.org", "192.0.2.7", "[2001:db8::1]"]);
    assert_eq!(loaded.issuer, "Some root");
    assert_eq!(loaded.key.cert.len(), 1);
    assert!(!loaded.was_reordered);
    assert!(loaded.not_before < unix_seconds(SystemTime::now()));
}

#[test]
fn names_cover_what_clients_accept() {
    let texts = ["shop.example.com", "*.example.org", "192.0.2.7", "[2001:db8::1]"];
    let names = CertificateNames(texts.iter().map(|name| (*name).to_owned()).collect());
    for covered in
        ["shop.example.com", "a.example.org", "*.example.org", "192.0.2.7", "[2001:db8::1]"]
    {
        assert!(names.cover(&host(covered)), "{covered}");
    }
    for other in ["example.org", "a.b.example.org", "*.example.com", "192.0.2.8", "[::1]"] {
        assert!(!names.cover(&host(other)), "{other}");
    }
    let odd = CertificateNames(vec!["*.0.2.7".to_owned()]);
    assert!(!odd.cover(&host("192.0.2.7")), "a star does not cover a part of an address");
}

#[test]
fn missing_and_unreadable_files_are_named() {
    let files = Files::of(&Authority::root("r").leaf(&["a.test"]));
    fs::remove_file(&files.key).unwrap();
    let error = load(&files).unwrap_err();
    assert!(matches!(&error, CertificateError::Missing { is_key: true, .. }), "{error}");
    assert!(error.is_about_key());
    fs::create_dir(&files.key).unwrap();
    let error = load(&files).unwrap_err();
    assert!(matches!(&error, CertificateError::Unreadable { is_key: true, .. }), "{error}");
    fs::remove_file(&files.chain).unwrap();
    let error = load(&files).unwrap_err();
    assert!(matches!(&error, CertificateError::Missing { is_key: false, .. }), "{error}");
    assert!(error.to_string().contains("chain.pem"), "{error}");
    assert!(!error.is_about_key());
    let large = vec![b'\n'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
    fs::write(&files.chain, large).unwrap();
    let error = load(&files).unwrap_err();
    assert!(matches!(&error, CertificateError::Unreadable { is_key: false, .. }), "{error}");
}

#[test]
fn what_is_not_there_is_told_apart() {
    let leaf = Authority::root("r").leaf(&["a.test"]);
    let files = Files::new("", &leaf.key);
    assert!(matches!(load(&files), Err(CertificateError::NoCertificate { .. })));
    // The files are swapped.
    files.write(&leaf.key, &leaf.pem);
    assert!(matches!(load(&files), Err(CertificateError::NoCertificate { .. })));
    files.write(&leaf.pem, "no key here");
    assert!(matches!(load(&files), Err(CertificateError::NoKey { .. })));
    files.write(&leaf.pem, &leaf.key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"));
    assert!(matches!(load(&files), Err(CertificateError::EncryptedKey { .. })));
}

#[test]
fn broken_files_are_told_apart() {
    let leaf = Authority::root("r").leaf(&["a.test"]);
    let files = Files::new(&leaf.pem[..leaf.pem.len() / 2], &leaf.key);
    assert!(matches!(load(&files), Err(CertificateError::Pem { is_key: false, .. })));
    files.write("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", &leaf.key);
    assert!(matches!(load(&files), Err(CertificateError::MalformedCertificate { place: 1, .. })));
    files.write(&leaf.pem, "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n");
    assert!(matches!(load(&files), Err(CertificateError::UnusableKey { .. })));
}

#[test]
fn no_error_shows_the_key() {
    let leaf = Authority::root("r").leaf(&["a.test"]);
    let secret = leaf.key.lines().nth(1).unwrap();
    let one_line = leaf.key.replace('\n', "");
    let half = &leaf.key[..leaf.key.len() - 30];
    let not_base64 = leaf.key.replacen(secret, &format!("{secret}!"), 1);
    for key in [one_line.as_str(), half, &not_base64] {
        let error = load(&Files::new(&leaf.pem, key)).unwrap_err();
        assert!(error.is_about_key(), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(&secret[8..40]), "{shown}");
    }
    let loaded = load(&Files::of(&leaf)).unwrap();
    assert!(!format!("{loaded:?}").contains(&secret[8..40]));
}

#[test]
fn a_key_of_another_certificate_is_found_out() {
    let root = Authority::root("r");
    let files = Files::new(&root.leaf(&["a.test"]).pem, &root.leaf(&["a.test"]).key);
    let error = load(&files).unwrap_err();
    assert!(matches!(&error, CertificateError::KeyMismatch { .. }), "{error}");
    assert!(error.help().is_some());
}

#[test]
fn time_is_checked_at_both_ends() {
    let now = SystemTime::now();
    let leaf = Authority::root("r").leaf_between(&["a.test"], now - DAY * 2, now - DAY);
    let files = Files::of(&leaf);
    let error = load(&files).unwrap_err();
    assert!(matches!(&error, CertificateError::Expired { .. }), "{error}");
    assert!(load_files(&files.chain, &files.key, now - DAY - DAY / 2).is_ok());
    let error = load_files(&files.chain, &files.key, now - DAY * 3).unwrap_err();
    assert!(matches!(&error, CertificateError::NotYetValid { .. }), "{error}");
}

#[test]
fn a_chain_in_the_wrong_order_is_mended() {
    let root = Authority::root("root");
    let upper = root.intermediate("upper");
    let lower = upper.intermediate("lower");
    let leaf = lower.leaf(&["a.test"]);
    let right = [&leaf.pem, &lower.pem, &upper.pem, &root.pem];
    let chain = |order: [usize; 4]| order.map(|place| right[place].as_str()).concat();
    let expected = load(&Files::new(&chain([0, 1, 2, 3]), &leaf.key)).unwrap();
    assert!(!expected.was_reordered);
    for order in [[3, 2, 1, 0], [1, 0, 3, 2], [0, 2, 1, 3], [2, 3, 0, 1]] {
        let mended = load(&Files::new(&chain(order), &leaf.key)).unwrap();
        assert!(mended.was_reordered, "{order:?}");
        assert_eq!(mended.key.cert, expected.key.cert, "{order:?}");
        assert_eq!(mended.names.0, ["a.test"]);
    }
}

#[test]
fn a_certificate_that_belongs_to_none_stays_last() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let leaf = root.leaf(&["a.test"]);
    let files = Files::new(&[leaf.pem.as_str(), &other.pem, &root.pem].concat(), &leaf.key);
    let loaded = load(&files).unwrap();
    assert!(loaded.was_reordered);
    assert_eq!(loaded.key.cert[1..], [root.der, other.der]);
}
