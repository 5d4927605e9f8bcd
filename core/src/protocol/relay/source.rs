//! Where a peer comes from, coarse enough that a new address costs it something.

use std::net::IpAddr;

/// A network: the /24 of an IPv4 address, the /48 of an IPv6 one. On this machine every address stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(u64);

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        const V4: u64 = 1 << 62;
        const LOOPBACK: u64 = 1 << 63;
        match ip.to_canonical() {
            IpAddr::V4(ip) if ip.is_loopback() => Source(LOOPBACK | u64::from(ip.to_bits())),
            IpAddr::V4(ip) => Source(V4 | u64::from(ip.to_bits() >> 8)),
            IpAddr::V6(ip) if ip.is_loopback() => Source(LOOPBACK),
            IpAddr::V6(ip) => Source(u64::try_from(ip.to_bits() >> 80).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_source_and_strangers_are_not() {
        let source = |ip: &str| Source::of(ip.parse().unwrap());
        assert_eq!(source("198.51.100.1"), source("198.51.100.254"));
        assert_ne!(source("198.51.100.1"), source("198.51.101.1"));
        assert_eq!(source("198.51.100.1"), source("::ffff:198.51.100.9"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:ffff::9"));
        assert_ne!(source("2001:db8:1::"), source("2001:db8:2::"));
        assert_ne!(source("127.0.0.1"), source("127.0.0.2"));
        assert_ne!(source("::1"), source("127.0.0.1"));
    }
}
