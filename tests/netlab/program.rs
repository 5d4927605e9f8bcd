//! A program of the lab on one of its machines, as seen from the lab.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Outcome;
use crate::space::Space;

/// Killed when it is dropped, as by a power cut.
#[derive(Debug)]
pub(crate) struct Program {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Program {
    /// Starts a role of this very program on a machine.
    pub(crate) fn start(space: &Space, role: &str, options: &Value) -> Outcome<Program> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = space.command(program);
        command.args(["inside", role, &options.to_string()]);
        Program::spawn(command, format!("{role} on {}", space.name()))
    }

    /// Starts the command `iicp` on a machine, which says as JSON what happens to it.
    pub(crate) fn iicp(space: &Space, arguments: &[&str], home: &str) -> Outcome<Program> {
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = space.command(this.with_file_name("iicp"));
        command.arg("--json").args(arguments).env_clear().env("HOME", home).env("IICP_LOG", "error");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Program::spawn(command, format!("iicp on {}", space.name()))
    }

    fn spawn(mut command: Command, what: String) -> Outcome<Program> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| format!("{what}: {e}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (say, lines) = channel();
        std::thread::spawn(move || {
            for line in output.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                let _ = say.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Ok(Program { what, child, input, lines })
    }

    /// The next line that it says.
    pub(crate) fn line(&self, within: Duration) -> Outcome<Value> {
        let line = self.lines.recv_timeout(within).map_err(|e| format!("{} said nothing: {e}", self.what))?;
        match line {
            Value::String(line) => Err(line),
            line => Ok(line),
        }
    }

    /// Whether it came up.
    pub(crate) fn ready(self, within: Duration) -> Outcome<Program> {
        let line = self.line(within)?;
        if line["ready"].is_string() { Ok(self) } else { Err(format!("{} began with {line}", self.what)) }
    }

    pub(crate) fn tell(&mut self, command: &Value) -> Outcome {
        let input = self.input.as_mut().ok_or("told after its end")?;
        writeln!(input, "{command}").map_err(|e| format!("{} does not listen: {e}", self.what))
    }

    pub(crate) fn ask(&mut self, command: &Value, within: Duration) -> Outcome<Value> {
        self.tell(command)?;
        self.line(within)
    }

    /// Ends its input, waits for its last line and for its end.
    pub(crate) fn end(mut self, within: Duration) -> Outcome<Value> {
        drop(self.input.take());
        let last = self.line(within)?;
        self.ended(within).map(|()| last)
    }

    /// Waits until it says that this has happened to it.
    pub(crate) fn event(&self, name: &str, within: Duration) -> Outcome<Value> {
        let until = Instant::now() + within;
        loop {
            let line = self.line(until.saturating_duration_since(Instant::now()))?;
            if line["event"] == name {
                return Ok(line);
            }
        }
    }

    /// Is sent SIGTERM, as by a supervisor, and must end by itself, with 0.
    pub(crate) fn terminate(mut self, within: Duration) -> Outcome {
        kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(|e| format!("{}: {e}", self.what))?;
        self.ended(within)
    }

    fn ended(&mut self, within: Duration) -> Outcome {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", self.what)) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{} was asked to end, and did not", self.what))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
