//! TLS to endpoints while the edge runs: made anew when a file changes, without a reload.
//!
//! One for all upstreams with equal settings; it outlives snapshots (`live.rs`). Endpoint sets are told of a change and make
//! their peers anew, whose connections the pool keeps apart from those of before; probes take what is in force at each run.
//! What can't be used never takes a place: the old one stays, and the log says why, once.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::{
    raw::UpstreamProtocol,
    task::{TaskGuard, TaskSlot},
    tls::{EndpointTls, TlsFiles},
    tls_config::UpstreamTlsConfig,
    watch::Watchers,
};
use crate::tls::{self, Fingerprint, Freshness, Offer, Timing, Watched};

/// What live TLS is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LiveTlsKey {
    pub(super) settings: UpstreamTlsConfig,
    pub(super) protocol: UpstreamProtocol,
}

/// TLS to endpoints, replaced in place.
pub(super) struct LiveTls {
    key: LiveTlsKey,
    in_force: ArcSwap<EndpointTls>,
    freshness: Mutex<Freshness>,
    /// It was told that the edge's own certificate is past its time.
    has_told: AtomicBool,
    watchers: Watchers,
    task: TaskSlot,
}

impl LiveTls {
    pub(super) fn new(key: LiveTlsKey, loaded: Arc<EndpointTls>) -> Self {
        Self {
            key,
            freshness: Mutex::new(Freshness::of(Some(loaded.content()))),
            in_force: ArcSwap::new(loaded),
            has_told: AtomicBool::new(false),
            watchers: Watchers::default(),
            task: TaskSlot::default(),
        }
    }

    /// What connections are made with now.
    pub(super) fn in_force(&self) -> Arc<EndpointTls> {
        self.in_force.load_full()
    }

    /// Who is told when that changes.
    pub(super) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// Looks at the files until all guards are dropped. `None` where there are no files.
    pub(super) fn run(self: &Arc<Self>, handle: &Handle) -> Option<Arc<TaskGuard>> {
        let settings = &self.key.settings;
        if settings.ca.is_none() && settings.client_certificate.is_none() {
            return None;
        }
        let watching = || tls::watch(Arc::downgrade(self), settings.clone(), Timing::default());
        Some(self.task.share(handle, watching))
    }

    /// Takes what was read and found good.
    pub(super) fn take(&self, loaded: Arc<EndpointTls>) {
        let content = loaded.content();
        let is_new = {
            let mut freshness = self.freshness();
            let is_new = !freshness.has_taken(content);
            if is_new {
                self.in_force.store(loaded);
                self.has_told.store(false, Ordering::Relaxed);
            }
            *freshness = Freshness::of(Some(content));
            is_new
        };
        if is_new {
            info!(
                ca = ?self.key.settings.ca,
                client_certificate = ?self.chain(),
                "authorities or client certificate towards upstreams replaced"
            );
            self.watchers.notify();
        }
    }

    fn chain(&self) -> Option<&std::path::Path> {
        self.key.settings.client_certificate.as_ref().map(|files| files.chain.as_path())
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for LiveTls {
    type Files = UpstreamTlsConfig;

    fn fingerprint(settings: &UpstreamTlsConfig) -> Fingerprint {
        TlsFiles::read(settings).fingerprint()
    }

    fn is_settled(&self, content: Fingerprint) -> bool {
        self.freshness().is_settled(content)
    }

    /// Tells once of a client certificate that is past its time: endpoints will refuse it.
    fn age(&self) {
        let Some(not_after) = self.in_force.load().client_not_after() else { return };
        if not_after < tls::unix_seconds(SystemTime::now())
            && !self.has_told.swap(true, Ordering::Relaxed)
        {
            warn!(
                client_certificate = ?self.chain(),
                not_after = tls::date(not_after),
                "the client certificate towards upstreams has expired"
            );
        }
    }

    fn offer(&self, settings: &UpstreamTlsConfig, seen: Fingerprint) {
        let files = TlsFiles::read(settings);
        let content = files.fingerprint();
        if content != seen {
            return;
        }
        let offer = self.freshness().offered(content);
        match offer {
            Offer::Settled => return,
            Offer::AsBefore => {
                info!(
                    ca = ?settings.ca,
                    client_certificate = ?self.chain(),
                    "TLS files of upstreams are as before again"
                );
                return;
            }
            Offer::New => {}
        }
        match files.load(self.key.protocol) {
            Ok(loaded) => self.take(Arc::new(loaded)),
            Err(error) => {
                let text = tls::with_sources(&error);
                if self.freshness().refuse(content, text.clone(), error.is_early()) {
                    warn!(error = text, "TLS files of upstreams not taken; the old ones are kept");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;
    use crate::upstream::tls_config::CertificateFiles;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Everything that is logged meanwhile.
    fn logged(act: impl FnOnce()) -> String {
        let log = Log::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(subscriber, act);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    /// TLS with a certificate in `folder` that was good in the year 2020, and was loaded then.
    fn of_2020(folder: &tempfile::TempDir) -> (UpstreamTlsConfig, LiveTls) {
        let files = CertificateFiles {
            chain: folder.path().join("edge.pem"),
            key: folder.path().join("edge.key"),
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["edge.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        std::fs::write(&files.chain, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        let settings =
            UpstreamTlsConfig { client_certificate: Some(files), ..UpstreamTlsConfig::default() };
        let while_it_was_good = SystemTime::UNIX_EPOCH + Duration::from_hours(442_000);
        let protocol = UpstreamProtocol::Http1;
        let loaded = TlsFiles::read(&settings).load_at(protocol, while_it_was_good).unwrap();
        let key = LiveTlsKey { settings: settings.clone(), protocol };
        (settings, LiveTls::new(key, Arc::new(loaded)))
    }

    #[test]
    fn a_client_certificate_that_has_expired_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let (_, live) = of_2020(&folder);
        let log = logged(|| {
            live.age();
            live.age();
        });
        assert_eq!(log.matches("has expired").count(), 1, "{log}");
        assert!(log.contains("edge.pem") && log.contains("2021-01-01"), "{log}");
    }

    #[test]
    fn what_can_not_be_used_is_told_once_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (settings, live) = of_2020(&folder);
        let before = live.in_force();
        std::fs::write(folder.path().join("edge.pem"), "rubbish").unwrap();
        let content = LiveTls::fingerprint(&settings);
        let log = logged(|| {
            live.offer(&settings, content);
            live.offer(&settings, content);
        });
        assert_eq!(log.matches("not taken").count(), 1, "{log}");
        assert!(log.contains("edge.pem has no certificate in it"), "{log}");
        assert!(live.is_settled(content) && Arc::ptr_eq(&before, &live.in_force()));
    }
}
