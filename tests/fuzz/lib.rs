//! What all targets have in common. What they do stands in `core/src/fuzzing.rs`, where the internals can be reached.

use std::path::Path;
use std::sync::OnceLock;

use iicp_core::fuzzing::{TARGETS, Target};
#[doc(hidden)]
pub use libfuzzer_sys;

/// The target that this program is.
static THIS: OnceLock<&Target> = OnceLock::new();

/// Looks the target up, and writes its seeds into the folder that `IICP_FUZZ_SEEDS` names: libFuzzer looks there next.
pub fn begin(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("core/src/fuzzing.rs has no such target");
    let target = THIS.get_or_init(|| target);
    if let Ok(folder) = std::env::var("IICP_FUZZ_SEEDS") {
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(Path::new(&folder).join(format!("seed-{n}")), seed).expect("the seeds can be written");
        }
    }
}

/// Runs the target with one input.
pub fn run(data: &[u8]) {
    (THIS.get().expect("libFuzzer initialises first").run)(data);
}

/// Makes a program a fuzz target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $crate::begin($name), |data: &[u8]| $crate::run(data));
    };
}
