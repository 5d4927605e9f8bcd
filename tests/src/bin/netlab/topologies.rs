//! Where a node can stand.

use std::time::{Duration, Instant};

use iicp_core::types::Rung;
use iicp_tests::netlab::gateway::{Daemon, Kind, Offers, open_ports, rules};
use iicp_tests::netlab::place::Place;

use crate::home::{AT_HOME, OUTSIDE, Running, Street};
use crate::{Experiment, Row};

pub(crate) const ALL: &[Experiment] = &[
    ("public", true, public),
    ("home, UPnP and PCP", true, home_all),
    ("home, UPnP only", true, home_upnp),
    ("home, PCP only", false, home_pcp),
    ("home, closed", true, home_closed),
    ("full cone", false, full_cone),
    ("restricted cone", false, restricted),
    ("symmetric", false, symmetric),
    ("CGNAT behind home NAT", true, cgnat),
    ("IPv6 only, open", false, ipv6_open),
    ("IPv6 only, firewall", false, ipv6_firewall),
    ("IPv6 only, pinhole", true, ipv6_pinhole),
    ("two gateways", false, two_gateways),
    ("VPN beside", false, vpn),
    ("no gateway", false, no_gateway),
];

/// What is expected of a network.
pub(crate) struct Expect<'a> {
    pub(crate) rung: &'a [Rung],
    /// How the endpoint that is registered begins.
    pub(crate) endpoint: &'a str,
    /// Longest time until the node serves.
    pub(crate) within: Duration,
    /// Whose ports are to be closed again.
    pub(crate) gateway: Option<&'a Place>,
}

/// Runs a node at its place and holds what becomes of it against what is expected.
pub(crate) fn observe(street: &Street, node: &Place, expect: &Expect<'_>) -> Row {
    let begun = Instant::now();
    let running = Running::start(node, |_| {});
    let mut faults = Vec::new();
    let report = running.report_when(Duration::from_secs(20), |report| report.reached_by.is_some());
    let rung = report.reached_by;
    if !rung.is_some_and(|rung| expect.rung.contains(&rung)) {
        faults.push(format!("reached by {rung:?}, expected {:?}:\n{report}", expect.rung));
    }
    let answered = street.answer_within(Duration::from_secs(20));
    if let Err(why) = &answered {
        faults.push(format!("no answer from outside: {why}\n{report}"));
    }
    let registered = street.registered.last("node-1").unwrap_or_default();
    let endpoint = registered["endpoint"].as_str().unwrap_or_default().to_owned();
    if !endpoint.starts_with(expect.endpoint) {
        faults.push(format!("registered {endpoint}, expected {}…", expect.endpoint));
    }
    if running.took > expect.within {
        faults.push(format!(
            "served after {:.1} s, expected {:.1} s:\n{report}",
            running.took.as_secs_f64(),
            expect.within.as_secs_f64()
        ));
    }
    let seconds = begun.elapsed().as_secs_f64();
    running.stop();
    if let Some(left) = expect.gateway.map(open_ports).filter(|left| *left > 0) {
        faults.push(format!("{left} ports were left open"));
    }
    Row {
        rung: rung.map_or_else(|| "nobody".into(), |rung| rung.as_str().to_owned()),
        registered: registered["transport_method"].as_str().unwrap_or("nothing").to_owned(),
        answered: answered.map_or_else(|_| "no".into(), |_| "yes".into()),
        seconds,
        report: report.to_string(),
        faults,
    }
}

const QUICK: Duration = Duration::from_secs(2);
/// When nothing answers: the climb, and then the relay.
const LADDER: Duration = Duration::from_secs(10);
const RELAY: &str = "http://5.5.8.2:9484/v1/relay-for/node-1";

fn public() -> Row {
    let mut street = Street::new();
    let node = street.lab.place("node");
    street.lab.wire((&street.street, "home", &["5.5.1.1/24"]), (&node, "eth0", &["5.5.1.2/24"]));
    node.ip("route add default via 5.5.1.1");
    let endpoint = "http://5.5.1.2:9484";
    observe(&street, &node, &Expect { rung: &[Rung::DirectIpv4], endpoint, within: QUICK, gateway: None })
}

fn mapped(offers: Offers, rung: &[Rung]) -> Row {
    let mut street = Street::new();
    let (gateway, node) = street.home(Kind::PortRestricted);
    let _daemon = Daemon::start(&gateway, offers);
    std::thread::sleep(Duration::from_millis(500));
    let endpoint = format!("http://{OUTSIDE}:9484");
    observe(&street, &node, &Expect { rung, endpoint: &endpoint, within: QUICK, gateway: Some(&gateway) })
}

fn home_all() -> Row {
    mapped(Offers::ALL, &[Rung::Pcp, Rung::NatPmp, Rung::Upnp])
}

fn home_upnp() -> Row {
    mapped(Offers { port_control: false, ..Offers::ALL }, &[Rung::Upnp])
}

fn home_pcp() -> Row {
    mapped(Offers { upnp: false, ..Offers::ALL }, &[Rung::Pcp, Rung::NatPmp])
}

fn relayed(kind: Kind) -> Row {
    let mut street = Street::new();
    let (_gateway, node) = street.home(kind);
    observe(&street, &node, &Expect { rung: &[Rung::Relay], endpoint: RELAY, within: LADDER, gateway: None })
}

fn home_closed() -> Row {
    relayed(Kind::PortRestricted)
}

fn full_cone() -> Row {
    relayed(Kind::FullCone)
}

fn restricted() -> Row {
    relayed(Kind::Restricted)
}

fn symmetric() -> Row {
    relayed(Kind::Symmetric)
}

/// A provider's NAT between the home gateway and the street.
pub(crate) fn behind_provider(street: &mut Street) -> (Place, Place) {
    let (provider, gateway, node) =
        (street.lab.place("provider"), street.lab.place("gateway"), street.lab.place("node"));
    street.lab.wire((&street.street, "home", &["5.5.1.1/24"]), (&provider, "wan", &["5.5.1.2/24"]));
    street.lab.wire((&provider, "lan", &["100.64.0.1/24"]), (&gateway, "wan", &["100.64.0.2/24"]));
    street.lab.wire((&gateway, "lan", &["192.168.77.1/24"]), (&node, "eth0", &["192.168.77.10/24"]));
    provider.ip("route add default via 5.5.1.1");
    gateway.ip("route add default via 100.64.0.1");
    node.ip("route add default via 192.168.77.1");
    node.ip("route add 239.0.0.0/8 dev eth0");
    provider.rules(&rules(Kind::PortRestricted, "100.64.0.2"));
    gateway.rules(&rules(Kind::PortRestricted, AT_HOME));
    (gateway, node)
}

fn cgnat() -> Row {
    let mut street = Street::new();
    let (gateway, node) = behind_provider(&mut street);
    let _daemon = Daemon::start(&gateway, Offers::ALL);
    std::thread::sleep(Duration::from_millis(500));
    let expect = Expect { rung: &[Rung::Relay], endpoint: RELAY, within: LADDER, gateway: Some(&gateway) };
    observe(&street, &node, &expect)
}

/// A home that has IPv6, and of IPv4 only what leads out through the provider.
fn ipv6_home(street: &mut Street, kind: Option<Kind>) -> (Place, Place) {
    let (gateway, node) = (street.lab.place("gateway"), street.lab.place("node"));
    street.lab.wire(
        (&street.street, "home", &["5.5.1.1/24", "2a00:5501::1/64"]),
        (&gateway, "wan", &["5.5.1.2/24", "2a00:5501::2/64"]),
    );
    street.lab.wire(
        (&gateway, "lan", &["192.168.77.1/24", "2a00:5502::1/64", "fe80::1/64"]),
        (&node, "eth0", &["192.168.77.10/24", "2a00:5502::10/64"]),
    );
    street.street.ip("-6 route add 2a00:5502::/64 via 2a00:5501::2");
    gateway.ip("route add default via 5.5.1.1");
    gateway.ip("-6 route add default via 2a00:5501::1");
    node.ip("route add 5.5.0.0/16 via 192.168.77.1");
    node.ip("-6 route add default via fe80::1 dev eth0");
    node.ip("route add 239.0.0.0/8 dev eth0");
    if let Some(kind) = kind {
        gateway.rules(&rules(kind, AT_HOME));
    } else {
        gateway.rules("table inet nat { chain post { type nat hook postrouting priority 100; oifname wan meta nfproto ipv4 masquerade; }; }");
    }
    (gateway, node)
}

fn ipv6_open() -> Row {
    let mut street = Street::new();
    let (_gateway, node) = ipv6_home(&mut street, None);
    let endpoint = "http://[2a00:5502::10]:9484";
    observe(&street, &node, &Expect { rung: &[Rung::DirectIpv6], endpoint, within: QUICK, gateway: None })
}

fn ipv6_firewall() -> Row {
    let mut street = Street::new();
    let (_gateway, node) = ipv6_home(&mut street, Some(Kind::PortRestricted));
    observe(&street, &node, &Expect { rung: &[Rung::Relay], endpoint: RELAY, within: LADDER, gateway: None })
}

fn ipv6_pinhole() -> Row {
    let mut street = Street::new();
    let (gateway, node) = ipv6_home(&mut street, Some(Kind::PortRestricted));
    let _daemon = Daemon::start(&gateway, Offers::ALL);
    std::thread::sleep(Duration::from_millis(500));
    let endpoint = "http://[2a00:5502::10]:9484";
    let expect = Expect { rung: &[Rung::Ipv6Pinhole], endpoint, within: LADDER, gateway: Some(&gateway) };
    observe(&street, &node, &expect)
}

fn two_gateways() -> Row {
    let mut street = Street::new();
    let (gateway, node) = street.home(Kind::PortRestricted);
    let other = street.lab.place("other");
    street.lab.wire((&street.street, "home2", &["5.5.2.1/24"]), (&other, "wan", &["5.5.2.2/24"]));
    street.lab.wire((&other, "lan", &["192.168.78.1/24"]), (&node, "eth1", &["192.168.78.10/24"]));
    other.ip("route add default via 5.5.2.1");
    node.ip("route add default via 192.168.78.1 metric 50");
    other.rules(&rules(Kind::PortRestricted, "192.168.78.10"));
    let _first = Daemon::start(&gateway, Offers::ALL);
    let _second = Daemon::start(&other, Offers::ALL);
    std::thread::sleep(Duration::from_millis(500));
    let rung = &[Rung::Pcp, Rung::NatPmp, Rung::Upnp];
    let endpoint = format!("http://{OUTSIDE}:9484");
    observe(&street, &node, &Expect { rung, endpoint: &endpoint, within: QUICK, gateway: Some(&gateway) })
}

fn vpn() -> Row {
    let mut street = Street::new();
    let (gateway, node) = street.home(Kind::PortRestricted);
    let far = street.lab.place("vpn");
    street.lab.wire((&far, "eth0", &["10.8.0.1/24"]), (&node, "wg0", &["10.8.0.2/24"]));
    let _daemon = Daemon::start(&gateway, Offers::ALL);
    std::thread::sleep(Duration::from_millis(500));
    let rung = &[Rung::Pcp, Rung::NatPmp, Rung::Upnp];
    let endpoint = format!("http://{OUTSIDE}:9484");
    observe(&street, &node, &Expect { rung, endpoint: &endpoint, within: QUICK, gateway: Some(&gateway) })
}

/// Nothing leads out, and the node says so in time and in words.
fn no_gateway() -> Row {
    let mut street = Street::new();
    let node = street.lab.place("node");
    let running = Running::start(&node, |_| {});
    let report = running.report_when(LADDER, |report| report.climbs > 0);
    let mut faults = Vec::new();
    if report.reached_by.is_some() || report.climbs == 0 || !report.rungs.iter().any(|rung| rung.fix.is_some()) {
        faults.push(format!("it should say what to do:\n{report}"));
    }
    let seconds = running.took.as_secs_f64();
    Row {
        rung: "nobody".into(),
        registered: "nothing".into(),
        answered: "none possible".into(),
        seconds,
        report: report.to_string(),
        faults,
    }
}
