//! Certificates by ACME (RFC 8555): ordered, kept, renewed.
//!
//! Off the request path, but for the answers to [`Challenges`]. [`Acme`] has what all certificates share: the store,
//! accounts, the ledger of failures, the clock. Each certificate has a task of its own (`renewal.rs`) that holds it
//! weakly and ends with it. Nothing is ordered before [`Acme::start`]: the listeners must answer.

mod account;
mod challenges;
mod client;
mod clock;
mod config;
pub mod dns;
mod failure;
mod kept;
mod ledger;
mod order;
mod own_handshake;
mod preflight;
mod renewal;
mod schedule;
mod service;
mod shelf;
mod variant;

pub use challenges::{ALPN, Challenges, HTTP_PATH};
pub use clock::ClockError;
pub use config::{AcmeConfig, Authority, ChallengeKind, KeyType, RawAcme, RawAuthority, RawEab};
pub use failure::Failure;
pub use kept::{
    AcmeStore, Algorithm, CertificateId, FileStore, KeptAccount, KeptCertificate, KeptOrder,
    SecretText,
};
pub use ledger::{Ledger, Tries};
pub use preflight::{Caa, LookUp, LookUpFailure, Obstacle};
pub use renewal::{Renewal, RenewalFacts};
pub use schedule::Window;
pub use service::{Acme, OwnListeners, Surroundings};
pub(super) use {kept::names_of, renewal::keep, variant::kept_for};
