//! The client.

use super::{Cost, Figure, Rounds, Row, Target};
use crate::Result;
use crate::child::Child;

pub(super) const ROWS: &[Row] = &[Row {
    name: "client_vs_reqwest",
    unit: "×",
    target: Target::AtMost(1.5),
    what: "CPU per submit with a held route over that of a bare reqwest POST of the same body (32 in flight)",
    measure: vs_reqwest,
}];

const BATCH: u64 = 5_000;

fn vs_reqwest() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut theirs = Child::role("reqwest", &[stub.said("url")?, "32"])?;
    let mut ours = Child::role("client", &[stub.said("url")?, "32"])?;
    let rounds =
        Rounds::take(30, || Ok(Cost::of(ours.run(BATCH)?, BATCH)), || Ok(Cost::of(theirs.run(BATCH)?, BATCH)))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu / theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes the client", "a POST takes reqwest") })
}
