//! A node in front of an inference server.

use std::time::Duration;

use super::{Figure, Rounds, Row, Target};
use crate::Result;
use crate::child::Child;
use crate::load::Load;

pub(super) const ROWS: &[Row] = &[Row {
    name: "backend_hop_us",
    unit: "×",
    target: Target::AtMost(2.0),
    what: "CPU that a node with a backend adds to a task over that of a bare axum server that forwards the body with \
           reqwest, both in front of the same stub (32 connections, 1 KB chat)",
    measure: hop,
}];

const CONNECTIONS: usize = 32;

fn hop() -> Result<Figure> {
    const SLICE: Duration = Duration::from_millis(300);
    let backend = Child::role("backend", &[])?;
    let url = backend.said("url")?;
    let (mut node, mut forward) = (Child::role("backend-node", &[url])?, Child::role("forward", &[url])?);
    let (mut on_node, mut on_forward) = (Load::on(&node, CONNECTIONS)?, Load::on(&forward, CONNECTIONS)?);
    let rounds = Rounds::take(
        30,
        || Ok(on_node.watch(&mut node, SLICE)?.into()),
        || Ok(on_forward.watch(&mut forward, SLICE)?.into()),
    )?;
    let value = rounds.median_of(|ours, theirs| ours.cpu / theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a task takes the node", "the bare forward") })
}
