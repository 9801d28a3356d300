//! What Pingora needs to connect to an endpoint, prepared once and copied for each try.
//!
//! The only file of this module that knows Pingora's `HttpPeer`. It never looks a name up: addresses are resolved before.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use pingora_core::{protocols::TcpKeepalive, upstreams::peer::HttpPeer};
use rustls_pki_types::ServerName;

use crate::types::{EndpointAddress, defaults};

use super::{
    carried::Carried,
    config::{Timeouts, UpstreamConfig},
    endpoint::Endpoint,
    gates::Connections,
    raw::UpstreamProtocol,
    secured::Security,
    tls::EndpointTls,
    tls_config::UpstreamTlsConfig,
};

/// Streams that one HTTP/2 connection to an endpoint carries.
const MAX_H2_STREAMS: usize = 100;

/// Why no peer can be made of an address.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// It is a name, which discovery resolves first.
    #[error("{0} is a name, not an address")]
    Unresolved(EndpointAddress),
    /// The path of a Unix socket that the system does not take.
    #[error("the socket's path can't be used")]
    Path,
    /// TLS over a Unix socket, and nothing says which name to verify.
    #[error("TLS over a Unix socket needs a name to ask for and to verify")]
    NoServerName,
    /// What the name resolved to has a name that no certificate can have.
    #[error("\"{0}\" can't be verified by TLS")]
    ServerName(String),
}

/// A peer without timeouts.
#[derive(Debug)]
pub(super) struct PeerTemplate {
    peer: HttpPeer,
    /// How long the pool may keep a connection.
    pool_idle: Duration,
    /// HTTP/1.1 connections live as long as the endpoint announces; HTTP/2 ones are closed with a notice (GOAWAY).
    follows_keep_alive: bool,
}

/// The name that TLS asks for and verifies: the configured one, the host name the address was resolved from, or the IP address.
/// `None` for a Unix socket without a configured name.
pub(super) fn server_name(
    tls: &UpstreamTlsConfig,
    address: &EndpointAddress,
    host: Option<&str>,
) -> Option<String> {
    let configured = tls.server_name.as_deref().or(host).map(ToOwned::to_owned);
    configured.or_else(|| match address {
        EndpointAddress::Ip(address) => Some(address.ip().to_string()),
        EndpointAddress::Dns(name, _) => Some(name.to_string()),
        EndpointAddress::Srv(_) | EndpointAddress::Unix(_) => None,
    })
}

impl PeerTemplate {
    /// The peer of `address`, which was resolved from `host` where it was one.
    pub(super) fn new(
        config: &UpstreamConfig,
        tls: Option<&EndpointTls>,
        address: &EndpointAddress,
        host: Option<&str>,
    ) -> Result<Self, PeerError> {
        // Pingora turns verification off where the name is empty, and then fails: it must never be.
        let server_name = match tls {
            None => String::new(),
            Some(tls) => {
                server_name(tls.settings(), address, host).ok_or(PeerError::NoServerName)?
            }
        };
        let mut peer = match address {
            EndpointAddress::Ip(address) => HttpPeer::new(address, tls.is_some(), server_name),
            EndpointAddress::Unix(path) => {
                let path = path.to_str().ok_or(PeerError::Path)?;
                HttpPeer::new_uds(path, tls.is_some(), server_name).map_err(|_| PeerError::Path)?
            }
            EndpointAddress::Dns(..) | EndpointAddress::Srv(_) => {
                return Err(PeerError::Unresolved(address.clone()));
            }
        };
        peer.group_key = group_key(config, tls);
        let options = &mut peer.options;
        match config.protocol {
            UpstreamProtocol::Http1 => options.set_http_version(1, 1),
            UpstreamProtocol::Http2 => options.set_http_version(2, 2),
            UpstreamProtocol::Auto => options.set_http_version(2, 1),
        }
        options.max_h2_streams = MAX_H2_STREAMS;
        options.tcp_fast_open = false;
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: defaults::TCP_KEEP_ALIVE.0,
            interval: Duration::from_secs(10),
            count: 6,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO, // the system's
        });
        if let Some(tls) = tls {
            let verifies = !tls.settings().insecure_skip_verify;
            options.verify_cert = verifies;
            options.verify_hostname = verifies;
            if let Some(engine) = tls.engine() {
                options.ca.clone_from(&engine.authorities);
                peer.client_cert_key.clone_from(&engine.client);
            }
            let name = ServerName::try_from(peer.sni.clone())
                .map_err(|_| PeerError::ServerName(peer.sni.clone()))?;
            let security = Arc::new(Security::new(Arc::clone(tls.http1()), name));
            Carried { security: Some(security), connections: None }.put_on(&mut peer);
        }
        Ok(Self {
            peer,
            pool_idle: config.pool_idle,
            follows_keep_alive: config.protocol != UpstreamProtocol::Http2,
        })
    }

    /// Has its connections counted.
    pub(super) fn counted_by(mut self, connections: &Arc<Connections>) -> Self {
        let carried = Carried::of(&self.peer);
        Carried { connections: Some(Arc::clone(connections)), ..carried }.put_on(&mut self.peer);
        self
    }

    /// The peer for one try.
    ///
    /// `read_timeout` is that of the first byte, or of a silent stream where `is_stream`; the proxy sets it to `timeouts.idle` once the
    /// head of the response is there.
    pub(super) fn peer(
        &self,
        endpoint: &Endpoint,
        timeouts: &Timeouts,
        is_stream: bool,
    ) -> Box<HttpPeer> {
        let mut peer = Box::new(self.peer.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout =
            Some(if is_stream { timeouts.stream_idle } else { timeouts.first_byte });
        options.write_timeout = Some(timeouts.idle);
        options.idle_timeout = Some(if self.follows_keep_alive {
            endpoint.idle_timeout(self.pool_idle)
        } else {
            self.pool_idle
        });
        peer
    }
}

/// Keeps the connections of upstreams apart that reach the same address in other ways. Pingora's own key leaves out the authorities
/// and the protocol.
fn group_key(config: &UpstreamConfig, tls: Option<&EndpointTls>) -> u64 {
    let mut hasher = DefaultHasher::new();
    config.name.hash(&mut hasher);
    config.protocol.hash(&mut hasher);
    tls.map(EndpointTls::identity).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use pingora_core::{protocols::ALPN, upstreams::peer::Peer};

    use super::*;
    use crate::{
        types::{KeyPath, Problems},
        upstream::{JudgedConnector, RawUpstream, judge_answers, tls::TlsFiles},
    };

    fn config(text: &str) -> UpstreamConfig {
        let raw: RawUpstream = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let config = raw.parse(&"web".parse().unwrap(), &KeyPath::root(), &mut problems);
        assert!(!problems.has_errors(), "{problems:?}");
        config
    }

    fn load(settings: &UpstreamTlsConfig, protocol: UpstreamProtocol) -> EndpointTls {
        TlsFiles::read(settings).load(protocol).unwrap()
    }

    fn peer(config: &UpstreamConfig, address: &str, host: Option<&str>) -> Box<HttpPeer> {
        let tls = config.tls.as_ref().map(|tls| load(tls, config.protocol));
        let address: EndpointAddress = address.parse().unwrap();
        let endpoint = Endpoint::new(config.name.clone(), address.clone());
        PeerTemplate::new(config, tls.as_ref(), &address, host).unwrap().peer(
            &endpoint,
            &Timeouts::default(),
            false,
        )
    }

    #[test]
    fn timeouts_are_those_of_the_route() {
        let config = config("endpoints = [\"10.0.0.1:80\"]\npool_idle = \"7s\"");
        let address: EndpointAddress = "10.0.0.1:80".parse().unwrap();
        let endpoint = Endpoint::new(config.name.clone(), address.clone());
        let template = PeerTemplate::new(&config, None, &address, None).unwrap();
        let timeouts = Timeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(2),
            idle: Duration::from_secs(3),
            stream_idle: Duration::from_secs(4),
            total: None,
        };
        let options = template.peer(&endpoint, &timeouts, false).options;
        let seconds = |timeout: Option<Duration>| timeout.unwrap().as_secs();
        assert_eq!(seconds(options.connection_timeout), 1);
        assert_eq!(seconds(options.total_connection_timeout), 1);
        assert_eq!(seconds(options.read_timeout), 2);
        assert_eq!(seconds(options.write_timeout), 3);
        assert_eq!(seconds(options.idle_timeout), 1, "nothing announced yet");
        assert_eq!(seconds(template.peer(&endpoint, &timeouts, true).options.read_timeout), 4);
        endpoint.learn_keep_alive(None);
        assert_eq!(seconds(template.peer(&endpoint, &timeouts, false).options.idle_timeout), 7);
        endpoint.learn_keep_alive(Some(Duration::from_secs(5)));
        assert_eq!(seconds(template.peer(&endpoint, &timeouts, false).options.idle_timeout), 4);
    }

    #[test]
    fn protocols_and_pools() {
        let http1 = peer(&config("endpoints = [\"a:80\"]"), "10.0.0.1:80", Some("a"));
        assert_eq!(http1.options.alpn, ALPN::H1);
        let h2c = config("endpoints = [\"a:80\"]\nprotocol = \"http2\"");
        let h2c = peer(&h2c, "10.0.0.1:80", Some("a"));
        assert_eq!((&h2c.options.alpn, h2c.options.max_h2_streams), (&ALPN::H2, 100));
        assert_eq!(h2c.options.idle_timeout, Some(defaults::POOL_IDLE.0));
        assert_ne!(http1.reuse_hash(), h2c.reuse_hash());
        let again = peer(&config("endpoints = [\"a:80\"]"), "10.0.0.1:80", Some("a"));
        assert_eq!(http1.reuse_hash(), again.reuse_hash(), "a reload keeps the pool");
        let unix = peer(&config("endpoints = [\"unix:/run/a\"]"), "unix:/run/a", None);
        assert!(!unix.is_tls() && unix._address.as_unix().is_some());
    }

    #[test]
    fn tls_always_asks_for_a_name_and_verifies() {
        let tls = config("endpoints = [\"a:80\"]\nprotocol = \"auto\"\ntls = true");
        for (address, host, name) in [
            ("10.0.0.1:80", None, "10.0.0.1"),
            ("[2001:db8::1]:80", None, "2001:db8::1"),
            ("10.0.0.1:80", Some("app.internal"), "app.internal"),
        ] {
            let peer = peer(&tls, address, host);
            assert_eq!((peer.is_tls(), peer.sni.as_str()), (true, name));
            assert!(peer.options.verify_cert && peer.options.verify_hostname);
            assert_eq!(peer.options.alpn, ALPN::H2H1);
        }
        let named = config(
            "endpoints = [\"a:80\"]\ntls = { server_name = \"x.test\", insecure_skip_verify = true }",
        );
        let peer = peer(&named, "10.0.0.1:80", Some("app.internal"));
        assert_eq!(peer.sni, "x.test");
        assert!(!peer.options.verify_cert && !peer.options.verify_hostname);

        let unix: EndpointAddress = "unix:/run/a".parse().unwrap();
        let no_name = load(&UpstreamTlsConfig::default(), UpstreamProtocol::Http1);
        let error = PeerTemplate::new(&tls, Some(&no_name), &unix, None).unwrap_err();
        assert!(matches!(error, PeerError::NoServerName));
        let name: EndpointAddress = "app.internal:80".parse().unwrap();
        let error = PeerTemplate::new(&tls, Some(&no_name), &name, None).unwrap_err();
        assert!(matches!(error, PeerError::Unresolved(_)));
    }

    #[tokio::test]
    async fn connections_are_made_with_these_settings() {
        use pingora_core::connectors::{
            ConnectorOptions, TransportConnector,
            http::custom::{Connection, Connector},
        };

        use crate::upstream::test_origin::{Behaviour, Origin, TlsOrigin};

        let ours = JudgedConnector::new(ConnectorOptions::new(1));
        let pingoras = TransportConnector::new(None);
        let connect = async |mut peer: Box<HttpPeer>| {
            if judge_answers(&mut peer, false) {
                let (connection, _) = ours.get_http_session(&*peer).await?;
                assert!(matches!(connection, Connection::Stream(_)));
                return Ok(());
            }
            pingoras.new_stream(&*peer).await.map(drop)
        };
        let plain = Origin::start(Behaviour::Silent).await;
        let address = plain.address.to_string();
        let config_of = |more: &str| config(&format!("endpoints = [\"{address}\"]\n{more}"));
        connect(peer(&config_of(""), &address, None)).await.unwrap();

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let _unix = Origin::start_unix(&path, Behaviour::Silent);
        let unix = format!("unix:{}", path.display());
        connect(peer(&config_of(""), &unix, None)).await.unwrap();

        let origin = TlsOrigin::start(&["app.test", "127.0.0.1"]).await;
        let address = origin.address.to_string();
        let ca = origin.write_ca(folder.path());
        for (settings, host, is_taken) in [
            (format!("tls = {{ ca = \"{ca}\" }}"), Some("app.test"), true),
            (format!("tls = {{ ca = \"{ca}\" }}"), None, true), // by its IP address
            (format!("tls = {{ ca = \"{ca}\" }}"), Some("other.test"), false),
            (format!("tls = {{ ca = \"{ca}\", server_name = \"app.test\" }}"), None, true),
            ("tls = true".to_owned(), Some("app.test"), false),
            (format!("tls = {{ ca = \"{ca}\", insecure_skip_verify = true }}"), Some("x.y"), true),
        ] {
            for protocol in ["http1", "auto"] {
                let config = config_of(&format!("{settings}\nprotocol = \"{protocol}\""));
                let result = connect(peer(&config, &address, host)).await;
                let error = result.as_ref().err();
                assert_eq!(result.is_ok(), is_taken, "{settings} {host:?} {protocol}: {error:?}");
                if let Some(error) = error {
                    assert_eq!(error.etype(), &pingora_error::ErrorType::TLSHandshakeFailure);
                }
            }
        }
    }
}
