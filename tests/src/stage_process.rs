//! The stage as a child process, as every runner starts it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::stage::{TRANSPORT, Transport};

/// Longest that the stage may take for one line, beyond what an `await` asks for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running stage; killed when dropped.
#[derive(Debug)]
pub struct StageProcess {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl StageProcess {
    /// Starts the program, in a test `env!("CARGO_BIN_EXE_stage")`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(program: impl AsRef<Path>) -> std::io::Result<StageProcess> {
        StageProcess::spawn(&mut Command::new(program.as_ref()))
    }

    /// Starts the program with nodes that are reached in one way.
    ///
    /// # Errors
    /// The system's.
    pub fn over(transport: Transport, program: impl AsRef<Path>) -> std::io::Result<StageProcess> {
        StageProcess::spawn(Command::new(program.as_ref()).env(TRANSPORT, transport.word()))
    }

    /// Starts the program with what it says of its own faults, such as panics, in a file.
    ///
    /// # Errors
    /// The system's.
    pub fn overheard(program: impl AsRef<Path>, faults: std::fs::File) -> std::io::Result<StageProcess> {
        StageProcess::spawn(Command::new(program.as_ref()).stderr(faults))
    }

    fn spawn(program: &mut Command) -> std::io::Result<StageProcess> {
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        Ok(StageProcess { child, input, output: BufReader::new(output).lines() })
    }

    /// Sends one command and returns what was answered as `ok`.
    ///
    /// # Errors
    /// What was answered as `error`; a stage that ended or does not answer.
    pub async fn call(&mut self, command: &Value) -> Result<Value, String> {
        let line = format!("{command}\n");
        self.input.write_all(line.as_bytes()).await.map_err(|e| format!("the stage is gone: {e}"))?;
        let answer = tokio::time::timeout(PATIENCE, self.output.next_line()).await;
        let answer = answer.map_err(|_| format!("the stage does not answer {command}"))?;
        let Ok(Some(answer)) = answer else { return Err(format!("the stage ended at {command}")) };
        let mut answer: Value = serde_json::from_str(&answer).map_err(|e| format!("{answer}: {e}"))?;
        match answer.get_mut("ok") {
            Some(ok) => Ok(ok.take()),
            None => Err(format!("{command}: {}", answer["error"])),
        }
    }

    /// Waits until the ledger holds `wanted`.
    ///
    /// # Errors
    /// As [`StageProcess::call`]; the last state of the ledger when the time is over.
    pub async fn wait_for(&mut self, wanted: Value, within: Duration) -> Result<Value, String> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.call(&json!({ "await": { "ledger": wanted, "within_ms": within_ms } })).await
    }

    /// The process id; none when it has ended.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills the stage with everything on it, as `kill -9` does, and waits for its end.
    ///
    /// # Errors
    /// The system's.
    pub async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }
}
