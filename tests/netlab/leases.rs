//! Ports that a gateway gives for a short time, no longer, or to somebody else.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::events::{AFTER_REBOOT, DOWN, Event, Reached, reached};
use crate::mesh::{Mesh, Row, reach_and};
use crate::program::Program;
use crate::world::{NODE, Plan};

const START: Duration = Duration::from_secs(10);
const SHORT: u32 = 5;
const MINUTE: u32 = 60;

pub(crate) const ALL: &[Event] = &[
    ("short lease", true, short_lease),
    ("lease of 60 s", false, lease_of_a_minute),
    ("renewal refused", false, renewal_refused),
    ("mapping conflict", false, conflict),
];

/// At home, behind a gateway after a script, and called steadily through an outage that may last so long.
struct Home {
    gateway: Program,
    home: Reached,
}

impl Home {
    fn reached(script: &Value, rungs: &'static [&'static str], outage: Duration) -> Outcome<Home> {
        let mut gateway = None;
        let home = reached(outage, Plan { rungs, ..Plan::home("home") }, 1, |mesh, _| {
            let space = mesh.world.gateway(0).ok_or("no gateway")?;
            gateway = Some(Program::start(space, "gateway", script)?.ready(START)?);
            Ok(())
        })?;
        Ok(Home { gateway: gateway.ok_or("no gateway")?, home })
    }

    fn ask(&mut self, told: &Value) -> Outcome<Value> {
        self.gateway.ask(told, START)
    }

    /// The node goes; of its ports the gateway has none any more.
    fn end(mut self, took: Duration) -> Outcome<Row> {
        self.home.before = None;
        self.home.end_and(took, || {
            let book = self.gateway.ask(&json!({}), START)?;
            let left = book["mappings"].as_object().and_then(|all| all.iter().find(|(_, one)| one["client"] == NODE));
            left.map_or(Ok(()), |left| Err(format!("the node left {left:?} in its gateway")))
        })
    }
}

/// More than one lease later the node is where it was, and was so all the time.
fn outlasts(lease: u32, gateway: &mut Program, mesh: &mut Mesh) -> Outcome {
    std::thread::sleep(Duration::from_secs(lease.into()) * 4 / 3);
    let (book, registered) = (gateway.ask(&json!({}), START)?, mesh.registrations()?.len());
    let is_mapped = book["mappings"].as_object().is_some_and(|mappings| mappings.len() == 1);
    if book["expired"] != 0 || !is_mapped || registered != 1 {
        return Err(format!("the lease was not renewed in time: {book}, and registered {registered} times"));
    }
    mesh.answer(Duration::ZERO).map(drop)
}

/// A lease that ends before the node would look at its way the next time.
fn short_lease() -> Outcome<Row> {
    let mesh = Mesh::build(Plan { rungs: &["pcp"], ..Plan::home("home") }, 1)?;
    let script = json!({ "ssdp": false, "pcp": {}, "nat_pmp": {}, "longest_lease": SHORT });
    let space = mesh.world.gateway(0).ok_or("no gateway")?;
    let mut gateway = Program::start(space, "gateway", &script)?.ready(START)?;
    reach_and(mesh, |mesh, _| outlasts(SHORT, &mut gateway, mesh))
}

/// A gateway that gives a minute where it is asked for an hour, and says so only if it is asked.
fn lease_of_a_minute() -> Outcome<Row> {
    let mut home = Home::reached(&json!({ "longest_lease": MINUTE }), &["upnp"], Duration::ZERO)?;
    outlasts(MINUTE, &mut home.gateway, &mut home.home.mesh)?;
    home.end(Duration::ZERO)
}

/// When more time is asked for, the gateway refuses it.
fn renewal_refused() -> Outcome<Row> {
    let script = json!({ "ssdp": false, "pcp": {}, "nat_pmp": {}, "longest_lease": MINUTE });
    let mut home = Home::reached(&script, &["pcp"], DOWN)?;
    home.ask(&json!({ "refuses": 606 }))?;
    let since = Instant::now();
    home.home.mesh.rung(&mut home.home.node, &["relay"], DOWN)?;
    let took = home.home.back(DOWN, since)?;
    let registered = home.home.mesh.registered()?;
    if !registered["endpoint"].as_str().is_some_and(|endpoint| endpoint.ends_with("/v1/relay-for/node-1")) {
        return Err(format!("registered as {registered}"));
    }
    home.end(took)
}

/// Another machine gets the port that was the node's, and keeps it.
fn conflict() -> Outcome<Row> {
    let mut home = Home::reached(&json!({}), &["upnp"], AFTER_REBOOT)?;
    home.ask(&json!({ "conflict": 9_484 }))?;
    let since = Instant::now();
    let took = home.home.back(AFTER_REBOOT, since)?;
    let registered = home.home.mesh.registered()?;
    if registered["endpoint"] == format!("http://{}:9484", home.home.mesh.world.wan) {
        return Err(format!("registered as {registered}, which is another machine's"));
    }
    let book = home.ask(&json!({}))?;
    if book["mappings"]["9484"]["client"] == NODE || book["mappings"]["9484"].is_null() {
        return Err(format!("the other machine has lost its port: {book}"));
    }
    home.end(took)
}
