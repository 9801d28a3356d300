//! What all certificates by ACME share.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use instant_acme::Account;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tracing::{error, warn};

use super::{
    account,
    challenges::Challenges,
    client::AuthorityClient,
    clock::{Clock, ClockError},
    config::{AcmeConfig, Authority},
    dns::{AcmeDnsConfig, DnsWriter},
    failure::Failure,
    kept::{AcmeStore, CertificateId, FileStore, KeptCertificate},
    ledger::{Ledger, Tries},
    preflight::LookUp,
    shelf::Shelf,
};

/// Directories are asked for again after so long: an authority may learn something.
const ACCOUNT_LIFE: Duration = Duration::from_hours(6);
/// Accounts that are remembered; a configuration has one or two.
const MAX_AUTHORITIES: usize = 32;
/// Sites that are attached one after the other share one look at the store.
const LISTING_LIFE: Duration = Duration::from_secs(10);

/// What ACME asks of the rest of the edge.
pub struct Surroundings {
    /// Look-ups by DNS.
    pub dns: Arc<dyn LookUp>,
    /// Where TLS listeners are bound that serve a host (lower case) and take connections without more ado.
    pub tls_listeners: OwnListeners,
}

/// Where listeners are bound that serve a host.
pub type OwnListeners = Box<dyn Fn(&str) -> Vec<SocketAddr> + Send + Sync>;

/// The service behind certificates by ACME. One an edge.
pub struct Acme {
    shelf: Shelf,
    challenges: Arc<Challenges>,
    settings: watch::Sender<Arc<AcmeConfig>>,
    is_started: watch::Sender<bool>,
    surroundings: OnceLock<Surroundings>,
    clock: Mutex<Clock>,
    ledger: tokio::sync::Mutex<Option<Ledger>>,
    /// By directory. Each opens alone: two orders must not make two accounts, and one authority not hold up another.
    accounts: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Open>>>>>,
    permits: ArcSwap<(u32, Arc<Semaphore>)>,
    dns: Mutex<Option<(AcmeDnsConfig, Arc<DnsWriter>)>>,
    listing: Mutex<Option<(Instant, Arc<Listing>)>>,
    handle: Handle,
}

pub(super) type Listing = Vec<(CertificateId, KeptCertificate)>;

/// An account that is in use.
#[derive(Clone)]
struct Open {
    authority: Arc<Authority>,
    email: Option<String>,
    since: Instant,
    account: Account,
    caa_identities: Arc<[String]>,
}

impl Acme {
    /// The service of an edge that keeps its state in `state_dir`. Tasks run on `handle`.
    pub fn new(state_dir: &Path, handle: Handle) -> Arc<Self> {
        let settings = AcmeConfig::default();
        let permits = Semaphore::new(settings.max_orders as usize);
        Arc::new(Self {
            shelf: Shelf(Arc::new(FileStore::new(state_dir))),
            challenges: Arc::default(),
            permits: ArcSwap::from_pointee((settings.max_orders, Arc::new(permits))),
            settings: watch::Sender::new(Arc::new(settings)),
            dns: Mutex::new(None),
            is_started: watch::Sender::new(false),
            surroundings: OnceLock::new(),
            clock: Mutex::new(Clock::new(Instant::now(), SystemTime::now())),
            ledger: tokio::sync::Mutex::new(None),
            accounts: Mutex::default(),
            listing: Mutex::new(None),
            handle,
        })
    }

    /// The answers to challenges, for those who meet the authorities.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// Takes the settings of a configuration that comes into force. Waiting certificates look at once.
    pub fn configure(&self, config: &AcmeConfig) {
        if self.permits.load().0 != config.max_orders {
            // Orders under way keep their permits of the old number.
            let permits = Semaphore::new(config.max_orders as usize);
            self.permits.store(Arc::new((config.max_orders, Arc::new(permits))));
        }
        self.settings.send_if_modified(|settings| {
            let is_new = **settings != *config;
            if is_new {
                *settings = Arc::new(config.clone());
            }
            is_new
        });
    }

    /// Begins to order: the listeners answer now.
    pub fn start(&self, surroundings: Surroundings) {
        if self.surroundings.set(surroundings).is_ok() {
            self.is_started.send_replace(true);
        }
    }

    /// Orders nothing more: another process has taken over, or this one ends. Orders under way end with the process.
    pub fn stop(&self) {
        self.is_started.send_replace(false);
    }

    /// Takes a new key for the account with the authority of this name.
    ///
    /// # Errors
    /// There is no such authority in the configuration, or it refuses.
    pub async fn roll_account_key(&self, name: &str) -> Result<(), Failure> {
        let settings = self.settings();
        let known = settings.authorities.iter().find(|authority| &*authority.name == name);
        let authority = known.ok_or(Failure::Unsupported("authority of this name"))?;
        let (mut account, _) = self.account(authority, &settings).await?;
        let rolled = account::roll_key(authority, &mut account, &self.shelf).await;
        self.forget_account(authority).await;
        rolled
    }

    pub(in crate::tls) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    pub(super) fn settings(&self) -> Arc<AcmeConfig> {
        self.settings.borrow().clone()
    }

    pub(super) fn changes(&self) -> (watch::Receiver<Arc<AcmeConfig>>, watch::Receiver<bool>) {
        (self.settings.subscribe(), self.is_started.subscribe())
    }

    pub(super) fn surroundings(&self) -> Option<&Surroundings> {
        self.surroundings.get()
    }

    /// The store itself, for those who may block.
    pub(in crate::tls) fn store(&self) -> &dyn AcmeStore {
        &*self.shelf.0
    }

    /// All certificates that are kept. Blocks.
    pub(in crate::tls) fn listing(&self) -> Arc<Listing> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, listing)) = &*listing
            && at.elapsed() < LISTING_LIFE
        {
            return Arc::clone(listing);
        }
        let all = self.shelf.0.certificates().unwrap_or_else(|error| {
            warn!(%error, "the certificates that are kept can't be listed");
            Vec::new()
        });
        let all = Arc::new(all);
        *listing = Some((Instant::now(), Arc::clone(&all)));
        all
    }

    /// What writes challenge records: one for all orders, which may not be written at once.
    pub(super) fn dns(&self, settings: &AcmeConfig) -> Option<Arc<DnsWriter>> {
        let config = settings.dns.as_ref()?;
        let mut present = self.dns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((with, writer)) = &*present
            && with == config
        {
            return Some(Arc::clone(writer));
        }
        let writer = Arc::new(DnsWriter::new(config.clone()));
        *present = Some((config.clone(), Arc::clone(&writer)));
        Some(writer)
    }

    /// There is a new certificate in the store.
    pub(super) fn forget_listing(&self) {
        *self.listing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A place among the orders under way.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.permits.load().1);
        permits.acquire_owned().await.ok()
    }

    /// Whether the clock can be believed.
    pub(super) fn look_at_clock(&self) -> Result<(), ClockError> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let (has_jumped, verdict) = clock.look(Instant::now(), SystemTime::now());
        if has_jumped {
            error!(
                "the system's clock jumped by more than an hour: certificate orders wait for an hour"
            );
        }
        verdict
    }

    /// The account with an authority, and who the authority is in CAA records.
    pub(super) async fn account(
        &self,
        authority: &Arc<Authority>,
        settings: &AcmeConfig,
    ) -> Result<(Account, Arc<[String]>), Failure> {
        let slot = self.account_slot(authority);
        let mut slot = slot.lock().await;
        if let Some(open) = &*slot
            && open.authority == *authority
            && open.email == settings.email
            && open.since.elapsed() < ACCOUNT_LIFE
        {
            return Ok((open.account.clone(), Arc::clone(&open.caa_identities)));
        }
        let of = Arc::clone(authority);
        let client = self.shelf.work(move || AuthorityClient::new(&of)).await??;
        let identities = match authority.caa {
            Some(known) => known.iter().map(|name| (*name).to_owned()).collect(),
            None => client.caa_identities(&authority.directory).await.map_err(Failure::acme)?,
        };
        let email = settings.email.as_deref();
        let account = account::open(authority, client, email, &self.shelf).await?;
        let open = Open {
            authority: Arc::clone(authority),
            email: settings.email.clone(),
            since: Instant::now(),
            account: account.clone(),
            caa_identities: identities.into(),
        };
        let identities = Arc::clone(&open.caa_identities);
        *slot = Some(open);
        Ok((account, identities))
    }

    fn account_slot(&self, authority: &Authority) -> Arc<tokio::sync::Mutex<Option<Open>>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= MAX_AUTHORITIES && !accounts.contains_key(&authority.directory) {
            // Those of configurations of before.
            accounts.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(accounts.entry(authority.directory.clone()).or_default())
    }

    /// Opens the account anew the next time.
    pub(super) async fn forget_account(&self, authority: &Authority) {
        *self.account_slot(authority).lock().await = None;
    }

    /// Sets the account that is kept aside, so that a new one is opened; where `url` is said, only if it is that one.
    pub(super) async fn set_account_aside(
        &self,
        authority: &Arc<Authority>,
        url: Option<String>,
    ) -> Result<(), Failure> {
        let of = Arc::clone(authority);
        let is_aside = self.shelf.run(move |store| {
            let is_it = match (&url, store.account(&of)?) {
                (Some(url), Some(kept)) => kept.url.as_ref() == Some(url),
                _ => true,
            };
            if is_it {
                store.forget_account(&of)?;
            }
            Ok(is_it)
        });
        if is_aside.await? {
            self.forget_account(authority).await;
        }
        Ok(())
    }

    /// Reads the ledger.
    async fn read_ledger<T>(&self, read: impl FnOnce(&Ledger) -> T) -> T {
        let mut ledger = self.ledger.lock().await;
        read(self.known_ledger(&mut ledger).await)
    }

    /// The ledger, read when it is first asked for. One that can't be read must not stop renewals: it begins anew.
    async fn known_ledger<'a>(&self, ledger: &'a mut Option<Ledger>) -> &'a mut Ledger {
        let kept = match ledger.take() {
            Some(known) => known,
            None => self.shelf.run(|store| store.ledger()).await.unwrap_or_else(|failure| {
                warn!(%failure, "the ledger of orders can't be read: failures of before are not known");
                Ledger::default()
            }),
        };
        ledger.insert(kept)
    }

    /// Changes the ledger and keeps it, where there was a change. It counts here also where the disk does not take it.
    pub(super) async fn change_ledger(
        &self,
        change: impl FnOnce(&mut Ledger) -> bool,
    ) -> Result<(), Failure> {
        let mut ledger = self.ledger.lock().await;
        let known = self.known_ledger(&mut ledger).await;
        if !change(known) {
            return Ok(());
        }
        let keeping = known.clone();
        self.shelf.run(move |store| store.keep_ledger(&keeping)).await
    }

    /// What is known of the tries for a certificate, and when its names are free again.
    pub(super) async fn tries(
        &self,
        id: &CertificateId,
        names: &[String],
        now: i64,
    ) -> (Option<Tries>, i64) {
        let max = self.settings().max_failures;
        let id = id.to_string();
        self.read_ledger(|ledger| (ledger.tries(&id).cloned(), ledger.free_at(names, max, now)))
            .await
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme")
            .field("store", &self.shelf)
            .field("challenges", &self.challenges)
            .finish_non_exhaustive()
    }
}
