//! The benches: `tests/bench/run` builds and runs this program.
//!
//! The orchestrator makes the load. What is measured runs in processes of its own, which are this same program in a
//! role; so the cost of the load does not count, and a figure is the CPU time of the process under test.

mod child;
mod cpu;
mod haproxy;
mod http;
mod load;
mod roles;
mod rows;

use std::io::Write as _;
use std::process::ExitCode;

/// What went wrong, in words.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Failure> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--role", role, rest @ ..] => roles::play(role, rest).map(|()| true),
        chosen => rows::run(chosen),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
