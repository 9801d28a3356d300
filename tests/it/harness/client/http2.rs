//! One HTTP/2 connection, frame by frame enough to see how it ends: GOAWAY, and which requests it left out.

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::Request;
use tokio::task::JoinHandle;

use super::{
    failure::{Failure, FailureKind},
    http_client::Client,
};
use crate::harness::spawn;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The answer's status; its body came whole.
    Answered(u16),
    /// The server said that it did not take the request: it may be sent again on another connection (RFC 9113, sections
    /// 6.8 and 8.7).
    NotTaken,
}

/// An HTTP/2 connection. Clones share it.
#[derive(Clone)]
pub struct Http2 {
    sender: SendRequest<Bytes>,
    base: String,
}

/// How a connection ended.
pub struct Http2End(JoinHandle<Result<(), h2::Error>>);

impl Http2End {
    /// Waits for the end; the reason of the GOAWAY or error that ended it.
    pub async fn reason(self) -> Result<(), h2::Error> {
        self.0.await.expect("a connection that did not panic")
    }
}

impl Http2 {
    /// Connects.
    pub(super) async fn open(client: &Client) -> Result<(Self, Http2End), Failure> {
        let (io, _) = client.target.connect().await?;
        let failed = |error: h2::Error| Failure::before_head(&error);
        let (sender, connection) = h2::client::handshake(io).await.map_err(failed)?;
        let scheme = if client.target.tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", client.authority());
        Ok((Self { sender, base }, Http2End(spawn(connection))))
    }

    /// Sends a GET request and reads the whole answer.
    pub async fn get(&self, path: &str) -> Result<Sent, Failure> {
        let request = Request::get(format!("{}{path}", self.base)).body(()).expect("a request");
        let mut sender = match self.sender.clone().ready().await {
            Ok(sender) => sender,
            Err(error) => return not_taken(&error),
        };
        let answer = match sender.send_request(request, true) {
            Ok((answer, _)) => answer,
            Err(error) => return not_taken(&error),
        };
        let (head, mut body) = match answer.await {
            Ok(answer) => answer.into_parts(),
            Err(error) => return not_taken(&error),
        };
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|error| Failure::in_body(&error))?;
            // What was read makes room for more.
            let _ = body.flow_control().release_capacity(piece.len());
        }
        Ok(Sent::Answered(head.status.as_u16()))
    }
}

/// Whether the server said so, in the words that HTTP/2 has for it.
fn not_taken(error: &h2::Error) -> Result<Sent, Failure> {
    let is_leaving =
        error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    if is_leaving || error.reason() == Some(Reason::REFUSED_STREAM) {
        return Ok(Sent::NotTaken);
    }
    Err(Failure::new(FailureKind::Closed, error))
}
