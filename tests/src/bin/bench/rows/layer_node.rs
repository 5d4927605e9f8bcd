//! The Node.js package: what it adds to the bridge, and what a handler in it can serve. It must be built before, by
//! `npm run build` in `bindings-node`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Cost, Figure, Rounds, Row, Target, rounded};
use crate::Result;
use crate::child::Child;
use crate::load::{self, Load};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "addon_node_us",
        unit: "µs",
        target: Target::AtMost(6.0),
        what: "CPU that the Node.js package adds to a submit through the bridge (100 in flight, 1 KB chat)",
        measure: addon,
    },
    Row {
        name: "handler_node_per_cpu_s",
        unit: "tasks",
        target: Target::AtLeast(25_000.0),
        what: "empty tasks that an async handler in Node.js serves per CPU-second of its process (64 connections)",
        measure: handler,
    },
    Row {
        name: "node_fetch_vs_submit",
        unit: "×",
        target: Target::AtLeast(1.0),
        what: "CPU of a bare fetch() of Node.js over that of a submit by the package, to the same stub (100 in flight)",
        measure: || posts("fetch"),
    },
    Row {
        name: "node_undici_vs_submit",
        unit: "×",
        target: Target::AtLeast(1.0),
        what: "CPU of a bare request() of undici over that of a submit by the package, to the same stub (100 in flight)",
        measure: || posts("undici"),
    },
];

const BATCH: u64 = 5_000;

fn script(name: &str, args: &[&str]) -> Result<Child> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(name);
    let mut command = Command::new("node");
    command.arg(script).args(args);
    Child::start(name, command)
}

fn addon() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = script("node_client.mjs", &[stub.said("url")?, "100", &load::payload()])?;
    let mut theirs = Child::role("bridge", &[stub.said("url")?, "100"])?;
    let rounds = Rounds::take(60, || one(&mut ours), || one(&mut theirs))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu - theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes Node.js", "through the bridge") })
}

fn handler() -> Result<Figure> {
    const SLICE: Duration = Duration::from_millis(500);
    let mut node = script("node_handler.mjs", &[])?;
    let mut load = Load::on(&node, 64)?;
    load.watch(&mut node, SLICE)?;
    let costs = (0..20).map(|_| Ok(Cost::from(load.watch(&mut node, SLICE)?))).collect::<Result<Vec<Cost>>>()?;
    let cpu = super::median(costs.iter().map(|cost| cost.cpu).collect());
    Ok(Figure { value: 1e6 / cpu, seen: format!("a task takes {} µs CPU", rounded(cpu)) })
}

fn posts(how: &str) -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = script("node_client.mjs", &[stub.said("url")?, "100", &load::payload()])?;
    let mut theirs = script("node_post.mjs", &[how, stub.said("url")?, "100", &load::payload()])?;
    let rounds = Rounds::take(15, || one(&mut ours), || one(&mut theirs))?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a submit takes", how) })
}

fn one(child: &mut Child) -> Result<Cost> {
    Ok(Cost::of(child.run(BATCH)?, BATCH))
}
