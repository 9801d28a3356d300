//! A gRPC client of the echo service.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming, body::Body, client::Grpc, codegen::Service};
use tonic_prost::ProstCodec;

use super::{failure::Failure, http_client::Client};
use crate::harness::{
    block_on,
    origin::{EchoMessage, GRPC_SERVICE},
    spawn,
};

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A client of the echo service, on one HTTP/2 connection.
pub struct GrpcClient {
    grpc: Grpc<Channel>,
}

/// One HTTP/2 connection as the service that tonic's client wants.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl GrpcClient {
    pub(super) fn connect(client: &Client) -> Result<Self, Failure> {
        let client = client.clone().http2();
        let scheme = if client.target.tls.is_some() { "https" } else { "http" };
        let origin: Uri = format!("{scheme}://{}", client.authority()).parse().expect("an address");
        block_on(async {
            let (stream, _) = client.target.connect().await?;
            let (sender, connection) =
                hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| Failure::before_head(&error))?;
            spawn(async move { drop(connection.await) });
            Ok(Self { grpc: Grpc::with_origin(Channel(sender), origin) })
        })
    }

    /// One message, one answer. Methods: `Unary`, `Fail`.
    ///
    /// # Errors
    /// The status that the service or the edge answered; `DEADLINE_EXCEEDED` after 10 s.
    pub fn unary(&mut self, method: &str, message: &EchoMessage) -> Result<EchoMessage, Status> {
        let codec = ProstCodec::<EchoMessage, EchoMessage>::default();
        let request = tonic::Request::new(message.clone());
        let path = path(method);
        block_on(within(LIMIT, async {
            self.ready().await?;
            Ok(self.grpc.unary(request, path, codec).await?.into_inner())
        }))
    }

    /// One message, a stream of answers (`Stream`).
    ///
    /// # Errors
    /// As [`Self::unary`].
    pub fn stream(&mut self, message: &EchoMessage) -> Result<Answers, Status> {
        let codec = ProstCodec::<EchoMessage, EchoMessage>::default();
        let request = tonic::Request::new(message.clone());
        block_on(within(LIMIT, async {
            self.ready().await?;
            let answer = self.grpc.server_streaming(request, path("Stream"), codec).await?;
            Ok(Answers(answer.into_inner()))
        }))
    }

    /// A stream of messages, each sent back as it comes (`Chat`): all answers.
    ///
    /// # Errors
    /// As [`Self::unary`].
    pub fn chat(&mut self, messages: Vec<EchoMessage>) -> Result<Vec<EchoMessage>, Status> {
        let codec = ProstCodec::<EchoMessage, EchoMessage>::default();
        let request = tonic::Request::new(tokio_stream::iter(messages));
        block_on(within(LIMIT, async {
            self.ready().await?;
            let mut answers = self.grpc.streaming(request, path("Chat"), codec).await?.into_inner();
            let mut all = Vec::new();
            while let Some(answer) = answers.next().await {
                all.push(answer?);
            }
            Ok(all)
        }))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// Answers of a stream.
pub struct Answers(Streaming<EchoMessage>);

impl Answers {
    /// The next answer; `None` after the last, with status OK in the trailers.
    ///
    /// # Errors
    /// The status in the trailers; `DEADLINE_EXCEEDED` when nothing came within `limit`.
    pub fn next(&mut self, limit: Duration) -> Result<Option<EchoMessage>, Status> {
        block_on(within(limit, async { self.0.next().await.transpose() }))
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/{GRPC_SERVICE}/{method}").parse().expect("a path")
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("nothing in time")))
}
