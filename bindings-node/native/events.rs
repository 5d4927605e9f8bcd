//! Events as one JSON text: one string and one parse for a whole batch, instead of a call for every field.
//!
//! An event is `[kind, tag, id, json, body, error]`. `id` is the task of `TASK`, `TASK_CANCEL` and `TASK_ROOM`, the operation of `RANK`,
//! and what a `DONE` made; `json`, `body` and `error` are null if there is none. Bodies are JSON that the engine has
//! checked, so they stand in the text as they are; those that are no JSON are base64, which their operation's tag tells.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::error::Error as _;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use iicp_core::bridge::{Event, EventKind, Hold, Spelling};
use iicp_core::{Code, Error};
use serde_json::Value;

/// A batch over this is cut into several texts. So much memory is kept for the next ones.
const ENOUGH: usize = 1 << 20;

/// A JavaScript string holds a little under 2^29 characters.
const MOST: usize = (1 << 29) - (1 << 16);

/// Of tags whose operation brings bytes. JavaScript counts in 53 bits, so this one is free.
const BYTES: u64 = 1 << 63;

/// The tag for an operation whose body is no JSON.
pub(crate) fn with_bytes(tag: u64) -> u64 {
    tag | BYTES
}

thread_local! {
    /// The text that is being written: a new one for every batch would be the largest piece of memory by far.
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };

    /// What the parts count that JavaScript was given and has not used, by operation. An environment stays on its thread.
    static HELD: RefCell<HashMap<u64, VecDeque<Hold>>> = RefCell::default();
}

/// Keeps of every part what it counts against its stream, until it is [`used`] or its operation is over.
pub(crate) fn hold(events: &mut [Event]) {
    HELD.with_borrow_mut(|held| {
        for event in events {
            match event.kind {
                EventKind::Chunk => held.entry(event.id).or_default().extend(event.hold()),
                EventKind::Done if !held.is_empty() => drop(held.remove(&event.id)),
                _ => {}
            }
        }
    });
}

/// JavaScript has used the first part that is held of an operation.
pub(crate) fn used(operation: u64) {
    HELD.with_borrow_mut(|held| held.get_mut(&operation).map(VecDeque::pop_front));
}

/// Writes a batch as JSON texts, nearly always one, each of which `take` copies.
pub(crate) fn write<T>(events: &[Event], take: impl Fn(&str) -> napi::Result<T>) -> napi::Result<Vec<T>> {
    let mut taken = Vec::with_capacity(1);
    TEXT.with_borrow_mut(|text| {
        for event in events {
            let fits = text.len() + event.json.len() + event.body.len() < ENOUGH;
            if !fits && !text.is_empty() {
                taken.push(finish(text, &take)?);
            }
            text.push(if text.is_empty() { '[' } else { ',' });
            push(text, event);
        }
        if !text.is_empty() {
            taken.push(finish(text, &take)?);
        }
        Ok(taken)
    })
}

fn finish<T>(text: &mut String, take: impl Fn(&str) -> napi::Result<T>) -> napi::Result<T> {
    text.push(']');
    let taken = take(text);
    text.clear();
    text.shrink_to(ENOUGH);
    taken
}

fn push(text: &mut String, event: &Event) {
    let id = match event.kind {
        EventKind::Task | EventKind::TaskCancel | EventKind::TaskRoom | EventKind::Rank => event.id,
        _ => event.handle,
    };
    // Writing to a string cannot fail.
    let _ = write!(text, "[{},{},\"{id:x}\",", event.kind.number(), event.tag & !BYTES);
    text.push_str(if event.json.is_empty() { "null" } else { &event.json });
    text.push(',');
    let error = match (body(event), &event.error) {
        (Ok(body), error) => {
            text.push_str(&body);
            error.as_ref().map(describe)
        }
        (Err(error), _) => {
            text.push_str("null");
            Some(describe(&error))
        }
    };
    match error {
        None => text.push_str(",null]"),
        Some(error) => {
            let _ = write!(text, ",{error}]");
        }
    }
}

fn body(event: &Event) -> Result<Cow<'_, str>, Error> {
    if event.body.is_empty() {
        return Ok("null".into());
    }
    let bytes = event.tag & BYTES != 0;
    let size = if bytes { event.body.len() / 3 * 4 + 6 } else { event.body.len() };
    if size + event.json.len() > MOST {
        return Err(Error::new(
            Code::ResponseTooLarge,
            format!("{size} bytes are more than a JavaScript string can hold; ask for less at once"),
        ));
    }
    if bytes {
        return Ok(format!("\"{}\"", STANDARD.encode(&event.body)).into());
    }
    std::str::from_utf8(&event.body)
        .map(Cow::Borrowed)
        .map_err(|_| Error::new(Code::Internal, "the engine passed on what is not UTF-8"))
}

/// The error with what caused it, as far as the engine tells.
fn describe(error: &Error) -> Value {
    let mut described = error.to_json_in(Spelling::Camel);
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    if !causes.is_empty() {
        described["cause"] = causes.join(": ").into();
    }
    described
}
