//! What counts as one client when clients are told apart: an IPv4 address, or the 64 bits of an IPv6 network, which a
//! household has.

use std::{net::IpAddr, sync::LazyLock};

use super::defaults::{CLIENT_PREFIX_IPV4, CLIENT_PREFIX_IPV6};

/// Simulations do the same each time.
static SEED: LazyLock<u64> = LazyLock::new(|| if cfg!(test) { 7 } else { fastrand::u64(..) });

/// A client's network, by the default prefixes, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u64);

impl ClientNetwork {
    /// The network of an address. An IPv4 address in an IPv6 one counts as IPv4.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits() >> (32 - u32::from(CLIENT_PREFIX_IPV4))),
            IpAddr::V6(v6) => (v6.to_bits() >> (128 - u32::from(CLIENT_PREFIX_IPV6))) as u64,
        })
    }

    /// A number that tells networks apart, spread over all bits by a seed of this process: no client can choose networks that
    /// collide in a table. Clients of whom no address is known are one network.
    pub fn spread(network: Option<Self>) -> u64 {
        let number = network.map_or(u64::MAX, Self::number) ^ *SEED;
        // The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the result depends on every bit of the number.
        let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The number; neighbours have neighbouring ones.
    pub fn number(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_of_ipv4_and_halves_of_ipv6() {
        let of = |text: &str| ClientNetwork::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
