//! Case table, stage, runners, interop and benches of iicp-core.

pub mod arrows;
pub mod backend;
pub mod between;
pub mod generated;
pub mod http;
pub mod native;
pub mod process;
pub mod stage;
pub mod stage_process;
pub mod tap;
pub mod tls;

use std::path::Path;

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The README's Rust, compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
