//! A WebSocket client.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use super::{
    connection::Io,
    failure::{Failure, FailureKind},
    http_client::Client,
};
use crate::harness::block_on;

/// How long a message may take.
const LIMIT: Duration = Duration::from_secs(10);

/// An open WebSocket.
pub struct WebSocket {
    socket: WebSocketStream<Box<dyn Io>>,
    /// The headers of the 101.
    pub headers: HeaderMap,
}

impl WebSocket {
    pub(super) fn open(client: &Client, path: &str) -> Result<Self, Failure> {
        let scheme = if client.target.tls.is_some() { "wss" } else { "ws" };
        let request = format!("{scheme}://{}{path}", client.authority())
            .into_client_request()
            .expect("an address");
        block_on(async {
            let open = async {
                let (stream, _) = client.target.connect().await?;
                let (socket, response) =
                    client_async(request, stream).await.map_err(|error| match &error {
                        Error::Http(response) => {
                            let text = format!("answered {}", response.status());
                            Failure::new(FailureKind::Protocol, text)
                        }
                        _ => Failure::before_head(&error),
                    })?;
                Ok(Self { socket, headers: response.headers().clone() })
            };
            within(LIMIT, open).await
        })
    }

    /// Sends a text.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, text: &str) -> Result<(), Failure> {
        self.send_message(Message::text(text))
    }

    /// Sends any message.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_message(&mut self, message: Message) -> Result<(), Failure> {
        let send =
            async { self.socket.send(message).await.map_err(|error| Failure::before_head(&error)) };
        block_on(within(LIMIT, send))
    }

    /// The next message; `None` when the connection was closed without a close frame.
    ///
    /// # Errors
    /// Nothing within `limit`, or a connection that broke off.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Message>, Failure> {
        let next = async {
            match self.socket.next().await {
                Some(Ok(message)) => Ok(Some(message)),
                None | Some(Err(Error::ConnectionClosed)) => Ok(None),
                Some(Err(error)) => Err(Failure::in_body(&error)),
            }
        };
        block_on(within(limit, next))
    }

    /// Sends a text and returns the one that comes back.
    ///
    /// # Panics
    /// When another message comes, or none.
    #[track_caller]
    pub fn echo(&mut self, text: &str) -> String {
        self.send(text).expect("the WebSocket takes a message");
        match self.next(LIMIT).expect("an answer") {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("not a text: {other:?}"),
        }
    }

    /// Waits for the close frame and returns its code; `None` where the connection ended without one.
    ///
    /// # Errors
    /// Still open after `limit`.
    pub fn wait_closed(&mut self, limit: Duration) -> Result<Option<u16>, Failure> {
        let closed = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => {
                        return Ok(frame.map(|frame: CloseFrame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => return Ok(None),
                }
            }
        };
        block_on(within(limit, closed))
    }

    /// Closes it and waits for the other side.
    ///
    /// # Errors
    /// The other side does not answer the close frame.
    pub fn close(mut self) -> Result<Option<u16>, Failure> {
        block_on(self.socket.close(None)).map_err(|error| Failure::before_head(&error))?;
        self.wait_closed(LIMIT)
    }
}

async fn within<T>(
    limit: Duration,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| Err(Failure::new(FailureKind::Timeout, "nothing in time")))
}
