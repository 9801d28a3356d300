//! HTTP requests that the edge itself makes: webhooks, and checks of a rollout.
//!
//! Not on the path of clients' requests. Invariants: a request has one deadline, from the look-up of the name to the last
//! byte; an answer's body has a bound; no redirect is followed, so that a request goes nowhere but where the
//! configuration sends it; no proxy is taken from the environment; and no error shows more of a URL than its host, or
//! anything of a header. What it does not do: retries, which are the callers' matter.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::USER_AGENT, response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::types::{HttpUrl, HumanDuration};

/// The longest body of an answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;
/// What is read of a body that nobody looks at, so that the connection can be used again.
const MAX_UNREAD_BYTES: usize = 64 << 10;
/// A file of authorities is a list of PEM blocks of about 2 KiB.
const MAX_CA_BYTES: u64 = 1 << 20;
/// How long a connection waits for another request.
const IDLE: Duration = Duration::from_secs(15);
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// The file with authorities.
    #[error("the authorities in {} can't be used: {reason}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: Cause,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up: {0}")]
    Tls(Cause),
    /// The name does not resolve, nobody listens there, or the handshake fails.
    #[error("there is no connection: {0}")]
    Connect(Cause),
    /// The deadline passed before the whole answer was there.
    #[error("there is no whole answer within {}", HumanDuration(*.0))]
    Deadline(Duration),
    /// The body is longer than [`MAX_ANSWER_BYTES`].
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// The connection broke, or what came is no HTTP.
    #[error("the exchange failed: {0}")]
    Broken(Cause),
}

/// What is at the bottom of an error, in words that have no URL and no header in them.
#[derive(Debug)]
pub struct Cause(Box<dyn Error + Send + Sync>);

impl Cause {
    fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last: &dyn Error = &*self.0;
        while let Some(source) = last.source() {
            last = source;
        }
        write!(f, "{last}")
    }
}

/// A file of authorities as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    path: PathBuf,
    pem: Vec<u8>,
}

impl Authorities {
    /// Those that a client for `url` trusts beside the system's; none where it is a URL of http. Blocks on the file.
    ///
    /// # Errors
    /// [`OutgoingError::Ca`].
    pub fn of(url: &HttpUrl, ca: Option<&Path>) -> Result<Option<Self>, OutgoingError> {
        let Some(path) = ca.filter(|_| url.is_https()) else { return Ok(None) };
        let mut pem = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_CA_BYTES).read_to_end(&mut pem))
            .map_err(|error| Self::refused(path, Cause::new(error)))?;
        Ok(Some(Self { path: path.to_owned(), pem }))
    }

    fn add_to(&self, roots: &mut RootCertStore) -> Result<(), OutgoingError> {
        let refused = |reason| Self::refused(&self.path, reason);
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&self.pem) {
            let certificate = certificate.map_err(|_| refused(Cause::new("it is not PEM")))?;
            roots.add(certificate).map_err(|error| refused(Cause::new(error)))?;
        }
        if roots.len() == before {
            return Err(refused(Cause::new("it has no certificate in it")));
        }
        Ok(())
    }

    fn refused(path: &Path, reason: Cause) -> OutgoingError {
        OutgoingError::Ca { path: path.to_owned(), reason }
    }
}

/// A client for requests of one kind. Cheap to clone; its connections are shared.
#[derive(Clone, Debug)]
pub struct Outgoing {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Outgoing {
    /// A client for requests to `url`, which trusts the system's authorities and those in `ca`. Blocks on files; where
    /// the URL is one of http, they are not read.
    ///
    /// # Errors
    /// [`OutgoingError::Ca`], [`OutgoingError::Tls`].
    pub fn to(url: &HttpUrl, ca: Option<&Path>) -> Result<Self, OutgoingError> {
        Self::trusting(url, Authorities::of(url, ca)?.as_ref())
    }

    /// The same, with authorities that were read already.
    ///
    /// # Errors
    /// [`OutgoingError::Ca`], [`OutgoingError::Tls`].
    pub fn trusting(
        url: &HttpUrl,
        authorities: Option<&Authorities>,
    ) -> Result<Self, OutgoingError> {
        let mut roots = RootCertStore::empty();
        if url.is_https() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if let Some(authorities) = authorities {
                authorities.add_to(&mut roots)?;
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| OutgoingError::Tls(Cause::new(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(connector.enable_http1().build());
        Ok(Self { client })
    }

    /// Sends a request and returns the whole answer. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`OutgoingError`]. An answer of any status is none.
    pub async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
    ) -> Result<Response<Bytes>, OutgoingError> {
        let exchange = async {
            let (head, body) = self.send(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    OutgoingError::TooLong
                } else {
                    OutgoingError::Broken(Cause(error))
                }
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        within(deadline, exchange).await
    }

    /// Sends a request and returns the answer's head; whatever its body is, it does not matter.
    ///
    /// # Errors
    /// [`OutgoingError`]. An answer of any status is none.
    pub async fn tell(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
    ) -> Result<response::Parts, OutgoingError> {
        let (head, body) = within(deadline, self.send(request)).await?.into_parts();
        let unread = Limited::new(body, MAX_UNREAD_BYTES).collect();
        // The answer stands; without the rest the connection is closed.
        drop(tokio::time::timeout(deadline.min(Duration::from_secs(1)), unread).await);
        Ok(head)
    }

    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, OutgoingError> {
        request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
        self.client.request(request).await.map_err(|error| {
            let is_connect = error.is_connect();
            let cause = Cause::new(error);
            if is_connect { OutgoingError::Connect(cause) } else { OutgoingError::Broken(cause) }
        })
    }
}

async fn within<T>(
    deadline: Duration,
    exchange: impl Future<Output = Result<T, OutgoingError>>,
) -> Result<T, OutgoingError> {
    tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(OutgoingError::Deadline(deadline)))
}
