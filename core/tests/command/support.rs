//! Runs the command: in a folder of its own, with nothing of the tester's environment that would change what it does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing here takes a second; nothing waits longer than this.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A home of its own, removed at the end.
pub(crate) struct Home(PathBuf);

impl Home {
    pub(crate) fn new() -> Home {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("iicp-command-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Home(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and tells where it is.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The command with these arguments, not started yet.
    pub(crate) fn iicp(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iicp"));
        command.args(arguments);
        self.own(&mut command);
        command
    }

    /// Takes the tester's settings from a command.
    pub(crate) fn own(&self, command: &mut Command) {
        command.current_dir(&self.0).env_clear().env("HOME", &self.0).stdin(Stdio::null());
        for kept in ["PATH", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.iicp(arguments))
    }

    /// Runs it with something on stdin.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.iicp(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Starts a service whose events are read as JSON, and waits until it is ready.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Service {
        Service::start(self.iicp(&[&["--json"], arguments].concat()))
    }

    /// A mesh on free ports.
    pub(crate) fn up(&self) -> Service {
        self.serve(&["up", "--port", "0", "--directory-port", "0"])
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn ended(mut command: Command) -> Ended {
    command.output().unwrap().into()
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// Fails unless it ended with that code and did not panic.
    #[track_caller]
    pub(crate) fn with(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// Every line of stdout, as JSON.
    #[track_caller]
    pub(crate) fn objects(&self) -> Vec<Value> {
        objects(&self.out)
    }

    /// The errors that it wrote as JSON.
    #[track_caller]
    pub(crate) fn errors(&self) -> Vec<Value> {
        objects(&self.err).into_iter().map(|object| object["error"].clone()).filter(|error| !error.is_null()).collect()
    }
}

#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A command that serves.
pub(crate) struct Service {
    pub(crate) child: Child,
    events: Receiver<Value>,
    /// The event `ready`.
    pub(crate) ready: Value,
}

impl Service {
    pub(crate) fn start(mut command: Command) -> Service {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, events) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                let _ = sender.send(event);
            }
        });
        let mut service = Service { child, events, ready: Value::Null };
        service.ready = service.event("ready");
        service
    }

    /// Waits for an event of that name.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Value {
        let until = Instant::now() + LONG;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) if event["event"] == name => return event,
                Ok(_) => {}
                Err(error) => {
                    let _ = self.child.kill();
                    let mut err = String::new();
                    let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut err));
                    panic!("no event {name}: {error}\n{err}");
                }
            }
        }
    }

    pub(crate) fn directory(&self) -> String {
        self.ready["directory"].as_str().unwrap().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to stop, and waits until it did.
    pub(crate) fn stop(mut self, signal: Signal) -> (Option<i32>, Value) {
        self.signal(signal);
        let stopped = self.event("stopped");
        (self.child.wait().unwrap().code(), stopped)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address where somebody listens and never answers.
pub(crate) fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// An address where nobody listens.
pub(crate) fn nobody() -> String {
    silent().1
}

/// Waits for something to become true.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
