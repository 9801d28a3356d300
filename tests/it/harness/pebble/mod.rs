//! Let's Encrypt's test authority: Debian's pebble, with a front that adds what it lacks and misbehaves on demand.
//!
//! A client talks to the front ([`Pebble::directory`]), which it trusts by [`Pebble::ca_path`]. Pebble validates by what
//! [`ChallengeDns`] answers (every name is at 127.0.0.1), or another name server, and at two relays, which go where
//! [`Pebble::validate_at`] says. It refuses one good nonce in twenty, as it does by itself: clients must bear with it.
//! What is issued chains to [`Pebble::root_pem`]. Everything is on ephemeral loopback ports, and ends when it is dropped.

mod challenge_dns;
mod extensions;
mod fault;
mod front;
mod process;
mod record;
mod relay;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tempfile::TempDir;

pub use challenge_dns::ChallengeDns;
pub use fault::Fault;
pub use record::Order;

use super::{Authority, Client, Tls};
use extensions::Extensions;
use front::Front;
use process::{Port, Process, StartError};
use relay::Relay;

/// How often other ports are tried when somebody took ours.
const TRIES: usize = 5;

/// A running authority.
pub struct Pebble {
    // Dropped in this order: clients lose the authority first, the folder goes last.
    front: Front,
    process: Process,
    dns: Option<ChallengeDns>,
    http: Relay,
    tls: Relay,
    authority: Authority,
    root: String,
    intermediate: String,
    folder: TempDir,
}

/// An authority before it runs.
pub struct PebbleBuilder {
    refused_nonces: u8,
    reused_authorizations: Option<u8>,
    validity: Option<Duration>,
    external_accounts: BTreeMap<String, String>,
    name_server: Option<SocketAddr>,
    has_renewal_information: bool,
    profiles: BTreeMap<String, String>,
}

impl PebbleBuilder {
    /// How many good nonces in a hundred are refused; 5 unless said.
    pub fn refused_nonces(mut self, percent: u8) -> Self {
        self.refused_nonces = percent;
        self
    }

    /// How many valid authorizations in a hundred a new order of the same account finds again; 50 unless said.
    pub fn reused_authorizations(mut self, percent: u8) -> Self {
        self.reused_authorizations = Some(percent);
        self
    }

    /// How long certificates are valid, in whole seconds; pebble's five years unless said.
    pub fn validity(mut self, validity: Duration) -> Self {
        self.validity = Some(validity);
        self
    }

    /// Wants new accounts bound to this external one, or another that was given: RFC 8555, section 7.3.4. The key is
    /// base64url without padding.
    pub fn external_account(mut self, key_id: &str, key: &str) -> Self {
        self.external_accounts.insert(key_id.to_owned(), key.to_owned());
        self
    }

    /// Asks this name server when it validates, instead of [`ChallengeDns`].
    pub fn name_server(mut self, address: SocketAddr) -> Self {
        self.name_server = Some(address);
        self
    }

    /// Has no renewal information (RFC 9773).
    pub fn without_renewal_information(mut self) -> Self {
        self.has_renewal_information = false;
        self
    }

    /// Offers a profile, with its description.
    pub fn profile(mut self, name: &str, description: &str) -> Self {
        self.profiles.insert(name.to_owned(), description.to_owned());
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it does not serve; with what it said.
    #[track_caller]
    pub fn start(self) -> Pebble {
        let folder = tempfile::Builder::new().prefix("pebble-").tempdir().expect("a directory");
        let authority = Authority::new("pebble's own authority");
        // For pebble and for the front: clients know both by their address.
        let certificate = authority.issue(&["localhost", "127.0.0.1"]);
        certificate.write_to(folder.path(), "server");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("a file");
        let dns = self.name_server.is_none().then(|| ChallengeDns::start(folder.path()));
        let resolver = self.name_server.or(dns.as_ref().map(ChallengeDns::address));
        let resolver = resolver.expect("one of them is there");
        let (http, tls) = (Relay::start(), Relay::start());
        let trust = Tls::trusting(authority.pem());
        for _ in 0..TRIES {
            let (acme, management) = (Port::tcp(), Port::tcp());
            let configuration = self.configuration(
                acme.address,
                management.address,
                http.address.port(),
                tls.address.port(),
            );
            std::fs::write(folder.path().join("pebble.json"), configuration).expect("a file");
            let mut process = Process::start("pebble", &mut self.command(resolver), folder.path());
            let management_client = Client::to(management.address).tls(trust.clone());
            let acme_client = Client::to(acme.address).tls(trust.clone());
            let answers = |client: &Client, path: &str| {
                client.get(path).try_send().is_ok_and(|answer| answer.status == 200)
            };
            match process.wait_ready(|| {
                answers(&acme_client, front::DIRECTORY) && answers(&management_client, "/roots/0")
            }) {
                Ok(()) => {}
                Err(StartError::Taken) => continue,
                Err(StartError::Failed(why)) => panic!("{why}"),
            }
            let pem = |path: &str| management_client.get(path).send().assert_status(200).text();
            let (root, intermediate) = (pem("/roots/0"), pem("/intermediates/0"));
            let extensions =
                Extensions::new(&intermediate, self.has_renewal_information, self.profiles.clone());
            let front = Front::start(
                acme.address,
                management.address,
                trust.client_config(&["http/1.1"]),
                &certificate,
                extensions,
            );
            return Pebble {
                front,
                process,
                dns,
                http,
                tls,
                authority,
                root,
                intermediate,
                folder,
            };
        }
        panic!("pebble found its ports taken {TRIES} times");
    }

    fn configuration(
        &self,
        acme: SocketAddr,
        management: SocketAddr,
        http: u16,
        tls: u16,
    ) -> String {
        let mut pebble = json!({
            "listenAddress": acme.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": "server.pem",
            "privateKey": "server.key",
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": !self.external_accounts.is_empty(),
            "externalAccountMACKeys": self.external_accounts,
        });
        if let Some(validity) = self.validity {
            pebble["certificateValidityPeriod"] = validity.as_secs().into();
        }
        json!({ "pebble": pebble }).to_string()
    }

    fn command(&self, resolver: SocketAddr) -> Command {
        let mut command = Command::new("pebble");
        command.args(["-config", "pebble.json", "-dnsserver", &resolver.to_string()]);
        command.env("PEBBLE_VA_NOSLEEP", "1");
        command.env("PEBBLE_WFE_NONCEREJECT", self.refused_nonces.to_string());
        if let Some(percent) = self.reused_authorizations {
            command.env("PEBBLE_AUTHZREUSE", percent.to_string());
        }
        command
    }
}

impl Pebble {
    /// Starts one as it is by itself, with renewal information and no profiles.
    ///
    /// # Panics
    /// When it does not serve; with what it said.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One with settings.
    pub fn builder() -> PebbleBuilder {
        PebbleBuilder {
            refused_nonces: 5,
            reused_authorizations: None,
            validity: None,
            external_accounts: BTreeMap::new(),
            name_server: None,
            has_renewal_information: true,
            profiles: BTreeMap::new(),
        }
    }

    /// Its directory: what a client is configured with.
    pub fn directory(&self) -> String {
        format!("https://{}{}", self.front.address, front::DIRECTORY)
    }

    /// Whom a client must trust to speak with it, PEM.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Whom a client must trust to speak with it: a file.
    pub fn ca_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The root of what it issues, PEM. Another one each time.
    pub fn root_pem(&self) -> &str {
        &self.root
    }

    /// The intermediate certificate that it issues by, PEM.
    pub fn intermediate_pem(&self) -> &str {
        &self.intermediate
    }

    /// A client of the front.
    pub fn client(&self) -> Client {
        Client::to(self.front.address).tls(Tls::trusting(self.ca_pem()))
    }

    /// The name server that it asks, unless the test gave another.
    ///
    /// # Panics
    /// When the test gave another.
    pub fn dns(&self) -> &ChallengeDns {
        self.dns.as_ref().expect("the test gave a name server of its own")
    }

    /// Where it finds the challenges http-01 and tls-alpn-01 from now on. Until then its connections are closed.
    pub fn validate_at(&self, http: Option<SocketAddr>, tls: Option<SocketAddr>) {
        self.http.set_target(http);
        self.tls.set_target(tls);
    }

    /// Connections that it made to validate by http-01, also those that were closed.
    pub fn http_validations(&self) -> usize {
        self.http.connections()
    }

    /// Connections that it made to validate by tls-alpn-01, also those that were closed.
    pub fn tls_validations(&self) -> usize {
        self.tls.connections()
    }

    /// How it misbehaves from now on; `None`: not at all, and what was held goes on.
    pub fn set_fault(&self, fault: impl Into<Option<Fault>>) {
        self.front.set_fault(fault.into());
    }

    /// How many finalizations were made to wait so far.
    pub fn held(&self) -> usize {
        self.front.shared.held()
    }

    /// The window in which it wants all its certificates renewed, from now on. Before, renewal information is 404.
    pub fn set_renewal_window(&self, start: SystemTime, end: SystemTime) {
        self.front.shared.extensions.set_renewal_window(Some((start, end)));
    }

    /// Takes the window away.
    pub fn clear_renewal_window(&self) {
        self.front.shared.extensions.set_renewal_window(None);
    }

    /// When clients shall ask for renewal information again, in whole seconds; six hours unless set.
    pub fn set_renewal_retry_after(&self, wait: Duration) {
        self.front.shared.extensions.set_renewal_retry_after(wait);
    }

    /// How often renewal information was asked for.
    pub fn renewal_queries(&self) -> usize {
        self.front.shared.record().renewal_queries
    }

    /// Accounts that it made.
    pub fn accounts_created(&self) -> usize {
        self.front.shared.record().accounts_created
    }

    /// How often a client asked for an account that was there already.
    pub fn accounts_found(&self) -> usize {
        self.front.shared.record().accounts_found
    }

    /// How often an account's key was changed.
    pub fn keys_changed(&self) -> usize {
        self.front.shared.record().keys_changed
    }

    /// How many nonces it refused.
    pub fn nonces_refused(&self) -> usize {
        self.front.shared.record().nonces_refused
    }

    /// How many orders it took.
    pub fn orders_created(&self) -> usize {
        self.front.shared.record().orders.len()
    }

    /// The orders that it took.
    pub fn orders(&self) -> Vec<Order> {
        self.front.shared.record().orders.clone()
    }

    /// How many orders were finalized.
    pub fn finalized(&self) -> usize {
        self.front.shared.record().finalized
    }

    /// The certificates that orders said to replace, in the order of the orders.
    pub fn replaced(&self) -> Vec<String> {
        self.orders().into_iter().filter_map(|order| order.replaces).collect()
    }

    /// The profiles that orders asked for, in their order; `None` where one asked for none.
    pub fn profiles_ordered(&self) -> Vec<Option<String>> {
        self.orders().into_iter().map(|order| order.profile).collect()
    }

    /// What pebble and its name server said.
    pub fn logs(&self) -> String {
        let dns = self.dns.as_ref().map(ChallengeDns::said).unwrap_or_default();
        self.process.said() + &dns
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- pebble's log\n{}---", self.logs());
        }
    }
}
