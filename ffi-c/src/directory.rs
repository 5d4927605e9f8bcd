//! Embedded directories.

use std::time::Duration;

use iicp_core::bridge::Bridge;

use crate::client::start;
use crate::error::{iicp_code, iicp_error};
use crate::queue::iicp_queue;
use crate::view::iicp_str;

/// A directory inside this process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct iicp_directory {
    /// The id; 0 is nothing.
    pub id: u64,
}

/// Starts a directory. `options_json` are options of a directory; `IICP_DIRECTORY_LOOPBACK` are those for development on
/// this machine. The handle of its `IICP_EVENT_DONE` is the directory, its json `{"url": "http://127.0.0.1:..."}`, which
/// nodes and clients take as their option `directory`.
///
/// Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
/// Errors: `IICP_CONFIG_INVALID`; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else, such as
/// `IICP_BIND`, comes as the error of the `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_directory_bind(
    queue: iicp_queue,
    options_json: iicp_str,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    let verb = |bridge: &Bridge| bridge.directory_bind(queue.id, unsafe { options_json.read("options_json")? }, tag);
    // SAFETY: the caller's promise.
    unsafe { start(queue.id, op, err, verb) }
}

/// Closes a directory; requests that run have `grace_ms` to end. The id is stale at once. The json of its
/// `IICP_EVENT_DONE` is `{"in_time": true}` if all of them did.
///
/// Ownership: `op` may be NULL. Threads: any. Never blocks.
/// Errors: `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_directory_close(
    directory: iicp_directory,
    queue: iicp_queue,
    grace_ms: u32,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let grace = Duration::from_millis(grace_ms.into());
    // SAFETY: the caller's promise.
    unsafe { start(directory.id, op, err, |bridge| bridge.directory_close(directory.id, queue.id, grace, tag)) }
}
