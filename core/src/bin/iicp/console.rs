//! What the user sees: results and events on stdout, everything else on stderr. Colour and movement at a terminal only, as
//! `NO_COLOR`, `CLICOLOR` and `TERM` say; with `--json` one object per line and nothing else.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::failure::{Failure, unwritten};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const FAINT: Style = Style::new().dimmed();
const STRONG: Style = Style::new().bold();

/// Where a command writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    pub json: bool,
    pub quiet: bool,
}

impl Console {
    /// Writes an object, one line.
    pub(crate) fn object(self, object: &Value) -> io::Result<()> {
        self.line(&object.to_string())
    }

    /// Writes a line of a result.
    pub(crate) fn line(self, text: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// Writes what a node answered: as it is, but nothing that could take hold of a terminal reaches one.
    pub(crate) fn answer(self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            let text = String::from_utf8_lossy(bytes);
            out.write_all(printable(&text).as_bytes())?;
        } else {
            out.write_all(bytes)?;
        }
        // A file of sound or a picture must not get one.
        if !bytes.ends_with(b"\n") && std::str::from_utf8(bytes).is_ok() {
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Writes a part of an answer that is made before the reader's eyes.
    pub(crate) fn part(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(printable(text).as_bytes())?;
        out.flush()
    }

    /// Writes what happened: an object of that name, or lines for people. A service goes on when nobody reads them.
    pub(crate) fn event(self, name: &str, mut object: Value, text: &str) {
        let _ = if self.json {
            object["event"] = name.into();
            self.object(&object)
        } else if self.quiet {
            Ok(())
        } else {
            self.line(text)
        };
    }

    /// Says something beside the result.
    pub(crate) fn note(self, text: &str) {
        if !self.json && !self.quiet {
            let _ = writeln!(anstream::stderr(), "{}", faint(text));
        }
    }

    pub(crate) fn warning(self, text: &str) {
        let _ = if self.json {
            writeln!(io::stderr(), "{}", json!({ "warning": text }))
        } else {
            writeln!(anstream::stderr(), "{WARNING}warning{WARNING:#}: {text}")
        };
    }

    /// Says why the command failed.
    pub(crate) fn failure(self, failure: &Failure) {
        let mut out = anstream::stderr().lock();
        // Where stderr is gone too, nothing is left to tell.
        let _ = if self.json {
            failure.json().into_iter().try_for_each(|object| writeln!(out, "{object}"))
        } else {
            explain(&mut out, failure)
        };
    }

    /// Shows that something takes time, until what is returned is dropped.
    pub(crate) fn progress(self, text: impl Into<String>) -> Progress {
        let lively = io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        if self.json || self.quiet || !lively {
            return Progress(None);
        }
        let (stop, stopped) = mpsc::channel();
        let text = text.into();
        let spinner = thread::Builder::new().name("progress".into()).spawn(move || spin(&text, &stopped));
        Progress(spinner.ok().map(|thread| (stop, thread)))
    }
}

/// The text without control characters other than those of plain text.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

fn explain(out: &mut impl io::Write, failure: &Failure) -> io::Result<()> {
    match failure {
        Failure::Library(error) => {
            writeln!(out, "{ERROR}error{ERROR:#}: {}", printable(&error.to_string()))?;
            match hint(error) {
                Some(hint) => writeln!(out, "{STRONG}hint{STRONG:#}: {hint}"),
                None => Ok(()),
            }
        }
        Failure::Configuration(mistakes) => mistakes.iter().try_for_each(|mistake| {
            writeln!(out, "{ERROR}error{ERROR:#}: {} ({})", printable(&mistake.message), mistake.code)?;
            mistake.origins.iter().try_for_each(|origin| writeln!(out, "  {FAINT}-->{FAINT:#} {origin}"))
        }),
        Failure::Usage(why) => writeln!(out, "{ERROR}error{ERROR:#}: {}", printable(why)),
        Failure::Output(why) => writeln!(out, "{ERROR}error{ERROR:#}: {}", unwritten(why)),
        Failure::Interrupted(_) | Failure::ReaderGone | Failure::Said(_) => Ok(()),
    }
}

/// What a person at the keyboard can do about it.
fn hint(error: &iicp_core::Error) -> Option<&'static str> {
    use iicp_core::Code;
    Some(match error.code() {
        Code::DirectoryUnreachable => "start a mesh with `iicp up`, or name its directory with --directory-url",
        Code::NoNodes => "`iicp discover` lists who is there; `iicp serve` adds a node",
        Code::Bind => "choose another --port, or 0 for any that is free",
        Code::Timeout | Code::TaskTimeout => "give it more time with --timeout-ms, at most 120000",
        _ => return None,
    })
}

pub(crate) fn faint(text: &str) -> String {
    format!("{FAINT}{text}{FAINT:#}")
}

pub(crate) fn strong(text: &str) -> String {
    format!("{STRONG}{text}{STRONG:#}")
}

pub(crate) fn good(text: &str) -> String {
    format!("{GOOD}{text}{GOOD:#}")
}

/// A line that moves; gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn spin(text: &str, stopped: &mpsc::Receiver<()>) {
    // What is done at once needs no show.
    let mut pause = Duration::from_millis(200);
    for frame in ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"].iter().cycle() {
        if stopped.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
            break;
        }
        pause = Duration::from_millis(80);
        let _ = write!(anstream::stderr(), "\r{FAINT}{frame} {text}{FAINT:#}\x1b[K");
    }
    if pause < Duration::from_millis(200) {
        let _ = write!(anstream::stderr(), "\r\x1b[K");
    }
}
