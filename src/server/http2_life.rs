//! How a connection of HTTP/2 comes to its end before its client closes it: age, number of requests, streams left waiting.
//!
//! HTTP/1.1 says `Connection: close` in an answer. On HTTP/2 Pingora says GOAWAY when a watch turns true, so each
//! connection has a watch of its own, which follows its listener's. After GOAWAY the streams that are open are served to
//! their end; a client that stays connected without any is closed.

use std::{future::pending, time::Duration};

use pingora_core::server::ShutdownWatch;
use tokio::{sync::watch, time::sleep};

use crate::{proxy::ConnectionInfo, telemetry::metrics::LimitReached};

/// How long a client may stay without a stream after it was told to go.
const FAREWELL: Duration = Duration::from_secs(5);
/// What a connection that is ended has to send its GOAWAY.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves the connection to its end by `serve`, which takes the watch.
pub(super) async fn live(
    connection: &ConnectionInfo,
    listener: &ShutdownWatch,
    serve: impl AsyncFnOnce(&ShutdownWatch),
) {
    let (announce, own) = watch::channel(false);
    let idle_limit = connection.limits().keep_alive;
    tokio::select! {
        () = serve(&own) => {
            // Pingora closes it without a word.
            if connection.life.idle().is_some_and(|idle| idle >= idle_limit) {
                connection.limit_reached(LimitReached::KeepAlive);
            }
        }
        () = end(connection, listener.clone(), announce) => {}
    }
}

/// Ready when the listener announces its end.
async fn announced(listener: &mut ShutdownWatch) {
    let is_ending = listener.wait_for(|is_ending| *is_ending).await.is_ok();
    if !is_ending {
        // Whoever would announce it is gone: nothing will.
        pending::<()>().await;
    }
}

/// Ready when the connection must be dropped; announces its end before that.
async fn end(
    connection: &ConnectionInfo,
    mut listener: ShutdownWatch,
    announce: watch::Sender<bool>,
) {
    let life = &connection.life;
    let aged = async {
        match connection.limits().connection_age {
            Some(age) => sleep(age).await,
            None => pending().await,
        }
    };
    let is_ours = tokio::select! {
        () = announced(&mut listener) => false,
        () = aged => {
            connection.limit_reached(LimitReached::Age);
            true
        }
        () = life.spent() => true,
        () = life.over() => {
            connection.limit_reached(LimitReached::ZeroWindow);
            announce.send_replace(true);
            return sleep(LAST_WORD).await;
        }
    };
    announce.send_replace(true);
    if !is_ours {
        // The listener has its own order of closing.
        life.over().await;
        return connection.limit_reached(LimitReached::ZeroWindow);
    }
    loop {
        let idle = life.idle();
        match idle {
            Some(idle) if idle >= FAREWELL => return,
            _ => sleep(FAREWELL.saturating_sub(idle.unwrap_or_default())).await,
        }
    }
}
