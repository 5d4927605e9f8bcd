//! What happens to a node that is reached, and how long it takes until it is reached again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::mesh::{Mesh, Row, Steady};
use crate::program::Program;
use crate::rules::Nat;
use crate::tunnel;
use crate::world::{Igd, MAPPED, NODE6, Plan, RELAYS};

/// How long a consumer is heard before something happens.
const BEFORE: Duration = Duration::from_secs(20);
const RENUMBERED: &str = "2a05:5505:77::99";
const RELAY: &[&str] = &["relay"];
/// Options of nodes have their defaults here, so these are the times that users have.
pub(crate) const AFTER_REBOOT: Duration = Duration::from_secs(30);
const WITH_STANDBY: Duration = Duration::from_secs(5);
const WITHOUT_STANDBY: Duration = Duration::from_secs(40);
pub(crate) const DOWN: Duration = Duration::from_secs(60);
const UP_AGAIN: Duration = Duration::from_secs(300);
/// Until the callers of a worker whose packets are lost have their error, and until it is bound again. The first is 20 s, and a
/// second for a machine that is busy.
const TOLD: Duration = Duration::from_secs(21);
const BOUND_AGAIN: Duration = Duration::from_secs(25);

/// An event: its name, whether it is part of the short run, and what happens.
pub(crate) type Event = (&'static str, bool, fn() -> Outcome<Row>);

/// For how much longer than the outage that is allowed a task is sent again that may be.
const SPARE: Duration = Duration::from_secs(15);
/// How long tasks are submitted where nothing happens but what happens all the time.
const FOR_A_WHILE: Duration = Duration::from_secs(15);

pub(crate) const ALL: &[Event] = &[
    ("gateway reboot", true, reboot),
    ("mapping lost", false, lost_mapping),
    ("no IGD any more", false, no_daemon),
    ("WAN address", false, new_address),
    ("IPv6 renumbered", false, renumbered),
    ("CGNAT and back", false, flip),
    ("relay death", true, relay_death),
    ("relay death, alone", false, relay_death_alone),
    ("relay cut off", false, relay_cut_off),
    ("black hole", true, black_hole),
    ("quick tunnel", true, tunnel::opened),
    ("quick tunnel lost", false, tunnel::lost),
    ("5 % loss", false, loss),
    ("300 ms round trip", false, far_away),
    ("300 ms, relayed", false, far_away_relayed),
];

pub(crate) struct Reached {
    pub(crate) mesh: Mesh,
    pub(crate) node: Program,
    pub(crate) before: Option<String>,
    up: Duration,
    steady: Steady,
}

/// A node that is reached, and called steadily through an outage that may last so long.
pub(crate) fn reached(
    outage: Duration,
    plan: Plan,
    relays: usize,
    change: impl FnOnce(&Mesh, &mut Value) -> Outcome,
) -> Outcome<Reached> {
    let mut mesh = Mesh::build(plan, relays)?;
    let before = mesh.rules()?;
    let mut options = mesh.node_options();
    change(&mesh, &mut options)?;
    let begun = Instant::now();
    let mut node = mesh.node(&options)?;
    let up = begun.elapsed();
    mesh.answer(BEFORE)?;
    if options["relay_worker"].is_null() {
        mesh.rung(&mut node, plan.rungs, BEFORE)?;
    }
    let steady = Steady::begin(&mesh, outage + SPARE)?;
    Ok(Reached { mesh, node, before, up, steady })
}

/// At home, with a gateway that opens ports.
fn mapped(outage: Duration) -> Outcome<Reached> {
    reached(outage, Plan { igd: Some(Igd::Any), rungs: MAPPED, ..Plan::home("home") }, 1, |_, _| Ok(()))
}

impl Reached {
    /// An answer comes from outside again, in time.
    pub(crate) fn back(&mut self, within: Duration, since: Instant) -> Outcome<Duration> {
        let left = (2 * within).saturating_sub(since.elapsed());
        let outcome = self.mesh.answer(left);
        let took = since.elapsed();
        if outcome.is_ok() && took <= within {
            return Ok(took);
        }
        let row = self.mesh.row(&mut self.node, self.up, None)?;
        let why = outcome.err().unwrap_or_else(|| format!("again after {took:?} only, and should in {within:?}"));
        Err(format!("{why}\n{}", row.report))
    }

    pub(crate) fn end(self, took: Duration) -> Outcome<Row> {
        self.end_and(took, || Ok(()))
    }

    /// The same; something is looked at before everything goes.
    pub(crate) fn end_and(mut self, took: Duration, look: impl FnOnce() -> Outcome) -> Outcome<Row> {
        let tasks = self.steady.end(&mut self.node);
        let row = self.mesh.row(&mut self.node, self.up, Some(took))?;
        crate::say(&format!("         {}", tasks.map_err(|e| format!("{e}\n{}", row.report))?));
        self.mesh.stop(self.node, self.before.as_ref()).map_err(|e| format!("{e}\n{}", row.report))?;
        look().map(|()| row)
    }
}

fn reboot() -> Outcome<Row> {
    let mut home = mapped(AFTER_REBOOT)?;
    home.mesh.world.gateway_down(0);
    std::thread::sleep(Duration::from_secs(2));
    home.mesh.world.gateway_up(0)?;
    let since = Instant::now();
    let took = home.back(AFTER_REBOOT, since)?;
    home.mesh.rung(&mut home.node, MAPPED, UP_AGAIN)?;
    home.end(took)
}

fn lost_mapping() -> Outcome<Row> {
    let mut home = mapped(AFTER_REBOOT)?;
    home.mesh.world.forget(0)?;
    let since = Instant::now();
    let took = home.back(AFTER_REBOOT, since)?;
    home.mesh.rung(&mut home.node, MAPPED, UP_AGAIN)?;
    home.end(took)
}

/// The gateway answers nobody any more, and has closed what it opened.
fn no_daemon() -> Outcome<Row> {
    let mut home = mapped(DOWN)?;
    home.mesh.world.daemon_down(0)?;
    let since = Instant::now();
    let took = home.back(DOWN, since)?;
    home.mesh.rung(&mut home.node, RELAY, DOWN)?;
    home.end(took)
}

/// The node gets another address of IPv6, and loses the old one.
fn renumbered() -> Outcome<Row> {
    let plan = Plan {
        ipv6_only: true,
        nat: Some(Nat::Routed),
        igd: Some(Igd::Any),
        rungs: &["ipv6_pinhole"],
        ..Plan::home("home")
    };
    let mut home = reached(AFTER_REBOOT, plan, 1, |_, _| Ok(()))?;
    home.mesh.world.node.ip(&format!("addr add {RENUMBERED}/64 dev eth0 nodad\naddr del {NODE6}/64 dev eth0\n"))?;
    let since = Instant::now();
    let took = home.back(AFTER_REBOOT, since)?;
    home.mesh.rung(&mut home.node, plan.rungs, DOWN)?;
    let registered = home.mesh.registered()?;
    if !registered["endpoint"].as_str().is_some_and(|endpoint| endpoint.contains(RENUMBERED)) {
        return Err(format!("registered as {registered}"));
    }
    // What was opened for the old address only that could have closed.
    home.before = None;
    home.end(took)
}

fn new_address() -> Outcome<Row> {
    let mut home = mapped(DOWN)?;
    home.mesh.world.address(0, "5.5.10.77", "5.5.10.1")?;
    let since = Instant::now();
    let took = home.back(DOWN, since)?;
    home.mesh.rung(&mut home.node, MAPPED, UP_AGAIN)?;
    let registered = home.mesh.registered()?;
    if !registered["endpoint"].as_str().is_some_and(|endpoint| endpoint.starts_with("http://5.5.10.77:")) {
        return Err(format!("registered as {registered}"));
    }
    home.end(took)
}

/// The provider takes the public address away and gives one that it shares, then gives a public one again.
fn flip() -> Outcome<Row> {
    let mut home = mapped(DOWN)?;
    home.mesh.world.address(0, "100.64.0.2", "100.64.0.1")?;
    let since = Instant::now();
    let took = home.back(DOWN, since)?;
    home.mesh.rung(&mut home.node, RELAY, DOWN)?;
    home.mesh.world.address(0, "5.5.10.2", "5.5.10.1")?;
    let since = Instant::now();
    home.mesh.rung(&mut home.node, MAPPED, UP_AGAIN)?;
    home.back(UP_AGAIN, since)?;
    home.end(took)
}

impl Reached {
    /// Number of the relay at which callers are sent to the node.
    fn relay(&mut self) -> Outcome<usize> {
        let registered = self.mesh.registered()?;
        let endpoint = registered["endpoint"].as_str().unwrap_or_default();
        RELAYS.iter().position(|relay| endpoint.contains(relay)).ok_or(format!("registered as {registered}"))
    }

    /// Waits until so many sessions are bound.
    fn bound(&mut self, wanted: u64) -> Outcome {
        let until = Instant::now() + BEFORE;
        while self.mesh.bound()? < wanted {
            if Instant::now() > until {
                return Err(format!("less than {wanted} sessions at the relays"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// The relay at which a node is reached is killed; the node holds another session, as nodes do that climb.
fn relay_death() -> Outcome<Row> {
    let mut home = reached(WITH_STANDBY, Plan::home("home"), 2, |_, _| Ok(()))?;
    home.bound(2)?;
    let at = home.relay()?;
    drop(home.mesh.relays.remove(at));
    let took = home.back(WITH_STANDBY, Instant::now())?;
    home.end(took)
}

/// The same for a node that was told to hold one only.
fn relay_death_alone() -> Outcome<Row> {
    let mut home = reached(WITHOUT_STANDBY, Plan::home("home"), 2, |_, options| {
        options["host"] = "127.0.0.1".into();
        options["relay_worker"] = json!({ "relays": 1 });
        Ok(())
    })?;
    home.bound(1)?;
    let at = home.relay()?;
    drop(home.mesh.relays.remove(at));
    let took = home.back(WITHOUT_STANDBY, Instant::now())?;
    home.end(took)
}

/// The relay is not heard any more, and nobody says so.
fn relay_cut_off() -> Outcome<Row> {
    let mut home = reached(WITHOUT_STANDBY, Plan::home("home"), 2, |_, _| Ok(()))?;
    home.bound(2)?;
    let at = home.relay()?;
    home.mesh.world.relays[at].ip("link set eth0 down\n")?;
    let took = home.back(WITHOUT_STANDBY, Instant::now())?;
    home.end(took)
}

/// The packets of a worker's connection are lost, both ways, without a word: the caller is told, and the worker binds anew.
fn black_hole() -> Outcome<Row> {
    let mut home = reached(BOUND_AGAIN, Plan::home("home"), 1, |_, options| {
        options["host"] = "127.0.0.1".into();
        options["relay_worker"] = json!({});
        // Over a direct path the caller would not even notice.
        options["punch"] = "off".into();
        Ok(())
    })?;
    let output = home.mesh.world.node.command("ss").args(["-Htn", "dport", "=", "9485"]).output();
    let output = String::from_utf8_lossy(&output.map_err(|e| format!("ss: {e}"))?.stdout).into_owned();
    let ours = output.split_whitespace().nth(3).and_then(|place| place.rsplit(':').next());
    let ours: u16 = ours.and_then(|port| port.parse().ok()).ok_or(format!("no connection to the relay: {output}"))?;
    home.mesh.consumer.tell(&json!({ "payload": { "take_ms": 90_000 }, "timeout_ms": 100_000 }))?;
    std::thread::sleep(Duration::from_millis(500));
    let gateway = home.mesh.world.gateway(0).ok_or("no gateway")?;
    gateway.nft(&format!(
        "table ip hole {{ chain forward {{ type filter hook forward priority -10; tcp sport {ours} drop; tcp dport {ours} drop; }}; }}"
    ))?;
    let since = Instant::now();
    let answer = home.mesh.consumer.line(2 * TOLD)?;
    let told = since.elapsed();
    if answer["error"].is_null() || told > TOLD {
        return Err(format!("the caller was told after {told:?}: {answer}"));
    }
    let took = home.back(BOUND_AGAIN, since)?;
    let gateway = home.mesh.world.gateway(0).ok_or("no gateway")?;
    gateway.nft("delete table ip hole")?;
    home.end(took)
}

fn called_for_a_while(mesh: Mesh) -> Outcome<Row> {
    crate::mesh::reach_and(mesh, |mesh, node| {
        let steady = Steady::begin(mesh, SPARE)?;
        std::thread::sleep(FOR_A_WHILE);
        crate::say(&format!("         {}", steady.end(node)?));
        Ok(())
    })
}

/// One packet of twenty is lost in each direction.
fn loss() -> Outcome<Row> {
    let mesh = Mesh::build(Plan { igd: Some(Igd::Any), rungs: MAPPED, lossy: true, ..Plan::home("home") }, 1)?;
    let gateway = mesh.world.gateway(0).ok_or("no gateway")?;
    gateway.nft(
        "table inet loss { chain prerouting { type filter hook prerouting priority -300; numgen random mod 100 < 5 drop; }; }",
    )?;
    called_for_a_while(mesh)
}

/// The other side of the world, for a node with a gateway that opens ports.
fn far_away() -> Outcome<Row> {
    let plan = Plan { igd: Some(Igd::Any), rungs: MAPPED, delay_ms: 150, ..Plan::home("home") };
    called_for_a_while(Mesh::build(plan, 1)?)
}

/// The same for one that has no way but a relay.
fn far_away_relayed() -> Outcome<Row> {
    called_for_a_while(Mesh::build(Plan { delay_ms: 150, ..Plan::home("home") }, 1)?)
}
