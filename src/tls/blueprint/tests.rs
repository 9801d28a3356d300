use super::*;
use crate::{
    tls::fixture::{Authority, Files},
    types::Severity,
};

fn try_compile(source: &CertificateSource, hosts: &[&str]) -> (Option<TlsBlueprint>, Problems) {
    let hosts: Vec<HostPattern> = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let path = KeyPath::of(&["sites", "shop"]);
    let mut problems = Problems::new();
    let site = "shop".parse().unwrap();
    let compiled = compile(&site, source, &hosts, &TlsPolicy::default(), &path, &mut problems);
    (compiled, problems)
}

fn from(files: &Files) -> CertificateSource {
    CertificateSource::Files { chain: files.chain.clone(), key: files.key.clone() }
}

fn one(problems: &Problems) -> (Severity, String, String) {
    assert_eq!(problems.iter().count(), 1, "{problems:?}");
    let problem = problems.iter().next().unwrap();
    (problem.severity, problem.path.to_string(), problem.message.clone())
}

#[test]
fn a_good_pair_has_no_problems() {
    let files = Files::of(&Authority::root("r").leaf(&["shop.test", "*.shop.test"]));
    let (compiled, problems) = try_compile(&from(&files), &["shop.test", "a.shop.test"]);
    assert!(compiled.is_some());
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn errors_stand_at_the_file_that_they_are_about() {
    let leaf = Authority::root("r").leaf(&["shop.test"]);
    let files = Files::of(&leaf);
    std::fs::remove_file(&files.chain).unwrap();
    let (compiled, problems) = try_compile(&from(&files), &["shop.test"]);
    assert!(compiled.is_none());
    let (severity, path, message) = one(&problems);
    assert_eq!((severity, path.as_str()), (Severity::Error, "sites.shop.certificate.chain"));
    assert!(message.ends_with("chain.pem does not exist"), "{message}");
    files.write(&leaf.pem, "");
    let (compiled, problems) = try_compile(&from(&files), &["shop.test"]);
    assert!(compiled.is_none());
    assert_eq!(one(&problems).1, "sites.shop.certificate.key");
}

#[test]
fn hosts_that_the_certificate_is_not_for_are_told_once() {
    let files = Files::of(&Authority::root("r").leaf(&["shop.test"]));
    let (compiled, problems) = try_compile(&from(&files), &["shop.test", "b.test", "*.shop.test"]);
    assert!(compiled.is_some());
    let (severity, path, message) = one(&problems);
    assert_eq!((severity, path.as_str()), (Severity::Warning, "sites.shop.certificate.chain"));
    assert_eq!(message, "the certificate is not for b.test, *.shop.test");
}

#[test]
fn a_mended_order_is_told() {
    let root = Authority::root("r");
    let leaf = root.leaf(&["shop.test"]);
    let files = Files::new(&format!("{}{}", root.pem, leaf.pem), &leaf.key);
    let (compiled, problems) = try_compile(&from(&files), &["shop.test"]);
    assert!(compiled.is_some());
    assert_eq!(one(&problems).0, Severity::Warning);
}

#[test]
fn other_sources_need_no_file() {
    for source in
        [CertificateSource::Internal, CertificateSource::Acme(crate::tls::acme::KeyType::Ecdsa)]
    {
        let (compiled, problems) = try_compile(&source, &["b.test", "a.test", "b.test"]);
        assert!(problems.is_empty());
        match compiled.unwrap().certificate {
            CertificateBlueprint::Issued { hosts, .. } => assert_eq!(hosts.len(), 2),
            other @ CertificateBlueprint::Files { .. } => panic!("{other:?}"),
        }
    }
}
