//! Asks the admin listener of a running edge.
//!
//! One connection a request, everything within a deadline, answers of at most 16 MiB.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, HOST},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time,
};

use crate::{
    admin::{Token, TokenError},
    types::{Secret, SecretSource, defaults},
};

const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Where the edge is, and with which token. Shared by the commands that ask it.
#[derive(Clone, Debug, clap::Args)]
pub struct AdminArgs {
    /// The admin listener of the edge
    #[arg(
        long,
        value_name = "http://HOST:PORT|unix:/PATH",
        env = "TIDEGATE_ADMIN",
        default_value_t
    )]
    pub admin: AdminAddress,
    /// File with the admin token
    #[arg(long, value_name = "FILE", env = "TIDEGATE_ADMIN_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// Where an admin listener is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// `host:port`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Default for AdminAddress {
    fn default() -> Self {
        Self::Tcp(defaults::ADMIN_ADDRESS.to_owned())
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("the path of a Unix socket is absolute: unix:/run/tidegate/admin.sock".into())
            };
        }
        if text.starts_with("https://") {
            return Err("the admin listener speaks no TLS; write http://".into());
        }
        let bad = || format!("write it as http://{} or unix:/path", defaults::ADMIN_ADDRESS);
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let uri: Uri = format!("http://{authority}/").parse().map_err(|_| bad())?;
        match uri.authority() {
            Some(parsed) if parsed.as_str() == authority && !authority.contains('@') => {
                let port = parsed.port_u16().unwrap_or(80);
                Ok(Self::Tcp(format!("{}:{port}", parsed.host())))
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error(
        "no edge answers at {address}; is it running? `[admin]` in its configuration says where it listens"
    )]
    Unreachable {
        /// Where.
        address: AdminAddress,
        /// Why not.
        source: io::Error,
    },
    /// The deadline passed.
    #[error("the edge at {address} did not answer in {seconds} s")]
    TimedOut {
        /// Where.
        address: AdminAddress,
        /// The deadline.
        seconds: u64,
    },
    /// Something answers, and it is not right.
    #[error("what answers at {address} is no admin listener")]
    Http {
        /// Where.
        address: AdminAddress,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The token file can't be used.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// What the edge said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// Asks one edge.
#[derive(Debug)]
pub struct AdminClient {
    address: AdminAddress,
    token: Option<Secret>,
}

impl AdminClient {
    /// Reads the token; asks nothing yet.
    pub fn new(args: &AdminArgs) -> Result<Self, ClientError> {
        let read = |path: &PathBuf| Token::open(&SecretSource::File(path.clone()))?.current();
        let token = args.token_file.as_ref().map(read).transpose()?;
        Ok(Self { address: args.admin.clone(), token })
    }

    /// Where it asks.
    pub fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// Sends a request without a body, and reads the answer, all within `deadline`.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        let exchange = async {
            match &self.address {
                AdminAddress::Tcp(authority) => {
                    let stream = TcpStream::connect(authority).await;
                    self.exchange(stream, authority, method, path).await
                }
                AdminAddress::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await;
                    self.exchange(stream, "localhost", method, path).await
                }
            }
        };
        time::timeout(deadline, exchange).await.unwrap_or_else(|_| {
            Err(ClientError::TimedOut {
                address: self.address.clone(),
                seconds: deadline.as_secs(),
            })
        })
    }

    async fn exchange<S>(
        &self,
        stream: io::Result<S>,
        host: &str,
        method: Method,
        path: &str,
    ) -> Result<Answer, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = stream
            .map_err(|source| ClientError::Unreachable { address: self.address.clone(), source })?;
        self.speak(stream, host, method, path)
            .await
            .map_err(|source| ClientError::Http { address: self.address.clone(), source })
    }

    async fn speak<S>(
        &self,
        stream: S,
        host: &str,
        method: Method,
        path: &str,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse()?;
        request.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat())?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or with the runtime of the command.
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await?;
        connection.abort();
        Ok(Answer { status, body: body.to_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, shown) in [
            ("http://127.0.0.1:9180", "http://127.0.0.1:9180"),
            ("http://127.0.0.1:9180/", "http://127.0.0.1:9180"),
            ("127.0.0.1:9180", "http://127.0.0.1:9180"),
            ("http://edge.example", "http://edge.example:80"),
            ("http://[::1]:9180", "http://[::1]:9180"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), shown, "{text}");
        }
        let standard = AdminAddress::default();
        assert_eq!(standard.to_string().parse::<AdminAddress>().unwrap(), standard);
        for text in
            ["", "http://", "https://a:1", "unix:relative", "http://a/path", "ftp://a", "u@a:1"]
        {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }
}
