//! A node and sealed tasks, seen by a consumer that is written from the specification and shares no code with it.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iicp_core::options::{DirectoryOptions, NodeOptions};
use iicp_core::{CHAT, Code, Directory, Inbound, LiveNode, Node, Reply};
use iicp_tests::http::{Answer, Conn, addr};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use x25519_dalek::{PublicKey, StaticSecret};

const CANARY: &str = "canary-prompt";
const EMBEDDING: &str = "urn:iicp:intent:llm:embedding:v1";

/// A node with a directory, and how often its handler ran.
struct Mesh {
    directory: Directory,
    node: LiveNode,
    runs: Arc<AtomicU64>,
    release: Arc<Notify>,
}

impl Mesh {
    async fn start(change: impl FnOnce(&mut NodeOptions)) -> Mesh {
        let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
        let mut options = NodeOptions::default();
        options.intents = vec![CHAT.into(), EMBEDDING.into()];
        options.directory = directory.url();
        change(&mut options);
        let (runs, release) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let (counted, released) = (runs.clone(), release.clone());
        let handler = move |task: Inbound| {
            let (counted, released) = (counted.clone(), released.clone());
            async move {
                counted.fetch_add(1, Ordering::SeqCst);
                let payload: Value = task.json()?;
                match payload["do"].as_str() {
                    Some("fail") => return Err(iicp_core::Error::rejected("not today")),
                    Some("hold") => released.notified().await,
                    _ => {}
                }
                Ok(Reply::from(task.payload))
            }
        };
        let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
        assert!(node.is_registered());
        Mesh { directory, node, runs, release }
    }

    async fn conn(&self) -> Conn {
        Conn::open(self.node.addr()).await.unwrap()
    }

    /// The node's key as the directory shows it to consumers.
    async fn key(&self) -> Value {
        let mut conn = Conn::open(addr(&self.directory.url())).await.unwrap();
        let found = conn.get(&format!("/v1/discover?intent={CHAT}")).await.unwrap().json();
        found["nodes"][0]["cx_public_key"].clone()
    }

    async fn post(&self, body: &Value) -> Answer {
        self.conn().await.post("/v1/task", body).await.unwrap()
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

/// A sealed task, and the secret that its reply is sealed with.
struct Sealed {
    body: Value,
    shared: [u8; 32],
}

fn message_key(shared: &[u8; 32], nonce: [u8; 12], info: &str) -> (LessSafeKey, Nonce) {
    let mut key = [0; 32];
    let secret = Salt::new(HKDF_SHA256, &nonce).extract(shared);
    secret.expand(&[info.as_bytes()], HKDF_SHA256).unwrap().fill(&mut key).unwrap();
    (LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap()), Nonce::assume_unique_for_key(nonce))
}

fn seal(key: &Value, task_id: &str, intent: &str, payload: &[u8], ephemeral: [u8; 32]) -> Sealed {
    let public: [u8; 32] = URL_SAFE_NO_PAD.decode(key["key"].as_str().unwrap()).unwrap().try_into().unwrap();
    let ephemeral = StaticSecret::from(ephemeral);
    let shared = ephemeral.diffie_hellman(&PublicKey::from(public)).to_bytes();
    let nonce = [5; 12];
    let (cipher, once) = message_key(&shared, nonce, &format!("IICP-CX-v1{task_id}{intent}"));
    let (mut text, aad) = (payload.to_vec(), format!("{task_id}|{intent}"));
    cipher.seal_in_place_append_tag(once, Aad::from(aad.as_bytes()), &mut text).unwrap();
    let body = json!({
        "task_id": task_id,
        "intent": intent,
        "constraints": { "timeout_ms": 30_000 },
        "cx_response_encryption": "required",
        "iicp_conf": {
            "version": 1,
            "recipient_key_id": key["key_id"],
            "kem_ciphertext": URL_SAFE_NO_PAD.encode(PublicKey::from(&ephemeral)),
            "encrypted_body": URL_SAFE_NO_PAD.encode(text),
            "nonce": URL_SAFE_NO_PAD.encode(nonce),
            "aad": URL_SAFE_NO_PAD.encode(aad),
            "plaintext_size": payload.len(),
        },
    });
    Sealed { body, shared }
}

impl Sealed {
    /// What a node sealed for this task's sender; fails if it is not sealed, or says anything in plain text.
    fn open(&self, answer: &Answer) -> Value {
        assert_eq!(answer.status, 200, "{answer:?}");
        let outer = answer.json();
        let names: Vec<&str> = outer.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["generated_by_ai", "iicp_conf_resp", "status", "task_id"]);
        assert_eq!((&outer["status"], &outer["task_id"]), (&json!("encrypted"), &self.body["task_id"]));
        assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY));
        let inner = &outer["iicp_conf_resp"];
        assert_eq!(inner["version"], 1);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(inner[name].as_str().unwrap()).unwrap();
        let (nonce, mut text) = (bytes("nonce").try_into().unwrap(), bytes("encrypted_body"));
        let task_id = self.body["task_id"].as_str().unwrap();
        let (cipher, once) = message_key(&self.shared, nonce, &format!("IICP-CX-RESP-v1{task_id}"));
        let opened = cipher.open_in_place(once, Aad::from(format!("{task_id}|resp")), &mut text).unwrap();
        serde_json::from_slice(opened).unwrap()
    }
}

fn prompt() -> Vec<u8> {
    json!({ "prompt": CANARY }).to_string().into_bytes()
}

fn assert_refused(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{what}: {answer:?}");
    assert_eq!(answer.json()["code"], code, "{what}");
    assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY), "{what}: {answer:?}");
}

#[tokio::test]
async fn a_sealed_task_is_opened_and_its_reply_is_sealed() {
    let mesh = Mesh::start(|_| {}).await;
    let key = mesh.key().await;
    assert_eq!((&key["algorithm"], &key["encoding"]), (&json!("X25519"), &json!("base64url")));
    assert_eq!(key["features"], json!(["response_encryption_v1"]));
    let health = mesh.conn().await.get("/iicp/health").await.unwrap().json();
    assert_eq!(health["cx_key_id"], key["key_id"]);

    let sealed = seal(&key, "t-1", CHAT, &prompt(), [1; 32]);
    assert!(!sealed.body.to_string().contains(CANARY));
    let reply = sealed.open(&mesh.post(&sealed.body).await);
    assert_eq!((&reply["task_id"], &reply["status"]), (&json!("t-1"), &json!("success")));
    assert_eq!(reply["result"], json!({ "prompt": CANARY }));
    assert!(reply["metrics"]["latency_ms"].is_f64());
}

#[tokio::test]
async fn who_asks_for_no_sealed_reply_gets_a_plain_one() {
    let mesh = Mesh::start(|_| {}).await;
    let mut sealed = seal(&mesh.key().await, "t-1", CHAT, br#"{"n":1}"#, [1; 32]);
    for (n, word) in [Value::Null, json!("preferred"), json!(true)].into_iter().enumerate() {
        sealed.body["cx_response_encryption"] = word;
        let reply = mesh.post(&sealed.body).await.json();
        assert_eq!((&reply["status"], &reply["result"]), (&json!("success"), &json!({ "n": 1 })), "{n}");
    }
    assert_eq!(mesh.runs(), 1, "the same task each time");
    let plain = json!({ "task_id": "t-2", "intent": CHAT, "payload": { "n": 2 }, "cx_response_encryption": null });
    assert_eq!(mesh.post(&plain).await.json()["result"], json!({ "n": 2 }), "plain tasks are served as ever");
}

#[tokio::test]
async fn what_is_not_sealed_for_this_node_and_task_is_refused_and_runs_nothing() {
    let mesh = Mesh::start(|_| {}).await;
    let key = mesh.key().await;
    let good = seal(&key, "t-1", CHAT, &prompt(), [1; 32]).body;
    let with = |at: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(at).unwrap() = value;
        body
    };
    let text = |bytes: &[u8]| json!(URL_SAFE_NO_PAD.encode(bytes));
    let elsewhere = seal(&key, "t-1", EMBEDDING, &prompt(), [1; 32]).body;
    let other_task = seal(&key, "t-2", CHAT, &prompt(), [1; 32]).body;
    for (what, body) in [
        ("another task's", with("/iicp_conf", other_task["iicp_conf"].clone())),
        ("another intent's", with("/iicp_conf", elsewhere["iicp_conf"].clone())),
        ("sent under another id", with("/task_id", json!("t-9"))),
        ("sent under another intent", with("/intent", json!(EMBEDDING))),
        ("aad changed with the id", {
            let mut body = with("/iicp_conf/aad", text(format!("t-9|{CHAT}").as_bytes()));
            body["task_id"] = "t-9".into();
            body
        }),
        ("version", with("/iicp_conf/version", json!(2))),
        ("another's key", with("/iicp_conf/recipient_key_id", json!("cx-0000000000000000"))),
        ("nonce", with("/iicp_conf/nonce", text(&[6; 12]))),
        ("short nonce", with("/iicp_conf/nonce", text(&[6; 11]))),
        ("sender's key", with("/iicp_conf/kem_ciphertext", text(&[9; 32]))),
        ("low order", with("/iicp_conf/kem_ciphertext", text(&[0; 32]))),
        ("body", with("/iicp_conf/encrypted_body", text(&[7; 64]))),
        ("no body", with("/iicp_conf/encrypted_body", json!(""))),
        ("size", with("/iicp_conf/plaintext_size", json!(1_u64 << 40))),
        ("no envelope", with("/iicp_conf", json!("x"))),
        ("empty", with("/iicp_conf", json!({}))),
        ("list", with("/iicp_conf", json!([1, 2]))),
    ] {
        assert_refused(&mesh.post(&body).await, 400, "IICP-CX-02", what);
    }
    let mut both = good.clone();
    both["payload"] = json!({ "n": 1 });
    assert_refused(&mesh.post(&both).await, 400, "validation_error", "payload beside iicp_conf");
    let unsealed = json!({ "task_id": "t-3", "intent": CHAT, "payload": {}, "cx_response_encryption": "required" });
    assert_refused(&mesh.post(&unsealed).await, 400, "IICP-CX-03", "sealed reply to a plain task");
    assert_eq!(mesh.runs(), 0);

    let mut nothing_beside = good;
    nothing_beside["payload"] = Value::Null;
    assert_eq!(mesh.post(&nothing_beside).await.status, 200, "null is nothing");
}

#[tokio::test]
async fn what_was_sealed_must_be_json_of_bounded_depth() {
    let mesh = Mesh::start(|_| {}).await;
    let key = mesh.key().await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let bomb = "[".repeat(1_000_000);
    for (what, text) in
        [("empty", ""), ("no json", CANARY), ("two", "{} {}"), ("deep", &deep), ("bomb", &bomb), ("null", "null")]
    {
        let sealed = seal(&key, what, CHAT, text.as_bytes(), [1; 32]);
        assert_refused(&mesh.post(&sealed.body).await, 422, "validation_error", what);
    }
    let not_text = seal(&key, "t", CHAT, b"\"\xff\"", [1; 32]);
    assert_refused(&mesh.post(&not_text.body).await, 422, "validation_error", "not UTF-8");
    assert_eq!(mesh.runs(), 0);
}

#[tokio::test]
async fn failures_of_a_sealed_task_are_answered_in_plain_text() {
    let mesh = Mesh::start(|options| options.max_concurrent = 1).await;
    let key = mesh.key().await;
    let failing = seal(&key, "t-1", CHAT, br#"{"do":"fail"}"#, [1; 32]);
    assert_refused(&mesh.post(&failing.body).await, 422, "rejected", "the handler's refusal");
    let held = seal(&key, "t-2", CHAT, br#"{"do":"hold"}"#, [2; 32]);
    let full = async {
        while mesh.node.active_jobs() == 0 {
            tokio::task::yield_now().await;
        }
        let other = seal(&key, "t-3", CHAT, &prompt(), [3; 32]);
        assert_refused(&mesh.post(&other.body).await, 429, "capacity_exceeded", "full");
        mesh.release.notify_one();
    };
    let (answer, ()) = tokio::join!(mesh.post(&held.body), full);
    assert_eq!(held.open(&answer)["status"], "success");
}

#[tokio::test]
async fn the_same_task_sealed_again_runs_once_and_each_asker_can_open_its_reply() {
    let mesh = Mesh::start(|_| {}).await;
    let key = mesh.key().await;
    let first = seal(&key, "t-1", CHAT, br#"{"do":"hold"}"#, [1; 32]);
    let again = seal(&key, "t-1", CHAT, br#"{"do":"hold"}"#, [2; 32]);
    assert_ne!(first.body["iicp_conf"], again.body["iicp_conf"]);
    let release = async {
        while mesh.runs() == 0 {
            tokio::task::yield_now().await;
        }
        mesh.release.notify_one();
    };
    let (one, two, ()) = tokio::join!(mesh.post(&first.body), mesh.post(&again.body), release);
    assert_eq!(first.open(&one), again.open(&two), "also who came while it ran");
    // A stored answer is sealed to whoever asks now, never given out as it was sealed before.
    let later = seal(&key, "t-1", CHAT, br#"{"do":"hold"}"#, [3; 32]);
    let (third, fourth) = (mesh.post(&later.body).await, mesh.post(&later.body).await);
    assert_eq!(later.open(&third), later.open(&fourth));
    assert_ne!(third.json()["iicp_conf_resp"], fourth.json()["iicp_conf_resp"], "under another nonce each time");
    assert_eq!(mesh.runs(), 1);
    let other = seal(&key, "t-1", CHAT, &prompt(), [4; 32]);
    assert_refused(&mesh.post(&other.body).await, 409, "conflict", "other content");
}

#[tokio::test]
async fn a_recorded_task_sent_again_does_not_bring_its_answer_in_plain_text() {
    let mesh = Mesh::start(|_| {}).await;
    let sealed = seal(&mesh.key().await, "t-1", CHAT, &prompt(), [1; 32]);
    sealed.open(&mesh.post(&sealed.body).await);
    let mut replayed = sealed.body.clone();
    replayed.as_object_mut().unwrap().remove("cx_response_encryption");
    assert_refused(&mesh.post(&replayed).await, 409, "conflict", "asked for in plain text");
    assert_eq!(mesh.runs(), 1);
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn text(&self) -> Option<String> {
        Some(self.0.to_str().unwrap().into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn kept(directory: &Directory, state_dir: Option<String>) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.node_id = Some("kept".into());
    options.directory = directory.url();
    options.state_dir = state_dir;
    options
}

async fn serve(options: NodeOptions) -> iicp_core::Result<LiveNode> {
    Node::bind(options).await?.serve(async |task: Inbound| Ok(Reply::from(task.payload))).await
}

#[tokio::test]
async fn a_node_with_a_state_folder_comes_back_after_a_crash_and_one_without_is_told_why_not() {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let folder = Folder::new("state");
    drop(serve(kept(&directory, folder.text())).await.unwrap());
    let back = serve(kept(&directory, folder.text())).await.unwrap();
    assert!(back.is_registered(), "the directory knows its key");
    drop(back);
    let error = serve(kept(&directory, None)).await.unwrap_err();
    assert_eq!((error.code(), error.wire_code()), (Code::DirectoryRejected, Some("IICP-E049")));
    assert!(error.message().contains("kept") && error.message().contains("state_dir"), "{error}");
}

#[tokio::test]
async fn a_state_folder_that_is_of_no_use_is_refused_before_anything_is_served() {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let folder = Folder::new("broken");
    drop(serve(kept(&directory, folder.text())).await.unwrap());
    let file = std::fs::read_dir(folder.0.join("cx")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "{").unwrap();
    let error = serve(kept(&directory, folder.text())).await.unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    assert!(error.message().contains(file.to_str().unwrap()), "{error}");
    // Another node, which does not need what is broken; it has the id that it was given first.
    let mut nameless = kept(&directory, folder.text());
    nameless.node_id = None;
    let first = serve(nameless.clone()).await.unwrap().node_id().to_owned();
    assert_eq!(serve(nameless).await.unwrap().node_id(), first);
}
