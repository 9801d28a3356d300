//! Binds demo origins and serves their connections until the handle is dropped.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tracing::debug;

use super::{
    answer::{State, answer},
    settings::Settings,
};

/// Connections at once of one origin; more wait in the accept queue.
const MOST_CONNECTIONS: usize = 4_096;
/// From the first byte of a request head to its end.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// Waiting after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One origin to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it calls itself in its answers.
    pub name: String,
    /// Where it is bound; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What it does to requests at first.
    pub settings: Settings,
}

/// Why the origins were not started. None is left running.
#[derive(Debug, thiserror::Error)]
#[error("origin \"{name}\" can't be bound to {address}")]
pub struct StartError {
    /// The origin.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Running origins. Dropped, they end at once, with their connections.
#[derive(Debug)]
pub struct Origins {
    addresses: Vec<(String, SocketAddr)>,
    tasks: JoinSet<()>,
}

impl Origins {
    /// Names and bound addresses, in the order in which they were given.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// Waits until all have ended, which they do not by themselves.
    pub async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts origins on the current runtime, all or none.
///
/// # Errors
/// [`StartError`] for the first address that can't be bound.
pub async fn start(specs: Vec<Spec>) -> Result<Origins, StartError> {
    let mut origins = Origins { addresses: Vec::with_capacity(specs.len()), tasks: JoinSet::new() };
    for Spec { name, listen, settings } in specs {
        let failed =
            |name: &str, source| StartError { name: name.to_owned(), address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(|source| failed(&name, source))?;
        let bound = listener.local_addr().map_err(|source| failed(&name, source))?;
        origins.addresses.push((name.clone(), bound));
        origins.tasks.spawn(accept(listener, Arc::new(State::new(name, settings))));
    }
    Ok(origins)
}

/// Takes connections for ever. They live in this task's set, so that they end with it.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed: this waits for a free slot.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    serve(stream, peer, state).await;
                    drop(slot);
                });
            }
            Err(error) => {
                debug!(%error, "demo origin can't accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, state: Arc<State>) {
    // Events and small answers must not wait for more bytes; a socket without the option still works.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(state, peer, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.http2().timer(TokioTimer::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        debug!(%peer, %error, "demo origin's connection ended");
    }
}
