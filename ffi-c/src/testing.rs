//! What the tests of this layer need and no application may have: only with the feature `testing`, and in no header.

use std::cell::Cell;

use iicp_core::bridge::Bridge;

use crate::client::start;
use crate::error::{iicp_code, iicp_error};
use crate::guard::guard;
use crate::queue::iicp_queue;
use crate::runtime::{iicp_runtime, of};
use crate::view::{Out, iicp_str};

thread_local! {
    static PANIC: Cell<bool> = const { Cell::new(false) };
}

/// Has the next call of this thread panic inside its body.
#[unsafe(no_mangle)]
pub extern "C" fn iicp_test_panic_next() {
    PANIC.set(true);
}

/// Called at the start of every body.
#[allow(clippy::panic)]
pub(crate) fn panic_if_asked() {
    if PANIC.replace(false) {
        panic!("as the test asked");
    }
}

/// Starts an operation that does what a script says; see `iicp_core::bridge::Bridge::script`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_test_script(
    queue: iicp_queue,
    script_json: iicp_str,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    let verb = |bridge: &Bridge| bridge.script(queue.id, unsafe { script_json.read("script_json")? }, tag);
    // SAFETY: the caller's promise.
    unsafe { start(queue.id, op, err, verb) }
}

/// How many things of a runtime are alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_test_alive(runtime: iicp_runtime, out: *mut u64, err: *mut *mut iicp_error) -> iicp_code {
    let body = || {
        let out = Out::required(out, "out")?;
        let alive = of(runtime.id)?.alive()?;
        let all = alive.queues + alive.clients + alive.nodes + alive.directories + alive.operations + alive.tasks;
        // SAFETY: the caller's promise.
        unsafe { out.set(all as u64) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}
