//! What a queue carries to the language layers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;

use super::window::Hold;

use crate::error::Error;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// What an event says. Numbers are explicit and never reused; the generator copies them into every language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(i32)]
        pub enum EventKind {
            $($(#[$doc])* #[doc = $text] $variant = $number,)*
        }

        impl EventKind {
            /// Every kind, in the order of the numbers.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant,)*];

            /// The name that every language shows, such as `DONE`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(EventKind::$variant => $name,)* }
            }

            /// One sentence that says what the kind means.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(EventKind::$variant => $text,)* }
            }

            /// The kind with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<EventKind> {
                match number { $($number => Some(EventKind::$variant),)* _ => None }
            }
        }
    };
}

event_kinds! {
    Done = 1, "DONE", "The last event of an operation: its result or its error. Every operation has exactly one.";
    Chunk = 2, "CHUNK", "A part of an operation's result; more events of the operation follow.";
    Task = 3, "TASK", "An inbound task that waits for an answer.";
    TaskCancel = 4, "TASK_CANCEL", "An inbound task needs no answer any more: its caller left, its deadline passed or its node closed.";
    Rank = 5, "RANK", "An operation asks the application which candidate goes first; it waits for an answer.";
    TaskRoom = 6, "TASK_ROOM", "An inbound task whose part was refused with QUEUE_FULL has room for it now.";
}

impl EventKind {
    /// The number that every language shows.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// One event of a queue. Owned by who took it; nothing in it points back into the library.
pub struct Event {
    /// What the event says.
    pub kind: EventKind,
    /// The operation, or for `TASK`, `TASK_CANCEL` and `TASK_ROOM` the task, that it belongs to.
    pub id: u64,
    /// The number that the caller gave when it started the operation, or began to serve.
    pub tag: u64,
    /// The id of what the operation made, else 0.
    pub handle: u64,
    /// What is known beside the body, as a JSON text; empty if nothing is.
    pub json: String,
    /// The result, the part of it, or the task's payload.
    pub body: Bytes,
    /// Why the operation failed.
    pub error: Option<Error>,
    pub(super) attached: Attached,
}

/// What hangs on an event beside what it says.
pub(super) enum Attached {
    Nothing,
    /// Given back when the event is dropped.
    Hold(Hold),
    /// Set to false when the event is taken out of its queue.
    Told(Arc<AtomicBool>),
}

impl Event {
    /// An event without content.
    #[must_use]
    pub fn new(kind: EventKind, id: u64, tag: u64) -> Self {
        let (json, body, attached) = (String::new(), Bytes::new(), Attached::Nothing);
        Event { kind, id, tag, handle: 0, json, body, error: None, attached }
    }

    /// Counts against its stream until it is dropped.
    pub(super) fn holding(self, hold: Hold) -> Self {
        Event { attached: Attached::Hold(hold), ..self }
    }

    /// Says in `told` that it waits to be taken.
    pub(super) fn telling(self, told: Arc<AtomicBool>) -> Self {
        Event { attached: Attached::Told(told), ..self }
    }

    pub(super) fn is_taken(&self) {
        if let Attached::Told(told) = &self.attached {
            told.store(false, Relaxed);
        }
    }

    /// What a `CHUNK` counts against its stream, for a layer that copies the event and drops it before its part is used.
    /// Dropping this lets the stream go on.
    pub fn hold(&mut self) -> Option<Hold> {
        match std::mem::replace(&mut self.attached, Attached::Nothing) {
            Attached::Hold(hold) => Some(hold),
            other => {
                self.attached = other;
                None
            }
        }
    }

    /// What it counts against a queue's bytes.
    pub(super) fn weight(&self) -> usize {
        self.json.len() + self.body.len()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Body and JSON may hold what was asked and answered.
        f.debug_struct("Event")
            .field("kind", &self.kind)
            .field("id", &format_args!("{:#018x}", self.id))
            .field("tag", &self.tag)
            .field("handle", &format_args!("{:#018x}", self.handle))
            .field("json", &format_args!("<{} bytes>", self.json.len()))
            .field("body", &format_args!("<{} bytes>", self.body.len()))
            .field("error", &self.error)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_unique_ascending_numbers_and_read_back() {
        assert!(EventKind::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_number(kind.number()), Some(*kind));
            assert!(!kind.text().is_empty() && kind.name() == kind.name().to_uppercase());
        }
        assert_eq!(EventKind::from_number(0), None);
    }

    #[test]
    fn debug_output_shows_sizes_only() {
        let mut event = Event::new(EventKind::Task, 1, 2);
        event.json = r#"{"text":"secret"}"#.into();
        event.body = "secret".into();
        assert!(!format!("{event:?}").contains("secret"));
        assert_eq!(event.weight(), 23);
    }
}
