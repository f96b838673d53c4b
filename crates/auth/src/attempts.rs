//! Failed attempts, limited per address.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use chatapi_domain::{Bucket, Rate};
use moka::sync::Cache;

/// Failures a second, and at once, of one address.
const FAILURES: u32 = 20;

/// Addresses remembered; an address that has not failed for a while is forgotten.
const MAX_ADDRESSES: u64 = 100_000;

#[derive(Debug)]
pub(crate) struct Attempts {
    addresses: Cache<IpAddr, Arc<Bucket>>,
    rate: Rate,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        let idle = Duration::from_mins(1);
        let addresses = Cache::builder().max_capacity(MAX_ADDRESSES).time_to_idle(idle).build();
        Self { addresses, rate: Rate::new(FAILURES, FAILURES) }
    }

    /// Nanoseconds until this address may try an unknown key again; nothing if it may now.
    pub(crate) fn blocked(&self, address: IpAddr, now: u64) -> Option<u64> {
        let verdict = self.addresses.get(&network(address))?.peek(self.rate, now);
        (!verdict.allowed).then_some(verdict.retry_nanos)
    }

    /// Notes a failure.
    pub(crate) fn failed(&self, address: IpAddr, now: u64) {
        let bucket = self.addresses.get_with(network(address), Arc::default);
        let _ = bucket.take(self.rate, now);
    }
}

/// Who has one IPv6 address has its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_is_blocked_and_no_other() {
        let attempts = Attempts::new();
        let [bad, good] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().expect("an address"));
        for _ in 0..19 {
            attempts.failed(bad, 0);
        }
        assert_eq!(attempts.blocked(bad, 0), None);

        attempts.failed(bad, 0);

        assert_eq!(attempts.blocked(bad, 0), Some(50_000_000));
        assert_eq!(attempts.blocked(bad, 50_000_000), None);
        assert_eq!(attempts.blocked(good, 0), None);
    }

    #[test]
    fn a_network_of_version_6_counts_as_one_address() {
        let [a, b, c, d] = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "::ffff:192.0.2.1"]
            .map(|text| network(text.parse().expect("an address")));

        assert!(a == b && a != c);
        assert_eq!(d, network("192.0.2.1".parse().expect("an address")));
    }
}
