//! Queues.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use iicp_core::bridge::Doorbell;
use iicp_core::options::{QueueOptions, from_json};
use iicp_core::{Code, Error};

use crate::error::{iicp_code, iicp_error};
use crate::event::iicp_event;
use crate::guard::guard;
use crate::runtime::{iicp_runtime, of};
use crate::view::{Out, iicp_str};

/// Where the events of operations and the inbound tasks of nodes come out. A program needs one per thread or event loop
/// that takes events. Bounded in events and in bytes; the last event of every operation always has its place.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct iicp_queue {
    /// The id; 0 is nothing.
    pub id: u64,
}

/// Makes a queue. `options_json` are options of the queue, empty for the defaults.
///
/// Ownership: `*out` is yours, for `iicp_queue_free`. Threads: any.
/// Errors: `IICP_CONFIG_INVALID`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_queue_new(
    runtime: iicp_runtime,
    options_json: iicp_str,
    out: *mut iicp_queue,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || {
        let out = Out::required(out, "out")?;
        // SAFETY: the caller's promise.
        let options: QueueOptions = from_json(unsafe { options_json.read("options_json")? })?;
        let id = of(runtime.id)?.queue_new(options)?;
        // SAFETY: the caller's promise.
        unsafe { out.set(iicp_queue { id }) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Waits for the next event, at most `timeout_ms`; less than 0 waits for ever, 0 does not wait.
///
/// Ownership: `*out` is yours, for `iicp_event_free`. Threads: any number at the same time; each event goes to one.
/// Errors: `IICP_TIMEOUT` if there was none in time; `IICP_CLOSED` when the queue was closed and nothing is left in it;
/// `IICP_STALE_ID`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_queue_next(
    queue: iicp_queue,
    timeout_ms: i32,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || {
        let out = Out::required(out, "out")?;
        let timeout = u64::try_from(timeout_ms).map_or(Duration::MAX, Duration::from_millis);
        match of(queue.id)?.queue_next(queue.id, timeout)? {
            Some(event) => {
                // SAFETY: the caller's promise.
                unsafe { out.set(iicp_event::boxed(event)) };
                Ok(())
            }
            None => Err(Error::new(Code::Timeout, format!("there was no event within {timeout_ms} ms"))),
        }
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Takes the events that are there, at most `most` and never more than 256, without waiting. Writes them to `events`,
/// which has room for `most`, and their number, which may be 0, to `*count`.
///
/// Ownership: every event is yours, for `iicp_event_free`. Threads: any.
/// Errors: `IICP_CLOSED` when the queue was closed and nothing is left in it; `IICP_STALE_ID`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_queue_drain(
    queue: iicp_queue,
    events: *mut *mut iicp_event,
    most: usize,
    count: *mut usize,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || {
        let count = Out::required(count, "count")?;
        if most > 0 {
            Out::required(events, "events")?;
        }
        let taken = of(queue.id)?.queue_drain(queue.id, most)?;
        let number = taken.len();
        for (place, event) in taken.into_iter().enumerate() {
            // SAFETY: not null and aligned, and the caller promises room for `most`, of which there are no more.
            unsafe { events.add(place).write(iicp_event::boxed(event)) };
        }
        // SAFETY: the caller's promise.
        unsafe { count.set(number) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// A descriptor for poll, epoll, kqueue or an event loop: readable exactly while the queue has events. Only watch it; it
/// is the queue's to read and to close, so stop watching before `iicp_queue_free`.
///
/// Threads: any.
/// Errors: `IICP_UNSUPPORTED` on systems without such descriptors; `IICP_INTERNAL` if the process has none left;
/// `IICP_STALE_ID`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_queue_fd(queue: iicp_queue, out: *mut i32, err: *mut *mut iicp_error) -> iicp_code {
    let body = || {
        let out = Out::required(out, "out")?;
        let descriptor = of(queue.id)?.queue_fd(queue.id)?;
        // SAFETY: the caller's promise.
        unsafe { out.set(descriptor) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// What the caller's doorbell needs, given back by `drop` on every path.
struct Bell {
    ring: extern "C" fn(*mut c_void),
    drop: Option<extern "C" fn(*mut c_void)>,
    data: *mut c_void,
}

// SAFETY: the header says that both functions are called on any thread, so `data` must bear it.
unsafe impl Send for Bell {}
// SAFETY: as above; the queue rings under its lock, never twice at once.
unsafe impl Sync for Bell {}

impl Bell {
    fn ring(&self) {
        (self.ring)(self.data);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some(drop) = self.drop {
            drop(self.data);
        }
    }
}

/// Has `wake(data)` called when the queue has events, for loops that watch no descriptors. It is called once for any
/// number of events, again after a drain that leaves some, and never after it was replaced or the queue was closed.
/// `wake` may only wake its own loop: it must not block, and what it calls of this library returns `IICP_INVALID_ARG`.
/// NULL removes it.
///
/// Ownership: `data` stays yours until `drop(data)` is called: once, after the last `wake`, also if this call fails.
/// `drop` may be NULL. Threads: any; `wake` and `drop` are called on any thread, and must not throw or jump out.
/// Errors: `IICP_CLOSED`, `IICP_STALE_ID`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_queue_on_wake(
    queue: iicp_queue,
    wake: Option<extern "C" fn(data: *mut c_void)>,
    data: *mut c_void,
    drop: Option<extern "C" fn(data: *mut c_void)>,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let bell = match wake {
        Some(ring) => Some(Bell { ring, drop, data }),
        None => {
            if let Some(drop) = drop {
                drop(data);
            }
            None
        }
    };
    let body = || {
        let doorbell = bell.map(|bell| Arc::new(move || bell.ring()) as Doorbell);
        of(queue.id)?.queue_on_wake(queue.id, doorbell)
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Closes a queue: what would end in it is ended, the nodes that deliver to it leave their directory, its doorbell rings
/// no more. The events that are in it, and those that were promised, can still be taken.
///
/// Threads: any.
/// Errors: `IICP_STALE_ID`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_queue_close(queue: iicp_queue, err: *mut *mut iicp_error) -> iicp_code {
    // SAFETY: the caller's promise.
    unsafe { guard(err, || of(queue.id)?.queue_close(queue.id)) }
}

/// Closes a queue and frees it with everything that is in it. Events that were taken stay valid. Nothing (id 0) is fine.
///
/// Threads: any; a thread that waits in the queue comes back with `IICP_CLOSED`.
/// Errors: `IICP_STALE_ID` if it was freed before; `IICP_FORKED`.
#[unsafe(no_mangle)]
pub extern "C" fn iicp_queue_free(queue: iicp_queue) -> iicp_code {
    let body = || match queue.id {
        0 => Ok(()),
        id => of(id)?.queue_free(id),
    };
    // SAFETY: no error is written.
    unsafe { guard(std::ptr::null_mut(), body) }
}

/// Asks an operation to end; its `IICP_EVENT_DONE` says `IICP_CANCELLED`, or how it ended if that came first.
///
/// Threads: any.
/// Errors: `IICP_STALE_ID` if it has ended; `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_op_cancel(op: u64, err: *mut *mut iicp_error) -> iicp_code {
    // SAFETY: the caller's promise.
    unsafe { guard(err, || of(op)?.cancel(op)) }
}
