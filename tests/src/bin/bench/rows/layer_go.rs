//! The Go module: what it adds to the bridge. Its child must be built before, by `tests/go/run bench`.

use std::process::Command;

use super::{Cost, Figure, Rounds, Row, Target, target_dir};
use crate::Result;
use crate::child::Child;
use crate::load;

pub(super) const ROWS: &[Row] = &[Row {
    name: "addon_go_us",
    unit: "µs",
    target: Target::AtMost(4.0),
    what: "CPU that the Go module adds to a submit through the bridge (100 in flight, 1 KB chat)",
    measure: addon,
}];

const BATCH: u64 = 5_000;

fn addon() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let program = target_dir().join("go/bench");
    if !program.exists() {
        return Err(format!("{} is not there; run: tests/go/run bench", program.display()).into());
    }
    let mut command = Command::new(program);
    command.args([stub.said("url")?, "100", &load::payload()]);
    let mut ours = Child::start("Go", command)?;
    let mut theirs = Child::role("bridge", &[stub.said("url")?, "100"])?;
    let rounds = Rounds::take(60, || one(&mut ours), || one(&mut theirs))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu - theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes Go", "through the bridge") })
}

fn one(child: &mut Child) -> Result<Cost> {
    Ok(Cost::of(child.run(BATCH)?, BATCH))
}
