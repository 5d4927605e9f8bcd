//! A small Internet in network namespaces, in which the ways to a node are proven.
//!
//! ```sh
//! tests/netlab/run                    # what `tests/run netlab` does: some minutes
//! tests/netlab/run full               # all of it
//! tests/netlab/run prove home-igd2    # one thing, in one topology; also reach, hostile, event, punch
//! ```

mod events;
mod front;
mod hostile;
mod inside;
mod leases;
mod ledger;
mod mdns;
mod mesh;
mod ports;
mod program;
mod proof;
mod punched;
mod rules;
mod scripted;
mod space;
mod stopped;
mod tunnel;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use mesh::{Mesh, Row};
use world::{PLANS, World};

type Outcome<T = ()> = Result<T, String>;

/// What the short run has of topologies and of gateways that mean harm.
const QUICK: &[&str] = &["public", "home", "home-igd2", "home-pcp", "cgnat-igd", "ipv6-pinhole"];
const QUICK_HOSTILE: &[&str] = &["718 conflict", "lying", "XML bomb", "LOCATION elsewhere", "SSDP spoof", "mDNS spoof"];

/// Something to be shown.
struct Trial {
    what: &'static str,
    name: &'static str,
    quick: bool,
    work: Box<dyn Fn() -> Outcome<Shown>>,
}

/// What a trial has shown.
enum Shown {
    /// The lab itself is as it should be.
    Proven,
    /// How a node was reached.
    Reached(Row),
    /// How two peers came to each other.
    Punched(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [inside, gateway, script] if inside == "inside" && gateway == "gateway" => scripted::run(script),
        [inside, program, told @ ..] if inside == "inside" && program == "cloudflared" => inside::cloudflared(told),
        [inside, role, options] if inside == "inside" => inside::run(role, options),
        [] => run("quick", &[]),
        [what, names @ ..] => run(what, names),
    };
    match outcome {
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

fn trials(is_full: bool) -> Vec<Trial> {
    let mut all = Vec::new();
    for plan in PLANS {
        let quick = QUICK.contains(&plan.name);
        let work = Box::new(|| proof::prove(&World::build(*plan)?).map(|()| Shown::Proven));
        all.push(Trial { what: "prove", name: plan.name, quick, work });
    }
    for plan in PLANS {
        let quick = QUICK.contains(&plan.name);
        let work = Box::new(|| mesh::reach(Mesh::build(*plan, 1)?).map(Shown::Reached));
        all.push(Trial { what: "reach", name: plan.name, quick, work });
    }
    for gateway in hostile::ALL {
        let quick = QUICK_HOSTILE.contains(&gateway.name);
        all.push(Trial {
            what: "hostile",
            name: gateway.name,
            quick,
            work: Box::new(|| gateway.run().map(Shown::Reached)),
        });
    }
    for (name, quick, work) in [events::ALL, leases::ALL, stopped::ALL].concat() {
        all.push(Trial { what: "event", name, quick, work: Box::new(move || work().map(Shown::Reached)) });
    }
    for pair in punched::PAIRS {
        // The short run has the pairs that differ in kind, and no more tries than it takes to see them at work.
        let (quick, tries) = (pair.quick, if is_full { pair.tries } else { pair.tries.min(5) });
        let work = Box::new(move || pair.run(tries).map(Shown::Punched));
        all.push(Trial { what: "punch", name: pair.name, quick, work });
    }
    for (name, quick, work) in punched::EVENTS {
        all.push(Trial { what: "punch", name, quick: *quick, work: Box::new(|| work().map(Shown::Punched)) });
    }
    all
}

fn run(what: &str, names: &[String]) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err("makes network namespaces, which needs root; run it as root, or leave it out".into());
    }
    space::sweep();
    let mut all = trials(what == "full" || what == "punch");
    if !matches!(what, "quick" | "full") {
        all.retain(|trial| trial.what == what);
    }
    if let Some(name) = names.iter().find(|name| all.iter().all(|trial| trial.name != **name)) {
        let known: Vec<_> = all.iter().map(|trial| trial.name).collect();
        return Err(format!("there is no {what} of {name:?}; there are: {}", known.join(", ")));
    }
    all.retain(|trial| {
        (what != "quick" || trial.quick) && (names.is_empty() || names.iter().any(|name| name == trial.name))
    });
    if all.is_empty() {
        return Err(format!(
            "there is nothing called {what}; there are: quick, full, prove, reach, hostile, event, punch"
        ));
    }
    // Nothing else means anything if the lab is not what it is said to be.
    if what == "full" || what == "quick" {
        let (proofs, others) = all.into_iter().partition(|trial| trial.what == "prove");
        try_all(proofs)?;
        all = others;
    }
    try_all(all)
}

/// Tries all; one that fails does not keep the others from being tried. Prints a table of what nodes were reached by.
fn try_all(trials: Vec<Trial>) -> Outcome {
    let (mut failed, mut rows) = (Vec::new(), Vec::new());
    for trial in trials {
        let begun = Instant::now();
        let outcome = (trial.work)();
        let took = begun.elapsed().as_secs_f32();
        let label = format!("{:<8} {:<19} {took:5.1} s ", trial.what, trial.name);
        match outcome {
            Ok(Shown::Proven) => say(&format!("{label} is what it is said to be")),
            Ok(Shown::Punched(how)) => say(&format!("{label} {how}")),
            Ok(Shown::Reached(row)) => {
                say(&format!("{label} {}", row.rung));
                if std::env::var_os("NETLAB_REPORT").is_some() {
                    say(&row.report);
                }
                rows.push((trial.name, row));
            }
            Err(why) => {
                say(&format!("{label} FAILED: {why}"));
                failed.push(trial.name);
            }
        }
    }
    if !rows.is_empty() {
        say("\n| Network | Reached by | Registered | As | Served after | Answer after |");
        say("|---|---|---|---|---|---|");
    }
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f32());
    for (name, row) in rows {
        let (up, answered) = (seconds(row.up), row.answered.map_or("none".into(), seconds));
        say(&format!("| {name} | {} | {} | {} | {up} | {answered} |", row.rung, row.endpoint, row.method));
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not as they should be: {}", failed.join(", "))) }
}
