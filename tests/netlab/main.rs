//! A small Internet in network namespaces, in which the ways to a node are proven.
//!
//! ```sh
//! tests/netlab/run            # what `tests/run netlab` does: some minutes
//! tests/netlab/run full       # all of it
//! tests/netlab/run prove home-igd2    # one thing, in one topology
//! ```

mod front;
mod inside;
mod mesh;
mod ports;
mod program;
mod proof;
mod rules;
mod space;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use world::{PLANS, Plan, World};

type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("netlab: {why}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}

fn run(arguments: &[String]) -> Outcome {
    if let [role, name, options] = arguments
        && role == "inside"
    {
        return inside::run(name, options);
    }
    let (what, names) = arguments.split_first().map_or(("quick", arguments), |(what, names)| (what.as_str(), names));
    if !rustix::process::geteuid().is_root() {
        return Err("makes network namespaces, which needs root; run it as root, or leave it out".into());
    }
    space::sweep();
    let unknown = names.iter().find(|name| PLANS.iter().all(|plan| plan.name != **name));
    if let Some(name) = unknown {
        let known: Vec<_> = PLANS.iter().map(|plan| plan.name).collect();
        return Err(format!("there is no topology {name}; there are: {}", known.join(", ")));
    }
    let chosen = PLANS.iter().filter(|plan| names.is_empty() || names.iter().any(|name| name == plan.name));
    match what {
        "prove" => each(chosen, |plan| proof::prove(&World::build(plan)?).map(|()| "is what it is said to be".into())),
        "reach" | "quick" | "full" => each(chosen, |plan| {
            let row = mesh::reach(plan)?;
            let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f32());
            let answered = row.answered.map_or("-".into(), seconds);
            let (up, left) = (seconds(row.up), seconds(row.left));
            Ok(format!("| {} | {} | {} | {up} | {answered} | {left} |", plan.name, row.rung, row.url))
        }),
        _ => Err(format!("there is nothing called {what}; there are: prove, reach, quick, full")),
    }
}

/// Does the same in several topologies; one that fails does not keep the others from being tried.
fn each<'a>(plans: impl Iterator<Item = &'a Plan>, work: impl Fn(Plan) -> Outcome<String>) -> Outcome {
    let mut failed = Vec::new();
    for plan in plans {
        let begun = Instant::now();
        let outcome = work(*plan);
        let took = begun.elapsed().as_secs_f32();
        match outcome {
            Ok(what) => say(&format!("{:<16} {took:5.1} s  {what}", plan.name)),
            Err(why) => {
                say(&format!("{:<16} {took:5.1} s  FAILED: {why}", plan.name));
                failed.push(plan.name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not as they should be: {}", failed.join(", "))) }
}
