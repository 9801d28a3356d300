//! One message to one name server by TCP, and its answer.
//!
//! By TCP, since updates must not be lost and answers must not be forged or cut. Nothing runs in the background: dropping
//! the future closes the connection. An answer has at most 64 KiB, as the protocol has it.

use std::{net::SocketAddr, time::Duration};

use futures_util::StreamExt as _;
use hickory_proto::{
    ProtoError,
    op::{Message, MessageType, Query, SerialMessage},
    rr::{Name, RecordType},
    serialize::binary::DecodeError,
};
use hickory_resolver::net::{
    NetError,
    runtime::{RuntimeProvider, TokioRuntimeProvider},
    tcp::TcpClientStream,
    xfer::{BufDnsStreamHandle, DnsStreamHandle as _},
};

use crate::types::HumanDuration;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nothing came.
    #[error("no answer within {0}")]
    Timeout(HumanDuration),
    /// The network, or the server's host, does not let us.
    #[error(transparent)]
    Network(NetError),
    /// The server hung up.
    #[error("the server closed the connection without an answer")]
    Closed,
    /// The question can't be written.
    #[error("the question can't be written")]
    Encode(#[from] ProtoError),
    /// Not DNS.
    #[error("the answer can't be read")]
    Malformed(#[from] DecodeError),
    /// An answer to something else.
    #[error("the answer is not one to what was asked")]
    Foreign,
}

/// A connection to a name server, for one message after the other.
pub(super) struct Connection {
    server: SocketAddr,
    timeout: Duration,
    stream: TcpClientStream<<TokioRuntimeProvider as RuntimeProvider>::Tcp>,
    sender: BufDnsStreamHandle,
}

impl Connection {
    /// Connects. `timeout` is for that, and for each answer.
    pub(super) async fn open(server: SocketAddr, timeout: Duration) -> Result<Self, ExchangeError> {
        let provider = TokioRuntimeProvider::default();
        let (connecting, sender) = TcpClientStream::new(server, None, Some(timeout), provider);
        let stream = within(timeout, connecting).await?.map_err(ExchangeError::Network)?;
        Ok(Self { server, timeout, stream, sender })
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Sends the bytes of a message with this id and takes the answer to it, which is read as `Message`, and as bytes.
    pub(super) async fn exchange(
        &mut self,
        id: u16,
        bytes: Vec<u8>,
    ) -> Result<(Message, Vec<u8>), ExchangeError> {
        let message = SerialMessage::new(bytes, self.server);
        self.sender.send(message).map_err(ExchangeError::Network)?;
        let answer = within(self.timeout, self.stream.next()).await?;
        let answer = answer.ok_or(ExchangeError::Closed)?.map_err(ExchangeError::Network)?;
        let (bytes, _) = answer.into_parts();
        let message = Message::from_vec(&bytes)?;
        if message.metadata.id != id || message.metadata.message_type != MessageType::Response {
            return Err(ExchangeError::Foreign);
        }
        Ok((message, bytes))
    }

    /// Asks for the records of a name.
    pub(super) async fn ask(
        &mut self,
        name: &Name,
        kind: RecordType,
    ) -> Result<Message, ExchangeError> {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        let query = Query::query(name.clone(), kind);
        question.add_query(query.clone());
        let (answer, _) = self.exchange(question.metadata.id, question.to_vec()?).await?;
        match answer.queries.as_slice() {
            // A server that has nothing to say may leave the question out.
            [] => Ok(answer),
            [echoed] if *echoed == query => Ok(answer),
            _ => Err(ExchangeError::Foreign),
        }
    }
}

async fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Result<T, ExchangeError> {
    tokio::time::timeout(timeout, future)
        .await
        .map_err(|_| ExchangeError::Timeout(HumanDuration(timeout)))
}
