//! The engine in the lab: a directory, relays and a consumer outside, one node inside; and what came of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::inside::{DIRECTORY_PORT, INTENT};
use crate::ledger;
use crate::program::Program;
use crate::space::Space;
use crate::tunnel;
use crate::world::{DIRECTORY, DIRECTORY6, MAPPED, Plan, RELAYS, RELAYS6, World};

/// Longest wait for a program to come up, for a node that climbs too.
const START: Duration = Duration::from_secs(30);
/// Longest wait until a consumer has its answer.
const ANSWER: Duration = Duration::from_secs(40);
/// The same on a gateway that does what it is asked, and where nothing leads anywhere but a relay.
const QUICK: Duration = Duration::from_secs(6);
const LADDER: Duration = Duration::from_secs(15);
/// Longest climb where nothing answers, with a little for a busy machine; and where a gateway does.
const CLIMB: Duration = Duration::from_millis(8_500);
const CLIMB_MAPPED: Duration = Duration::from_secs(2);
const STOP: Duration = Duration::from_secs(15);
/// How long tasks are submitted before something happens, and after it.
const CALM: Duration = Duration::from_secs(2);

/// Everything but the node, up.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) relays: Vec<Program>,
    pub(crate) consumer: Program,
    directory: Program,
    pub(crate) world: World,
}

/// What was seen of one node.
#[derive(Debug)]
pub(crate) struct Row {
    /// By which rung it was reached, in the node's words.
    pub(crate) rung: String,
    /// What the directory took last.
    pub(crate) endpoint: String,
    pub(crate) method: String,
    /// Until the node served.
    pub(crate) up: Duration,
    /// From its start until a consumer outside had an answer, or from what happened to it until there was one again.
    pub(crate) answered: Option<Duration>,
    pub(crate) report: String,
    /// How long the node's last climb took, in its own words.
    pub(crate) climb: Duration,
}

impl Mesh {
    pub(crate) fn build(plan: Plan, relays: usize) -> Outcome<Mesh> {
        let world = World::build(plan)?;
        for space in [&world.directory, &world.consumer, &world.node] {
            space.hosts(&format!("127.0.0.1 localhost\n{} {}\n", tunnel::EDGE, tunnel::NAME))?;
        }
        let directory = json!({ "probe": false, "limits": false, "qos_gating": false });
        let directory = Program::start(&world.directory, "directory", &directory)?.ready(START)?;
        let place = url(plan, DIRECTORY, DIRECTORY6, DIRECTORY_PORT);
        let consumer = Program::start(&world.consumer, "consumer", &consumer_options(&place))?.ready(START)?;
        let mut mesh = Mesh { relays: Vec::new(), consumer, directory, world };
        for n in 0..relays {
            let relay = mesh.relay(n)?;
            mesh.relays.push(relay);
        }
        Ok(mesh)
    }

    /// From now on the consumer trusts this authority too.
    pub(crate) fn trusting(&mut self, certificate: &str) -> Outcome {
        let mut options = consumer_options(&url(self.world.plan, DIRECTORY, DIRECTORY6, DIRECTORY_PORT));
        options["trusted_ca"] = certificate.into();
        self.consumer = Program::start(&self.world.consumer, "consumer", &options)?.ready(START)?;
        Ok(())
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
        json!({
            "node_id": "node-1", "intents": [INTENT], "host": if plan.ipv6_only { "::" } else { "0.0.0.0" }, "port": 9484,
            "directory": url(plan, DIRECTORY, DIRECTORY6, DIRECTORY_PORT),
        })
    }

    pub(crate) fn node(&self, options: &Value) -> Outcome<Program> {
        Program::start(&self.world.node, "node", options)?.ready(START)
    }

    /// Workers at all relays.
    pub(crate) fn bound(&mut self) -> Outcome<u64> {
        let mut count = 0;
        for relay in &mut self.relays {
            count += relay.ask(&json!({}), START)?["relay_workers"].as_u64().unwrap_or(0);
        }
        Ok(count)
    }

    /// What the directory took last from the node inside.
    pub(crate) fn registered(&mut self) -> Outcome<Value> {
        Ok(self.registrations()?.pop().unwrap_or_default())
    }

    /// All that it took from it.
    pub(crate) fn registrations(&mut self) -> Outcome<Vec<Value>> {
        let mut all = self.directory.ask(&json!({}), START)?;
        let Value::Array(mut all) = all["registered"].take() else { return Err("no list of registrations".into()) };
        all.retain(|one| one["node_id"] == "node-1");
        Ok(all)
    }

    /// What is known of a node that runs.
    pub(crate) fn row(&mut self, node: &mut Program, up: Duration, answered: Option<Duration>) -> Outcome<Row> {
        let (status, registered) = (node.ask(&json!({}), START)?, self.registered()?);
        let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
        Ok(Row {
            rung: text(&status["rung"]),
            endpoint: text(&registered["endpoint"]),
            method: text(&registered["transport_method"]),
            up,
            answered,
            report: text(&status["report"]),
            climb: Duration::from_millis(status["climb_ms"].as_u64().unwrap_or(0)),
        })
    }

    /// Waits until the node says that it is reached by one of these rungs.
    pub(crate) fn rung(&self, node: &mut Program, wanted: &[&str], within: Duration) -> Outcome<Duration> {
        let begun = Instant::now();
        loop {
            let status = node.ask(&json!({}), START)?;
            if status["rung"].as_str().is_some_and(|rung| wanted.contains(&rung)) {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > within {
                let report = status["report"].as_str().unwrap_or_default();
                return Err(format!("not reached by {wanted:?} in {within:?}:\n{report}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Stops the node; its gateway must be as it was, if that is known.
    pub(crate) fn stop(&self, node: Program, before: Option<&String>) -> Outcome {
        node.end(STOP)?;
        let after = self.rules()?;
        if before.is_none() || before == after.as_ref() {
            return Ok(());
        }
        Err(format!("the node left something in its gateway: before\n{before:?}\nafter\n{after:?}"))
    }

    /// What the gateway lets through, and where it leads it.
    pub(crate) fn rules(&self) -> Outcome<Option<String>> {
        self.world.gateway(0).map(Space::rules).transpose()
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

/// A consumer outside that submits one task after the other, whatever happens, and notes what became of each.
#[derive(Debug)]
pub(crate) struct Steady {
    consumer: Program,
    within: Duration,
}

impl Steady {
    /// Begins. Tasks that may be sent again are, for as long as `within`.
    pub(crate) fn begin(mesh: &Mesh, within: Duration) -> Outcome<Steady> {
        let options = consumer_options(&url(mesh.world.plan, DIRECTORY, DIRECTORY6, DIRECTORY_PORT));
        let mut consumer = Program::start(&mesh.world.consumer, "consumer", &options)?.ready(START)?;
        consumer.tell(&json!({ "steadily_ms": within.as_millis() }))?;
        std::thread::sleep(CALM);
        Ok(Steady { consumer, within })
    }

    /// Ends, and compares what the caller noted with what the node did.
    pub(crate) fn end(mut self, node: &mut Program) -> Outcome<String> {
        std::thread::sleep(CALM);
        let caller = self.consumer.ask(&json!({}), self.within + START)?;
        ledger::compare(&caller, &node.ask(&json!({ "ran": true }), START)?)
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
pub(crate) fn reach(mesh: Mesh) -> Outcome<Row> {
    reach_and(mesh, |_, _| Ok(()))
}

/// The same; in between something is done.
pub(crate) fn reach_and(mut mesh: Mesh, between: impl FnOnce(&mut Mesh, &mut Program) -> Outcome) -> Outcome<Row> {
    let plan = mesh.world.plan;
    let before = mesh.rules()?;
    let begun = Instant::now();
    let mut node = mesh.node(&mesh.node_options())?;
    let up = begun.elapsed();
    let answered = match mesh.answer(if plan.rungs.is_empty() { Duration::ZERO } else { ANSWER }) {
        Ok(_) => Some(begun.elapsed()),
        Err(_) if plan.rungs.is_empty() => None,
        Err(why) => {
            let row = mesh.row(&mut node, up, None)?;
            return Err(format!("{why}\n{}", row.report));
        }
    };
    if let Some(rung) = plan.rungs.first() {
        // A relay is found before it is bound.
        mesh.rung(&mut node, plan.rungs, ANSWER).map_err(|e| format!("expected {rung}: {e}"))?;
    }
    between(&mut mesh, &mut node)?;
    let row = mesh.row(&mut node, up, answered)?;
    let registrations = mesh.registrations()?;
    mesh.stop(node, before.as_ref()).map_err(|e| format!("{e}\n{}", row.report))?;
    let whole = |why: String| Err(format!("{why}:\n{}", row.report));
    let wanted = if row.rung == "relay" { "/v1/relay-for/node-1" } else { mesh.world.seen_as() };
    if answered.is_some() && !row.endpoint.contains(wanted) {
        return whole(format!("registered as {}, and should as {wanted}", row.endpoint));
    }
    // Nor was it ever at another place where there is no way but that one.
    let is_relayed = |one: &Value| one["endpoint"].as_str().is_some_and(|at| at.contains("/v1/relay-for/node-1"));
    if plan.rungs == ["relay"] && !registrations.iter().all(is_relayed) {
        return whole(format!("registered as {registrations:?}"));
    }
    let is_asked = MAPPED.contains(&row.rung.as_str()) || row.rung == "ipv6_pinhole";
    let is_mapped = is_asked && plan.delay_ms == 0 && !plan.lossy;
    let (climb, limit) = if is_mapped { (CLIMB_MAPPED, QUICK) } else { (CLIMB, LADDER) };
    match answered {
        _ if row.climb > climb => whole(format!("the ladder took {:?}", row.climb)),
        Some(_) if plan.rungs.is_empty() => whole("an answer, where there is no way".into()),
        Some(time) if time > limit => whole(format!("an answer after {time:?} only")),
        _ => Ok(row),
    }
}
