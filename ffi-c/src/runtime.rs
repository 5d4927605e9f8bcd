//! Runtimes.
//!
//! They stand in a table, so that any id leads to the runtime that gave it out.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use iicp_core::bridge::{Bridge, runtime_of};
use iicp_core::options::{RuntimeOptions, from_json};
use iicp_core::{Code, Error, Result};

use crate::error::{iicp_code, iicp_error};
use crate::guard::guard;
use crate::signals::without_sigpipe;
use crate::version::IICP_ABI_VERSION;
use crate::view::{Out, iicp_str};

/// The engine: its threads and everything that runs on them. One per process is enough; several are independent of each
/// other, and an id of one means nothing to another.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct iicp_runtime {
    /// The id; 0 is nothing.
    pub id: u64,
}

/// Time that `iicp_runtime_free` gives to what still runs.
const FREE_DEADLINE: Duration = Duration::from_secs(1);

/// Every runtime of the process. Read without a lock, because in a forked child a lock may be held by a thread that is
/// not there.
static RUNTIMES: ArcSwapOption<Vec<Bridge>> = ArcSwapOption::const_empty();

/// The runtime that gave out an id.
pub(crate) fn of(id: u64) -> Result<Bridge> {
    let owner = runtime_of(id);
    let runtimes = RUNTIMES.load();
    let bridge = runtimes.iter().flat_map(|all| all.iter()).find(|bridge| bridge.id() == owner);
    bridge.cloned().ok_or_else(|| {
        let message = match id {
            0 => "the id is 0, which names nothing; make the object first".into(),
            _ => format!("{id:#018x} belongs to no runtime; it was freed, or the id was never given out"),
        };
        Error::new(Code::StaleId, message)
    })
}

fn change(change: impl Fn(&mut Vec<Bridge>)) {
    RUNTIMES.rcu(|runtimes| {
        let mut runtimes = runtimes.as_deref().cloned().unwrap_or_default();
        change(&mut runtimes);
        Some(Arc::new(runtimes))
    });
}

/// Starts a runtime. `abi` is `IICP_ABI_VERSION`; `options_json` are options of the runtime, empty for the defaults.
///
/// Ownership: `*out` is yours, for `iicp_runtime_free`. Threads: any.
/// Errors: `IICP_ABI_MISMATCH` if the library does not fit the header, `IICP_CONFIG_INVALID`, `IICP_INTERNAL` if the
/// system gives no threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_runtime_new(
    abi: u32,
    options_json: iicp_str,
    out: *mut iicp_runtime,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || {
        if abi != IICP_ABI_VERSION {
            let message = format!(
                "the program was compiled for version {abi} of the C interface and the library is version \
                 {IICP_ABI_VERSION}; compile and link with the same version"
            );
            return Err(Error::new(Code::AbiMismatch, message));
        }
        let out = Out::required(out, "out")?;
        // SAFETY: the caller's promise.
        let options: RuntimeOptions = from_json(unsafe { options_json.read("options_json")? })?;
        let bridge = without_sigpipe(|| Bridge::new(options))?;
        change(|runtimes| runtimes.push(bridge.clone()));
        // SAFETY: the caller's promise.
        unsafe { out.set(iicp_runtime { id: bridge.id() }) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Ends everything of a runtime and stops its threads, within `timeout_ms`. Nodes leave their directory, every operation
/// gets its `IICP_EVENT_DONE`; when this has returned nobody is woken any more. What is in the queues can still be taken,
/// all else returns `IICP_CLOSED`. A second call waits for the first and returns the same.
///
/// Threads: any, but not inside a doorbell.
/// Errors: `IICP_TIMEOUT` if something had to be stopped because it did not end in time; `IICP_STALE_ID`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_runtime_shutdown(
    runtime: iicp_runtime,
    timeout_ms: u32,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || match of(runtime.id)?.shutdown(Duration::from_millis(timeout_ms.into()))? {
        true => Ok(()),
        false => {
            let message = format!("not everything ended within {timeout_ms} ms; what was left has been stopped");
            Err(Error::new(Code::Timeout, message))
        }
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Frees a runtime and everything that belongs to it: queues, clients, nodes and directories. Shuts it down first if that
/// was not done, with a second for what still runs. Events and errors that were taken stay valid. Nothing (id 0) is fine.
///
/// Threads: any, but not inside a doorbell. Calls of other threads that are inside the runtime come back.
/// Errors: `IICP_STALE_ID` if it was freed before; `IICP_FORKED`.
#[unsafe(no_mangle)]
pub extern "C" fn iicp_runtime_free(runtime: iicp_runtime) -> iicp_code {
    let body = || {
        if runtime.id == 0 {
            return Ok(());
        }
        let bridge = of(runtime.id)?;
        bridge.shutdown(FREE_DEADLINE)?;
        change(|runtimes| runtimes.retain(|other| other.id() != bridge.id()));
        Ok(())
    };
    // SAFETY: no error is written.
    unsafe { guard(std::ptr::null_mut(), body) }
}
