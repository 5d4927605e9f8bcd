//! Case table, stage, runners, interop and benches of iicp-core.

pub mod arrows;
pub mod backend;
pub mod between;
pub mod cgroup;
pub mod generated;
pub mod http;
pub mod line;
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

/// Whether tests are to take their long form, as `tests/run --with soak` wants it.
#[must_use]
pub fn is_soak() -> bool {
    std::env::var_os("IICP_SOAK").is_some()
}

/// The one size, or the other in the long form.
#[must_use]
pub fn size<T>(small: T, whole: T) -> T {
    if is_soak() { whole } else { small }
}

/// The README's Rust, compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
