use rustls::{HandshakeKind, ProtocolVersion};
use tokio::runtime::Handle;

use super::*;
use crate::tls::{
    config::CertificateSource,
    fixture::{client, handshake},
    internal::InternalAuthority,
    watched::Timing,
};

struct Setting {
    _state: tempfile::TempDir,
    authority: Arc<InternalAuthority>,
    tickets: TicketKeys,
}

impl Setting {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let now = std::time::SystemTime::now();
        let authority = Arc::new(InternalAuthority::open(state.path(), now).unwrap());
        Self { _state: state, authority, tickets: TicketKeys::new().unwrap() }
    }

    fn site(&self, preset: TlsPreset, hosts: &[&str]) -> SiteTls {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let now = std::time::SystemTime::now();
        let (authority, handle) = (self.authority.clone(), Handle::current());
        let source = CertificateSource::Internal;
        let certificate =
            Certificate::issued(source, hosts, authority, now, &handle, Timing::default()).unwrap();
        let policy = TlsPolicy { preset, ..TlsPolicy::default() };
        let policy = LivePolicy::new(policy, None, &Handle::current(), Timing::default());
        SiteTls::new(policy, certificate, self.tickets.clone()).unwrap()
    }
}

#[tokio::test]
async fn clients_that_trust_the_authority_accept_its_leaves() {
    let setting = Setting::new();
    let site = setting.site(
        TlsPreset::Intermediate,
        &["shop.test", "*.shop.test", "localhost", "127.0.0.1", "[::1]"],
    );
    for version in [&TLS12, &TLS13] {
        let client = client(setting.authority.certificate(), &[version]);
        for name in ["shop.test", "a.shop.test", "localhost", "127.0.0.1", "::1"] {
            let seen = handshake(&site.handshake().config, &client, name).await.unwrap();
            assert_eq!(seen.version, version.version, "{name}");
            assert_eq!(seen.alpn, b"h2");
        }
        for name in ["other.test", "a.b.shop.test", "127.0.0.2"] {
            assert!(handshake(&site.handshake().config, &client, name).await.is_err(), "{name}");
        }
    }
    let stranger = Setting::new();
    let client = client(stranger.authority.certificate(), &[&TLS13]);
    assert!(handshake(&site.handshake().config, &client, "shop.test").await.is_err());
}

#[tokio::test]
async fn modern_refuses_what_intermediate_takes() {
    let setting = Setting::new();
    let old = client(setting.authority.certificate(), &[&TLS12]);
    let new = client(setting.authority.certificate(), &[&TLS13]);
    let modern = setting.site(TlsPreset::Modern, &["a.test"]);
    assert!(handshake(&modern.handshake().config, &old, "a.test").await.is_err());
    let seen = handshake(&modern.handshake().config, &new, "a.test").await.unwrap();
    assert_eq!(seen.version, ProtocolVersion::TLSv1_3);
    let intermediate = setting.site(TlsPreset::Intermediate, &["a.test"]);
    assert!(handshake(&intermediate.handshake().config, &old, "a.test").await.is_ok());
}

#[tokio::test]
async fn a_ticket_is_good_at_its_own_site_only() {
    let setting = Setting::new();
    let site = setting.site(TlsPreset::Intermediate, &["a.test"]);
    let other = setting.site(TlsPreset::Intermediate, &["a.test"]);
    for version in [&TLS12, &TLS13] {
        // The client asks both under one name: only the marks in the tickets tell them apart.
        let client = client(setting.authority.certificate(), &[version]);
        let first = handshake(&site.handshake().config, &client, "a.test").await.unwrap();
        assert_eq!(first.kind, HandshakeKind::Full);
        let second = handshake(&site.handshake().config, &client, "a.test").await.unwrap();
        assert_eq!(second.kind, HandshakeKind::Resumed, "{:?}", version.version);
        let elsewhere = handshake(&other.handshake().config, &client, "a.test").await.unwrap();
        assert_eq!(elsewhere.kind, HandshakeKind::Full, "{:?}", version.version);
    }
}

#[tokio::test]
async fn every_suite_has_forward_secrecy_and_aead_and_nothing_comes_early() {
    let site = Setting::new().site(TlsPreset::Intermediate, &["a.test"]);
    let given = site.handshake();
    let provider = given.config.crypto_provider();
    assert!(!provider.cipher_suites.is_empty());
    for suite in &provider.cipher_suites {
        let name = format!("{:?}", suite.suite());
        assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
        assert!(name.contains("GCM") || name.contains("CHACHA20"), "{name}");
    }
    assert_eq!(site.handshake().config.max_early_data_size, 0);
    assert_eq!(site.handshake().config.ticketer.lifetime(), 12 * 60 * 60);
}

#[test]
fn each_making_of_a_policy_is_another_version() {
    let identity = |preset| PolicyIdentity::new(TlsPolicy { preset, ..TlsPolicy::default() });
    let this = identity(TlsPreset::Modern);
    assert_eq!(this, this.clone());
    assert_ne!(this, identity(TlsPreset::Modern));
}
