//! Gateways, and others at home, that fail, lie or mean harm: what the node makes of them.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::mesh::{Mesh, Row};
use crate::program::Program;
use crate::space::Space;
use crate::world::{CONSUMER, Igd, Plan, STRANGER};
use crate::{Outcome, mdns};

const START: std::time::Duration = std::time::Duration::from_secs(10);
const UPNP: &[&str] = &["upnp"];
const RELAY: &[&str] = &["relay"];
const UNSEEN: &str = "did not get through";
const NOT_OPEN: &str = "none of the open network";

/// Who means harm, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// The gateway itself.
    Gateway,
    /// Another gateway of the same home, which the node's route does not lead to.
    Beside,
    /// Any machine of the same home.
    Home,
}

/// Something after a script.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    /// Where the node stands, and by what it is reached all the same.
    plan: Plan,
    script: fn() -> Value,
    /// What the node's report says of it.
    says: &'static str,
    at: At,
}

const fn hostile(
    name: &'static str,
    rungs: &'static [&'static str],
    says: &'static str,
    script: fn() -> Value,
) -> Hostile {
    Hostile { name, plan: Plan { rungs, ..Plan::home(name) }, script, says, at: At::Gateway }
}

/// Behind the NAT of a provider, where no gateway can open anything, whatever it says. Packets come in from 5.5.9.2, the gateway
/// has 100.64.0.2.
const fn shared(name: &'static str, says: &'static str, script: fn() -> Value) -> Hostile {
    let plan = Plan { shared: true, rungs: RELAY, ..Plan::home(name) };
    Hostile { plan, ..hostile(name, RELAY, says, script) }
}

pub(crate) const ALL: &[Hostile] = &[
    hostile("scripted", UPNP, "opened", || json!({})),
    hostile("718 conflict", UPNP, "is taken", || json!({ "taken": [9484], "version": 1 })),
    hostile("725 no leases", UPNP, "725", || json!({ "permanent_only": true })),
    hostile("724 same port", RELAY, "724", || json!({ "same_port_only": true, "taken": [9484], "version": 1 })),
    hostile("any port", UPNP, "40404", || json!({ "taken": [9484], "same_port_only": true })),
    hostile("606 refused", RELAY, "606", || json!({ "refuses": 606 })),
    hostile("lying", RELAY, UNSEEN, || json!({ "opens": false })),
    shared("CGNAT, invented", UNSEEN, || json!({ "opens": false })),
    shared("CGNAT, outer", UNSEEN, || json!({ "wan": "5.5.9.2" })),
    shared("CGNAT, somebody's", "was not this node", || json!({ "wan": CONSUMER })),
    shared("CGNAT, 100.64", NOT_OPEN, || json!({ "wan": "100.64.0.2" })),
    shared("CGNAT, PCP", UNSEEN, || json!({ "ssdp": false, "pcp": {} })),
    shared("CGNAT, PCP 100.64", NOT_OPEN, || json!({ "ssdp": false, "pcp": {}, "wan": "100.64.0.2" })),
    shared("CGNAT, NAT-PMP", UNSEEN, || json!({ "ssdp": false, "nat_pmp": {} })),
    shared("CGNAT, NAT-PMP 100.64", NOT_OPEN, || json!({ "ssdp": false, "nat_pmp": {}, "wan": "100.64.0.2" })),
    hostile("XML bomb", RELAY, "document type", || json!({ "description": "bomb" })),
    hostile("endless XML", RELAY, "256 KiB", || json!({ "description": "endless" })),
    hostile("deep XML", RELAY, "", || json!({ "description": "deep" })),
    hostile("slow XML", RELAY, "", || json!({ "description": "slow" })),
    hostile("control elsewhere", RELAY, "", || json!({ "description": "elsewhere" })),
    hostile("redirect", RELAY, "not there (307)", || json!({ "description": "redirect" })),
    hostile("LOCATION elsewhere", RELAY, "not the gateway", || json!({ "location": "http://5.5.2.2:5000/root.xml" })),
    hostile(
        "wrong PCP nonce",
        RELAY,
        "nonce",
        || json!({ "ssdp": false, "opens": false, "pcp": { "wrong_nonce": true } }),
    ),
    hostile(
        "PCP without time",
        RELAY,
        "without port or time",
        || json!({ "ssdp": false, "opens": false, "pcp": { "no_lifetime": true } }),
    ),
    hostile("PCP refused", RELAY, "", || json!({ "ssdp": false, "pcp": { "result": 2 } })),
    hostile(
        "NAT-PMP no time",
        RELAY,
        "",
        || json!({ "ssdp": false, "opens": false, "nat_pmp": { "no_lifetime": true } }),
    ),
    Hostile {
        at: At::Beside,
        ..hostile("SSDP spoof", RELAY, "which is not the gateway", || json!({ "ours": "192.168.77.2" }))
    },
    Hostile {
        plan: Plan { gateways: 2, igd: Some(Igd::Upnp2), rungs: UPNP, ..Plan::home("three answer") },
        at: At::Home,
        ..hostile("three answer", UPNP, "", || json!({ "ours": STRANGER, "location": "http://5.5.2.2:5000/root.xml" }))
    },
    Hostile {
        at: At::Home,
        ..hostile("SSDP flood", RELAY, "too many answers", || json!({ "ours": STRANGER, "answers": 60 }))
    },
    Hostile {
        at: At::Home,
        ..hostile("mDNS spoof", RELAY, "", || json!({ "ours": STRANGER, "ssdp": false, "mdns": CONSUMER }))
    },
];

impl Hostile {
    pub(crate) fn run(&self) -> Outcome<Row> {
        let gateways = if self.at == At::Beside { 2 } else { self.plan.gateways };
        let mesh = Mesh::build(Plan { gateways, ..self.plan }, 1)?;
        let space = match self.at {
            At::Gateway => mesh.world.gateway(0),
            At::Beside => mesh.world.gateway(1),
            At::Home => Some(mesh.world.stranger()?),
        };
        let mut other =
            Program::start(space.ok_or("there is no gateway")?, "gateway", &(self.script)())?.ready(START)?;
        // Whom the node may be led to, and whom it might take for itself.
        let listen = |port: u16| -> Outcome<TcpListener> {
            let victim =
                mesh.world.consumer.within(|| TcpListener::bind((CONSUMER, port)))?.map_err(|e| e.to_string())?;
            victim.set_nonblocking(true).map_err(|e| e.to_string())?;
            Ok(victim)
        };
        let (victim, _somebody) = (listen(5_000)?, listen(9_484)?);
        let is_heard = (self.script)()["mdns"].is_null() || mdns::is_heard(&mesh.world.node, &mut other)?;
        if !is_heard {
            return Err("what is said by mDNS is not heard here".into());
        }
        let second = mesh.world.gateway(1).map(Space::rules).transpose()?;
        let row = crate::mesh::reach_and(mesh, |mesh, _| {
            let is_same = mesh.world.gateway(1).map(Space::rules).transpose()? == second;
            if is_same { Ok(()) } else { Err("another gateway than the route's was asked".into()) }
        })?;
        let said = other.ask(&json!({}), START);
        if victim.accept().is_ok() {
            return Err(format!("the node went where it was led:\n{}", row.report));
        }
        if !row.report.contains(self.says) {
            return Err(format!("the report does not say {:?}:\n{}", self.says, row.report));
        }
        let Ok(said) = said else { return Ok(row) };
        let asked = said["asked"].as_object().cloned().unwrap_or_default();
        if self.at != At::Gateway && asked.keys().any(|what| what != "search") {
            return Err(format!("somebody who is not the gateway was asked: {asked:?}"));
        }
        if self.at != At::Gateway && (self.script)()["ssdp"] != false && !asked.contains_key("search") {
            return Err("the search did not reach who had an answer to it".into());
        }
        if said["heard"] != 0 {
            return Err(format!("the node spoke mDNS: {said}"));
        }
        // A gateway whose answer cannot be taken cannot be told which mapping is meant.
        let left = said["mappings"].as_object().is_some_and(|left| !left.is_empty());
        if left && self.says != "nonce" { Err(format!("a mapping was left: {said}")) } else { Ok(row) }
    }
}
