//! `cargo gen` writes every generated file; `cargo gen --check` only compares.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use iicp_tests::generated::{Mode, OUTPUTS, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mode = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Mode::Write,
        ["--check"] => Mode::Check,
        _ => {
            eprintln!("usage: cargo gen [--check]");
            return ExitCode::from(2);
        }
    };
    match (run(iicp_tests::root(), OUTPUTS, mode), mode) {
        (Err(why), _) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
        (Ok(stale), Mode::Check) if !stale.is_empty() => {
            for path in stale {
                eprintln!("{path} is not what options.rs and error.rs say");
            }
            eprintln!("run `cargo gen` and commit what it writes");
            ExitCode::FAILURE
        }
        (Ok(stale), _) => {
            for path in stale {
                println!("wrote {path}");
            }
            ExitCode::SUCCESS
        }
    }
}
