//! `iicp_core._native`: the bridge of iicp-core as one Python class. Everything pleasant is written in Python on top.
//!
//! No thread of the engine ever attaches to the interpreter: Python takes events when it is told that there are some, and
//! whatever may wait here waits detached.

mod engine;
mod event;
mod json;
mod logs;

use pyo3::prelude::*;

/// The bridge of iicp-core. Private: use `iicp_core`.
#[pymodule(name = "_native")]
mod native {
    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::event::{Event, Failure};
    #[pymodule_export]
    use super::json::{NotPlain, dumps, loads};
    use super::{Bound, PyModule, PyModuleMethods as _, PyResult};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
