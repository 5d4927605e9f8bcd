//! What may be called: hosts and addresses, judged by rule.
//!
//! Endpoints come from directories, and a directory says what it was told. A node that is named `http://169.254.169.254`
//! would make every client of the mesh ask its own machine's keeper for secrets. So whoever calls says how far he reaches,
//! and everything that a URL or a name leads to is judged before a socket is opened for it: literal addresses in every
//! spelling (the url crate brings all of them to one form), names by rule and by every address they resolve to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

pub(crate) use crate::types::without_trailing_dot;

/// How far a call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// Only what is globally routable.
    Public,
    /// That, and this machine.
    Loopback,
    /// Any unicast address: what the caller wrote himself, or allowed in so many words.
    Private,
}

/// The rule that an address or a name broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused(&'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refused {}

/// Longest host name, and longest label of one.
const MOST_NAME: usize = 253;
const MOST_LABEL: usize = 63;

/// Names that are of this machine or this network by agreement, never of the open mesh.
const LOCAL_SUFFIXES: [&str; 8] =
    [".local", ".internal", ".lan", ".test", ".invalid", ".localhost", ".home.arpa", ".onion"];

/// Network, length of its prefix, rule.
type Rule<T> = (T, u32, &'static str);

/// What is not globally routable in IPv4.
const V4: [Rule<Ipv4Addr>; 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "is in 0.0.0.0/8 (this network)"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "is in 10.0.0.0/8 (private)"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "is in 100.64.0.0/10 (behind a provider's NAT)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "is in 127.0.0.0/8 (this machine)"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "is 168.63.129.16 (a cloud's own services)"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "is in 169.254.0.0/16 (link-local)"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "is in 172.16.0.0/12 (private)"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "is in 192.0.0.0/24 (protocol assignments)"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "is in 192.0.2.0/24 (documentation)"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "is in 192.88.99.0/24 (6to4 relays)"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "is in 192.168.0.0/16 (private)"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "is in 198.18.0.0/15 (benchmarks)"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "is in 198.51.100.0/24 (documentation)"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "is in 203.0.113.0/24 (documentation)"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "is in 224.0.0.0/4 (multicast)"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "is in 240.0.0.0/4 (reserved)"),
];

/// What is not globally routable in IPv6; the last rule has the rest. Translation prefixes are refused whole: where the
/// packet would come out is decided by whoever translates.
const V6: [Rule<Ipv6Addr>; 17] = [
    (Ipv6Addr::UNSPECIFIED, 128, "is :: (no address)"),
    (Ipv6Addr::LOCALHOST, 128, "is ::1 (this machine)"),
    (Ipv6Addr::UNSPECIFIED, 96, "is in ::/96 (an IPv4 address in an old disguise)"),
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96, "is in ::ffff:0:0:0/96 (translation to IPv4)"),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, "is in 64:ff9b::/96 (translation to IPv4)"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "is in 64:ff9b:1::/48 (local translation to IPv4)"),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 16, "is in 100::/16 (discard)"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "is in 2001::/32 (Teredo)"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "is in 2001::/23 (protocol assignments)"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "is in 2001:db8::/32 (documentation)"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "is in 2002::/16 (6to4)"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "is in 3fff::/20 (documentation)"),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16, "is in 5f00::/16 (segment routing)"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "is in fc00::/7 (unique local)"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "is in fe80::/10 (link-local)"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "is in fec0::/10 (site-local)"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "is in ff00::/8 (multicast)"),
];

/// Judges an address.
///
/// # Errors
/// The rule that it broke.
pub(crate) fn judge_ip(ip: IpAddr, reach: Reach) -> Result<(), Refused> {
    // An IPv4 address mapped into IPv6 is the IPv4 address to the system that connects to it.
    let ip = ip.to_canonical();
    if !is_unicast(ip) {
        return Err(Refused("names no single machine (unspecified, multicast or broadcast)"));
    }
    match reach {
        Reach::Private => Ok(()),
        Reach::Loopback if ip.is_loopback() => Ok(()),
        Reach::Loopback | Reach::Public => not_global(ip).map_or(Ok(()), Err),
    }
}

/// Judges the host of a URL: a literal address for good, a name by its form only, since what it resolves to is judged
/// for every connection.
///
/// # Errors
/// The rule that it broke.
pub(crate) fn judge_host(host: &Host<&str>, reach: Reach) -> Result<(), Refused> {
    match host {
        Host::Ipv4(ip) => judge_ip((*ip).into(), reach),
        Host::Ipv6(ip) => judge_ip((*ip).into(), reach),
        Host::Domain(name) => judge_name(name, reach),
    }
}

/// Judges scheme, user-info and host of a URL that is about to be called.
///
/// # Errors
/// The rule that it broke.
pub(crate) fn judge_url(url: &Url, reach: Reach) -> Result<(), Refused> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refused("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused("carries credentials"));
    }
    judge_host(&url.host().ok_or(Refused("has no host"))?, reach)
}

/// Whether a host is this machine, whoever is asked.
pub(crate) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => IpAddr::V6(*ip).to_canonical().is_loopback(),
        Host::Domain(name) => is_localhost(name),
    }
}

/// The one name that stands for this machine without a question to anybody (RFC 6761).
pub(crate) fn is_localhost(name: &str) -> bool {
    name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

fn judge_name(name: &str, reach: Reach) -> Result<(), Refused> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_name = name.len() <= MOST_NAME && name.split('.').all(|label| (1..=MOST_LABEL).contains(&label.len()));
    if !is_name {
        return Err(Refused("is no host name (an empty or overlong part)"));
    }
    match reach {
        Reach::Private => return Ok(()),
        Reach::Loopback if name == "localhost" => return Ok(()),
        Reach::Loopback | Reach::Public => {}
    }
    if name == "localhost" {
        return Err(Refused("is this machine"));
    }
    if !name.contains('.') {
        return Err(Refused("is a name without a dot, which only a local network knows"));
    }
    if LOCAL_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        return Err(Refused("is a name of local networks (such as .local or .internal)"));
    }
    Ok(())
}

/// Whether there can be one machine at an address, and at every IPv4 address that it carries.
fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] != 0 && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) if ip.is_loopback() => true,
        IpAddr::V6(ip) => {
            !ip.is_unspecified() && !ip.is_multicast() && carried(ip).is_none_or(|v4| is_unicast(v4.into()))
        }
    }
}

fn not_global(ip: IpAddr) -> Option<Refused> {
    match ip {
        IpAddr::V4(ip) => {
            let inside = |(net, length, _): &&Rule<Ipv4Addr>| (ip.to_bits() ^ net.to_bits()) >> (32 - length) == 0;
            V4.iter().find(inside).map(|rule| Refused(rule.2))
        }
        IpAddr::V6(ip) => {
            let inside = |(net, length, _): &&Rule<Ipv6Addr>| (ip.to_bits() ^ net.to_bits()) >> (128 - length) == 0;
            if let Some(rule) = V6.iter().find(inside) {
                return Some(Refused(rule.2));
            }
            if ip.segments()[0] >> 13 != 1 {
                return Some(Refused("is outside 2000::/3, the only part of IPv6 that is globally routed"));
            }
            // What is left and carries an IPv4 address is a tunnel's end: it goes where that address says.
            carried(ip).and_then(|v4| not_global(v4.into()))
        }
    }
}

/// The IPv4 address that an IPv6 address carries, in the forms that translators and tunnels read.
fn carried(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match (a, b) {
        (0x2002, _) => v4(b, c),
        (0x2001, 0) => v4(!g, !h),
        (0x64, 0xff9b) => v4(g, h),
        (0, 0) if (c, d, f) == (0, 0, 0) && matches!(e, 0 | 0xffff) => v4(g, h),
        // ISATAP
        _ if matches!(e, 0 | 0x200) && f == 0x5efe => v4(g, h),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
