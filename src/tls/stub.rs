//! stub
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "stub")]
use super::*;
use std::{path::Path, sync::Arc, time::Instant};
use crate::types::{HostPattern, KeyPath, Name, Problems};
#[derive(Debug)]
pub struct TlsBlueprint;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct TlsError;
#[derive(Debug, PartialEq, Eq)]
pub struct PolicyIdentity;
#[derive(Debug)]
pub struct SiteTls { pub config: Arc<rustls::ServerConfig>, pub identity: Arc<PolicyIdentity> }
#[derive(Debug, Clone)]
pub struct CertificateFacts { pub names: Vec<String>, pub issuer: String, pub not_after: i64, pub last_error: Option<String> }
impl SiteTls { pub fn certificate(&self) -> CertificateFacts { loop {} } }
#[derive(Debug)]
pub struct TlsLive;
impl TlsLive {
    pub fn new(_: &Path, _: tokio::runtime::Handle) -> Arc<Self> { Arc::new(TlsLive) }
    pub fn attach(&self, _: TlsBlueprint) -> Result<Arc<SiteTls>, TlsError> { Err(TlsError) }
    pub fn sweep(&self, _: Instant) {}
}
pub fn compile(_: &Name, _: &CertificateSource, _: &[HostPattern], _: &TlsPolicy, _: &KeyPath, _: &mut Problems) -> Option<TlsBlueprint> { Some(TlsBlueprint) }
