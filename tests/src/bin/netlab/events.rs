//! What happens to a node that is reached: its gateway is cut off, its address changes, its way goes and comes back.

use std::time::{Duration, Instant};

use iicp_core::types::Rung;
use iicp_tests::netlab::gateway::{Daemon, Kind, Offers, open_ports};
use iicp_tests::netlab::place::Place;

use crate::home::{OUTSIDE, Running, Street};
use crate::{Experiment, Row};

pub(crate) const ALL: &[Experiment] = &[
    ("gateway reboots", true, reboot),
    ("mapping is lost", false, lost_mapping),
    ("WAN address changes", false, new_address),
    ("WAN flips to CGNAT and back", false, flip),
    ("5 % loss", false, loss),
    ("gateway gone for good", false, gone),
];

const MAPPED: [Rung; 3] = [Rung::Pcp, Rung::NatPmp, Rung::Upnp];

struct Watched {
    street: Street,
    gateway: Place,
    daemon: Daemon,
    running: Running,
    faults: Vec<String>,
}

/// A node that is reached through a port of its gateway.
fn reached() -> Watched {
    let mut street = Street::new();
    let (gateway, node) = street.home(Kind::PortRestricted);
    let daemon = Daemon::start(&gateway, Offers::ALL);
    std::thread::sleep(Duration::from_millis(500));
    let running = Running::start(&node, |_| {});
    let mut faults = Vec::new();
    if let Err(why) = street.answer_within(Duration::from_secs(10)) {
        faults.push(format!("it was never reached: {why}\n{}", running.report()));
    }
    Watched { street, gateway, daemon, running, faults }
}

impl Watched {
    /// Waits until the node answers from outside again.
    fn back_within(&mut self, limit: Duration, what: &str) -> Duration {
        match self.street.answer_within(limit + Duration::from_secs(30)) {
            Ok(took) => {
                if took > limit {
                    self.faults.push(format!("{what}: an answer after {:.1} s", took.as_secs_f64()));
                }
                took
            }
            Err(why) => {
                self.faults.push(format!("{what}: no answer any more: {why}\n{}", self.running.report()));
                limit
            }
        }
    }

    fn expect_rung(&mut self, limit: Duration, wanted: &[Rung]) {
        let is_so = |report: &iicp_core::types::NatReport| report.reached_by.is_some_and(|rung| wanted.contains(&rung));
        let report = self.running.report_when(limit, is_so);
        if !is_so(&report) {
            self.faults.push(format!("reached by {:?}, expected {wanted:?}:\n{report}", report.reached_by));
        }
    }

    fn done(mut self, took: Duration) -> Row {
        let report = self.running.report();
        let registered = self.street.registered.last("node-1").unwrap_or_default();
        self.running.stop();
        let left = open_ports(&self.gateway);
        if left > 0 {
            self.faults.push(format!("{left} ports were left open"));
        }
        Row {
            rung: report.reached_by.map_or_else(|| "nobody".into(), |rung| rung.as_str().to_owned()),
            registered: registered["transport_method"].as_str().unwrap_or("nothing").to_owned(),
            answered: if self.faults.is_empty() { "yes, again" } else { "no" }.into(),
            seconds: took.as_secs_f64(),
            report: report.to_string(),
            faults: self.faults,
        }
    }
}

/// Waits until nobody gets in any more, or for what was known of the node to fade.
fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}

fn reboot() -> Row {
    let mut home = reached();
    let begun = Instant::now();
    home.daemon.restart(Duration::from_secs(2));
    let _ = home.back_within(Duration::from_secs(30), "after the reboot");
    let took = begun.elapsed();
    home.expect_rung(Duration::from_secs(10), &MAPPED);
    home.done(took)
}

fn lost_mapping() -> Row {
    let mut home = reached();
    for chain in ["prerouting_miniupnpd", "miniupnpd", "postrouting_miniupnpd"] {
        home.gateway.rules(&format!("flush chain inet filter {chain}"));
    }
    settle();
    let took = home.back_within(Duration::from_secs(30), "after the mapping was lost");
    home.expect_rung(Duration::from_secs(10), &MAPPED);
    home.done(took)
}

fn new_address() -> Row {
    let mut home = reached();
    home.gateway.ip("addr del 5.5.1.2/24 dev wan");
    home.gateway.ip("addr add 5.5.1.77/24 dev wan");
    home.gateway.ip("route add default via 5.5.1.1");
    home.street.street.ip("neigh flush dev home");
    settle();
    let took = home.back_within(Duration::from_secs(60), "at the new address");
    let at = home.street.registered.last("node-1").unwrap_or_default()["endpoint"].to_string();
    if !at.contains("5.5.1.77") && !at.contains("relay-for") {
        home.faults.push(format!("registered {at}"));
    }
    home.done(took)
}

fn flip() -> Row {
    let mut home = reached();
    // What comes from outside is lost before it gets to the gateway, as behind a provider's NAT.
    home.street.street.rules(
        "table inet flip { chain f { type filter hook forward priority 0; oifname home ct state new drop; }; \
         chain o { type filter hook output priority 0; oifname home ct state new drop; }; }",
    );
    settle();
    let took = home.back_within(Duration::from_secs(60), "behind the provider's NAT");
    home.expect_rung(Duration::from_secs(10), &[Rung::Relay]);
    home.street.street.rules("delete table inet flip");
    home.expect_rung(Duration::from_secs(300), &MAPPED);
    home.back_within(Duration::from_secs(30), "after the flip back");
    home.done(took)
}

fn loss() -> Row {
    let mut street = Street::new();
    let (gateway, node) = street.home(Kind::PortRestricted);
    for place in [&gateway, &street.street] {
        place.rules(
            "table inet loss { chain p { type filter hook prerouting priority -300; numgen random mod 100 < 5 drop; }; }",
        );
    }
    let daemon = Daemon::start(&gateway, Offers::ALL);
    std::thread::sleep(Duration::from_millis(500));
    let running = Running::start(&node, |_| {});
    let mut home = Watched { street, gateway, daemon, running, faults: Vec::new() };
    let took = home.back_within(Duration::from_secs(30), "with loss");
    home.done(took)
}

fn gone() -> Row {
    let mut home = reached();
    home.gateway.rules("insert rule inet filter input iifname lan drop");
    home.gateway.rules("flush chain inet filter prerouting_miniupnpd");
    settle();
    let took = home.back_within(Duration::from_secs(60), "without the daemon");
    home.expect_rung(Duration::from_secs(10), &[Rung::Relay]);
    let at = home.street.registered.last("node-1").unwrap_or_default()["endpoint"].to_string();
    if at.contains(OUTSIDE) {
        home.faults.push(format!("registered {at}"));
    }
    home.gateway.rules("flush chain inet filter prerouting_miniupnpd");
    home.done(took)
}
