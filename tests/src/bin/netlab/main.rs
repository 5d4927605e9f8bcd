//! The network lab: nodes behind gateways of every kind, and what becomes of them. Needs root; see `tests/run netlab`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod events;
mod home;
mod hostile;
mod topologies;

use std::process::ExitCode;
use std::time::Instant;

/// An experiment: its name, whether the short run has it, and what it is. What it comes to is a row of the table.
type Experiment = (&'static str, bool, fn() -> Row);

/// What an experiment came to.
struct Row {
    rung: String,
    registered: String,
    answered: String,
    seconds: f64,
    /// What the node said of it.
    report: String,
    /// What is not as it should be.
    faults: Vec<String>,
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let full = wanted.iter().any(|word| word == "--full");
    let names: Vec<&String> = wanted.iter().filter(|word| !word.starts_with("--")).collect();
    if let Some(missing) = iicp_tests::netlab::place::missing() {
        eprintln!("netlab: {missing}");
        return ExitCode::FAILURE;
    }
    let all: Vec<Experiment> = [topologies::ALL, hostile::ALL, events::ALL].concat();
    let chosen =
        all.iter().filter(
            |(name, short, _)| {
                if names.is_empty() { full || *short } else { names.iter().any(|wanted| wanted == name) }
            },
        );
    println!("| network | reached by | registered | an answer from outside | seconds |\n|---|---|---|---|---|");
    let (mut failed, mut count) = (Vec::new(), 0);
    let begun = Instant::now();
    for (name, _, experiment) in chosen {
        count += 1;
        // A broken experiment is a row like any other.
        let ran = std::panic::catch_unwind(experiment);
        let Ok(row) = ran else {
            println!("| {name} | broken | | | |");
            failed.push(format!("{name}: broke down"));
            continue;
        };
        println!("| {name} | {} | {} | {} | {:.1} |", row.rung, row.registered, row.answered, row.seconds);
        failed.extend(row.faults.iter().map(|fault| format!("{name}: {fault}")));
    }
    println!("\n{count} networks in {:.0} s", begun.elapsed().as_secs_f64());
    for fault in &failed {
        eprintln!("netlab: {fault}");
    }
    if failed.is_empty() && count > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
