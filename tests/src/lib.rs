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

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

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

/// A port that nobody listens on. The published node cannot say which one the system chose, and our own must know it
/// before it is bound to say `127.1`. Below the range that the system gives out, so that nobody takes it meanwhile.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 300).unwrap_or_default() * 32;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The README's Rust, compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
