//! The HTTPS client that speaks to authorities: with an end to every answer, in time and in size.

use std::{io, path::Path, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::Deserialize;

use super::{
    super::{files::read, provider},
    config::Authority,
};

/// One request, from connecting to the last byte. Authorities take their time with orders, never that much.
const REQUEST: Duration = Duration::from_secs(30);
/// A chain of certificates has a few KiB, a directory less.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why there is no client for an authority.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of authorities.
    #[error("{path} can't be used as authorities of the server's HTTPS: {reason}")]
    Ca {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// TLS.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
}

/// Speaks to one authority.
#[derive(Clone)]
pub(super) struct AuthorityClient {
    inner: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
}

/// What we ask of a directory that the ACME library does not tell (RFC 8555, section 9.7.6).
#[derive(Default, Deserialize)]
struct Directory {
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    caa_identities: Vec<String>,
}

impl AuthorityClient {
    /// A client that trusts the system's authorities, or those that the configuration names. Blocks on files.
    pub(super) fn new(authority: &Authority) -> Result<Self, ClientError> {
        let roots = if let Some(path) = &authority.ca {
            roots_of(path)?
        } else {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        };
        let config = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::new(roots))
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
        let inner = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .build(connector.enable_http1().build());
        Ok(Self { inner })
    }

    /// Who the authority says it is in CAA records.
    pub(super) async fn caa_identities(&self, directory: &str) -> Result<Vec<String>, Error> {
        let request = Request::get(directory).body(BodyWrapper::default())?;
        let answer = answer(self.inner.clone(), request).await;
        let answer = answer.map_err(|error| Error::Other(Box::new(error)))?;
        let directory: Directory = serde_json::from_slice(answer.body())?;
        Ok(directory.meta.caa_identities)
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, ClientError> {
    let refused = |reason: String| ClientError::Ca { path: path.display().to_string(), reason };
    let pem = read(path).map_err(|error| refused(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| refused("it is not PEM".to_owned()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("it has no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// The whole answer, within bounds.
async fn answer(
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Bytes>, io::Error> {
    let exchange = async {
        let answer = client.request(request).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body =
            Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(io::Error::other)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    match tokio::time::timeout(REQUEST, exchange).await {
        Ok(answered) => answered,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no whole answer within {} seconds", REQUEST.as_secs()),
        )),
    }
}

impl HttpClient for AuthorityClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.inner.clone();
        Box::pin(async move {
            match answer(client, request).await {
                Ok(answer) => Ok(BytesResponse::from(answer.map(Full::new))),
                Err(error) => Err(Error::Other(Box::new(error))),
            }
        })
    }
}
