//! One probe of an endpoint: connect, shake hands, ask, look at the answer; all of it under one timeout.
//!
//! A probe never uses a pooled connection: it must find out whether a new one can be made and is answered. It goes
//! over the protocol and the TLS that requests use, so that what is broken for them is broken for it.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::types::{EndpointAddress, ProxyHeader, ProxyVersion};

use super::{
    config::HealthCheckConfig,
    connect::connect,
    grpc_health::{self, GrpcError},
    live_tls::LiveTls,
    raw::{HealthCheckKind, UpstreamProtocol},
};

/// The most of a body that is looked at, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// What probes call themselves.
pub(super) const USER_AGENT: &str = concat!("tidegate-health-check/", env!("CARGO_PKG_VERSION"));

/// Why a probe has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("no TLS handshake")]
    Handshake(#[source] io::Error),
    #[error("no valid response")]
    Http(#[from] hyper::Error),
    #[error("the request can't be made")]
    Request(#[from] http::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("the expected text is not in the body")]
    Body,
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// TLS of a probe.
#[derive(Clone)]
pub(super) struct ProbeTls {
    pub(super) live: Arc<LiveTls>,
    pub(super) server_name: ServerName<'static>,
}

/// What is probed, and how.
pub(super) struct Probe {
    check: HealthCheckConfig,
    address: EndpointAddress,
    protocol: UpstreamProtocol,
    tls: Option<ProbeTls>,
    /// The Host header.
    authority: String,
    /// The PROXY header that its connections begin with: nobody's.
    opening: Vec<u8>,
}

/// Anything that bytes go through.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Probe {
    /// A probe of `address` (never a host name) with the check's own port where it has one.
    pub(super) fn new(
        check: HealthCheckConfig,
        mut address: EndpointAddress,
        protocol: UpstreamProtocol,
        tls: Option<ProbeTls>,
        authority: String,
    ) -> Self {
        if let (EndpointAddress::Ip(address), Some(port)) = (&mut address, check.port) {
            address.set_port(port);
        }
        Self { check, address, protocol, tls, authority, opening: Vec::new() }
    }

    /// Its connections begin with a PROXY header, unless the check has a port of its own, which is not the one that clients
    /// are announced to.
    pub(super) fn announced_by(mut self, version: Option<ProxyVersion>) -> Self {
        self.opening = match version {
            Some(version) if self.check.port.is_none() => ProxyHeader::Local.encode(version),
            _ => Vec::new(),
        };
        self
    }

    pub(super) fn check(&self) -> &HealthCheckConfig {
        &self.check
    }

    /// Probes once.
    pub(super) async fn run(&self) -> Result<(), ProbeError> {
        tokio::time::timeout(self.check.timeout, self.attempt())
            .await
            .unwrap_or(Err(ProbeError::Timeout(self.check.timeout)))
    }

    async fn attempt(&self) -> Result<(), ProbeError> {
        let (stream, is_http2) =
            open(&self.address, &self.opening, self.protocol, self.tls.as_ref()).await?;
        match self.check.kind {
            HealthCheckKind::Tcp => Ok(()),
            HealthCheckKind::Http if is_http2 => self.ask_http2(stream).await,
            HealthCheckKind::Http => self.ask_http1(stream).await,
            HealthCheckKind::Grpc if is_http2 => self.ask_grpc(stream).await,
            HealthCheckKind::Grpc => Err(GrpcError::NotHttp2.into()),
        }
    }

    async fn ask_http1(&self, stream: Box<dyn Io>) -> Result<(), ProbeError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::get(self.check.path.as_str()).body(Empty::<Bytes>::new())?;
        let host = HeaderValue::from_str(&self.authority).map_err(http::Error::from)?;
        request.headers_mut().insert(header::HOST, host);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let exchange = async { self.judge(sender.send_request(request).await?).await };
        drive(exchange, connection).await
    }

    async fn ask_http2(&self, stream: Box<dyn Io>) -> Result<(), ProbeError> {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let uri = http::Uri::builder()
            .scheme(self.scheme())
            .authority(self.authority.as_str())
            .path_and_query(self.check.path.as_str())
            .build()?;
        let request =
            Request::get(uri).header(header::USER_AGENT, USER_AGENT).body(Empty::<Bytes>::new())?;
        let exchange = async { self.judge(sender.send_request(request).await?).await };
        drive(exchange, connection).await
    }

    async fn ask_grpc(&self, stream: Box<dyn Io>) -> Result<(), ProbeError> {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let check = &self.check;
        let request = grpc_health::request(
            self.scheme(),
            &self.authority,
            &check.grpc_service,
            check.timeout,
        )?;
        let exchange = async { grpc_health::judge(sender.send_request(request).await?).await };
        drive(exchange, connection).await
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    async fn judge(&self, response: Response<Incoming>) -> Result<(), ProbeError> {
        let status = response.status().as_u16();
        if !self.check.expect_status.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
            return Err(ProbeError::Status(status));
        }
        // Without an expected text the head decides: the body may be endless.
        match &self.check.expect_body {
            None => Ok(()),
            Some(text) => expect_text(response.into_body(), text.as_bytes()).await,
        }
    }
}

/// Connects to an endpoint, and shakes hands where it has TLS. Says whether it speaks HTTP/2.
pub(super) async fn open(
    address: &EndpointAddress,
    opening: &[u8],
    protocol: UpstreamProtocol,
    tls: Option<&ProbeTls>,
) -> Result<(Box<dyn Io>, bool), ProbeError> {
    let stream = connect(address, opening).await.map_err(ProbeError::Connect)?;
    let Some(tls) = tls else {
        return Ok((Box::new(stream), protocol == UpstreamProtocol::Http2));
    };
    let stream = TlsConnector::from(Arc::clone(tls.live.in_force().probes()))
        .connect(tls.server_name.clone(), stream)
        .await
        .map_err(ProbeError::Handshake)?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(stream), is_http2))
}

/// Reads until the text has been seen, the body ends, or it is too long.
async fn expect_text(mut body: Incoming, text: &[u8]) -> Result<(), ProbeError> {
    let mut seen = Vec::new();
    let mut searched = 0;
    loop {
        if contains(seen.get(searched..).unwrap_or_default(), text) {
            return Ok(());
        }
        // The text may begin at the end of what is here.
        searched = seen.len().saturating_sub(text.len());
        if seen.len() >= MAX_BODY_BYTES {
            return Err(ProbeError::Body);
        }
        match body.frame().await.transpose()? {
            None => return Err(ProbeError::Body),
            Some(frame) => {
                let data = frame.into_data().unwrap_or_default();
                let room = MAX_BODY_BYTES - seen.len();
                seen.extend(data.iter().take(room));
            }
        }
    }
}

/// Whether `text` stands somewhere in `bytes`.
pub(super) fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

/// Runs an exchange and the connection that carries it; the exchange decides.
pub(super) async fn drive<C, T, E>(
    exchange: impl Future<Output = Result<T, E>>,
    connection: C,
) -> Result<T, E>
where
    C: Future<Output = hyper::Result<()>>,
{
    let connection = async {
        // An error of the connection reaches the exchange too, which says what it means there.
        _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        result = exchange => result,
        never = connection => match never {},
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::upstream::{
        live_tls::LiveTlsKey,
        test_origin::{Behaviour, Origin, TlsOrigin},
        tls::TlsFiles,
        tls_config::UpstreamTlsConfig,
    };

    fn live(settings: &UpstreamTlsConfig) -> Arc<LiveTls> {
        let protocol = UpstreamProtocol::Auto;
        let loaded = TlsFiles::read(settings).load(protocol).unwrap();
        let key = LiveTlsKey { settings: settings.clone(), protocol };
        Arc::new(LiveTls::new(key, Arc::new(loaded)))
    }

    fn check(kind: HealthCheckKind) -> HealthCheckConfig {
        HealthCheckConfig {
            kind,
            path: "/healthz?deep=1".to_owned(),
            host: None,
            expect_status: vec![(200, 204), (301, 301)],
            expect_body: None,
            grpc_service: String::new(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(300),
            healthy_after: 1,
            unhealthy_after: 1,
            port: None,
        }
    }

    fn probe_of(address: EndpointAddress, check: HealthCheckConfig) -> Probe {
        Probe::new(check, address, UpstreamProtocol::Http1, None, "app.test:8080".to_owned())
    }

    async fn outcome(check: HealthCheckConfig, behaviour: Behaviour) -> Result<(), ProbeError> {
        let origin = Origin::start(behaviour).await;
        probe_of(EndpointAddress::Ip(origin.address), check).run().await
    }

    #[tokio::test]
    async fn statuses_decide() {
        for (status, is_healthy) in
            [(200, true), (204, true), (301, true), (302, false), (404, false), (500, false)]
        {
            let result = outcome(check(HealthCheckKind::Http), Behaviour::status(status)).await;
            match result {
                Ok(()) => assert!(is_healthy, "{status}"),
                Err(ProbeError::Status(seen)) => assert!(!is_healthy && seen == status),
                Err(error) => panic!("{status}: {error}"),
            }
        }
    }

    #[tokio::test]
    async fn the_request_is_what_the_check_says() {
        let origin = Origin::start(Behaviour::status(200)).await;
        probe_of(EndpointAddress::Ip(origin.address), check(HealthCheckKind::Http))
            .run()
            .await
            .unwrap();
        let head = origin.last_head().to_ascii_lowercase();
        assert!(head.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nhost: app.test:8080\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    }

    #[tokio::test]
    async fn an_endpoint_that_accepts_but_does_not_answer_is_unhealthy() {
        let start = Instant::now();
        let result = outcome(check(HealthCheckKind::Http), Behaviour::Silent).await;
        assert!(matches!(result, Err(ProbeError::Timeout(_))), "{result:?}");
        assert!(start.elapsed() < Duration::from_secs(5));
        // A head that never ends is no answer either.
        let half = Behaviour::Hold("HTTP/1.1 200 OK\r\nX-Half: ".to_owned());
        let result = outcome(check(HealthCheckKind::Http), half).await;
        assert!(matches!(result, Err(ProbeError::Timeout(_))), "{result:?}");
    }

    #[tokio::test]
    async fn closing_refusing_and_nonsense_are_unhealthy() {
        let result = outcome(check(HealthCheckKind::Http), Behaviour::Close).await;
        assert!(matches!(result, Err(ProbeError::Http(_))), "{result:?}");
        let nonsense = Behaviour::Answer("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned());
        let result = outcome(check(HealthCheckKind::Http), nonsense).await;
        assert!(matches!(result, Err(ProbeError::Http(_))), "{result:?}");
        let refused = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            EndpointAddress::Ip(listener.local_addr().unwrap())
        };
        for kind in [HealthCheckKind::Http, HealthCheckKind::Tcp] {
            let result = probe_of(refused.clone(), check(kind)).run().await;
            assert!(matches!(result, Err(ProbeError::Connect(_))), "{result:?}");
        }
    }

    #[tokio::test]
    async fn a_tcp_check_only_connects() {
        let result = outcome(check(HealthCheckKind::Tcp), Behaviour::Silent).await;
        assert!(result.is_ok(), "{result:?}");
    }

    #[tokio::test]
    async fn the_body_must_contain_the_text_within_64_kib() {
        let with_text = |text: &str| HealthCheckConfig {
            expect_body: Some(text.to_owned()),
            ..check(HealthCheckKind::Http)
        };
        let answer = |body: &str, length: usize| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let ready = Behaviour::Answer(answer("status: ready", 13));
        assert!(outcome(with_text("ready"), ready.clone()).await.is_ok());
        assert!(outcome(with_text(""), ready.clone()).await.is_ok());
        let result = outcome(with_text("broken"), ready).await;
        assert!(matches!(result, Err(ProbeError::Body)), "{result:?}");

        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n";
        assert!(outcome(with_text("ready"), Behaviour::Answer(chunked.to_owned())).await.is_ok());

        // Found early, the rest of the body is not waited for.
        let endless = Behaviour::Hold(answer("ready and", 1 << 30));
        assert!(outcome(with_text("ready"), endless.clone()).await.is_ok());
        let result = outcome(with_text("never"), endless).await;
        assert!(matches!(result, Err(ProbeError::Timeout(_))), "{result:?}");

        for (padding, is_found) in [(MAX_BODY_BYTES - 5, true), (MAX_BODY_BYTES - 4, false)] {
            let body = format!("{}ready", "x".repeat(padding));
            let result =
                outcome(with_text("ready"), Behaviour::Answer(answer(&body, body.len()))).await;
            assert_eq!(result.is_ok(), is_found, "{padding}: {result:?}");
        }
    }

    #[tokio::test]
    async fn unix_sockets_and_other_ports_are_probed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let _origin = Origin::start_unix(&path, Behaviour::status(200));
        let address = EndpointAddress::Unix(Arc::from(path));
        assert!(probe_of(address, check(HealthCheckKind::Http)).run().await.is_ok());

        let (good, bad) = (
            Origin::start(Behaviour::status(200)).await,
            Origin::start(Behaviour::status(500)).await,
        );
        let check =
            HealthCheckConfig { port: Some(good.address.port()), ..check(HealthCheckKind::Http) };
        assert!(probe_of(EndpointAddress::Ip(bad.address), check).run().await.is_ok());
        assert_eq!((good.connections(), bad.connections()), (1, 0));
    }

    #[tokio::test]
    async fn http2_is_spoken_with_prior_knowledge() {
        use hyper::{Response, service::service_fn};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = EndpointAddress::Ip(listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(async |request: Request<Incoming>| {
                    let is_right = request.uri().path() == "/healthz"
                        && request.uri().authority().unwrap() == "app.test:8080";
                    let body = if is_right { "right" } else { "wrong" };
                    Ok::<_, Infallible>(Response::new(body.to_owned()))
                });
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        let check = HealthCheckConfig {
            expect_body: Some("right".to_owned()),
            timeout: Duration::from_secs(5),
            ..check(HealthCheckKind::Http)
        };
        let probe = |protocol| {
            Probe::new(check.clone(), address.clone(), protocol, None, "app.test:8080".to_owned())
        };
        let result = probe(UpstreamProtocol::Http2).run().await;
        assert!(result.is_ok(), "{result:?}");
        assert!(probe(UpstreamProtocol::Http1).run().await.is_err());
    }

    #[tokio::test]
    async fn tls_verifies_the_name_and_the_authority() {
        let origin = TlsOrigin::start(&["app.test"]).await;
        let address = EndpointAddress::Ip(origin.address);
        let folder = tempfile::tempdir().unwrap();
        let ca = Some(origin.write_ca(folder.path()).into());
        let trusting = UpstreamTlsConfig { ca, ..UpstreamTlsConfig::default() };
        let insecure =
            UpstreamTlsConfig { insecure_skip_verify: true, ..UpstreamTlsConfig::default() };
        for (settings, name, is_healthy) in [
            (&trusting, "app.test", true),
            (&trusting, "other.test", false),
            (&UpstreamTlsConfig::default(), "app.test", false),
            (&insecure, "other.test", true),
        ] {
            for kind in [HealthCheckKind::Http, HealthCheckKind::Tcp] {
                let check = HealthCheckConfig { timeout: Duration::from_secs(5), ..check(kind) };
                let tls = ProbeTls {
                    live: live(settings),
                    server_name: ServerName::try_from(name).unwrap(),
                };
                let result = Probe::new(
                    check,
                    address.clone(),
                    UpstreamProtocol::Auto,
                    Some(tls),
                    name.to_owned(),
                )
                .run()
                .await;
                match result {
                    Ok(()) => assert!(is_healthy, "{settings:?} {name}"),
                    Err(ProbeError::Handshake(_)) => assert!(!is_healthy, "{settings:?} {name}"),
                    Err(error) => panic!("{settings:?} {name}: {error:?}"),
                }
            }
        }
    }
}
