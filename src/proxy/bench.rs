//! A door for `benches/`: the request path's work on heads, which is private otherwise. Not for other use.

use std::net::IpAddr;

use http::HeaderValue;
use pingora_http::RequestHeader;

pub use super::forward::new_request_id;
use super::{
    client_address,
    forward::{Forwarding, set_forwarding_headers},
};
use crate::types::Cidr;

/// One connection that requests come from.
#[derive(Debug)]
pub struct Hop {
    peer: IpAddr,
    texts: super::hop::Hop,
    trusted: Box<[Cidr]>,
    host: HeaderValue,
    request_id: HeaderValue,
}

impl Hop {
    /// A TLS connection from `peer`.
    pub fn new(peer: IpAddr, trusted: &[Cidr], host: &str) -> Self {
        Self {
            peer,
            texts: super::hop::Hop::new(Some(peer), true, Some(443)),
            trusted: trusted.into(),
            host: HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("")),
            request_id: new_request_id(),
        }
    }

    /// Finds the client of a request, and writes the forwarding headers.
    pub fn forward(&self, request: &mut RequestHeader) {
        let client = client_address::find(Some(self.peer), &request.headers, &self.trusted);
        let forwarding = Forwarding {
            hop: &self.texts,
            client,
            host: &self.host,
            request_id: &self.request_id,
            certificate: None,
            attempt: 1,
            certificate_headers: &[],
        };
        set_forwarding_headers(request, &forwarding);
    }
}
