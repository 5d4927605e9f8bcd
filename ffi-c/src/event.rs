//! Events.

use iicp_core::bridge::Event;

use crate::error::iicp_error;
use crate::guard::guard_value;
use crate::view::{iicp_bytes, iicp_str};

/// What an event says: one of the `IICP_EVENT_` numbers above.
pub type iicp_event_kind = i32;

/// One event of a queue. Whoever took it owns it, and all that it shows, until `iicp_event_free`.
///
/// Any number of threads may read one event at the same time.
pub struct iicp_event {
    event: Event,
    error: Option<iicp_error>,
}

impl iicp_event {
    pub(crate) fn boxed(mut event: Event) -> *mut iicp_event {
        event.json.push('\0');
        let error = event.error.take().map(iicp_error::new);
        Box::into_raw(Box::new(iicp_event { event, error }))
    }
}

/// Reads something of an event.
unsafe fn read<T>(event: *const iicp_event, otherwise: T, read: impl FnOnce(&iicp_event) -> T) -> T {
    if event.is_null() || !event.is_aligned() {
        return otherwise;
    }
    // SAFETY: not null and aligned; that it is alive every accessor's caller promises.
    let event = unsafe { &*event };
    guard_value(otherwise, || read(event))
}

/// What the event says; 0 of NULL. Skip a kind that you do not know: a later library may add some.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_kind_of(event: *const iicp_event) -> iicp_event_kind {
    // SAFETY: the caller's promise.
    unsafe { read(event, 0, |event| event.event.kind.number()) }
}

/// The operation, or for `IICP_EVENT_TASK` and `IICP_EVENT_TASK_CANCEL` the task, that the event belongs to;
/// 0 of NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_id(event: *const iicp_event) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { read(event, 0, |event| event.event.id) }
}

/// The number that was given when the operation was started, or when serving began; 0 of NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_tag(event: *const iicp_event) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { read(event, 0, |event| event.event.tag) }
}

/// The id of what the operation made, else 0: `iicp_node node = { iicp_event_handle(event) };`
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_handle(event: *const iicp_event) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { read(event, 0, |event| event.event.handle) }
}

/// What is known beside the body, as JSON; the function that started the operation says what is in it. Empty if nothing
/// is known, and of NULL.
///
/// Ownership: the text lives as long as the event. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_json(event: *const iicp_event) -> iicp_str {
    // SAFETY: the caller's promise.
    unsafe { read(event, iicp_str::EMPTY, |event| iicp_str::of(&event.event.json)) }
}

/// The result, a part of it, or a task's payload. Not followed by a NUL; empty of NULL.
///
/// Ownership: the bytes live as long as the event. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_body(event: *const iicp_event) -> iicp_bytes {
    // SAFETY: the caller's promise.
    unsafe { read(event, iicp_bytes::of(&[]), |event| iicp_bytes::of(&event.event.body)) }
}

/// Why the operation failed; NULL if it did not, and of NULL.
///
/// Ownership: the error belongs to the event and lives as long; do not free it. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_error(event: *const iicp_event) -> *const iicp_error {
    // SAFETY: the caller's promise.
    unsafe { read(event, std::ptr::null(), |event| event.error.as_ref().map_or(std::ptr::null(), std::ptr::from_ref)) }
}

/// Frees an event and everything that was read from it. NULL is fine.
///
/// Ownership: takes the event. Threads: any, once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_event_free(event: *mut iicp_event) {
    if !event.is_null() && event.is_aligned() {
        // SAFETY: the caller promises that the library gave it, and that it is freed once.
        guard_value((), || drop(unsafe { Box::from_raw(event) }));
    }
}
