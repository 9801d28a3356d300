//! What other authorities have and pebble 2.4 has not: renewal information (RFC 9773), profiles, a name in CAA records.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::{extensions::ParsedExtension, pem::parse_x509_pem};

/// Where renewal information is, with the slash before the certificate.
pub(super) const RENEWAL_PATH: &str = "/renewal-info/";
/// Who it is in CAA records (RFC 8659). Pebble itself looks at none.
pub(super) const CAA_IDENTITY: &str = "pebble.test";
/// What Let's Encrypt says: ask again in six hours.
const RETRY_AFTER: Duration = Duration::from_hours(6);

/// What is added, and what a test has set of it.
pub(super) struct Extensions {
    /// The key identifier of who issues; `None` where no renewal information is offered.
    issuer: Option<Vec<u8>>,
    profiles: BTreeMap<String, String>,
    renewal: Mutex<Renewal>,
}

struct Renewal {
    window: Option<(SystemTime, SystemTime)>,
    retry_after: Duration,
}

impl Extensions {
    /// Those of an authority that issues by this intermediate certificate, PEM.
    pub(super) fn new(
        intermediate: &str,
        has_renewal_information: bool,
        profiles: BTreeMap<String, String>,
    ) -> Self {
        let renewal = Mutex::new(Renewal { window: None, retry_after: RETRY_AFTER });
        let issuer = has_renewal_information.then(|| key_identifier(intermediate));
        Self { issuer, profiles, renewal }
    }

    fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_renewal_window(&self, window: Option<(SystemTime, SystemTime)>) {
        self.renewal().window = window;
    }

    pub(super) fn set_renewal_retry_after(&self, wait: Duration) {
        self.renewal().retry_after = wait;
    }

    pub(super) fn renewal_retry_after(&self) -> Duration {
        self.renewal().retry_after
    }

    /// The suggested window, as it is written in an answer.
    pub(super) fn renewal_window(&self) -> Option<Value> {
        let written = |time: SystemTime| Timestamp::try_from(time).expect("a time").to_string();
        let (start, end) = self.renewal().window?;
        Some(json!({ "start": written(start), "end": written(end) }))
    }

    /// The serial number, in hexadecimal, of a certificate of ours by its unique identifier: RFC 9773, section 4.1.
    pub(super) fn serial_of(&self, identifier: &str) -> Result<String, &'static str> {
        let Some(issuer) = &self.issuer else { return Err("there is no renewal information") };
        let parts = identifier.split_once('.').ok_or("the identifier has no dot")?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let (Some(key), Some(serial)) = (decoded(parts.0), decoded(parts.1)) else {
            return Err("the identifier is not base64url without padding");
        };
        if key != *issuer {
            return Err("another authority issued this certificate");
        }
        Ok(serial.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// Whether an order may ask for this profile.
    pub(super) fn allows_profile(&self, profile: Option<&str>) -> bool {
        profile.is_none_or(|profile| self.profiles.contains_key(profile))
    }

    /// Adds what is offered to pebble's directory.
    pub(super) fn complete_directory(&self, directory: &mut Value, base: &str) {
        if self.issuer.is_some() {
            // Clients add the slash: RFC 9773, section 4.1.
            directory["renewalInfo"] =
                format!("{base}{}", RENEWAL_PATH.trim_end_matches('/')).into();
        }
        directory["meta"]["caaIdentities"] = json!([CAA_IDENTITY]);
        if !self.profiles.is_empty() {
            directory["meta"]["profiles"] = json!(self.profiles);
        }
    }
}

/// The subject key identifier of a certificate, which those that it issues have as their authority's.
fn key_identifier(pem: &str) -> Vec<u8> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).expect("PEM");
    let certificate = pem.parse_x509().expect("a certificate");
    let mut identifiers = certificate.extensions().iter().filter_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
            _ => None,
        }
    });
    identifiers.next().expect("a subject key identifier")
}
