//! The rows. A group of rows is one file here with its `ROWS`; a new one is named in [`GROUPS`].

mod backend;
mod client;
mod directory;
mod framed;
mod layer_c;
mod layer_go;
mod layer_node;
mod layer_python;
mod memory;
mod node;
mod provider;
mod published;
mod relay;
mod safe;
mod timing;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::Result;
use crate::child::{Child, Spent};
use crate::load::Window;

const GROUPS: &[&[Row]] = &[
    node::ROWS,
    provider::ROWS,
    client::ROWS,
    framed::ROWS,
    relay::ROWS,
    backend::ROWS,
    safe::ROWS,
    timing::ROWS,
    published::ROWS,
    memory::ROWS,
    directory::ROWS,
    layer_c::ROWS,
    layer_go::ROWS,
    layer_python::ROWS,
    layer_node::ROWS,
];

/// One figure that the benches measure.
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    target: Target,
    what: &'static str,
    measure: fn() -> Result<Figure>,
}

/// What the figure has to reach.
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// A figure, and in words what it was made of.
struct Figure {
    value: f64,
    seen: String,
}

impl Target {
    fn reached(&self, value: f64) -> bool {
        match self {
            Target::AtLeast(least) => value >= *least,
            Target::AtMost(most) => value <= *most,
        }
    }

    fn text(&self) -> String {
        match self {
            Target::AtLeast(least) => format!("≥ {least}"),
            Target::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// Measures the chosen rows, or all; prints them as a table and writes them as JSON. False if one has no figure.
///
/// # Errors
/// An unknown row, or a file that cannot be written.
pub(crate) fn run(chosen: &[&str]) -> Result<bool> {
    let all = || GROUPS.iter().copied().flatten();
    if let Some(unknown) = chosen.iter().find(|name| all().all(|row| row.name != **name)) {
        let names: Vec<&str> = all().map(|row| row.name).collect();
        return Err(format!("there is no row {unknown}; the rows are {}", names.join(", ")).into());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "| row | figure | target | what |\n|---|---|---|---|")?;
    let (mut rows, mut whole) = (Vec::new(), true);
    for row in all().filter(|row| chosen.is_empty() || chosen.contains(&row.name)) {
        let target = row.target.text();
        match (row.measure)() {
            Ok(Figure { value, seen }) => {
                let value = rounded(value);
                let verdict = if row.target.reached(value) { "" } else { ", missed" };
                let what = format!("{}: {seen}", row.what);
                writeln!(out, "| `{}` | {value} {} | {target}{verdict} | {what} |", row.name, row.unit)?;
                rows.push(json!({ "name": row.name, "value": value, "unit": row.unit, "what": what }));
            }
            Err(failure) => {
                whole = false;
                writeln!(out, "| `{}` | none | {target} | {failure} |", row.name)?;
            }
        }
        out.flush()?;
    }
    let path = target_dir().join("bench.json");
    std::fs::create_dir_all(target_dir())?;
    std::fs::write(&path, format!("{:#}\n", json!({ "rows": rows })))
        .map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
    Ok(whole)
}

/// A node in one process, registered with a directory in another.
fn node_with_directory() -> Result<(Child, Child)> {
    let directory = Child::role("directory", &[])?;
    let node = Child::role("node", &[directory.said("url")?])?;
    Ok((directory, node))
}

/// Three significant digits: what is behind them differs from run to run.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[allow(clippy::cast_possible_truncation)]
    let digits = (2 - value.abs().log10().floor() as i32).max(0);
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Where builds and their figures go.
fn target_dir() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| default.into(), PathBuf::from)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// What two sides spent on one operation, round by round: the machine's other work hits both sides of a round alike, and
/// the median lets go of the rounds that it did not.
struct Rounds {
    ours: Vec<Cost>,
    theirs: Vec<Cost>,
}

/// CPU and wall time of one operation, in µs.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
}

impl Cost {
    fn of(spent: Spent, operations: u64) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let us = |time: Duration| time.as_secs_f64() * 1e6 / operations.max(1) as f64;
        Cost { cpu: us(spent.cpu), wall: us(spent.wall) }
    }
}

impl From<Window> for Cost {
    fn from(window: Window) -> Self {
        Cost::of(window.spent, window.tasks)
    }
}

impl Rounds {
    /// Measures both sides in turn, each as often first as second, after a round that only warms up.
    fn take(
        count: usize,
        mut ours: impl FnMut() -> Result<Cost>,
        mut theirs: impl FnMut() -> Result<Cost>,
    ) -> Result<Self> {
        let mut rounds = Rounds { ours: Vec::new(), theirs: Vec::new() };
        ours()?;
        theirs()?;
        for round in 0..count {
            if round % 2 == 0 {
                rounds.ours.push(ours()?);
                rounds.theirs.push(theirs()?);
            } else {
                rounds.theirs.push(theirs()?);
                rounds.ours.push(ours()?);
            }
        }
        Ok(rounds)
    }

    fn median_of(&self, figure: impl Fn(Cost, Cost) -> f64) -> f64 {
        median(self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| figure(*ours, *theirs)).collect())
    }

    /// Their CPU over ours.
    fn theirs_over_ours(&self) -> f64 {
        self.median_of(|ours, theirs| theirs.cpu / ours.cpu)
    }

    /// Both sides in words.
    fn seen(&self, ours: &str, theirs: &str) -> String {
        let side = |costs: &[Cost]| {
            let of = |part: fn(&Cost) -> f64| rounded(median(costs.iter().map(part).collect()));
            format!("{} µs CPU ({} µs wall)", of(|cost| cost.cpu), of(|cost| cost.wall))
        };
        format!("{ours} {}, {theirs} {}", side(&self.ours), side(&self.theirs))
    }
}
