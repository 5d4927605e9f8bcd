//! A published peer as a child process: one JSON object per line each way, every call with a deadline.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use iicp_tests::free_port;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

/// Python with its libraries is slow to start on a busy machine; nothing here takes a tenth of this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const INSTALL: &str = "the published peer is not installed; run: tests/interop/install";

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A running `tests/interop/*.py`, or `tests/interop/rust`. Dropping it kills the process.
pub(crate) struct Peer {
    stdin: AsyncMutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
    home: Home,
    _child: Child,
}

impl Peer {
    /// Starts a script with the published package at the release that we interoperate with.
    pub(crate) async fn start(script: &str) -> Peer {
        Peer::start_with(script, &[]).await
    }

    /// The same, with more in its environment.
    pub(crate) async fn start_with(script: &str, environment: &[(&str, &str)]) -> Peer {
        let root = iicp_tests::root();
        assert!(root.join("target/venv-peer/installed").exists(), "{INSTALL}");
        let mut command = Command::new(root.join("target/venv-peer/bin/python"));
        command.arg("-B").arg(root.join("tests/interop").join(script)).env_clear().envs(environment.iter().copied());
        Peer::started(script, command, INSTALL).await
    }

    /// The published Rust crate, client and node in one program.
    pub(crate) async fn rust() -> Peer {
        let mut command = Command::new(iicp_tests::root().join("target/peer-rust/debug/iicp-peer-rust"));
        command.env_clear();
        Peer::started("rust", command, "the published Rust crate is not built; run: tests/interop/rust/run").await
    }

    /// In a folder of its own, ready to be told what to do.
    async fn started(name: &str, mut command: Command, install: &str) -> Peer {
        let home = Home::new(name);
        let log = std::fs::File::create(home.log()).unwrap();
        let mut child = command
            // Its state, its keys and its updater stay away from the person who runs this.
            .env("HOME", &home.0)
            .env("IICP_HOME", &home.0)
            .env("IICP_AUTO_UPDATE", "0")
            // It refuses loopback addresses unless told otherwise. Plain text it refuses as well, and that stays: every task
            // that it sends here is sealed.
            .env("IICP_PROXY_ALLOW_LOOPBACK_NODES", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{install} ({e})"));
        let stdin = AsyncMutex::new(child.stdin.take().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the peer starts").unwrap();
        let ready: Value =
            serde_json::from_str(&first.unwrap_or_else(|| panic!("{name} died: {}", home.told()))).unwrap();
        assert_eq!(ready["ready"]["version"], "0.7.109", "{install}");
        let waiting = Waiting::default();
        tokio::spawn(route(lines, waiting.clone()));
        Peer { stdin, waiting, next: AtomicU64::new(1), home, _child: child }
    }

    /// Runs a command; an error of the peer is one here.
    pub(crate) async fn call(&self, what: &str, mut command: Value) -> Result<Value, Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        command["id"] = id.into();
        command["do"] = what.into();
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, sender);
        let line = format!("{command}\n");
        self.stdin.lock().await.write_all(line.as_bytes()).await.expect("the peer is alive");
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        let mut answer = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => panic!("the peer died at {what}: {}", self.home.told()),
            Err(_) => panic!("the peer did not answer {what}: {}", self.home.told()),
        };
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// Runs a command that must succeed.
    pub(crate) async fn ok(&self, what: &str, command: Value) -> Value {
        self.call(what, command).await.unwrap_or_else(|error| panic!("{what}: {error:#}"))
    }

    /// Asks what the peer saw until it is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = tokio::time::Instant::now();
        loop {
            let seen = self.ok("seen", json!({})).await;
            if wanted(&seen) {
                return seen;
            }
            assert!(began.elapsed() < PATIENCE, "{what} did not happen: {seen:#}\n{}", self.home.told());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn route(mut lines: tokio::io::Lines<BufReader<ChildStdout>>, waiting: Waiting) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else { break };
        let sender = answer["id"].as_u64().and_then(|id| waiting.lock().unwrap().remove(&id));
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
    // Whoever still waits learns that there will be no answer.
    waiting.lock().unwrap().clear();
}

/// A folder of its own for everything that a peer keeps.
struct Home(PathBuf);

impl Home {
    fn new(script: &str) -> Home {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{script}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop").join(name);
        std::fs::create_dir_all(&home).unwrap();
        Home(home)
    }

    fn log(&self) -> PathBuf {
        self.0.join("stderr")
    }

    fn told(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
