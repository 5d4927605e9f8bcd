//! Gateways that fail, lie or mean harm: what the node makes of them.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::Outcome;
use crate::mesh::{Mesh, Row, reach};
use crate::program::Program;
use crate::world::{CONSUMER, Plan};

const START: std::time::Duration = std::time::Duration::from_secs(10);
const UPNP: &[&str] = &["upnp"];
const RELAY: &[&str] = &["relay"];

/// A gateway after a script.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    /// By what the node is reached all the same.
    rungs: &'static [&'static str],
    script: fn() -> Value,
    /// What the node's report says of it.
    says: &'static str,
    /// Whether it is not the default route's gateway, but somebody else at home.
    rogue: bool,
}

const fn hostile(
    name: &'static str,
    rungs: &'static [&'static str],
    says: &'static str,
    script: fn() -> Value,
) -> Hostile {
    Hostile { name, rungs, script, says, rogue: false }
}

pub(crate) const ALL: &[Hostile] = &[
    hostile("scripted", UPNP, "opened", || json!({})),
    hostile("718 conflict", UPNP, "is taken", || json!({ "taken": [9484], "version": 1 })),
    hostile("725 no leases", UPNP, "725", || json!({ "permanent_only": true })),
    hostile("724 same port", RELAY, "724", || json!({ "same_port_only": true, "taken": [9484], "version": 1 })),
    hostile("any port", UPNP, "40404", || json!({ "taken": [9484], "same_port_only": true })),
    hostile("606 refused", RELAY, "606", || json!({ "refuses": 606 })),
    hostile("lying", RELAY, "did not get through", || json!({ "opens": false })),
    hostile("XML bomb", RELAY, "document type", || json!({ "description": "bomb" })),
    hostile("endless XML", RELAY, "256 KiB", || json!({ "description": "endless" })),
    hostile("deep XML", RELAY, "", || json!({ "description": "deep" })),
    hostile("slow XML", RELAY, "", || json!({ "description": "slow" })),
    hostile("control elsewhere", RELAY, "", || json!({ "description": "elsewhere" })),
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
    Hostile { rogue: true, ..hostile("SSDP spoof", RELAY, "", || json!({ "ours": "192.168.77.2" })) },
];

impl Hostile {
    pub(crate) fn run(&self) -> Outcome<Row> {
        let gateways = if self.rogue { 2 } else { 1 };
        let mesh = Mesh::build(Plan { rungs: self.rungs, gateways, ..Plan::home(self.name) }, 1)?;
        let space = mesh.world.gateway(usize::from(gateways) - 1).ok_or("there is no gateway")?;
        let mut gateway = Program::start(space, "gateway", &(self.script)())?.ready(START)?;
        // Whom a gateway may want the node to call.
        let victim = mesh.world.consumer.within(|| TcpListener::bind((CONSUMER, 5_000)))?.map_err(|e| e.to_string())?;
        victim.set_nonblocking(true).map_err(|e| e.to_string())?;
        let row = reach(mesh)?;
        let said = gateway.ask(&json!({}), START);
        if victim.accept().is_ok() {
            return Err(format!("the node went where it was led:\n{}", row.report));
        }
        if !row.report.contains(self.says) {
            return Err(format!("the report does not say {:?}:\n{}", self.says, row.report));
        }
        let Ok(said) = said else { return Ok(row) };
        let asked = said["asked"].as_object().cloned().unwrap_or_default();
        if self.rogue && asked.keys().any(|what| what != "search") {
            return Err(format!("somebody who is not the gateway was asked: {asked:?}"));
        }
        let left = said["mappings"].as_object().is_some_and(|left| !left.is_empty());
        if left && self.rungs == UPNP { Err(format!("a mapping was left: {said}")) } else { Ok(row) }
    }
}
