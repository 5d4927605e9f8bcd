//! The engine in the lab: a directory, relays and a consumer outside, one node inside; and what came of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::inside::{DIRECTORY_PORT, INTENT};
use crate::program::Program;
use crate::space::Space;
use crate::world::{DIRECTORY, DIRECTORY6, NODE_PUBLIC, Plan, RELAYS, RELAYS6, World};
use crate::{Outcome, say};

/// Longest wait for a program to come up, for a node that climbs too.
const START: Duration = Duration::from_secs(30);
/// Longest wait until a consumer has its answer.
const ANSWER: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(15);

/// Everything but the node, up.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) relays: Vec<Program>,
    pub(crate) consumer: Program,
    _directory: Program,
    pub(crate) world: World,
}

/// What was seen of one node.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) rung: String,
    pub(crate) url: String,
    pub(crate) up: Duration,
    pub(crate) answered: Option<Duration>,
    pub(crate) left: Duration,
}

impl Mesh {
    pub(crate) fn build(plan: Plan, relays: usize) -> Outcome<Mesh> {
        let world = World::build(plan)?;
        let directory = json!({ "probe": false, "limits": false, "qos_gating": false });
        let directory = Program::start(&world.directory, "directory", &directory)?.ready(START)?;
        let place = url(plan, DIRECTORY, DIRECTORY6, DIRECTORY_PORT);
        let consumer = Program::start(&world.consumer, "consumer", &consumer_options(&place))?.ready(START)?;
        let mut mesh = Mesh { relays: Vec::new(), consumer, _directory: directory, world };
        for n in 0..relays {
            let relay = mesh.relay(n)?;
            mesh.relays.push(relay);
        }
        Ok(mesh)
    }

    /// Starts a relay, the same one at each start.
    pub(crate) fn relay(&self, n: usize) -> Outcome<Program> {
        let plan = self.world.plan;
        let options = json!({
            "node_id": format!("relay-{n}"), "intents": ["urn:iicp:intent:llm:chat:v1"], "host": "::", "port": 9484,
            "directory": url(plan, DIRECTORY, DIRECTORY6, DIRECTORY_PORT), "endpoint": url(plan, RELAYS[n], RELAYS6[n], 9484),
            "relay_server": {}, "state_dir": self.world.folder(&format!("relay{n}"))?,
        });
        Program::start(&self.world.relays[n], "node", &options)?.ready(START)
    }

    /// Options of the node inside.
    pub(crate) fn node_options(&self) -> Value {
        let plan = self.world.plan;
        let mut options = json!({
            "node_id": "node-1", "intents": [INTENT], "host": if plan.ipv6_only { "::" } else { "0.0.0.0" }, "port": 9484,
            "directory": url(plan, DIRECTORY, DIRECTORY6, DIRECTORY_PORT),
        });
        if plan.nat.is_none() {
            options["endpoint"] = format!("http://{NODE_PUBLIC}:9484").into();
        } else {
            options["relay_worker"] = json!({});
            options["host"] = "127.0.0.1".into();
        }
        options
    }

    pub(crate) fn node(&self) -> Outcome<Program> {
        Program::start(&self.world.node, "node", &self.node_options())?.ready(START)
    }

    /// Submits until there is an answer; returns how long that took. Each try is that of a consumer who comes anew.
    pub(crate) fn answer(&mut self, within: Duration) -> Outcome<Duration> {
        let begun = Instant::now();
        let mut count = 0;
        loop {
            count += 1;
            let payload = json!({ "count": count });
            let command = json!({ "fresh": true, "payload": payload, "timeout_ms": 5_000 });
            let answer = self.consumer.ask(&command, START)?;
            if answer["ok"] == payload {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > within {
                return Err(format!("no answer in {within:?}; the last: {answer}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The directory is known under another address than it has itself, and signs tickets with that: routes come from its lists.
fn consumer_options(directory: &str) -> Value {
    json!({ "directory": directory, "route_discovery": "legacy", "consumer_auth": "disabled" })
}

/// The same address in a URL, by the one or the other protocol.
fn url(plan: Plan, four: &str, six: &str, port: u16) -> String {
    if plan.ipv6_only { format!("http://[{six}]:{port}") } else { format!("http://{four}:{port}") }
}

/// A node comes up inside, is called from outside, and goes without leaving anything in its gateway.
pub(crate) fn reach(plan: Plan) -> Outcome<Row> {
    let mut mesh = Mesh::build(plan, 1)?;
    let rules = |mesh: &Mesh| mesh.world.gateway(0).map(Space::rules).transpose();
    let before = rules(&mesh)?;
    let begun = Instant::now();
    let mut node = match mesh.node() {
        // Where there is no way out, there is none to the directory.
        Err(_) if plan.gateways == 0 => {
            let up = begun.elapsed();
            return Ok(Row { rung: "none".into(), url: String::new(), up, answered: None, left: Duration::ZERO });
        }
        node => node?,
    };
    let up = begun.elapsed();
    if plan.gateways > 0 {
        mesh.answer(ANSWER)?;
    }
    let answered = (plan.gateways > 0).then(|| begun.elapsed());
    let status = node.ask(&json!({}), START)?;
    if std::env::var_os("NETLAB_REPORT").is_some() {
        say(&format!("{:#}", status));
    }
    let begun = Instant::now();
    node.end(STOP)?;
    let left = begun.elapsed();
    let after = rules(&mesh)?;
    if before != after {
        return Err(format!("the node left something in its gateway: before\n{before:?}\nafter\n{after:?}"));
    }
    let text = |name: &str| status[name].as_str().unwrap_or("none").to_owned();
    Ok(Row { rung: text("rung"), url: text("url"), up, answered, left })
}
