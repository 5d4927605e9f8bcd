//! Where this machine stands: its addresses, the gateways that lead outside, and whether it is a container.
//!
//! Only Linux tells all of it to whoever reads; elsewhere the gateways are not known, and what needs them is not tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::transport::guard::{Reach, judge_ip};
use crate::types::Interface;

/// Beginnings of the names that interfaces of VPNs have.
const VPN: [&str; 9] = ["tun", "tap", "wg", "utun", "ppp", "tailscale", "zt", "nordlynx", "ipsec"];
/// Flags of an IPv6 address in the kernel's table (`IFA_F_*`): temporary, deprecated or tentative.
const TEMPORARY: u8 = 0x01;
const UNFIT: u8 = 0x08 | 0x20 | 0x40;
/// A route that leads to a gateway (`RTF_GATEWAY`).
const LEADS_ON: u32 = 0x2;

/// A gateway, and how this machine stands towards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) ip: IpAddr,
    /// Number of the interface, which a link-local address needs.
    pub(crate) scope: u32,
    pub(crate) interface: String,
    /// Our address as the gateway sees it.
    pub(crate) ours: IpAddr,
}

impl Gateway {
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        with_scope(self.ip, port, self.scope)
    }
}

/// A link-local address says nothing without its interface.
pub(crate) fn with_scope(ip: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => std::net::SocketAddrV6::new(ip, port, 0, scope).into(),
        ip => SocketAddr::new(ip, port),
    }
}

/// Where this machine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) gateway4: Option<Gateway>,
    /// Its `ours` says nothing: every address of ours asks for itself.
    pub(crate) gateway6: Option<Gateway>,
    /// Public IPv6 addresses, those first that stay.
    pub(crate) public6: Vec<Ipv6Addr>,
    pub(crate) public4: Option<Ipv4Addr>,
    pub(crate) container: Option<&'static str>,
}

pub(crate) fn is_public(ip: IpAddr) -> bool {
    judge_ip(ip, Reach::Public).is_ok()
}

impl Surroundings {
    /// Looks around. Reads a few small files, and asks the system which address leads where; sends nothing.
    pub(crate) fn look() -> Self {
        let known6 = addresses6(&proc_net("if_inet6"));
        let mut interfaces = Vec::new();
        for found in if_addrs::get_if_addrs().unwrap_or_default() {
            let ip = found.ip();
            let known = known6.iter().find(|known| IpAddr::V6(known.ip) == ip);
            let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            if found.is_loopback() || is_link_local || known.is_some_and(|known| known.flags & UNFIT != 0) {
                continue;
            }
            interfaces.push(Interface {
                vpn: is_vpn(&found.name),
                name: found.name,
                address: ip.to_string(),
                public: is_public(ip),
                temporary: known.is_some_and(|known| known.flags & TEMPORARY != 0),
            });
        }
        let mut public6: Vec<(bool, Ipv6Addr)> = interfaces
            .iter()
            .filter(|one| one.public && !one.vpn)
            .filter_map(|one| Some((one.temporary, one.address.parse().ok()?)))
            .collect();
        public6.sort_by_key(|(temporary, _)| *temporary);
        let public4 = interfaces.iter().filter(|one| one.public).find_map(|one| one.address.parse().ok());
        let gateway4 = default4(&proc_net("route")).and_then(|(interface, ip)| {
            Some(Gateway { ip: ip.into(), scope: 0, interface, ours: towards(ip.into())? })
        });
        let gateway6 = default6(&proc_net("ipv6_route")).map(|(interface, ip)| {
            let scope = known6.iter().find(|known| known.interface == interface).map_or(0, |known| known.scope);
            Gateway { ip: ip.into(), scope, interface, ours: Ipv6Addr::UNSPECIFIED.into() }
        });
        let ours = gateway4.as_ref().map(|gateway| gateway.ours);
        Surroundings {
            public6: public6.into_iter().map(|(_, ip)| ip).collect(),
            public4,
            gateway4,
            gateway6,
            container: container(ours),
            interfaces,
        }
    }
}

/// The address that the system would send from.
fn towards(ip: IpAddr) -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((ip, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A table of the kernel for the network of this very thread.
fn proc_net(table: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default()
}

fn is_vpn(name: &str) -> bool {
    VPN.iter().any(|vpn| name.starts_with(vpn))
}

/// The gateway of the IPv4 default route: the one that the system prefers, and one that is no VPN's before any that is.
fn default4(table: &str) -> Option<(String, Ipv4Addr)> {
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields[..] else { continue };
        let (Ok(gateway), Ok(flags)) = (u32::from_str_radix(gateway, 16), u32::from_str_radix(flags, 16)) else {
            continue;
        };
        if flags & LEADS_ON != 0 && gateway != 0 {
            // The kernel writes the bytes in the order of this machine.
            let ip = Ipv4Addr::from(gateway.to_ne_bytes());
            found.push((is_vpn(interface), metric.parse().unwrap_or(u32::MAX), interface.to_owned(), ip));
        }
    }
    found.sort();
    found.into_iter().next().map(|(_, _, interface, ip)| (interface, ip))
}

/// The same for IPv6.
fn default6(table: &str) -> Option<(String, Ipv6Addr)> {
    let mut found = Vec::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [to, "00", _, _, gateway, metric, _, _, flags, interface] = fields[..] else { continue };
        let (Some(to), Some(gateway), Ok(flags)) = (address(to), address(gateway), u32::from_str_radix(flags, 16))
        else {
            continue;
        };
        if to.is_unspecified() && !gateway.is_unspecified() && flags & LEADS_ON != 0 {
            let metric = u32::from_str_radix(metric, 16).unwrap_or(u32::MAX);
            found.push((is_vpn(interface), metric, interface.to_owned(), gateway));
        }
    }
    found.sort();
    found.into_iter().next().map(|(_, _, interface, ip)| (interface, ip))
}

/// What the kernel knows of an IPv6 address of ours.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    ip: Ipv6Addr,
    scope: u32,
    flags: u8,
    interface: String,
}

fn addresses6(table: &str) -> Vec<Known> {
    let known = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [ip, scope, _, _, flags, interface] = fields[..] else { return None };
        // Flags that need more digits are not ours to judge.
        let flags = u32::from_str_radix(flags, 16).ok()?.to_le_bytes()[0];
        let scope = u32::from_str_radix(scope, 16).ok()?;
        Some(Known { ip: address(ip)?, scope, flags, interface: interface.to_owned() })
    };
    table.lines().filter_map(known).collect()
}

fn address(hex: &str) -> Option<Ipv6Addr> {
    (hex.len() == 32).then(|| u128::from_str_radix(hex, 16).ok().map(Ipv6Addr::from))?
}

/// By what a container is recognised whose network is not the machine's own: what its gateway would map leads nowhere.
fn container(ours: Option<IpAddr>) -> Option<&'static str> {
    let is_bridged = match ours {
        Some(IpAddr::V4(ip)) => matches!(ip.octets(), [172, 16..=31, ..] | [10, ..]),
        _ => false,
    };
    if !is_bridged {
        return None;
    }
    let exists = |path: &str| std::path::Path::new(path).exists();
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("KUBERNETES_SERVICE_HOST");
    }
    if exists("/.dockerenv") {
        return Some("/.dockerenv");
    }
    exists("/run/.containerenv").then_some("/run/.containerenv")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";

    #[test]
    fn the_gateway_is_that_of_the_best_default_route_and_no_vpns() {
        let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let route = |interface: &str, gateway: [u8; 4], metric: u32| {
            format!("{interface} 00000000 {} 0003 0 0 {metric} 00000000 0 0 0\n", hex(gateway))
        };
        let table = format!(
            "{HEAD}{}{}{}eth0 {} 00000000 0001 0 0 0 00FFFFFF 0 0 0\nbroken\n",
            route("wg0", [10, 8, 0, 1], 1),
            route("wlan0", [192, 168, 2, 1], 600),
            route("eth0", [192, 168, 1, 1], 100),
            hex([192, 168, 1, 0]),
        );
        assert_eq!(default4(&table), Some(("eth0".into(), Ipv4Addr::new(192, 168, 1, 1))));
        assert_eq!(default4(&format!("{HEAD}{}", route("wg0", [10, 8, 0, 1], 1))).unwrap().0, "wg0");
        assert_eq!(default4(HEAD), None);
        assert_eq!(default4(""), None);
    }

    #[test]
    fn ipv6_routes_and_addresses_are_read_as_the_kernel_writes_them() {
        let zero = "0".repeat(32);
        let route = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003 eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
        );
        assert_eq!(default6(&route), Some(("eth0".into(), "fe80::1".parse().unwrap())));
        let table = "20010db8000000000000000000000007 02 40 00 01 eth0\nbroken\n";
        let known = addresses6(table);
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].ip.to_string().as_str(), known[0].scope, known[0].flags), ("2001:db8::7", 2, TEMPORARY));
    }

    #[test]
    fn interfaces_of_vpns_are_known_by_name() {
        assert!(["wg0", "tun1", "tailscale0", "utun3"].into_iter().all(is_vpn));
        assert!(!["eth0", "wlan0", "enp3s0", "br0"].into_iter().any(is_vpn));
    }
}
