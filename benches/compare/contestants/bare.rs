//! The bare proxy: Pingora as a library, with the one hook that it asks for. It has the same engine, allocator and TLS
//! library as Tidegate, so the difference is what Tidegate does for a request.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use pingora_core::{
    listeners::tls::TlsSettings,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

use super::Setup;
use crate::process::Process;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    origin: SocketAddr,
    #[arg(long, requires = "key")]
    chain: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
}

struct Bare {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _context: &mut (),
    ) -> pingora_error::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }
}

/// The sub-command: serves until it is ended.
pub(crate) fn run(args: &Args) -> Result<()> {
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 512,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let bare = Bare { origin: args.origin };
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), bare);
    let listen = args.listen.to_string();
    match (&args.chain, &args.key) {
        (Some(chain), Some(key)) => {
            let chain = chain.to_str().context("a path that is not text")?;
            let key = key.to_str().context("a path that is not text")?;
            let mut settings = TlsSettings::intermediate(chain, key)?;
            settings.enable_h2();
            service.add_tls_with_settings(&listen, None, settings);
        }
        _ => service.add_tcp(&listen),
    }
    server.add_service(service);
    server.run_forever()
}

pub(super) fn start(setup: &Setup<'_>) -> Result<Process> {
    let listen = setup.listen.to_string();
    let origin = setup.endpoints.first().context("there is no origin")?.to_string();
    let mut args = vec!["bare", "--listen", &listen, "--origin", &origin];
    if let Some(certificate) = setup.certificate {
        args.extend(["--chain", &certificate.chain, "--key", &certificate.key]);
    }
    Process::start("bare", setup.core, setup.folder, &std::env::current_exe()?, &args)
}
