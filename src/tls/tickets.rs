//! Session tickets: one rotating key for the edge, and a mark in every ticket that binds it to where it was given.
//!
//! rustls does not check a client again when it resumes, so a ticket must be worth nothing at another site, nor after the
//! policy has changed. A key for each of a thousand sites would do that too, and take some KiB each. The mark stands
//! within what is encrypted and authenticated (RFC 5077, section 4): a ticket of elsewhere opens, shows another mark, and
//! is as good as none.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{crypto::aws_lc_rs::Ticketer, server::ProducesTickets};

const MARK_BYTES: usize = size_of::<u64>();

/// The keys of all tickets of an edge. Tickets live for 12 hours, keys change every six.
#[derive(Clone)]
pub(super) struct TicketKeys(Arc<dyn ProducesTickets>);

/// Makes and opens the tickets of one place.
struct Bound {
    keys: TicketKeys,
    /// Unique in the process, as the keys are.
    mark: [u8; MARK_BYTES],
}

impl TicketKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        Ticketer::new().map(Self)
    }

    /// What makes tickets that nothing else opens.
    pub(super) fn bound(&self) -> Arc<dyn ProducesTickets> {
        /// The last mark.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let mark = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Arc::new(Bound { keys: self.clone(), mark })
    }
}

impl ProducesTickets for Bound {
    fn enabled(&self) -> bool {
        self.keys.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.keys.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.0.encrypt(&[&self.mark, plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let mut plain = self.keys.0.decrypt(cipher)?;
        if !plain.starts_with(&self.mark) {
            return None;
        }
        plain.drain(..MARK_BYTES);
        Some(plain)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys(…)")
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bound(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_where_it_was_given_and_nowhere_else() {
        let keys = TicketKeys::new().unwrap();
        let (here, there) = (keys.bound(), keys.bound());
        for plain in [&b""[..], b"session"] {
            let ticket = here.encrypt(plain).unwrap();
            assert_eq!(here.decrypt(&ticket).as_deref(), Some(plain));
            assert_eq!(there.decrypt(&ticket), None);
            assert_eq!(TicketKeys::new().unwrap().bound().decrypt(&ticket), None);
            for at in 0..ticket.len() {
                let mut changed = ticket.clone();
                changed[at] ^= 1;
                assert_eq!(here.decrypt(&changed), None, "byte {at}");
            }
            assert_eq!(here.decrypt(&ticket[..ticket.len() / 2]), None);
        }
    }
}
