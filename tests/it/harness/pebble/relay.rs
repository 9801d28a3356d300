//! Where pebble validates: a port that it is given before the listener under test has one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::harness::{block_on, spawn};

/// Sends TCP on to where it is told. Until then it closes connections.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    connections: AtomicUsize,
}

impl Relay {
    /// Binds a free port.
    pub(super) fn start() -> Self {
        let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared: Arc<Shared> = Arc::default();
        let task = spawn(relay(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Where connections go from now on; `None` closes them.
    pub(super) fn set_target(&self, target: Option<SocketAddr>) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Connections so far, those too that were closed at once.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, it ends what is open.
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let Some(target) = target else { continue };
        connections.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(target).await {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
