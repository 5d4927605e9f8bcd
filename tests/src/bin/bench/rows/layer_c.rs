//! The C library: what it adds to the bridge, and its size. It must be built before, by `tests/c/run bench`.

use std::process::Command;

use super::{Cost, Figure, Rounds, Row, Target, target_dir};
use crate::Result;
use crate::child::Child;
use crate::load;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "addon_c_us",
        unit: "µs",
        target: Target::AtMost(1.0),
        what: "CPU that the C interface adds to a submit through the bridge (100 in flight, 1 KB chat)",
        measure: addon,
    },
    Row {
        name: "so_mb",
        unit: "MB",
        target: Target::AtMost(6.0),
        what: "size of libiicp.so as it is installed",
        measure: size,
    },
];

const BATCH: u64 = 5_000;

fn addon() -> Result<Figure> {
    let stub = Child::role("stub", &[])?;
    let mut command = Command::new(target_dir().join("c/bench_client"));
    command.args([stub.said("url")?, "100", &load::payload()]);
    let mut ours = Child::start("tests/c/run bench builds it; c/bench_client", command)?;
    let mut theirs = Child::role("bridge", &[stub.said("url")?, "100"])?;
    let one = |child: &mut Child| Ok(Cost::of(child.run(BATCH)?, BATCH));
    let rounds = Rounds::take(60, || one(&mut ours), || one(&mut theirs))?;
    let value = rounds.median_of(|ours, theirs| ours.cpu - theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes C", "through the bridge") })
}

fn size() -> Result<Figure> {
    let path = target_dir().join("c/dist/lib/libiicp.so");
    let file = std::fs::metadata(&path)
        .map_err(|e| format!("{} cannot be read ({e}); tests/c/run bench builds it", path.display()))?;
    #[allow(clippy::cast_precision_loss)]
    let megabytes = file.len() as f64 / 1e6;
    Ok(Figure { value: megabytes, seen: "stripped, with everything that it needs but the C library".into() })
}
