//! Processes under test: a role of this program, or a script of the published peer.
//!
//! A child says one line of JSON when it is ready, then answers each line it gets with one line of JSON: `cpu` with its
//! CPU time so far, `run N` with the CPU and wall time of N operations. It ends when its input ends.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;

/// Longest wait for an answer; a run of the slowest peer takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process under test. Dropping it ends it.
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    ready: Value,
}

/// CPU time of a process beside wall time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Child {
    /// Starts a role of this program.
    pub(crate) fn role(role: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", role]).args(args);
        Child::start(role, command)
    }

    /// Starts a script with the published package, allowed on loopback and kept from updating itself.
    pub(crate) fn published(python: &Path, script: &Path, args: &[&str]) -> Result<Self> {
        let home = std::env::temp_dir().join(format!("iicp-bench-{}", std::process::id()));
        let mut command = Command::new(python);
        command
            .args([OsStr::new("-W"), OsStr::new("ignore"), script.as_os_str()])
            .args(args)
            .env("IICP_CX_ALLOW_PLAINTEXT", "1")
            .env("IICP_PROXY_ALLOW_LOOPBACK_NODES", "1")
            .env("IICP_AUTO_UPDATE", "0")
            .env("IICP_TASK_RATE_LIMIT", "0")
            .env("IICP_HOME", &home)
            .env("IICP_CX_KEY_DIR", home.join("keys"));
        Child::start(&script.file_stem().unwrap_or_default().to_string_lossy(), command)
    }

    /// Starts any program that answers as a child does.
    pub(crate) fn start(name: &str, mut command: Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{name} could not be started: {e}"))?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (lines_in, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(|line| line.ok()) {
                if lines_in.send(line).is_err() {
                    break;
                }
            }
        });
        let mut child = Child { name: name.into(), process, stdin, lines, ready: Value::Null };
        child.ready = child.answer()?;
        Ok(child)
    }

    fn answer(&self) -> Result<Value> {
        let line = self.lines.recv_timeout(PATIENCE).map_err(|e| match e {
            RecvTimeoutError::Timeout => format!("{} is silent", self.name),
            RecvTimeoutError::Disconnected => format!("{} ended", self.name),
        })?;
        serde_json::from_str(&line).map_err(|e| format!("{} said {line:?}: {e}", self.name).into())
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        let stdin = self.stdin.as_mut().ok_or("closed")?;
        writeln!(stdin, "{command}").map_err(|e| format!("{} does not listen: {e}", self.name))?;
        self.answer()
    }

    /// Something that the child said when it was ready.
    pub(crate) fn said(&self, key: &str) -> Result<&str> {
        self.ready[key].as_str().ok_or_else(|| format!("{} did not say its {key}", self.name).into())
    }

    /// Its CPU time so far.
    pub(crate) fn cpu(&mut self) -> Result<Duration> {
        nanos(&self.ask("cpu")?, "cpu_ns")
    }

    /// Has it run `count` operations.
    pub(crate) fn run(&mut self, count: u64) -> Result<Spent> {
        let spent = self.ask(&format!("run {count}"))?;
        if let Some(failure) = spent["failure"].as_str() {
            return Err(format!("{}: {failure}", self.name).into());
        }
        Ok(Spent { cpu: nanos(&spent, "cpu_ns")?, wall: nanos(&spent, "wall_ns")? })
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("smaps_rollup has no Rss")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }
}

fn nanos(value: &Value, key: &str) -> Result<Duration> {
    value[key].as_u64().map(Duration::from_nanos).ok_or_else(|| format!("no {key} in {value}").into())
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            if matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
