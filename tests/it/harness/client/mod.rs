//! Clients: what a user's browser, program or attacker would be. Blocking, on the harness's runtime.
//!
//! [`Client`] speaks HTTP/1.1 or HTTP/2, plain or over TLS, and never tries a request twice: what fails is a failure of
//! the server under test. [`Raw`] sends bytes. [`Load`] drives many clients at once.

mod body;
mod connection;
mod event_stream;
mod failure;
mod grpc;
mod http2;
mod http_client;
mod load;
mod raw;
pub mod raw_http2;
mod response;
mod tls;
mod web_socket;

pub use event_stream::{Event, EventStream};
pub use failure::{Failure, FailureKind};
pub use grpc::GrpcClient;
pub use http_client::{Client, RequestBuilder};
pub use http2::{Http2, Http2End, Sent};
pub use load::{Load, LoadReport, RunningLoad};
pub use raw::Raw;
pub use raw_http2::RawHttp2;
pub use response::{Opened, Response, Responses};
pub use tls::{Handshake, Tls};
pub use web_socket::WebSocket;
