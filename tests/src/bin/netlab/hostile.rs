//! Gateways that fail, lie or mean harm.

use std::time::Duration;

use iicp_core::types::Rung;
use iicp_tests::netlab::gateway::Kind;
use iicp_tests::netlab::igd::{Asked, Igd, Trouble};

use crate::home::{INSIDE, OUTSIDE, Street};
use crate::topologies::{Expect, observe};
use crate::{Experiment, Row};

pub(crate) const ALL: &[Experiment] = &[
    ("scripted IGD", false, || scripted(Trouble::None, true, "opened")),
    ("port taken (718)", true, || scripted(Trouble::Taken, true, "taken")),
    ("leases for ever only (725)", false, || scripted(Trouble::ForEver, true, "725")),
    ("same port only (724)", false, || scripted(Trouble::SamePort, false, "724")),
    ("lying IGD", true, || scripted(Trouble::Lies, false, "did not get through")),
    ("XML bomb", true, || scripted(Trouble::Bomb, false, "document type")),
    ("endless XML", false, || scripted(Trouble::Endless, false, "256 KiB")),
    ("LOCATION elsewhere", true, || scripted(Trouble::Elsewhere, false, "not the gateway")),
    ("wrong PCP nonce", false, || scripted(Trouble::WrongNonce, false, "nonce")),
    ("PCP lifetime zero", false, || scripted(Trouble::NoTime, false, "without port or time")),
    ("silent IGD", false, || scripted(Trouble::Silent, false, "in time")),
];

/// A home whose gateway is after a script. `reached` says whether a port can be had of it; `line` stands in the report.
fn scripted(trouble: Trouble, reached: bool, line: &str) -> Row {
    let mut street = Street::new();
    let (gateway, node) = street.home(Kind::PortRestricted);
    let asked = Asked::default();
    Igd {
        place: gateway.clone(),
        inside: INSIDE.parse().unwrap(),
        outer: OUTSIDE.parse().unwrap(),
        trouble,
        asked: asked.clone(),
    }
    .start();
    let endpoint =
        if reached { format!("http://{OUTSIDE}:") } else { "http://5.5.8.2:9484/v1/relay-for/node-1".into() };
    let rung: &[Rung] = if reached { &[Rung::Upnp] } else { &[Rung::Relay] };
    let within = Duration::from_secs(if reached { 6 } else { 12 });
    let expect = Expect { rung, endpoint: &endpoint, within, gateway: Some(&gateway) };
    let mut row = observe(&street, &node, &expect);
    if !row.report.contains(line) {
        row.faults.push(format!("the report does not say “{line}”:\n{}", row.report));
    }
    if asked.open() > 0 {
        row.faults.push("a mapping was left".into());
    }
    let fetched = asked.actions();
    if trouble == Trouble::Elsewhere && !fetched.is_empty() {
        row.faults.push(format!("it was followed: {fetched:?}"));
    }
    row
}
