//! TLS: certificates, the policy of a handshake, the edge's own authority.

mod config;

pub use config::{CertificateSource, RawCertificate, RawTls, TlsPolicy, TlsPreset};
