//! Codes and errors.

use std::sync::OnceLock;

use iicp_core::bridge::Spelling;
use iicp_core::{Code, Error};

use crate::guard::guard_value;
use crate::view::iicp_str;

/// What every function that can fail returns: `IICP_OK` or why not. Names and numbers are in the list above.
pub type iicp_code = i32;

/// How `iicp_error_message_in` calls options: one of the `IICP_SPELLING_` numbers above.
pub type iicp_spelling = i32;

/// Why a call or an operation failed: a code and a sentence that says what happened, what it was about and what to do
/// next. Never holds a token, a key or a payload.
///
/// Who gets one from a function frees it with `iicp_error_free`; one that belongs to an event goes with the event. Any
/// number of threads may read one error at the same time.
pub struct iicp_error {
    error: Error,
    message: String,
    wire_code: Option<String>,
    json: OnceLock<String>,
    spelled: [OnceLock<String>; Spelling::ALL.len()],
}

impl iicp_error {
    pub(crate) fn new(error: Error) -> Self {
        iicp_error {
            message: terminated(error.message()),
            wire_code: error.wire_code().map(terminated),
            json: OnceLock::new(),
            spelled: Default::default(),
            error,
        }
    }

    pub(crate) fn boxed(error: Error) -> *mut iicp_error {
        Box::into_raw(Box::new(iicp_error::new(error)))
    }
}

fn terminated(text: &str) -> String {
    [text, "\0"].concat()
}

/// Longest name of a code, and a NUL.
const NAME: usize = 32;

/// Every code's number and its name with NULs after it.
static NAMES: [(i32, [u8; NAME]); Code::ALL.len()] = {
    let mut names = [(0, [0; NAME]); Code::ALL.len()];
    let mut i = 0;
    while i < names.len() {
        let name = Code::ALL[i].name().as_bytes();
        names[i].0 = Code::ALL[i].number();
        let mut at = 0;
        // A name of 32 letters or more does not compile: the NUL must stay.
        assert!(name.len() < NAME);
        while at < name.len() {
            names[i].1[at] = name[at];
            at += 1;
        }
        i += 1;
    }
    names
};

/// The name of a code, such as `NO_NODES`; empty if there is no such code.
///
/// Ownership: the text is part of the library. Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn iicp_code_name(code: iicp_code) -> iicp_str {
    guard_value(iicp_str::EMPTY, || match NAMES.iter().find(|(number, _)| *number == code) {
        Some((_, name)) => {
            let len = name.iter().position(|byte| *byte == 0).unwrap_or(0);
            iicp_str { ptr: name.as_ptr().cast(), len }
        }
        None => iicp_str::EMPTY,
    })
}

/// Reads something of an error.
unsafe fn read<T>(error: *const iicp_error, otherwise: T, read: impl FnOnce(&iicp_error) -> T) -> T {
    if error.is_null() || !error.is_aligned() {
        return otherwise;
    }
    // SAFETY: not null and aligned; that it is alive every accessor's caller promises.
    let error = unsafe { &*error };
    guard_value(otherwise, || read(error))
}

/// The code of an error; `IICP_OK` of NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_code(error: *const iicp_error) -> iicp_code {
    // SAFETY: the caller's promise.
    unsafe { read(error, Code::Ok.number(), |error| error.error.code().number()) }
}

/// The name of the error's code, such as `NO_NODES`; empty of NULL.
///
/// Ownership: the text is part of the library. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_name(error: *const iicp_error) -> iicp_str {
    // SAFETY: the caller's promise.
    unsafe { read(error, iicp_str::EMPTY, |error| iicp_code_name(error.error.code().number())) }
}

/// What happened, what it was about and what to do next; empty of NULL.
///
/// Ownership: the text lives as long as the error. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_message(error: *const iicp_error) -> iicp_str {
    // SAFETY: the caller's promise.
    unsafe { read(error, iicp_str::EMPTY, |error| iicp_str::of(&error.message)) }
}

/// The message with its options called as another language calls them, for layers on top of this one; empty of NULL, and
/// for a spelling that the library does not know.
///
/// Ownership: the text lives as long as the error. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_message_in(error: *const iicp_error, spelling: iicp_spelling) -> iicp_str {
    let message = |error: &iicp_error| {
        let place = Spelling::ALL.iter().zip(&error.spelled).find(|(known, _)| known.number() == spelling);
        place.map_or(iicp_str::EMPTY, |(spelling, text)| {
            iicp_str::of(text.get_or_init(|| terminated(&error.error.message_in(*spelling))))
        })
    };
    // SAFETY: the caller's promise.
    unsafe { read(error, iicp_str::EMPTY, message) }
}

/// The protocol's own code as the peer wrote it, such as `capacity_exceeded` or `IICP-E021`; empty if it wrote none.
///
/// Ownership: the text lives as long as the error. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_wire_code(error: *const iicp_error) -> iicp_str {
    // SAFETY: the caller's promise.
    unsafe { read(error, iicp_str::EMPTY, |error| iicp_str::of(error.wire_code.as_deref().unwrap_or_default())) }
}

/// 1 if the same call may succeed later without a change by the caller, else 0.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_retryable(error: *const iicp_error) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { read(error, 0, |error| error.error.retryable().into()) }
}

/// How long the peer asked to wait before trying again, in milliseconds; -1 if it did not.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_retry_after_ms(error: *const iicp_error) -> i64 {
    let millis = |error: &iicp_error| match error.error.retry_after() {
        Some(pause) => i64::try_from(pause.as_millis()).unwrap_or(i64::MAX),
        None => -1,
    };
    // SAFETY: the caller's promise.
    unsafe { read(error, -1, millis) }
}

/// The HTTP status that the peer answered; 0 if the error did not come as an HTTP answer.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_http_status(error: *const iicp_error) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { read(error, 0, |error| error.error.http_status().map_or(0, i32::from)) }
}

/// All of the error as a JSON object: `code`, `name`, `message`, `retryable`, and where known `retry_after_ms`,
/// `http_status`, `wire_code`; empty of NULL.
///
/// Ownership: the text lives as long as the error. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_json(error: *const iicp_error) -> iicp_str {
    let json =
        |error: &iicp_error| iicp_str::of(error.json.get_or_init(|| terminated(&error.error.to_json().to_string())));
    // SAFETY: the caller's promise.
    unsafe { read(error, iicp_str::EMPTY, json) }
}

/// Frees an error that a function gave, with every text that was read from it. NULL is fine; an event's error is not.
///
/// Ownership: takes the error. Threads: any, once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_error_free(error: *mut iicp_error) {
    if !error.is_null() && error.is_aligned() {
        // SAFETY: the caller promises that the library gave it, and that it is freed once.
        guard_value((), || drop(unsafe { Box::from_raw(error) }));
    }
}
