//! A client's certificate after it was found good: who it is, and how endpoints are told.

use std::fmt::{self, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::client_auth::CertificateHeader;

/// A certificate that a client showed, and that its site's policy took. Made once a connection.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Its subject, as text (RFC 4514 form of x509-parser).
    pub subject: String,
    /// The URIs that it is for: a SPIFFE ID is one.
    pub uris: Vec<String>,
    /// The DNS names that it is for.
    pub dns_names: Vec<String>,
    /// The mail addresses that it is for.
    pub emails: Vec<String>,
    /// SHA-256 of the certificate, as 64 hexadecimal digits.
    pub fingerprint: String,
    certificate: HeaderValue,
    chain: Option<HeaderValue>,
    xfcc: Option<HeaderValue>,
}

impl ClientCertificate {
    /// Reads a verified chain, leaf first. `None` where there is no leaf, or one that can't be read, which a verifier
    /// would not have taken.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (leaf, issuers) = chain.split_first()?;
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        let (mut uris, mut dns_names, mut emails) = (Vec::new(), Vec::new(), Vec::new());
        if let Ok(Some(names)) = parsed.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                    GeneralName::RFC822Name(email) => emails.push((*email).to_owned()),
                    _ => {}
                }
            }
        }
        let mut fingerprint = String::with_capacity(64);
        for byte in Sha256::digest(leaf) {
            // A text takes everything.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        let items: Vec<String> = issuers.iter().map(item).collect();
        let chain = (!items.is_empty()).then(|| HeaderValue::try_from(items.join(", ")).ok());
        let mut new = Self {
            subject: parsed.subject().to_string(),
            uris,
            dns_names,
            emails,
            fingerprint,
            certificate: HeaderValue::try_from(item(leaf)).ok()?,
            chain: chain.flatten(),
            xfcc: None,
        };
        new.xfcc = HeaderValue::try_from(new.xfcc_element()).ok();
        Some(new)
    }

    /// The value of a header that tells of it, where there is one.
    pub fn header(&self, header: CertificateHeader) -> Option<&HeaderValue> {
        match header {
            CertificateHeader::Certificate => Some(&self.certificate),
            CertificateHeader::Chain => self.chain.as_ref(),
            CertificateHeader::Xfcc => self.xfcc.as_ref(),
        }
    }

    /// One element of `X-Forwarded-Client-Cert`: `Hash`, `Subject`, `URI`, `DNS`, in Envoy's form.
    fn xfcc_element(&self) -> String {
        let mut element = format!("Hash={}", self.fingerprint);
        push_pair(&mut element, "Subject", &self.subject);
        for uri in &self.uris {
            push_pair(&mut element, "URI", uri);
        }
        for name in &self.dns_names {
            push_pair(&mut element, "DNS", name);
        }
        element
    }
}

/// A byte sequence of structured fields (RFC 8941, section 3.3.5), as RFC 9440 has it.
fn item(certificate: &CertificateDer<'_>) -> String {
    format!(":{}:", STANDARD.encode(certificate))
}

/// `;Key="value"`, with quotes and backslashes escaped, and without what no header may have.
fn push_pair(element: &mut String, key: &str, value: &str) {
    element.push(';');
    element.push_str(key);
    element.push_str("=\"");
    for c in value.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            element.push('\\');
        }
        element.push(c);
    }
    element.push('"');
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("subject", &self.subject)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_and_headers_are_those_of_the_leaf() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Ann \"A\"; evil=\u{1}");
        params.subject_alt_names.push(SanType::URI("spiffe://test/ann".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("ann@test".try_into().unwrap()));
        let der = params.self_signed(&key).unwrap().der().clone();
        let seen = ClientCertificate::of(&[der.clone(), der.clone()]).unwrap();
        assert_eq!(seen.uris, ["spiffe://test/ann"]);
        assert_eq!(seen.dns_names, ["client.test"]);
        assert_eq!(seen.emails, ["ann@test"]);
        let text = |header| seen.header(header).unwrap().to_str().unwrap().to_owned();
        let expected = format!(":{}:", STANDARD.encode(&der));
        assert_eq!(text(CertificateHeader::Certificate), expected);
        assert_eq!(text(CertificateHeader::Chain), expected, "all but the leaf");
        let xfcc = text(CertificateHeader::Xfcc);
        assert!(xfcc.starts_with(&format!("Hash={};Subject=\"", seen.fingerprint)), "{xfcc}");
        assert!(xfcc.contains("\\\"A\\\"; evil="), "{xfcc}");
        assert!(xfcc.ends_with(";URI=\"spiffe://test/ann\";DNS=\"client.test\""), "{xfcc}");
        assert!(ClientCertificate::of(&[]).is_none());
    }
}
