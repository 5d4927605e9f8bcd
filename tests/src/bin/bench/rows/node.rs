//! The serving node under load.

use std::time::Duration;

use super::{Figure, Rounds, Row, Target};
use crate::Result;
use crate::child::Child;
use crate::load::Load;

pub(super) const ROWS: &[Row] = &[Row {
    name: "node_vs_axum",
    unit: "×",
    target: Target::AtLeast(0.85),
    what: "requests per CPU-second of a registered node over those of a bare axum handler that takes and returns the \
           same envelope as typed Json (64 connections, 1 KB chat)",
    measure: vs_axum,
}];

const CONNECTIONS: usize = 64;
const SLICE: Duration = Duration::from_millis(300);

fn vs_axum() -> Result<Figure> {
    let mut axum = Child::role("axum", &[])?;
    let mut node = Child::role("axum", &[])?;
    let (mut on_node, mut on_axum) = (Load::on(&node, CONNECTIONS)?, Load::on(&axum, CONNECTIONS)?);
    let rounds = Rounds::take(
        30,
        || Ok(on_node.watch(&mut node, SLICE)?.into()),
        || Ok(on_axum.watch(&mut axum, SLICE)?.into()),
    )?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a task takes the node", "axum") })
}
