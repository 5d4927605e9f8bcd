//! Events as one JSON text: one string and one parse for a whole batch, instead of a call for every field.
//!
//! An event is `[kind, tag, id, json, body, error]`. `id` is the task of `TASK` and `TASK_CANCEL`, and what a `DONE` made;
//! `json`, `body` and `error` are null if there is none. Bodies are JSON that the engine has checked, so they stand in
//! the text as they are.

#![forbid(unsafe_code)]

use std::error::Error as _;
use std::fmt::Write as _;

use iicp_core::bridge::{Event, EventKind};
use iicp_core::{Code, Error};
use serde_json::Value;

/// A batch over this is cut into several texts.
const ENOUGH: usize = 1 << 20;

/// A JavaScript string holds a little under 2^29 characters.
const MOST: usize = (1 << 29) - (1 << 16);

/// Writes a batch as JSON texts, nearly always one.
pub(crate) fn write(events: Vec<Event>) -> Vec<String> {
    let mut texts = Vec::with_capacity(1);
    let mut text = String::with_capacity(512 * events.len());
    for event in events {
        let fits = text.len() + event.json.len() + event.body.len() < ENOUGH;
        if !fits && !text.is_empty() {
            text.push(']');
            texts.push(std::mem::take(&mut text));
        }
        text.push(if text.is_empty() { '[' } else { ',' });
        push(&mut text, &event);
    }
    if !text.is_empty() {
        text.push(']');
        texts.push(text);
    }
    texts
}

fn push(text: &mut String, event: &Event) {
    let id = match event.kind {
        EventKind::Task | EventKind::TaskCancel => event.id,
        _ => event.handle,
    };
    // Writing to a string cannot fail.
    let _ = write!(text, "[{},{},\"{id:x}\",", event.kind.number(), event.tag);
    text.push_str(if event.json.is_empty() { "null" } else { &event.json });
    text.push(',');
    let error = match (body(event), &event.error) {
        (Ok(body), error) => {
            text.push_str(body);
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

fn body(event: &Event) -> Result<&str, Error> {
    if event.body.is_empty() {
        return Ok("null");
    }
    if event.body.len() + event.json.len() > MOST {
        return Err(Error::new(
            Code::ResponseTooLarge,
            format!("{} bytes are more than a JavaScript string can hold; ask for less at once", event.body.len()),
        ));
    }
    std::str::from_utf8(&event.body).map_err(|_| Error::new(Code::Internal, "the engine passed on what is not UTF-8"))
}

/// The error with what caused it, as far as the engine tells.
fn describe(error: &Error) -> Value {
    let mut described = error.to_json();
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
