//! A mesh of processes that can be killed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use iicp_tests::http::Conn;
use iicp_tests::process::Process;
use iicp_tests::{free_port, size};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::lines;

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("iicp-killed-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A part of the mesh: a process that can be killed and started again.
pub(crate) struct Part {
    args: Vec<String>,
    child: Child,
}

impl Part {
    async fn start(args: &[&str]) -> Part {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = Part::spawn(&args).await;
        Part { args, child }
    }

    async fn spawn(args: &[String]) -> Child {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mortal"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A host of hundreds of nodes takes its time.
        let line = tokio::time::timeout(Duration::from_secs(size(60, 300)), lines.next_line()).await;
        assert_eq!(line.expect("a part is silent").unwrap().as_deref(), Some("ready"), "{args:?}");
        child
    }

    /// As `kill -9` does.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        self.child = Part::spawn(&self.args).await;
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id().unwrap())
    }

    /// Lets it come to its end.
    pub(crate) async fn end(mut self) {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        assert!(ended.expect("a part does not end").unwrap().success(), "{:?}", self.args);
    }
}

pub(crate) struct Mesh {
    pub(crate) folder: Folder,
    pub(crate) directory_url: String,
    pub(crate) relay_addr: SocketAddr,
    relay_accepts: String,
    pub(crate) directory: Part,
    pub(crate) relay: Part,
}

impl Mesh {
    pub(crate) async fn start(name: &str) -> Mesh {
        let folder = Folder::new(name);
        let (port, at, accepts) = (free_port(), free_port(), free_port());
        let directory_url = format!("http://127.0.0.1:{port}");
        let directory = Part::start(&["directory", &port.to_string(), &folder.path("directory.db")]).await;
        let relay =
            Part::start(&["relay", &at.to_string(), &accepts.to_string(), &directory_url, &folder.path("relay")]).await;
        let (relay_addr, relay_accepts) = (([127, 0, 0, 1], at).into(), format!("127.0.0.1:{accepts}"));
        Mesh { folder, directory_url, relay_addr, relay_accepts, directory, relay }
    }

    pub(crate) async fn workers(&self, relayed: bool, first: usize, count: usize) -> Part {
        let relay = if relayed { &*self.relay_accepts } else { "none" };
        let (state, ledger) = (self.folder.path("state"), self.folder.path("nodes"));
        Part::start(&["workers", relay, &first.to_string(), &count.to_string(), &self.directory_url, &state, &ledger])
            .await
    }

    pub(crate) async fn consumer(&self, generation: u32) -> Part {
        let name = format!("c{generation}");
        Part::start(&["consumer", &name, &self.directory_url, &self.folder.path("caller")]).await
    }

    /// Whether a worker is bound at the relay.
    pub(crate) async fn is_bound(&self, n: usize) -> bool {
        let Ok(mut conn) = Conn::open(self.relay_addr).await else { return false };
        let health = conn.get(&format!("/v1/relay-for/w-{n}/iicp/health")).await;
        health.is_ok_and(|answer| answer.status == 200)
    }

    /// What stands at a line of the relay's metrics.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let page = Conn::open(self.relay_addr).await.unwrap().get("/metrics").await.unwrap().body;
        let page = String::from_utf8(page).unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// Until a hundred tasks in a row have had their results.
    pub(crate) async fn serves_again(&self, within: Duration) {
        let begun = Instant::now();
        loop {
            let ended = lines(self.folder.path("caller")).into_iter().filter_map(|mut line| match line["as"].take() {
                Value::String(end) => Some(end),
                _ => None,
            });
            let ended: Vec<String> = ended.collect();
            let last = ended.iter().rev().take(100);
            if last.len() == 100 && last.clone().all(|end| end == "result") {
                return;
            }
            assert!(begun.elapsed() < within, "{:?}", last.collect::<Vec<_>>());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How long it takes until so many workers are bound.
    pub(crate) async fn all_bound(&self, count: usize, within: Duration) -> Duration {
        let begun = Instant::now();
        let mut missing: Vec<usize> = (0..count).collect();
        loop {
            let mut still = Vec::new();
            for n in missing {
                if !self.is_bound(n).await {
                    still.push(n);
                }
            }
            if still.is_empty() {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < within, "{} of {count} workers are not bound", still.len());
            missing = still;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
