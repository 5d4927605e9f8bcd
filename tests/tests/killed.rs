//! Two ledgers, the caller's and the nodes', after parts of a mesh were killed at random points: each task ended once, in
//! time, and none ran twice that must not. `tests/run --with soak` does the same for longer and with more.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use iicp_tests::http::Conn;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The consumer's deadline, and the second that may be added to it.
const MOST_MS: u64 = 3_000 + 1_000;

fn soak() -> bool {
    std::env::var_os("IICP_SOAK").is_some()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("iicp-killed-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A part of the mesh: a process that can be killed and started again.
struct Part {
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
        let line = tokio::time::timeout(Duration::from_secs(if soak() { 300 } else { 60 }), lines.next_line()).await;
        assert_eq!(line.expect("a part is silent").unwrap().as_deref(), Some("ready"), "{args:?}");
        child
    }

    /// As `kill -9` does.
    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    async fn start_again(&mut self) {
        self.child = Part::spawn(&self.args).await;
    }

    /// Lets it come to its end.
    async fn end(mut self) {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        assert!(ended.expect("a part does not end").unwrap().success(), "{:?}", self.args);
    }
}

struct Mesh {
    folder: Folder,
    directory_url: String,
    relay_addr: SocketAddr,
    relay_accepts: String,
    directory: Part,
    relay: Part,
}

impl Mesh {
    async fn start(name: &str) -> Mesh {
        let folder = Folder::new(name);
        let (port, at, accepts) = (free_port(), free_port(), free_port());
        let directory_url = format!("http://127.0.0.1:{port}");
        let directory = Part::start(&["directory", &port.to_string(), &folder.path("directory.db")]).await;
        let relay =
            Part::start(&["relay", &at.to_string(), &accepts.to_string(), &directory_url, &folder.path("relay")]).await;
        let (relay_addr, relay_accepts) = (([127, 0, 0, 1], at).into(), format!("127.0.0.1:{accepts}"));
        Mesh { folder, directory_url, relay_addr, relay_accepts, directory, relay }
    }

    async fn workers(&self, relayed: bool, first: usize, count: usize) -> Part {
        let relay = if relayed { &*self.relay_accepts } else { "none" };
        let (state, ledger) = (self.folder.path("state"), self.folder.path("nodes"));
        Part::start(&["workers", relay, &first.to_string(), &count.to_string(), &self.directory_url, &state, &ledger])
            .await
    }

    async fn consumer(&self, generation: u32) -> Part {
        let name = format!("c{generation}");
        Part::start(&["consumer", &name, &self.directory_url, &self.folder.path("caller")]).await
    }

    /// Whether a worker is bound at the relay.
    async fn is_bound(&self, n: usize) -> bool {
        let Ok(mut conn) = Conn::open(self.relay_addr).await else { return false };
        let health = conn.get(&format!("/v1/relay-for/w-{n}/iicp/health")).await;
        health.is_ok_and(|answer| answer.status == 200)
    }

    /// Until a hundred tasks in a row have had their results.
    async fn serves_again(&self, within: Duration) {
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
    async fn all_bound(&self, count: usize, within: Duration) -> Duration {
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

/// What the caller noted of a task.
#[derive(Debug, Default)]
struct Account {
    idempotent: bool,
    ends: Vec<(String, u64)>,
    runs: usize,
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // What is being written just now is no line yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ledgers(folder: &Folder) -> HashMap<String, Account> {
    let mut accounts: HashMap<String, Account> = HashMap::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for line in lines(folder.path("caller")) {
        if line["begun"].is_string() {
            accounts.entry(text(&line["begun"])).or_default().idempotent = line["idempotent"] == true;
        } else {
            let end = (text(&line["as"]), line["ms"].as_u64().unwrap());
            accounts.get_mut(line["ended"].as_str().unwrap()).expect("an end without a beginning").ends.push(end);
        }
    }
    for line in lines(folder.path("nodes")) {
        accounts.get_mut(line["ran"].as_str().unwrap()).expect("a task that nobody sent").runs += 1;
    }
    accounts
}

/// A number that nobody foresees, below `most`.
fn random(most: u64) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish() % most
}

#[tokio::test]
async fn k1_k4_s9_whoever_is_killed_each_task_ends_once_in_time_and_runs_once_unless_idempotent() {
    let wanted = if soak() { 10_000 } else { 500 };
    let mut mesh = Mesh::start("ledger").await;
    let mut relayed = mesh.workers(true, 0, 2).await;
    let mut direct = mesh.workers(false, 2, 1).await;
    mesh.all_bound(2, Duration::from_secs(30)).await;
    let mut generation = 0;
    let mut consumer = mesh.consumer(generation).await;
    let mut kills: HashMap<&str, u32> = HashMap::new();
    let (begun, mut victims) = (Instant::now(), (0..5).cycle());
    loop {
        tokio::time::sleep(Duration::from_millis(100 + random(900))).await;
        // Each in turn, at points that nobody chose.
        let name = match victims.next().unwrap() {
            0 => {
                relayed.kill().await;
                relayed.start_again().await;
                "worker"
            }
            1 => {
                mesh.relay.kill().await;
                tokio::time::sleep(Duration::from_millis(random(500))).await;
                mesh.relay.start_again().await;
                "relay"
            }
            2 => {
                mesh.directory.kill().await;
                tokio::time::sleep(Duration::from_millis(random(500))).await;
                mesh.directory.start_again().await;
                "directory"
            }
            3 => {
                direct.kill().await;
                direct.start_again().await;
                "node"
            }
            _ => {
                consumer.kill().await;
                generation += 1;
                consumer = mesh.consumer(generation).await;
                "consumer"
            }
        };
        *kills.entry(name).or_default() += 1;
        let ended = lines(mesh.folder.path("caller")).iter().filter(|line| line["ended"].is_string()).count();
        if ended >= wanted && kills.len() == 5 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(if soak() { 1_500 } else { 120 }), "{ended} tasks have ended");
    }
    // Nobody is killed any more: whoever was comes back.
    mesh.all_bound(2, Duration::from_secs(30)).await;
    mesh.serves_again(Duration::from_secs(30)).await;
    consumer.end().await;
    let last = format!("c{generation}-");
    let accounts = ledgers(&mesh.folder);
    let (mut results, mut errors): (usize, HashMap<&str, usize>) = (0, HashMap::new());
    for (id, account) in &accounts {
        let Account { idempotent, ends, runs } = account;
        match ends.as_slice() {
            // A caller that was killed heard of nothing that was under way.
            [] => assert!(!id.starts_with(&last), "{id} was lost"),
            [(end, ms)] => {
                assert!(*ms <= MOST_MS, "{id} took {ms} ms");
                match &**end {
                    "result" => {
                        results += 1;
                        assert!(*runs >= 1, "{id} has a result that nobody made");
                    }
                    error if error.starts_with("the result") => panic!("{id}: {error}"),
                    error => *errors.entry(error).or_default() += 1,
                }
            }
            more => panic!("{id} ended {} times", more.len()),
        }
        assert!(*idempotent || *runs <= 1, "{id} ran {runs} times");
    }
    // In between they were served; it was half of them when this was written.
    assert!(results * 5 >= accounts.len(), "{results} results of {} tasks: {errors:?}", accounts.len());
    println!("{} tasks, {results} results, errors: {errors:?}, killed: {kills:?}", accounts.len());
}

#[tokio::test]
async fn k4_s31_workers_are_back_after_their_relay_was_killed() {
    let (hosts, each) = if soak() { (4, 500) } else { (1, 100) };
    let mut mesh = Mesh::start("herd").await;
    let mut workers = Vec::new();
    for host in 0..hosts {
        workers.push(mesh.workers(true, host * each, each).await);
    }
    mesh.all_bound(hosts * each, Duration::from_secs(60)).await;
    mesh.relay.kill().await;
    tokio::time::sleep(Duration::from_secs(if soak() { 5 } else { 1 })).await;
    mesh.relay.start_again().await;
    let begun = Instant::now();
    let first = async {
        loop {
            for n in 0..hosts * each {
                if mesh.is_bound(n).await {
                    return begun.elapsed();
                }
            }
        }
    };
    let first = tokio::time::timeout(Duration::from_secs(30), first).await.expect("nobody came back");
    let all = first + mesh.all_bound(hosts * each, Duration::from_secs(30)).await;
    println!("the first of {} workers was back after {first:?}, all after {all:?}", hosts * each);
    // Three times what is promised of the first: other work goes on.
    assert!(first < Duration::from_secs(9) && all < Duration::from_secs(30), "{first:?}, {all:?}");
}
