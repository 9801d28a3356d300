//! Workers: runtimes of the data plane, each with its own engine (and so its own pool of upstream connections).
//!
//! Nothing else holds an engine, and data-path work is spawned through a worker only. `shared` is one work-stealing
//! runtime; `per-core` is one single-threaded runtime a thread, each with its own sockets.

use std::{
    io,
    mem::ManuallyDrop,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    connectors::ConnectorOptions,
    protocols::{
        ALPN, Stream,
        http::{
            ServerSession,
            v2::server::{H2Options, default_h2_options},
        },
    },
    server::{ShutdownWatch, configuration::ServerConf},
    services::listening::Service,
};
use pingora_proxy::{HttpProxy, ProxyServiceBuilder};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

use super::http2_life;
use crate::{
    config::{ListenerLimits, WorkerLayout},
    listener::{Serve, Worker, next_message},
    proxy::{ConnectionInfo, Edge, Patient},
    snapshot::Snapshot,
    telemetry::metrics::Metrics,
    upstream::{JudgedConnector, MAX_CONNECTS_OF_A_TRY, MAX_TRIES_OF_A_REQUEST},
};

/// Unused upstream connections that are kept, for each thread.
const POOL_PER_THREAD: usize = 512;

/// The runtimes of the data plane. Dropping them ends what still runs on them.
pub(super) struct Workers {
    list: Vec<Worker>,
    shared: Option<Runtime>,
    per_core: Vec<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Workers {
    /// Starts `threads` threads in the given layout.
    pub(super) fn start(
        layout: WorkerLayout,
        threads: usize,
        snapshot: &Arc<ArcSwap<Snapshot>>,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let mut workers = Self { list: Vec::new(), shared: None, per_core: Vec::new() };
        match layout {
            WorkerLayout::Shared => {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(threads)
                    .thread_name("tidegate-worker")
                    .enable_all()
                    .build()?;
                let engine = Engine::new(threads, snapshot, metrics);
                workers
                    .list
                    .push(Worker { handle: runtime.handle().clone(), engine: Arc::new(engine) });
                workers.shared = Some(runtime);
            }
            WorkerLayout::PerCore => {
                for number in 0..threads {
                    let (handle, stop, thread) = single_threaded(number)?;
                    let engine = Engine::new(1, snapshot, metrics);
                    workers.list.push(Worker { handle, engine: Arc::new(engine) });
                    workers.per_core.push((stop, thread));
                }
            }
        }
        Ok(workers)
    }

    /// The workers, for the listeners.
    pub(super) fn list(&self) -> Vec<Worker> {
        self.list.clone()
    }

    /// Ends all of them; what still runs is dropped.
    pub(super) fn stop(self) {
        drop(self.list);
        for (stop, thread) in self.per_core {
            drop(stop);
            // A worker that panicked has said so already.
            drop(thread.join());
        }
        if let Some(runtime) = self.shared {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

fn single_threaded(
    number: usize,
) -> io::Result<(Handle, oneshot::Sender<()>, thread::JoinHandle<()>)> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, told) = mpsc::sync_channel(1);
    let thread =
        thread::Builder::new().name(format!("tidegate-worker-{number}")).spawn(move || {
            match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    drop(tell.send(Ok(runtime.handle().clone())));
                    // It ends when the sender is dropped.
                    drop(runtime.block_on(stopped));
                    runtime.shutdown_timeout(Duration::from_secs(1));
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })?;
    let handle = told.recv().map_err(|_| io::Error::other("a worker ended while it started"))??;
    Ok((handle, stop, thread))
}

/// Pingora's proxy with our hooks and our connections to endpoints.
type Proxy = HttpProxy<Edge, JudgedConnector>;

struct Engine {
    proxy: Arc<Proxy>,
}

impl Engine {
    fn new(threads: usize, snapshot: &Arc<ArcSwap<Snapshot>>, metrics: &Arc<Metrics>) -> Self {
        let conf = ServerConf {
            threads,
            // The ceiling of all routes; each upstream counts its own tries.
            max_retries: (MAX_TRIES_OF_A_REQUEST * MAX_CONNECTS_OF_A_TRY) as usize,
            upstream_keepalive_pool_size: POOL_PER_THREAD,
            ..ServerConf::default()
        };
        let edge = Edge::new(snapshot.clone(), metrics.clone());
        let mut options = HttpServerOptions::default();
        // It is refused by a hook, which counts it; Pingora would answer it without telling.
        options.allow_connect_method_proxying = true;
        let connector = JudgedConnector::new(ConnectorOptions::from_server_conf(&conf));
        let service = ProxyServiceBuilder::new(&Arc::new(conf), edge)
            .custom(connector, Arc::new(|_, _, _| Box::pin(std::future::ready(None))))
            .server_options(options)
            .build();
        Self { proxy: Arc::new(proxy_of(service)) }
    }
}

/// Takes the proxy out of Pingora's service around it: there is no other way to one with a connector of ours.
fn proxy_of(service: Service<Proxy>) -> Proxy {
    let mut service = ManuallyDrop::new(service);
    #[expect(clippy::expect_used, reason = "it was put in a moment ago, and only a start takes it")]
    let proxy = service.app_logic_mut().expect("a service that has not started");
    #[expect(unsafe_code, reason = "Pingora gives only a reference to what we own")]
    // SAFETY: the value is read once, and the service that it stood in is never dropped, nor used after this line. Its
    // name and its empty list of listeners are not given back, once for each worker.
    unsafe {
        std::ptr::read(proxy)
    }
}

#[async_trait]
impl Serve for Engine {
    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        // Every connection of a listener has one.
        let digest = stream.get_proxy_digest();
        let Some(connection) = digest.as_deref().and_then(ConnectionInfo::of_proxy_digest) else {
            return;
        };
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            let app = Arc::new(Http2Connection::new(self.proxy.clone(), connection.limits()));
            // On the heap: a connection of HTTP/1.1 has no room for it.
            Box::pin(http2_life::live(connection, shutdown, async |shutdown| {
                // A connection ends here; Pingora gives back nothing that could be used again.
                drop(app.process_new(stream, shutdown).await);
            }))
            .await;
        } else {
            self.serve_http1(stream, connection.limits(), shutdown).await;
        }
    }
}

impl Engine {
    /// One request after the other. Between two of them nothing of Pingora is there: an idle connection is small.
    async fn serve_http1(
        &self,
        mut stream: Stream,
        limits: &ListenerLimits,
        shutdown: &ShutdownWatch,
    ) {
        let mut settings = None;
        while next_message(&mut stream).await {
            let request = self.request(stream, settings, limits, shutdown);
            let Some(reused) = request.await else { return };
            (stream, settings) = reused.consume();
        }
    }

    /// One request of HTTP/1.1; `settings` are those of the one before. No `async fn`: a connection would keep its state.
    fn request<'a>(
        &'a self,
        stream: Stream,
        settings: Option<HttpPersistentSettings>,
        limits: &ListenerLimits,
        shutdown: &'a ShutdownWatch,
    ) -> impl Future<Output = Option<ReusedHttpStream>> + Send + 'a {
        let mut session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        } else {
            // The I/O type has its own limit on silence.
            session.set_keepalive((!*shutdown.borrow()).then_some(0));
            // Pingora counts how often a connection is used again.
            let reuses = limits.max_requests_per_connection - 1;
            session.set_keepalive_reuses_remaining(Some(reuses));
        }
        self.proxy.process_new_http(session, shutdown)
    }
}

/// One connection's view of the engine: the listener's limits.
struct Http2Connection {
    proxy: Arc<Proxy>,
    options: HttpServerOptions,
    h2: H2Options,
}

impl Http2Connection {
    fn new(proxy: Arc<Proxy>, limits: &ListenerLimits) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(limits.keep_alive);
        let mut h2 = default_h2_options();
        h2.max_concurrent_streams(limits.max_streams);
        h2.max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX));
        Self { proxy, options, h2 }
    }
}

#[async_trait]
impl HttpServerApp for Http2Connection {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        Patient::new(self.proxy.process_new_http(session, shutdown)).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
