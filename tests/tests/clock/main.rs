//! Clocks that are set while a mesh works (K12): forth and back by an hour, by ten years, by a second. Each part is a process of its
//! own whose clock the test sets, with a shim between it and the system's library. Nothing expires by that, nothing that was spent is
//! good again, and what is signed is judged by the clock of whoever signed it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use iicp_core::options::{ClientOptions, ConsumerAuth, DirectoryOptions, NodeOptions, RouteDiscovery, TaskAuth};
use iicp_core::{CHAT, Client, Directory, Inbound, Node, Reply, Task};
use iicp_tests::http::{Answer, Conn, addr};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Which part a child of this test is, with what it needs.
const PART: &str = "IICP_CLOCK_PART";
const PATIENCE: Duration = Duration::from_secs(30);
/// How far clocks are set, in seconds: an hour forth, an hour back, ten years forth, and the second that is put in now and then.
const JUMPS: [i64; 4] = [3_600, -3_600, 315_576_000, 1];

struct Folder(PathBuf);

impl Folder {
    /// With the shim in it.
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("iicp-clock-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock/shim.c");
        let mut compile = std::process::Command::new("cc");
        compile.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(folder.join("shim.so")).arg(source);
        assert!(compile.status().unwrap().success(), "the shim was not compiled");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A part of the mesh, with a clock of its own.
struct Part {
    clock: PathBuf,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Part {
    /// Starts it, and returns the first thing it says.
    async fn start(folder: &Folder, name: &str, needs: Value) -> (Part, Value) {
        let clock = folder.0.join(name);
        std::fs::write(&clock, "0").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "in_a_child_of_this_test", "--ignored", "--nocapture"])
            .env(PART, json!({ "part": name, "needs": needs }).to_string())
            .env("LD_PRELOAD", folder.0.join("shim.so"))
            .env("CLOCK_AHEAD", &clock)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let mut part = Part { clock, input, said, _child: child };
        let first = part.hears().await;
        (part, first)
    }

    /// What it says next; the test's own words are passed over.
    async fn hears(&mut self) -> Value {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.said.next_line()).await.expect("a part is silent");
            if let Some((_, said)) = line.unwrap().expect("a part has gone").split_once("says: ") {
                return serde_json::from_str(said).unwrap();
            }
        }
    }

    async fn asks(&mut self, what: &str) -> Value {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        self.hears().await
    }

    /// Sets its clock: so far from the right time. Whole or not at all, since it may be read now.
    fn set(&self, ahead_s: i64) {
        let new = self.clock.with_extension("new");
        std::fs::write(&new, ahead_s.to_string()).unwrap();
        std::fs::rename(new, &self.clock).unwrap();
    }
}

fn says(what: &Value) {
    println!("says: {what}");
    std::io::stdout().flush().unwrap();
}

fn unix_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[tokio::test]
#[ignore = "started by the other"]
async fn in_a_child_of_this_test() {
    let Ok(part) = std::env::var(PART) else { return };
    let part: Value = serde_json::from_str(&part).unwrap();
    let needs = |name: &str| part["needs"][name].as_str().unwrap().to_owned();
    match part["part"].as_str().unwrap() {
        "directory" => {
            let mut options = DirectoryOptions::loopback();
            (options.heartbeat_ms, options.node_ttl_ms) = (100, 1_000);
            let directory = Directory::bind(options).await.unwrap();
            says(&json!(directory.url()));
            answer(async |_| json!(unix_s())).await;
        }
        "node" => {
            let mut options = NodeOptions::default();
            (options.intents, options.directory) = (vec![CHAT.into()], needs("directory"));
            (options.auth, options.access_token) = (TaskAuth::Required, Some("open sesame".into()));
            let node = Node::bind(options).await.unwrap();
            let node = node.serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap();
            says(&json!(node.addr().to_string()));
            answer(async |_| json!(node.is_registered())).await;
        }
        "client" => {
            let mut options = ClientOptions::default();
            (options.directory, options.node_token) = (needs("directory"), Some((&*needs("token")).into()));
            (options.route_discovery, options.consumer_auth) = (RouteDiscovery::Ticketed, ConsumerAuth::Required);
            let client = Client::new(options).unwrap();
            says(&json!("ready"));
            answer(async |_| {
                let done = client.submit(Task::new(CHAT, json!({ "n": 1 })).timeout(Duration::from_secs(10))).await;
                done.map_or_else(|error| json!(error.to_string()), |_| json!("served"))
            })
            .await;
        }
        other => panic!("there is no part {other}"),
    }
}

async fn answer(mut to: impl AsyncFnMut(String) -> Value) {
    let mut asked = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = asked.next_line().await.unwrap() {
        says(&to(line).await);
    }
}

async fn post(at: &str, path: &str, body: &Value) -> Answer {
    Conn::open(addr(at)).await.unwrap().post(path, body).await.unwrap()
}

/// A task with a nonce, straight to the node.
async fn send(node: &str, nonce: &str) -> Answer {
    let id = format!("{nonce}-{:?}", Instant::now()).replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let auth = json!({ "node_token": "open sesame" });
    post(node, "/v1/task", &json!({ "task_id": id, "intent": CHAT, "payload": {}, "nonce": nonce, "auth": auth })).await
}

#[tokio::test]
async fn k12_clocks_that_are_set_expire_nothing_and_make_nothing_good_again() {
    let folder = Folder::new();
    let (mut directory, url) = Part::start(&folder, "directory", json!({})).await;
    let (mut node, at) = Part::start(&folder, "node", json!({ "directory": url })).await;
    let (at, url) = (format!("http://{}", at.as_str().unwrap()), url.as_str().unwrap().to_owned());
    let consumer = json!({
        "node_id": "consumer", "endpoint": "http://127.0.0.1:9", "region": "eu",
        "capabilities": [{ "intent": "urn:iicp:intent:lab:nothing:v1", "models": [], "max_tokens": 1 }],
        "limits": { "max_concurrent": 1, "tokens_per_min": 1 },
    });
    let token = post(&url, "/v1/register", &consumer).await.json()["node_token"].clone();
    let (mut client, _) = Part::start(&folder, "client", json!({ "directory": url, "token": token })).await;
    assert_eq!(client.asks("task").await, "served");
    assert_eq!(send(&at, "first").await.status, 200);

    let mut rounds = 0;
    for ahead_s in JUMPS {
        for who in ["node", "directory", "client", "all"] {
            let is = |name: &str| if who == name || who == "all" { ahead_s } else { 0 };
            for (part, name) in [(&directory, "directory"), (&node, "node"), (&client, "client")] {
                part.set(is(name));
            }
            let shown = directory.asks("clock").await.as_i64().unwrap() - unix_s();
            assert!((shown - is("directory")).abs() <= 5, "the shim does not work: {shown}");
            let what = format!("with the clock of {who} set by {ahead_s} s");
            // Held routes and tokens, and new ones: a client of its own begins now.
            assert_eq!(client.asks("task").await, "served", "{what}");
            let fresh = json!({ "directory": url, "token": token });
            let (mut late, _) = Part::start(&folder, "client", fresh).await;
            late.set(is("client"));
            let mut told = late.asks("task").await;
            // A node asks for the time three times in a row, no more; after that its next heartbeat tells it.
            rounds += 1;
            let begun = Instant::now();
            while rounds > 3 && told != "served" && begun.elapsed() < Duration::from_secs(10) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                told = late.asks("task").await;
            }
            assert_eq!(told, "served", "a new client, {what}");
            assert_eq!(send(&at, "first").await.status, 409, "a nonce that was spent, {what}");
            assert_eq!(send(&at, &format!("{who}{ahead_s}")).await.status, 200, "a new nonce, {what}");
            assert_eq!(node.asks("registered").await, true, "{what}");
        }
    }
    // Several leases later, by the clock that only counts.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let listed = Conn::open(addr(&url)).await.unwrap().get(&format!("/v1/discover?intent={CHAT}")).await.unwrap();
    assert_eq!(listed.json()["count"], 1, "the node is listed");
    assert_eq!(client.asks("task").await, "served");
}
