//! How much each client network has at once: connections, handshakes. Networks that have nothing take no memory.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What client networks have.
#[derive(Debug, Default)]
pub(super) struct Networks {
    counts: Mutex<HashMap<IpAddr, u32>>,
}

/// One of the things that a network has; it is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    networks: Arc<Networks>,
    network: IpAddr,
}

/// The network has as many as it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Networks {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more for a network, unless it has `most`.
    pub(super) fn add(self: &Arc<Self>, network: IpAddr, most: u32) -> Result<Counted, Full> {
        let mut counts = self.counts();
        let count = counts.entry(network).or_insert(0);
        if *count >= most {
            // `most` is never 0, so the entry was there before.
            return Err(Full);
        }
        *count += 1;
        Ok(Counted { networks: Arc::clone(self), network })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.networks.counts();
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

/// What counts as one client: so many bits of an IPv4 or an IPv6 address.
pub(super) fn client_network(address: IpAddr, (ipv4, ipv6): (u8, u8)) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_household_of_ipv6_counts_as_one() {
        let network = |text: &str| client_network(text.parse().unwrap(), (32, 64)).to_string();
        assert_eq!(network("2001:db8:1:2:aaaa::1"), network("2001:db8:1:2:bbbb::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        let wide = |text: &str| client_network(text.parse().unwrap(), (24, 48)).to_string();
        assert_eq!(wide("192.0.2.77"), "192.0.2.0");
        assert_eq!(wide("2001:db8:1:2::1"), "2001:db8:1::");
    }

    #[test]
    fn a_network_has_no_more_than_it_may_and_leaves_nothing_behind() {
        let networks = Arc::new(Networks::default());
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = networks.add(one, 2).unwrap();
        let second = networks.add(one, 2).unwrap();
        assert_eq!(networks.add(one, 2).unwrap_err(), Full);
        let third = networks.add(other, 2).unwrap();
        drop(first);
        drop(networks.add(one, 2).unwrap());
        drop((second, third));
        assert!(networks.counts().is_empty());
    }
}
