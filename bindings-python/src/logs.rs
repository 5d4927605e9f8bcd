//! What the engine says, on its way to Python's `logging`: kept here until a thread of Python's own comes for it, since no
//! thread of the engine may attach to the interpreter.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that wait; one more pushes out the oldest.
const MOST_LINES: usize = 2048;

/// Where lines go now. A forked child begins anew, whoever held the lock of the old one.
static CURRENT: ArcSwapOption<Logs> = ArcSwapOption::const_empty();

/// Level as `logging` counts, target, text.
pub(crate) type Line = (u8, String, String);

#[derive(Default)]
pub(crate) struct Logs {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    lost: usize,
    closed: bool,
}

impl Logs {
    /// Takes what is said in this process from now on.
    pub(crate) fn begin() -> Arc<Self> {
        let logs = Arc::new(Logs::default());
        CURRENT.store(Some(logs.clone()));
        // It is this library's own default, nobody else's. The second engine of a process finds it set.
        let _ = set_global_default(Listener);
        logs
    }

    /// Waits for lines; none means that there will be no more.
    pub(crate) fn next(&self) -> Vec<Line> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.lines.is_empty() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut lines: Vec<Line> = state.lines.drain(..).collect();
        match std::mem::take(&mut state.lost) {
            0 => {}
            lost => lines.push((
                30,
                "iicp_core".into(),
                format!("{lost} older lines were dropped: too much was said at once"),
            )),
        }
        lines
    }

    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    fn push(&self, line: Line) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lines.len() == MOST_LINES {
            state.lines.pop_front();
            state.lost += 1;
        }
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_one();
    }
}

/// Hears events of the engine, and no spans: these would cost something on every call.
struct Listener;

impl Subscriber for Listener {
    fn register_callsite(&self, about: &'static Metadata<'static>) -> Interest {
        if self.enabled(about) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.is_event() && about.target().starts_with("iicp::") && *about.level() <= Level::DEBUG
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        let Some(logs) = &*CURRENT.load() else { return };
        let about = event.metadata();
        let level = match *about.level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            _ => 10,
        };
        let mut text = Text::default();
        event.record(&mut text);
        logs.push((level, about.target().to_owned(), text.message + &text.fields));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// `message name=value name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
