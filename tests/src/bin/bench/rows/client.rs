//! The client.

use super::{Cost, Figure, Rounds, Row, Target};
use crate::Result;
use crate::child::Child;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "client_vs_reqwest",
        unit: "×",
        target: Target::AtMost(1.5),
        what: "CPU per submit with a held route over that of a bare reqwest POST of the same body (32 in flight)",
        measure: vs_reqwest,
    },
    Row {
        name: "bridge_us",
        unit: "µs",
        target: Target::AtMost(2.0),
        what: "CPU that the bridge adds to a submit of the same payload text from Rust (100 in flight)",
        measure: bridge,
    },
];

const BATCH: u64 = 5_000;

fn vs_reqwest() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = Child::role("client", &[stub.said("url")?, "32"])?;
    let mut theirs = Child::role("reqwest", &[stub.said("url")?, "32"])?;
    let rounds = Rounds::take(30, || one(&mut ours), || one(&mut theirs))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu / theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes the client", "a POST takes reqwest") })
}

fn bridge() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut ours = Child::role("bridge", &[stub.said("url")?, "100"])?;
    let mut theirs = Child::role("checking-client", &[stub.said("url")?, "100"])?;
    let rounds = Rounds::take(60, || one(&mut ours), || one(&mut theirs))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu - theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes through the bridge", "from Rust") })
}

fn one(child: &mut Child) -> Result<Cost> {
    Ok(Cost::of(child.run(BATCH)?, BATCH))
}
