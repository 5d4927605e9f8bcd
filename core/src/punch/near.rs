//! Neighbours: two peers behind one gateway, which need not lead back in what goes out to its own address. They find each other
//! by the addresses of their own network. Nobody is told those but who comes to the relay from the same address, and what
//! such a peer names is called only in a network that this machine is in: a peer that lies together with a relay has
//! some packets of 44 bytes sent to a high port there, and learns nothing from it.

use std::net::{IpAddr, SocketAddr};

use super::port::Port;
use crate::transport::guard::{self, Reach};

/// Places that are named, and called, at most.
const MOST_NEAR: usize = 4;
/// Ports below are those of services, and never what a system gives to a socket of ours.
const LOWEST: u16 = 1_024;

/// A network that this machine is in.
#[derive(Clone, Copy, Debug)]
struct Net {
    ours: IpAddr,
    mask: IpAddr,
}

impl Net {
    fn has(&self, ip: IpAddr) -> bool {
        match (self.ours, self.mask, ip) {
            (IpAddr::V4(ours), IpAddr::V4(mask), IpAddr::V4(ip)) => ours & mask == ip & mask,
            (IpAddr::V6(ours), IpAddr::V6(mask), IpAddr::V6(ip)) => ours & mask == ip & mask,
            _ => false,
        }
    }
}

/// The private networks of a family.
fn nets(is_ipv6: bool) -> impl Iterator<Item = Net> {
    let all = if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|found| match found.addr {
        if_addrs::IfAddr::V4(addr) => Net { ours: addr.ip.into(), mask: addr.netmask.into() },
        if_addrs::IfAddr::V6(addr) => Net { ours: addr.ip.into(), mask: addr.netmask.into() },
    });
    all.filter(move |net| net.ours.is_ipv6() == is_ipv6 && is_private(net.ours))
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Where a port of ours is for neighbours.
pub(super) fn places(port: &Port) -> Vec<SocketAddr> {
    let Some(number) = port.number() else { return Vec::new() };
    nets(port.is_ipv6()).map(|net| SocketAddr::new(net.ours, number)).take(MOST_NEAR).collect()
}

/// Whether the other side is seen at the public address at which we are.
pub(super) fn are_behind_one(ours: IpAddr, theirs: &[SocketAddr]) -> bool {
    let ours = ours.to_canonical();
    guard::judge_ip(ours, Reach::Public).is_ok() && theirs.iter().any(|seen| seen.ip().to_canonical() == ours)
}

/// Those of the places named by a neighbour that may be called.
pub(super) fn in_reach(port: &Port, named: &[SocketAddr]) -> Vec<SocketAddr> {
    let nets: Vec<Net> = nets(port.is_ipv6()).collect();
    named.iter().filter(|place| may(&nets, **place)).take(MOST_NEAR).copied().collect()
}

fn may(nets: &[Net], place: SocketAddr) -> bool {
    let in_one = nets.iter().any(|net| net.has(place.ip()) && !is_edge(net, place.ip()));
    place.port() >= LOWEST && is_private(place.ip()) && in_one
}

/// Whether this is no single machine of a network of IPv4, but all of them.
fn is_edge(net: &Net, ip: IpAddr) -> bool {
    match (net.mask, ip) {
        (IpAddr::V4(mask), IpAddr::V4(ip)) => (ip & !mask).is_unspecified() || (ip | mask).is_broadcast(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_called_in_our_own_networks_and_at_nobodys_services() {
        let net = |ours: &str, mask: &str| Net { ours: ours.parse().unwrap(), mask: mask.parse().unwrap() };
        let nets = [
            net("192.168.77.10", "255.255.255.0"),
            net("10.1.2.3", "255.255.255.252"),
            net("fd00:77::10", "ffff:ffff:ffff:ffff::"),
        ];
        for (place, wanted) in [
            ("192.168.77.11:40000", true),
            ("192.168.77.11:1023", false),
            ("192.168.77.11:0", false),
            ("192.168.77.0:40000", false),
            ("192.168.77.255:40000", false),
            ("192.168.78.11:40000", false),
            ("10.1.2.1:40000", true),
            ("10.1.2.7:40000", false),
            ("169.254.169.254:40000", false),
            ("127.0.0.1:40000", false),
            ("8.8.8.8:40000", false),
            ("[fd00:77::11]:40000", true),
            ("[fd00:78::11]:40000", false),
            ("[fe80::1]:40000", false),
            ("[::ffff:192.168.77.11]:40000", false),
        ] {
            assert_eq!(may(&nets, place.parse().unwrap()), wanted, "{place}");
        }
        // An address of ours that is public makes nobody private.
        assert!(!may(&[net("8.8.8.1", "255.255.255.0")], "8.8.8.8:40000".parse().unwrap()));
    }

    #[test]
    fn neighbours_are_seen_at_one_public_address() {
        let seen = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
        let behind = |ours: &str, theirs: &str| are_behind_one(ours.parse().unwrap(), &seen(theirs));
        assert!(behind("5.5.10.2", "5.5.10.2:7") && behind("5.5.10.2", "[::ffff:5.5.10.2]:7"));
        assert!(!behind("5.5.10.2", "5.5.10.3:7") && !behind("192.168.1.2", "192.168.1.2:7"));
        assert!(!behind("127.0.0.1", "127.0.0.1:7"));
    }
}
