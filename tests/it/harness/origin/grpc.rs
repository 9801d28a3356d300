//! The gRPC echo service, written by hand so that no protocol compiler is needed.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::{
    Status, Streaming,
    codegen::{BoxFuture, BoxStream, Service},
    server::{Grpc, ServerStreamingService, StreamingService, UnaryService},
};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tonic_prost::ProstCodec;

use super::service::{AnswerBody, BoxError};

/// The service's name.
pub const SERVICE: &str = "tidegate.test.Echo";

/// Request and answer of every method.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoMessage {
    /// Sent back.
    #[prost(string, tag = "1")]
    pub text: String,
    /// `Stream`: how many answers; in an answer, which it is, from 1.
    #[prost(uint32, tag = "2")]
    pub count: u32,
    /// `Stream`: milliseconds between two answers.
    #[prost(uint32, tag = "3")]
    pub pause_millis: u32,
}

struct Echo;

impl UnaryService<EchoMessage> for Echo {
    type Response = EchoMessage;
    type Future = BoxFuture<tonic::Response<EchoMessage>, Status>;

    fn call(&mut self, request: tonic::Request<EchoMessage>) -> Self::Future {
        Box::pin(async move { Ok(tonic::Response::new(request.into_inner())) })
    }
}

/// Answers with an error and nothing else: a head that carries the trailers (`Trailers-Only`).
struct Fail;

impl UnaryService<EchoMessage> for Fail {
    type Response = EchoMessage;
    type Future = BoxFuture<tonic::Response<EchoMessage>, Status>;

    fn call(&mut self, request: tonic::Request<EchoMessage>) -> Self::Future {
        Box::pin(async move { Err(Status::failed_precondition(request.into_inner().text)) })
    }
}

/// `count` answers, numbered. `text = "break"` ends with an error in the trailers after them.
struct Repeat;

impl ServerStreamingService<EchoMessage> for Repeat {
    type Response = EchoMessage;
    type ResponseStream = BoxStream<EchoMessage>;
    type Future = BoxFuture<tonic::Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: tonic::Request<EchoMessage>) -> Self::Future {
        let asked = request.into_inner();
        let breaks = asked.text == "break";
        let pause = Duration::from_millis(asked.pause_millis.into());
        let answers = stream::iter(1..=asked.count).then(move |count| {
            let text = asked.text.clone();
            async move {
                if count > 1 {
                    tokio::time::sleep(pause).await;
                }
                Ok(EchoMessage { text, count, pause_millis: 0 })
            }
        });
        let end = stream::iter(breaks.then(|| Err(Status::data_loss("as asked"))));
        let stream: Self::ResponseStream = Box::pin(answers.chain(end));
        Box::pin(async move { Ok(tonic::Response::new(stream)) })
    }
}

/// Each message is sent back as it comes.
struct Chat;

impl StreamingService<EchoMessage> for Chat {
    type Response = EchoMessage;
    type ResponseStream = Streaming<EchoMessage>;
    type Future = BoxFuture<tonic::Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: tonic::Request<Streaming<EchoMessage>>) -> Self::Future {
        Box::pin(async move { Ok(tonic::Response::new(request.into_inner())) })
    }
}

/// Answers `grpc.health.v1` as `reporter` says.
pub(super) async fn answer_health(
    reporter: &HealthReporter,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let service = HealthService::from_health_reporter(reporter.clone());
    let Ok(response) = HealthServer::new(service).call(request).await;
    response.map(|body| body.map_err(BoxError::from).boxed_unsync())
}

/// Answers a gRPC request; a method that is not there is `UNIMPLEMENTED`.
pub(super) async fn answer(request: Request<Incoming>) -> Response<AnswerBody> {
    let mut grpc = Grpc::new(ProstCodec::<EchoMessage, EchoMessage>::default());
    let path = request.uri().path().to_owned();
    let response = match path.strip_prefix(&format!("/{SERVICE}/")) {
        Some("Unary") => grpc.unary(Echo, request).await,
        Some("Fail") => grpc.unary(Fail, request).await,
        Some("Stream") => grpc.server_streaming(Repeat, request).await,
        Some("Chat") => grpc.streaming(Chat, request).await,
        _ => Status::unimplemented("there is no such method").into_http(),
    };
    response.map(|body| body.map_err(BoxError::from).boxed_unsync())
}
