//! The Python package: what it adds to the bridge, what a handler in it can serve, and what importing it costs. It must be
//! installed before, by `tests/python/run`, or in the environment of the interpreter that `BENCH_PYTHON_LAYER` names.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Cost, Figure, Rounds, Row, Target, rounded};
use crate::Result;
use crate::child::Child;
use crate::load::{self, Load};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "addon_python_us",
        unit: "µs",
        target: Target::AtMost(8.0),
        what: "CPU that the Python package adds to a submit through the bridge (asyncio, 100 in flight, 1 KB chat)",
        measure: addon,
    },
    Row {
        name: "addon_python_sync_us",
        unit: "µs",
        target: Target::AtMost(12.0),
        what: "CPU that the Python package adds to a submit through the bridge (no loop, one after the other, 1 KB chat)",
        measure: addon_sync,
    },
    Row {
        name: "handler_python_per_cpu_s",
        unit: "tasks",
        target: Target::AtLeast(20_000.0),
        what: "empty tasks that a coroutine in Python serves per CPU-second of its process (64 connections)",
        measure: handler,
    },
    Row {
        name: "import_ms",
        unit: "ms",
        target: Target::AtMost(30.0),
        what: "CPU of `import iicp_core` over that of the bare interpreter",
        measure: import,
    },
    Row {
        name: "python_httpx_vs_submit",
        unit: "×",
        target: Target::AtLeast(1.0),
        what: "CPU of a bare POST with httpx over that of a submit by the package, to the same stub (100 in flight)",
        measure: || posts("httpx"),
    },
    Row {
        name: "python_aiohttp_vs_submit",
        unit: "×",
        target: Target::AtLeast(1.0),
        what: "CPU of a bare POST with aiohttp over that of a submit by the package, to the same stub (100 in flight)",
        measure: || posts("aiohttp"),
    },
    Row {
        name: "python_published_vs_submit",
        unit: "×",
        target: Target::AtLeast(1.0),
        what: "CPU of a submit by the published client over that of one by the package, to the same stub (no loop, one \
               after the other)",
        measure: published,
    },
];

fn script(name: &str, args: &[&str]) -> Result<Child> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv-py/bin/python");
    let python = std::env::var_os("BENCH_PYTHON_LAYER").map_or(python, PathBuf::from);
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(name)).args(args);
    Child::start(name, command)
}

fn addon() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = script("python_client.py", &[stub.said("url")?, "100", &load::payload()])?;
    let mut theirs = Child::role("bridge", &[stub.said("url")?, "100"])?;
    added(&mut ours, &mut theirs, 60, 5_000)
}

fn addon_sync() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = script("python_client.py", &[stub.said("url")?, "1", &load::payload(), "sync"])?;
    let mut theirs = Child::role("bridge", &[stub.said("url")?, "1"])?;
    added(&mut ours, &mut theirs, 40, 2_000)
}

fn added(ours: &mut Child, theirs: &mut Child, rounds: usize, batch: u64) -> Result<Figure> {
    let rounds = Rounds::take(rounds, || batch_of(ours, batch), || batch_of(theirs, batch))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu - theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes Python", "through the bridge") })
}

fn posts(how: &str) -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = script("python_client.py", &[stub.said("url")?, "100", &load::payload()])?;
    let mut theirs = script("python_post.py", &[how, stub.said("url")?, "100", &load::payload()])?;
    let rounds = Rounds::take(7, || batch_of(&mut ours, 5_000), || batch_of(&mut theirs, 1_000))?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a submit takes", how) })
}

fn published() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = script("python_client.py", &[stub.said("url")?, "1", &load::payload(), "sync"])?;
    let mut theirs = super::published::client_on(&stub)?;
    let rounds = Rounds::take(7, || batch_of(&mut ours, 2_000), || batch_of(&mut theirs, 5))?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a submit takes ours", "theirs") })
}

fn handler() -> Result<Figure> {
    const SLICE: Duration = Duration::from_millis(500);
    let mut node = script("python_node.py", &[])?;
    let mut load = Load::on(&node, 64)?;
    load.watch(&mut node, SLICE)?;
    let costs = (0..20).map(|_| Ok(Cost::from(load.watch(&mut node, SLICE)?))).collect::<Result<Vec<Cost>>>()?;
    let cpu = super::median(costs.iter().map(|cost| cost.cpu).collect());
    Ok(Figure { value: 1e6 / cpu, seen: format!("a task takes {} µs CPU", rounded(cpu)) })
}

fn import() -> Result<Figure> {
    const AT_ONCE: u64 = 5;
    let mut ours = script("python_import.py", &["iicp_core"])?;
    let mut theirs = script("python_import.py", &[])?;
    let rounds = Rounds::take(12, || batch_of(&mut ours, AT_ONCE), || batch_of(&mut theirs, AT_ONCE))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu - theirs.cpu) / 1_000.0;
    Ok(Figure { value, seen: rounds.seen("an interpreter takes with it", "without") })
}

fn batch_of(child: &mut Child, count: u64) -> Result<Cost> {
    Ok(Cost::of(child.run(count)?, count))
}
