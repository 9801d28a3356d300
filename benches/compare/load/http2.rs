//! HTTP/2: many streams of one connection, each with one request at a time.

use std::{io, rc::Rc};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use super::{connect::Stream, http1::PATH, shared::Shared};
use crate::certificate::HOST;

/// What may be under way to us, on a stream and on the connection.
const WINDOW: u32 = 1 << 20;

/// Begins a connection.
pub(super) async fn connect(stream: Box<dyn Stream>) -> io::Result<SendRequest<Bytes>> {
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(stream)
        .await
        .map_err(io::Error::other)?;
    // Its failure is that of its streams.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

/// A client that has one stream at a time. A connection that ends is a failure, and ends it.
pub(super) async fn keep(sender: SendRequest<Bytes>, shared: Rc<Shared>) {
    while let Some(intended) = shared.next().await {
        let result = exchange(&sender).await;
        let has_failed = result.is_err();
        shared.end(intended, result);
        if has_failed {
            return;
        }
    }
}

async fn exchange(sender: &SendRequest<Bytes>) -> io::Result<()> {
    let request = Request::get(format!("https://{HOST}{PATH}"))
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64) compare/1.0")
        .header("accept", "application/json, text/plain, */*")
        .header("accept-language", "en-GB,en;q=0.5")
        .header("accept-encoding", "gzip, deflate, br")
        .body(())
        .map_err(io::Error::other)?;
    let mut sender = sender.clone().ready().await.map_err(io::Error::other)?;
    let (answer, _) = sender.send_request(request, true).map_err(io::Error::other)?;
    let answer = answer.await.map_err(io::Error::other)?;
    if answer.status() != 200 {
        return Err(io::Error::other(format!("status {}", answer.status())));
    }
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        let data = data.map_err(io::Error::other)?;
        body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
    }
    Ok(())
}
