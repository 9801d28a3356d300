//! HTTP/1.1: a request in one write, an answer that must be 200 with all of its body.

use std::{error::Error, io, rc::Rc};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    connect::{Connector, Stream},
    shared::Shared,
};
use crate::certificate::HOST;

/// What a browser's script would send, about.
const FIELDS: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) compare/1.0\r\n\
    Accept: application/json, text/plain, */*\r\n\
    Accept-Language: en-GB,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n";
/// The path that is asked for.
pub(super) const PATH: &str = "/api/items/42?fields=name,price";
/// The most fields an answer may have.
const MOST_FIELDS: usize = 64;

pub(super) struct Http1 {
    stream: Box<dyn Stream>,
    keep: Vec<u8>,
    close: Vec<u8>,
    buffer: Vec<u8>,
    is_closing: bool,
}

/// The head of an answer.
#[derive(Clone, Copy)]
struct Head {
    /// Head and body.
    length: usize,
    is_closing: bool,
    status: u16,
}

impl Http1 {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        let request = format!("GET {PATH} HTTP/1.1\r\nHost: {HOST}\r\n{FIELDS}");
        Self {
            stream,
            keep: format!("{request}\r\n").into_bytes(),
            close: format!("{request}Connection: close\r\n\r\n").into_bytes(),
            buffer: vec![0; 16 << 10],
            is_closing: false,
        }
    }

    /// One request and its answer.
    pub(super) async fn exchange(&mut self, is_last: bool) -> io::Result<()> {
        self.stream.write_all(if is_last { &self.close } else { &self.keep }).await?;
        self.stream.flush().await?;
        let mut filled = 0;
        let mut head = None;
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "closed within an answer",
                ));
            }
            filled += read;
            if head.is_none() {
                head = parse(&self.buffer[..filled])?;
            }
            if let Some(Head { length, is_closing, status }) = head
                && filled >= length
            {
                self.is_closing = is_closing;
                return if status == 200 { Ok(()) } else { Err(io::Error::other(Refused(status))) };
            }
        }
    }
}

/// A whole answer that is not 200.
#[derive(Debug, thiserror::Error)]
#[error("status {0}")]
struct Refused(u16);

/// The head, where it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let parsed = answer.parse(bytes).map_err(io::Error::other)?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    let field = |name: &str| {
        let field = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let body: Option<usize> = field("content-length").and_then(|value| value.parse().ok());
    let body = body.ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
    let is_closing = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let status = answer.code.unwrap_or_default();
    Ok(Some(Head { length: head + body, is_closing, status }))
}

/// A client that keeps its connection, and makes a new one where it was closed.
pub(super) async fn keep(mut client: Http1, connector: Rc<Connector>, shared: Rc<Shared>) {
    while let Some(intended) = shared.next().await {
        let result = async {
            if client.is_closing {
                client = Http1::new(connector.connect().await?.stream);
            }
            client.exchange(false).await
        };
        let result = result.await;
        // A refusal that came whole leaves the connection as good as it was.
        let is_whole = |error: &io::Error| {
            error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Refused>)
        };
        client.is_closing |= result.as_ref().is_err_and(|error| !is_whole(error));
        shared.end(intended, result);
    }
}

/// A client that makes a connection for each request.
pub(super) async fn reconnect(connector: Rc<Connector>, shared: Rc<Shared>) {
    while let Some(intended) = shared.next().await {
        let result = async {
            let mut client = Http1::new(connector.connect().await?.stream);
            client.exchange(true).await
        };
        shared.end(intended, result.await);
    }
}
