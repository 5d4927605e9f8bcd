//! The published Python SDK beside the engine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Cost, Figure, Rounds, Row, Target, node_with_directory};
use crate::Result;
use crate::child::Child;
use crate::load::{self, Load};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "vs_published_python_client",
        unit: "×",
        target: Target::AtLeast(300.0),
        what: "CPU per submit of the published Python client over ours, through the same stub directory and node, one \
               submit after the other",
        measure: client,
    },
    Row {
        name: "vs_published_python_node",
        unit: "×",
        target: Target::AtLeast(20.0),
        what: "CPU per task of the published Python node over ours, echoing the same load of 4 tasks at a time; ours is \
               registered, theirs spares itself that and reports nothing",
        measure: node,
    },
];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(name)
}

fn published(name: &str, args: &[&str]) -> Result<Child> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv-peer/bin/python");
    let python = std::env::var_os("BENCH_PYTHON").map_or(python, PathBuf::from);
    Child::published(&python, &script(name), args)
}

/// The published client, about to ask a stub.
pub(super) fn client_on(stub: &Child) -> Result<Child> {
    published("published_client.py", &[stub.said("url")?, iicp_core::CHAT, &load::payload()])
}

fn client() -> Result<Figure> {
    const OURS: u64 = 2_000;
    const THEIRS: u64 = 5;
    let stub = Child::role("stub", &[])?;
    let directory = stub.said("url")?;
    let mut ours = Child::role("client", &[directory, "1"])?;
    let mut theirs = client_on(&stub)?;
    let rounds = Rounds::take(7, || Ok(Cost::of(ours.run(OURS)?, OURS)), || Ok(Cost::of(theirs.run(THEIRS)?, THEIRS)))?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a submit takes ours", "theirs") })
}

fn node() -> Result<Figure> {
    const AT_A_TIME: usize = 4;
    const SLICE: Duration = Duration::from_millis(500);
    let (_directory, mut ours) = node_with_directory()?;
    let mut theirs = published("published_node.py", &[iicp_core::CHAT])?;
    let (mut on_ours, mut on_theirs) = (Load::on(&ours, AT_A_TIME)?, Load::on(&theirs, AT_A_TIME)?);
    let rounds = Rounds::take(
        7,
        || Ok(on_ours.watch(&mut ours, SLICE)?.into()),
        || Ok(on_theirs.watch(&mut theirs, SLICE)?.into()),
    )?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a task takes ours", "theirs") })
}
