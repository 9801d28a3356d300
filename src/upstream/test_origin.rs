//! Small servers on loopback for the tests of this module: each answers every connection in one way, which can be changed.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

/// What an origin does with a connection.
#[derive(Clone)]
pub(super) enum Behaviour {
    /// Reads a request head and sends these bytes.
    Answer(String),
    /// Sends these bytes and keeps the connection open.
    Hold(String),
    /// Accepts and says nothing.
    Silent,
    /// Closes at once.
    Close,
}

impl Behaviour {
    pub(super) fn status(status: u16) -> Self {
        Self::Answer(format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok"))
    }
}

/// An origin; it stops when dropped.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    connections: AtomicUsize,
    last_head: Mutex<String>,
}

impl Origin {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::new(behaviour);
        let mut tasks = JoinSet::new();
        let state = Arc::clone(&shared);
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&state)));
            }
        });
        Self { address, shared, _tasks: tasks }
    }

    /// The same on a Unix socket; `address` is meaningless.
    pub(super) fn start_unix(path: &Path, behaviour: Behaviour) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let shared = Shared::new(behaviour);
        let mut tasks = JoinSet::new();
        let state = Arc::clone(&shared);
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&state)));
            }
        });
        Self { address: SocketAddr::from(([0; 4], 0)), shared, _tasks: tasks }
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(super) fn last_head(&self) -> String {
        self.shared.last_head.lock().unwrap().clone()
    }
}

impl Shared {
    fn new(behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self {
            behaviour: Mutex::new(behaviour),
            connections: AtomicUsize::new(0),
            last_head: Mutex::new(String::new()),
        })
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let behaviour = shared.behaviour.lock().unwrap().clone();
    let (answer, holds) = match behaviour {
        Behaviour::Answer(answer) => (answer, false),
        Behaviour::Hold(answer) => (answer, true),
        Behaviour::Silent => (String::new(), true),
        Behaviour::Close => return,
    };
    let mut head = Vec::new();
    if !answer.is_empty() {
        let mut buffer = [0; 1_024];
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => head.extend_from_slice(&buffer[..n]),
            }
        }
        *shared.last_head.lock().unwrap() = String::from_utf8(head).unwrap();
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if !holds {
            _ = stream.shutdown().await;
        }
    }
    if holds {
        // Until the other side goes.
        let mut rest = Vec::new();
        _ = stream.read_to_end(&mut rest).await;
    }
}

/// An origin with TLS that answers every request with 200; it stops when dropped.
pub(super) struct TlsOrigin {
    pub(super) address: SocketAddr,
    certificate: String,
    _tasks: JoinSet<()>,
}

impl TlsOrigin {
    /// One whose certificate, its own authority, has these names.
    pub(super) async fn start(names: &[&str]) -> Self {
        Self::asking(names, None).await
    }

    /// The same, which takes only clients with this certificate.
    pub(super) async fn asking(
        names: &[&str],
        client: Option<rustls_pki_types::CertificateDer<'static>>,
    ) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let issued = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(client).unwrap();
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    provider,
                );
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let config = builder.with_single_cert(vec![issued.cert.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let shared = Shared::new(Behaviour::status(200));
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, shared).await;
                    }
                });
            }
        });
        Self { address, certificate: issued.cert.pem(), _tasks: tasks }
    }

    /// Writes its authority into a folder, and says where.
    pub(super) fn write_ca(&self, folder: &Path) -> String {
        let path = folder.join("ca.pem");
        std::fs::write(&path, &self.certificate).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Waits until something is so, or fails after ten seconds.
pub(super) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
