//! The serving node under load.

use std::time::Duration;

use super::{Figure, Rounds, Row, Target, node_with_directory, rounded};
use crate::Result;
use crate::child::Child;
use crate::load::Load;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "node_vs_axum",
        unit: "×",
        target: Target::AtLeast(0.85),
        what: "tasks per CPU-second of a registered node over those of a bare axum handler that takes and returns the \
               same envelope as typed Json (64 connections, 1 KB chat)",
        measure: vs_axum,
    },
    Row {
        name: "node_flat",
        unit: "×",
        target: Target::AtLeast(0.95),
        what: "tasks per CPU-second of a registered node in the last over those in the first tenth of a run of two \
               minutes with unique ids",
        measure: flat,
    },
];

const CONNECTIONS: usize = 64;

fn vs_axum() -> Result<Figure> {
    const SLICE: Duration = Duration::from_millis(300);
    let mut axum = Child::role("axum", &[])?;
    let (_directory, mut node) = node_with_directory()?;
    let (mut on_node, mut on_axum) = (Load::on(&node, CONNECTIONS)?, Load::on(&axum, CONNECTIONS)?);
    let rounds = Rounds::take(
        30,
        || Ok(on_node.watch(&mut node, SLICE)?.into()),
        || Ok(on_axum.watch(&mut axum, SLICE)?.into()),
    )?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a task takes the node", "axum") })
}

/// The machine itself is not flat for two minutes. So the axum server, which remembers nothing, runs a little in every
/// round, and each tenth of the node's run is taken in relation to it.
fn flat() -> Result<Figure> {
    const TENTHS: usize = 10;
    const ROUNDS: usize = 12;
    let mut axum = Child::role("axum", &[])?;
    let (_directory, mut node) = node_with_directory()?;
    let (mut on_node, mut on_axum) = (Load::on(&node, CONNECTIONS)?, Load::on(&axum, CONNECTIONS)?);
    let mut tenths = Vec::with_capacity(TENTHS);
    let mut tasks = 0;
    for _ in 0..TENTHS {
        tenths.push(Rounds::take(
            ROUNDS,
            || {
                let window = on_node.watch(&mut node, Duration::from_millis(850))?;
                tasks += window.tasks;
                Ok(window.into())
            },
            || Ok(on_axum.watch(&mut axum, Duration::from_millis(150))?.into()),
        )?);
    }
    let (first, last) = (&tenths[0], &tenths[TENTHS - 1]);
    let value = last.theirs_over_ours() / first.theirs_over_ours();
    let cpu = |rounds: &Rounds| rounded(rounds.median_of(|ours, _| ours.cpu));
    let seen = format!(
        "a task takes {} µs CPU first and {} µs last, {tasks} tasks in all, in relation to axum in the same seconds",
        cpu(first),
        cpu(last)
    );
    Ok(Figure { value, seen })
}
