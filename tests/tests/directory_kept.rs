//! What a directory with a file keeps: over a restart, a kill, a full disk and a damaged file.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use iicp_core::options::{ClientOptions, ConsumerAuth, DirectoryOptions, NodeOptions, RouteDiscovery};
use iicp_core::types::TaskResult;
use iicp_core::{CHAT, Client, Code, Directory, Inbound, Node, Reply, Result, Task};
use iicp_tests::http::{Answer, Conn, addr, post};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

const GRACE: Duration = Duration::from_secs(10);
/// In a child of this test: the file that its directory has.
const CHILD: &str = "IICP_TEST_DIRECTORY_FILE";

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("kept-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("directory.db")
    }

    async fn open(&self) -> Directory {
        open(&self.file()).await.unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(file: &Path) -> Result<Directory> {
    let mut options = DirectoryOptions::loopback();
    options.path = Some(file.to_str().unwrap().to_owned());
    Directory::bind(options).await
}

async fn ask(url: &str, path: &str, token: &str, body: &Value) -> Answer {
    let mut conn = Conn::open(addr(url)).await.unwrap();
    let bearer = format!("authorization: Bearer {token}\r\n");
    conn.write(&post(path, &bearer, body.to_string().as_bytes())).await.unwrap();
    conn.answer().await.unwrap()
}

async fn get(url: &str, path: &str) -> Value {
    Conn::open(addr(url)).await.unwrap().get(path).await.unwrap().json()
}

fn node(id: &str) -> Value {
    json!({
        "node_id": id, "endpoint": "http://127.0.0.1:9600", "region": "eu", "sdk_version": "0.7.109",
        "capabilities": [{ "intent": CHAT, "models": ["m-1"] }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
        "cx_public_key": { "algorithm": "X25519", "encoding": "base64url", "key": "k", "key_id": "cx-1" },
    })
}

async fn register(url: &str, id: &str) -> Value {
    let reply = ask(url, "/v1/register", "", &node(id)).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn a_restart_keeps_nodes_keys_batches_and_reputation() {
    let folder = Folder::new();
    let first = folder.open().await;
    let url = first.url();
    let (new, gone) = (register(&url, "n-1").await, register(&url, "n-2").await);
    let report =
        json!({ "node_id": "n-1", "metrics": { "tasks_success": 5, "tasks_failed": 1 }, "metrics_batch_id": "b-1" });
    let beat = ask(&url, "/v1/heartbeat", text(&new["node_token"]), &report).await.json();
    assert_eq!(beat["metrics_batch_accepted"], "b-1");
    let mut conn = Conn::open(addr(&url)).await.unwrap();
    let leave = post(
        "/v1/register",
        &format!("authorization: Bearer {}\r\n", text(&gone["node_token"])),
        br#"{"node_id":"n-2"}"#,
    );
    conn.write(&[b"DELETE".as_slice(), &leave[4..]].concat()).await.unwrap();
    assert_eq!(conn.answer().await.unwrap().status, 200);
    let key = get(&url, "/v1/directory-key").await;
    assert_eq!(get(&url, "/iicp/health").await["storage"], "file");
    let before = get(&url, "/v1/node/n-1").await;
    assert!(first.shutdown(GRACE).await);

    let second = folder.open().await;
    let url = second.url();
    assert_eq!(get(&url, "/v1/directory-key").await, key);
    assert_eq!(get(&url, "/v1/node/n-1").await, before, "word for word");
    assert_eq!(get(&url, &format!("/v1/discover?intent={CHAT}")).await["count"], 1, "the other one left");
    let again = ask(&url, "/v1/heartbeat", text(&new["node_token"]), &report).await;
    assert_eq!((again.status, &again.json()["reputation_score"]), (200, &beat["reputation_score"]), "counted once");
    assert_eq!(get(&url, "/v1/node/n-1").await["completed_tasks_count"], 5);
    let recovered = register(&url, "n-1").await;
    assert_eq!((&recovered["recovered"], &recovered["lifetime_jobs"]), (&json!(true), &json!(5)));
    assert_eq!(recovered["node_hmac_key"], new["node_hmac_key"]);

    // Tokens are nowhere in the file, and nobody else may look into it.
    for entry in std::fs::read_dir(&folder.0).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        let bytes = std::fs::read(&path).unwrap();
        for token in [&new, &gone, &recovered].map(|new| text(&new["node_token"])) {
            assert!(memchr::memmem::find(&bytes, token.as_bytes()).is_none(), "{}", path.display());
        }
    }
    assert!(second.shutdown(GRACE).await);
}

/// A directory in a process of its own.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(file: &Path) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "in_a_child_of_this_test", "--ignored", "--nocapture"]).env(CHILD, file);
        Process::run(command)
    }

    /// One whose system cannot write files over a size, and tells it so.
    fn start_limited(file: &Path, most_bytes: u64) -> Process {
        let mut command = Command::new("bash");
        command.arg("-c").arg("trap '' XFSZ; exec \"$0\" --exact in_a_child_of_this_test --ignored --nocapture");
        command.arg(std::env::current_exe().unwrap()).env(CHILD, file).process_group(0);
        let process = Process::run(command);
        process.limit(Some(most_bytes));
        process
    }

    fn run(mut command: Command) -> Process {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let url =
            said.map(|line| line.unwrap()).find_map(|line| line.split_once("url=").map(|(_, url)| url.to_owned()));
        Process { child, url: url.unwrap() }
    }

    fn limit(&self, most_bytes: Option<u64>) {
        let pid = Pid::from_child(&self.child);
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: most_bytes, maximum: None }).unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "started by the others"]
async fn in_a_child_of_this_test() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let directory = open(Path::new(&file)).await.unwrap();
    println!("url={}", directory.url());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill() {
    let folder = Folder::new();
    let mut tokens: Vec<(String, String)> = Vec::new();
    for round in 0..5 {
        let process = Process::start(&folder.file());
        for (id, token) in &tokens {
            let beat = ask(&process.url, "/v1/heartbeat", token, &json!({ "node_id": id })).await;
            assert_eq!(beat.status, 200, "{id} in round {round}");
        }
        for n in 0..10 {
            let id = format!("n-{round}-{n}");
            tokens.push((id.clone(), text(&register(&process.url, &id).await["node_token"]).to_owned()));
        }
        process.kill();
    }
    let directory = folder.open().await;
    assert_eq!(get(&directory.url(), "/v1/registry/stats").await["registered_nodes"], 50);
}

#[tokio::test]
async fn a_full_disk_is_told_and_outlived() {
    let folder = Folder::new();
    // Made without a limit, so that there is something to be full.
    drop(register(&Process::start(&folder.file()).url, "first").await);
    let process = Process::start_limited(&folder.file(), 64 << 10);
    let url = &process.url;
    let mut n = 0;
    while get(url, "/iicp/health").await["storage"] == "file" {
        register(url, &format!("n-{n}")).await;
        n += 1;
        assert!(n < 2_000, "the disk never was full");
    }
    let health = get(url, "/iicp/health").await;
    assert_eq!((&health["ok"], &health["status"]), (&json!(true), &json!("degraded")));
    let late = register(url, "late").await;
    assert_eq!(ask(url, "/v1/heartbeat", text(&late["node_token"]), &json!({ "node_id": "late" })).await.status, 200);
    assert_eq!(get(url, "/v1/registry/stats").await["registered_nodes"], n + 2, "served from memory");
    process.limit(None);
    let began = std::time::Instant::now();
    while get(url, "/iicp/health").await["storage"] != "file" {
        assert!(began.elapsed() < Duration::from_secs(30), "it never tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.kill();
    let directory = folder.open().await;
    assert_eq!(get(&directory.url(), "/v1/registry/stats").await["registered_nodes"], n + 2, "nothing was lost");
    let beat = ask(&directory.url(), "/v1/heartbeat", text(&late["node_token"]), &json!({ "node_id": "late" })).await;
    assert_eq!(beat.status, 200);
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_told_and_the_directory_serves() {
    let directory = open(Path::new("/proc/iicp/directory.db")).await.unwrap();
    let health = get(&directory.url(), "/iicp/health").await;
    assert_eq!((&health["status"], &health["storage"]), (&json!("degraded"), &json!("failing")));
    register(&directory.url(), "n-1").await;
    assert!(directory.shutdown(GRACE).await);
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name_and_never_gets_another_key() {
    let folder = Folder::new();
    let directory = folder.open().await;
    for n in 0..20 {
        register(&directory.url(), &format!("n-{n}")).await;
    }
    let key = get(&directory.url(), "/v1/directory-key").await;
    assert!(directory.shutdown(GRACE).await);
    let whole = std::fs::read(folder.file()).unwrap();
    let damaged = folder.0.join("damaged.db");
    let (mut refused, mut opened) = (0, 0);
    let cuts = (0..whole.len()).step_by(977).map(|at| whole[..at].to_vec());
    let flips = (0..whole.len()).step_by(1_009).map(|at| {
        let mut bytes = whole.clone();
        bytes[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0xff);
        bytes
    });
    for bytes in cuts.chain(flips) {
        for more in ["", "-wal"] {
            let _ = std::fs::remove_file(format!("{}{more}", damaged.display()));
        }
        std::fs::write(&damaged, &bytes).unwrap();
        match open(&damaged).await {
            Ok(directory) => {
                opened += 1;
                let now = get(&directory.url(), "/v1/directory-key").await;
                assert_eq!(now, key, "of {} bytes", bytes.len());
                assert!(directory.shutdown(GRACE).await);
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.code(), Code::ConfigInvalid, "{error}");
                assert!(error.message().contains("damaged.db") && error.message().contains("backup"), "{error}");
            }
        }
    }
    assert!(refused > whole.len() / 977, "{refused} refused, {opened} opened");
}

#[tokio::test]
async fn what_is_no_file_of_a_directory_is_refused_and_left_alone() {
    let folder = Folder::new();
    for (name, bytes) in [("empty", &b""[..]), ("text", b"my notes"), ("zeros", &[0; 8192])] {
        let path = folder.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path).await.unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid, "{name}");
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
    }
    assert_eq!(open(&folder.0).await.unwrap_err().code(), Code::ConfigInvalid, "a folder");
    for bad in ["", "a\0b"] {
        assert_eq!(open(Path::new(bad)).await.unwrap_err().code(), Code::ConfigInvalid);
    }
}

#[tokio::test]
async fn one_file_is_for_one_directory_at_a_time() {
    let folder = Folder::new();
    let first = folder.open().await;
    let error = open(&folder.file()).await.unwrap_err();
    assert!(error.code() == Code::ConfigInvalid && error.message().contains("another directory uses it"), "{error}");
    register(&first.url(), "n-1").await;
    // Dropped without a word: the next one waits until its file is free.
    drop(first);
    let second = folder.open().await;
    assert_eq!(get(&second.url(), "/v1/node/n-1").await["node_id"], "n-1");
}

/// A mesh whose directory may be another one, at the same address, at any time.
async fn directory_at(port: u16, file: Option<&Path>) -> Directory {
    let mut options = DirectoryOptions::loopback();
    options.port = port;
    options.heartbeat_ms = 100;
    options.path = file.map(|file| file.to_str().unwrap().to_owned());
    Directory::bind(options).await.unwrap()
}

async fn submit(client: &Client) -> Result<TaskResult> {
    client.submit(Task::new(CHAT, json!({})).timeout(Duration::from_secs(20))).await
}

/// Tasks before and after a restart; the nodes and clients stay.
async fn outlives_a_restart(file: Option<&Path>) {
    let directory = directory_at(0, file).await;
    let (url, port) = (directory.url(), directory.addr().port());
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = url.clone();
    let serving =
        Node::bind(options).await.unwrap().serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap();
    let credential = text(&register(&url, "consumer").await["node_token"]).to_owned();
    let client = |auth: ConsumerAuth, token: &str| {
        let mut options = ClientOptions::default();
        options.directory = url.clone();
        options.route_discovery = RouteDiscovery::Ticketed;
        options.route_ttl_ms = 100;
        options.consumer_auth = auth;
        options.node_token = Some(token.into());
        Client::new(options).unwrap()
    };
    // The consumer serves nothing: its place in the list would only be tried and left.
    let leave = json!({ "node_id": "consumer", "available": false });
    assert_eq!(ask(&url, "/v1/heartbeat", &credential, &leave).await.status, 200);
    let (plain, named) = (client(ConsumerAuth::Disabled, &credential), client(ConsumerAuth::Required, &credential));
    for client in [&plain, &named] {
        submit(client).await.unwrap();
    }
    let key = get(&url, "/v1/directory-key").await;
    assert!(directory.shutdown(GRACE).await);
    let directory = directory_at(port, file).await;
    assert_eq!(get(&url, "/v1/directory-key").await == key, file.is_some());
    // Until its next heartbeat a directory without a file knows nobody; a node is back after that.
    let began = std::time::Instant::now();
    while get(&url, &format!("/v1/discover?intent={CHAT}")).await["count"] == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "the node never came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..3 {
        submit(&plain).await.unwrap_or_else(|error| panic!("a client that lives on: {error}"));
        // What it holds for this node is good until it ends, whoever signed it.
        submit(&named).await.unwrap_or_else(|error| panic!("a client that names itself: {error}"));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let new = client(ConsumerAuth::Required, &credential);
    if file.is_some() {
        submit(&new).await.expect("its registration was kept");
    } else {
        assert_eq!(submit(&new).await.unwrap_err().code(), Code::ConsumerAuthRequired, "its credential is forgotten");
        let again = text(&register(&url, "consumer").await["node_token"]).to_owned();
        assert_eq!(ask(&url, "/v1/heartbeat", &again, &leave).await.status, 200);
        submit(&client(ConsumerAuth::Required, &again)).await.expect("a new one will do");
    }
    assert!(serving.shutdown(GRACE).await);
    drop(directory);
}

#[tokio::test]
async fn living_clients_and_nodes_outlive_a_directory_that_comes_back_with_a_new_key() {
    outlives_a_restart(None).await;
}

#[tokio::test]
async fn living_clients_and_nodes_do_not_notice_a_directory_that_comes_back_as_it_was() {
    outlives_a_restart(Some(&Folder::new().file())).await;
}
