//! Who is let in: rates, tools, slots and the queue for them, nonces, and what callers prove.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iicp_core::options::{DirectoryOptions, NodeOptions, TaskAuth};
use iicp_core::{CHAT, Directory, Inbound, LiveNode, Node, Reply};
use iicp_tests::http::{Answer, Conn, addr, post};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const TOOL: &str = "urn:iicp:intent:tool:shell:v1";

/// A node whose handler says what it knows of the caller, and on `{"hold": true}` waits to be let go.
async fn node(change: impl FnOnce(&mut NodeOptions)) -> (LiveNode, Arc<Semaphore>) {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into(), TOOL.into()];
    options.node_id = Some("n-1".into());
    change(&mut options);
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let handler = move |task: Inbound| {
        let held = held.clone();
        async move {
            if task.json::<Value>()?["hold"] == true {
                held.acquire().await.unwrap().forget();
            }
            Ok(Reply::from(json!({
                "verified": task.caller.verified, "caller": task.caller.verified_node_id,
                "says": task.caller.source_node_id, "model": task.model, "max_tokens": task.max_tokens,
                "priority": task.priority, "trace": task.traceparent, "state": task.tracestate,
            })))
        }
    };
    (Node::bind(options).await.unwrap().serve(handler).await.unwrap(), gate)
}

fn task(id: &str, more: Value) -> Value {
    let mut task = json!({ "task_id": id, "intent": CHAT, "payload": {}, "constraints": {"timeout_ms": 20_000} });
    for (name, value) in more.as_object().unwrap() {
        task[name] = value.clone();
    }
    task
}

async fn send(node: &LiveNode, headers: &str, task: &Value) -> Answer {
    let mut conn = Conn::open(node.addr()).await.unwrap();
    conn.write(&post("/v1/task", headers, task.to_string().as_bytes())).await.unwrap();
    conn.answer().await.unwrap()
}

/// What holds for every refusal.
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{answer:?}");
    assert_eq!(answer.json()["code"], code, "where the published Python client looks for it");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let pause_ms = answer.json()["error"]["retry_after_ms"].as_u64();
    let seconds = answer.header("retry-after").and_then(|after| after.parse::<u64>().ok());
    assert_eq!(seconds, pause_ms.map(|ms| ms.div_ceil(1000)), "{answer:?}");
    assert_eq!(pause_ms.is_some(), matches!(status, 429 | 503), "{answer:?}");
}

#[tokio::test]
async fn a_page_may_send_so_much_a_minute_and_others_are_not_held_by_it() {
    let (node, _) = node(|options| options.rate_per_origin = 3).await;
    for n in 0..3 {
        assert_eq!(send(&node, "origin: https://a.example\r\n", &task(&format!("a{n}"), json!({}))).await.status, 200);
    }
    let over = send(&node, "origin: https://a.example\r\n", &task("a3", json!({}))).await;
    assert_refused(&over, 429, "IICP-E023");
    assert!((1..=60).contains(&over.header("retry-after").unwrap().parse::<u64>().unwrap()));
    assert_eq!(send(&node, "origin: https://b.example\r\n", &task("b", json!({}))).await.status, 200);
    for n in 0..5 {
        assert_eq!(send(&node, "", &task(&format!("none{n}"), json!({}))).await.status, 200, "no browser");
    }
    let malformed = send(&node, "origin: https://a.example\r\n", &json!({})).await;
    assert_refused(&malformed, 429, "IICP-E023");
}

#[tokio::test]
async fn an_address_may_send_so_much_a_minute_if_the_operator_wants_that() {
    let (node, _) = node(|options| options.rate_per_ip = 2).await;
    for n in 0..2 {
        assert_eq!(send(&node, "", &task(&format!("t{n}"), json!({}))).await.status, 200);
    }
    assert_refused(&send(&node, "origin: https://a.example\r\n", &task("t2", json!({}))).await, 429, "IICP-E023");
    let mut conn = Conn::open(node.addr()).await.unwrap();
    assert_eq!(conn.get("/iicp/health").await.unwrap().status, 200, "health is not counted");
}

#[tokio::test]
async fn tools_run_only_where_the_operator_allows_them() {
    let tool = task("t", json!({"intent": TOOL}));
    let (closed, _) = node(|_| {}).await;
    assert_refused(&send(&closed, "", &tool).await, 403, "tool_execution_denied");
    let (open, _) = node(|options| {
        let mut policy = iicp_core::options::NodePolicy::default();
        policy.allow_tool_execution = true;
        options.policy = Some(policy);
    })
    .await;
    assert_eq!(send(&open, "", &tool).await.status, 200);
}

#[tokio::test]
async fn what_a_task_requires_and_nobody_knows_is_refused_before_it_runs() {
    let (node, _) = node(|_| {}).await;
    let asks = task("t", json!({"constraints": {"required_profiles": ["urn:iicp:profile:unheard-of:v1"]}}));
    assert_refused(&send(&node, "", &asks).await, 422, "unsupported_profile");
    let asks = task("t", json!({"constraints": {"required_profiles": []}}));
    assert_eq!(send(&node, "", &asks).await.status, 200);
}

/// Sends a task that stays on its connection, and waits until the node has it.
async fn hold(node: &LiveNode, id: &str) -> Conn {
    let before = node.active_jobs();
    let mut conn = Conn::open(node.addr()).await.unwrap();
    let task = task(id, json!({"payload": {"hold": true}}));
    conn.write(&post("/v1/task", "", task.to_string().as_bytes())).await.unwrap();
    while node.active_jobs() == before {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    conn
}

#[tokio::test]
async fn urgent_tasks_wait_for_a_slot_and_others_are_refused_at_once() {
    let (node, gate) = node(|options| {
        options.max_concurrent = 1;
        options.queue_wait_ms = 30_000;
    })
    .await;
    let mut first = hold(&node, "first").await;
    for spelling in [json!({"qos": "batch"}), json!({"qos_class": "best_effort"}), json!({})] {
        let refused = send(&node, "", &task("batch", json!({"constraints": spelling}))).await;
        assert_refused(&refused, 429, "capacity_exceeded");
        let class = refused.json()["error"]["qos_class"].clone();
        assert!(class == "batch" || class == "best-effort", "{class}");
        assert_eq!(refused.json()["error"]["retry_after_ms"], 2000);
    }
    // Both names of the class, and the order of the queue: the second to come goes first.
    let mut later = Conn::open(node.addr()).await.unwrap();
    let interactive = task("later", json!({"constraints": {"qos_class": "interactive", "timeout_ms": 20_000}}));
    later.write(&post("/v1/task", "", interactive.to_string().as_bytes())).await.unwrap();
    let mut sooner = Conn::open(node.addr()).await.unwrap();
    let constraints = json!({"qos": "realtime", "timeout_ms": 20_000});
    let realtime = task("sooner", json!({"constraints": constraints, "payload": {"hold": true}}));
    // What waits is not seen from outside; it was read when a task that came after it on another connection is answered.
    tokio::time::sleep(Duration::from_millis(300)).await;
    sooner.write(&post("/v1/task", "", realtime.to_string().as_bytes())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.active_jobs(), 1);
    gate.add_permits(1);
    assert_eq!(first.answer().await.unwrap().status, 200);
    let waits = tokio::time::timeout(Duration::from_millis(300), later.answer()).await;
    assert!(waits.is_err(), "the slot went to the realtime task, which holds it");
    gate.add_permits(1);
    assert_eq!(sooner.answer().await.unwrap().status, 200);
    assert_eq!(later.answer().await.unwrap().status, 200);
    assert_eq!(node.active_jobs(), 0);
}

#[tokio::test]
async fn a_wait_that_is_over_or_given_up_leaves_nothing_behind() {
    let (node, gate) = node(|options| {
        options.max_concurrent = 1;
        options.queue_wait_ms = 200;
        options.queue_length = 2;
    })
    .await;
    let mut first = hold(&node, "first").await;
    let urgent = |id: &str| task(id, json!({"constraints": {"qos": "interactive"}}));
    assert_refused(&send(&node, "", &urgent("waits")).await, 429, "capacity_exceeded");
    // More that go away while they wait than there is room for.
    for n in 0..20 {
        let mut conn = Conn::open(node.addr()).await.unwrap();
        conn.write(&post("/v1/task", "", urgent(&format!("gone-{n}")).to_string().as_bytes())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_refused(&send(&node, "", &urgent("waits")).await, 429, "capacity_exceeded");
    gate.add_permits(1);
    assert_eq!(first.answer().await.unwrap().status, 200);
    assert_eq!(send(&node, "", &urgent("waits")).await.status, 200, "what was refused may come again");
    assert_eq!(node.active_jobs(), 0);
}

#[tokio::test]
async fn a_stopping_node_sends_away_who_waits() {
    let (node, gate) = node(|options| {
        options.max_concurrent = 1;
        options.queue_wait_ms = 30_000;
    })
    .await;
    let mut first = hold(&node, "first").await;
    let mut waiting = Conn::open(node.addr()).await.unwrap();
    let urgent = task("waits", json!({"constraints": {"qos": "realtime", "timeout_ms": 30_000}}));
    waiting.write(&post("/v1/task", "", urgent.to_string().as_bytes())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stopping = tokio::spawn(node.shutdown(Duration::from_secs(10)));
    assert_refused(&waiting.answer().await.unwrap(), 503, "temporarily_unavailable");
    gate.add_permits(1);
    assert_eq!(first.answer().await.unwrap().status, 200);
    assert!(stopping.await.unwrap());
}

#[tokio::test]
async fn a_nonce_is_good_once_and_an_envelope_that_comes_again_is_refused() {
    let (node, gate) = node(|options| options.max_concurrent = 1).await;
    let once = task("t-1", json!({"nonce": "n-1"}));
    assert_eq!(send(&node, "", &once).await.status, 200);
    assert_refused(&send(&node, "", &once).await, 409, "IICP-E011");
    assert_refused(&send(&node, "", &task("t-2", json!({"nonce": "n-1"}))).await, 409, "IICP-E011");
    assert_eq!(send(&node, "", &task("t-2", json!({"nonce": "n-2"}))).await.status, 200);
    // Without a nonce, the same task is asked for again, and gets its answer.
    assert_eq!(send(&node, "", &task("t-1", json!({}))).await.status, 200);
    // What was refused or not finished has used up nothing.
    let again = task("t-3", json!({"nonce": "n-3"}));
    let mut held = hold(&node, "held").await;
    assert_refused(&send(&node, "", &again).await, 429, "capacity_exceeded");
    gate.add_permits(1);
    assert_eq!(held.answer().await.unwrap().status, 200);
    assert_eq!(send(&node, "", &again).await.status, 200);
    let fails = task("t-4", json!({"nonce": "n-4", "payload": {"hold": true}, "constraints": {"timeout_ms": 50}}));
    assert_refused(&send(&node, "", &fails).await, 504, "task_timeout");
    gate.add_permits(1);
    assert_eq!(send(&node, "", &task("t-4", json!({"nonce": "n-4"}))).await.status, 200);
}

#[tokio::test]
async fn a_node_that_cannot_remember_nonces_takes_none_and_serves_the_rest() {
    let (node, _) = node(|options| options.replay_bytes = 64 << 10).await;
    let mut conn = Conn::open(node.addr()).await.unwrap();
    let mut refused = None;
    for n in 0..2_000 {
        let answer = conn.post("/v1/task", &task(&format!("t{n}"), json!({"nonce": n}))).await.unwrap();
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("64 KiB hold no 2,000 nonces");
    assert_refused(&refused, 503, "temporarily_unavailable");
    assert_refused(&conn.post("/v1/task", &task("r", json!({"nonce": 0}))).await.unwrap(), 409, "IICP-E011");
    assert_eq!(conn.post("/v1/task", &task("plain", json!({}))).await.unwrap().status, 200);
}

/// A directory, and somebody who has its credential.
struct Mesh {
    directory: Directory,
    credential: String,
}

impl Mesh {
    async fn start(port: u16) -> Mesh {
        let mut options = DirectoryOptions::loopback();
        options.port = port;
        options.heartbeat_ms = 100;
        let directory = Directory::bind(options).await.unwrap();
        let consumer = json!({
            "node_id": "the-consumer", "endpoint": "http://127.0.0.1:9", "region": "eu",
            "capabilities": [{ "intent": "urn:iicp:intent:lab:nothing:v1", "models": [], "max_tokens": 1 }],
            "limits": { "max_concurrent": 1, "tokens_per_min": 1 },
        });
        let mut conn = Conn::open(addr(&directory.url())).await.unwrap();
        let registered = conn.post("/v1/register", &consumer).await.unwrap().json();
        Mesh { directory, credential: registered["node_token"].as_str().unwrap().to_owned() }
    }

    async fn token(&self, target: &str, intent: &str) -> String {
        self.try_token(target, intent).await.unwrap()
    }

    /// None while the directory does not know the target.
    async fn try_token(&self, target: &str, intent: &str) -> Option<String> {
        let mut conn = Conn::open(addr(&self.directory.url())).await.unwrap();
        let headers = format!("authorization: Bearer {}\r\n", self.credential);
        let wanted = json!({ "target_node_id": target, "intent": intent }).to_string();
        conn.write(&post("/v1/consumer-token", &headers, wanted.as_bytes())).await.unwrap();
        conn.answer().await.unwrap().json()["token"].as_str().map(str::to_owned)
    }

    async fn node(&self, auth: TaskAuth) -> LiveNode {
        let url = self.directory.url();
        node(|options| {
            options.directory = url;
            options.auth = auth;
            options.access_token = Some("open sesame".into());
        })
        .await
        .0
    }
}

fn header(token: &str) -> String {
    format!("x-iicp-consumer-token: {token}\r\n")
}

#[tokio::test]
async fn a_consumer_token_names_the_caller_and_a_bad_one_is_refused() {
    let mesh = Mesh::start(0).await;
    let node = mesh.node(TaskAuth::Token).await;
    let token = mesh.token("n-1", CHAT).await;
    for n in 0..3 {
        let answer = send(&node, &header(&token), &task(&format!("t{n}"), json!({"source_node_id": "me"}))).await;
        let said = answer.json()["result"].clone();
        assert_eq!((&said["verified"], &said["caller"]), (&json!(true), &json!("the-consumer")), "{answer:?}");
        assert_eq!(said["says"], "me");
    }
    let (claims, signature) = token.split_once('.').unwrap();
    let mut forged: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    forged["sub"] = "somebody-else".into();
    let forged = format!("{}.{signature}", URL_SAFE_NO_PAD.encode(forged.to_string()));
    let flipped = format!("{claims}.{}{}", if signature.starts_with('0') { '1' } else { '0' }, &signature[1..]);
    let foreign = Mesh::start(0).await;
    let _other = foreign.node(TaskAuth::Token).await;
    let elsewhere = foreign.token("n-1", CHAT).await;
    let bad = [
        ("forged", forged),
        ("flipped", flipped),
        ("foreign", elsewhere),
        ("truncated", token[..token.len() - 1].to_owned()),
        ("halved", claims.to_owned()),
        ("for another intent", mesh.token("n-1", TOOL).await),
        ("for another node", mesh.token("the-consumer", CHAT).await),
        ("no text", "\u{e9}".to_owned()),
        ("long", "a".repeat(20_000)),
    ];
    for (what, token) in &bad {
        let answer = send(&node, &header(token), &task("bad", json!({}))).await;
        assert_refused(&answer, 401, "unauthorized");
        assert!(!answer.json().to_string().contains(&token[..token.len().min(40)]), "{what} is quoted");
    }
    let twice = format!("{}{}", header(&token), header(&bad[0].1));
    assert_refused(&send(&node, &twice, &task("twice", json!({}))).await, 401, "unauthorized");
    let bad = header(&bad[0].1);
    let own = task("own", json!({"auth": {"node_token": "open sesame"}}));
    assert_eq!(send(&node, &bad, &own).await.json()["result"]["verified"], true, "the node's own token is enough");
    // Nothing shown, or what official clients show: their own credential.
    let theirs = json!({"auth": {"node_token": mesh.credential}});
    for (what, shown) in [("nothing", json!({})), ("theirs", theirs), ("odd", json!({"auth": ["x"]}))] {
        assert_eq!(send(&node, "", &task(what, shown)).await.json()["result"]["verified"], false, "{what}");
    }
    assert_eq!(send(&node, &header(""), &task("empty", json!({}))).await.status, 200, "an empty one is none");
    let (open, _) = self::node(|options| options.auth = TaskAuth::Open).await;
    assert_eq!(send(&open, &bad, &task("t", json!({}))).await.json()["result"]["verified"], false, "not looked at");
}

#[tokio::test]
async fn a_node_that_requires_proof_serves_nobody_without() {
    let mesh = Mesh::start(0).await;
    let node = mesh.node(TaskAuth::Required).await;
    let token = mesh.token("n-1", "*").await;
    assert_eq!(send(&node, &header(&token), &task("a", json!({}))).await.json()["result"]["caller"], "the-consumer");
    for name in ["node_token", "token"] {
        let answer = send(&node, "", &task(name, json!({"auth": {name: "open sesame"}}))).await;
        let said = answer.json()["result"].clone();
        assert_eq!((&said["verified"], &said["caller"]), (&json!(true), &Value::Null));
    }
    let wrong = json!({"auth": {"node_token": "open sesam"}});
    let empty = json!({"auth": {"node_token": ""}});
    for (what, shown) in [("none", json!({})), ("wrong", wrong), ("empty", empty), ("null", json!({"auth": null}))] {
        assert_refused(&send(&node, "", &task(what, shown)).await, 401, "unauthorized");
        assert_refused(&send(&node, &header(""), &task(what, json!({}))).await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn a_directory_that_came_back_with_another_key_is_believed_again() {
    let mesh = Mesh::start(0).await;
    let node = mesh.node(TaskAuth::Required).await;
    let port = addr(&mesh.directory.url()).port();
    let old = mesh.token("n-1", CHAT).await;
    assert_eq!(send(&node, &header(&old), &task("before", json!({}))).await.status, 200);
    mesh.directory.shutdown(Duration::from_secs(5)).await;
    // Away: what is known is still known, the node's own token still counts, and all else is refused.
    assert_eq!(send(&node, &header(&old), &task("away", json!({}))).await.status, 200);
    let own = json!({"auth": {"node_token": "open sesame"}});
    assert_eq!(send(&node, &header("a.b"), &task("own", own)).await.status, 200);
    assert_refused(&send(&node, &header("a.b"), &task("bad", json!({}))).await, 401, "unauthorized");

    let mesh = Mesh::start(port).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut n = 0;
    loop {
        // The node is not known to the new directory before its next report, and the key is not asked for at every task.
        n += 1;
        let token = mesh.try_token("n-1", CHAT).await;
        let served = match &token {
            Some(token) => send(&node, &header(token), &task(&format!("after-{n}"), json!({}))).await.status == 200,
            None => false,
        };
        if served {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the new key was never taken: {:?}", token.is_some());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test]
async fn the_handler_learns_what_the_caller_wishes() {
    let (node, _) = node(|_| {}).await;
    let constraints = json!({"model": "m-7", "max_tokens": 9, "priority": "critical"});
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = format!("traceparent: {trace}\r\ntracestate: a=1,b=2\r\n");
    let said = send(&node, &headers, &task("t", json!({"constraints": constraints}))).await.json()["result"].clone();
    let expected = json!({
        "verified": false, "caller": null, "says": null, "model": "m-7", "max_tokens": 9, "priority": "critical",
        "trace": trace, "state": "a=1,b=2",
    });
    assert_eq!(said, expected);
    let said = send(&node, "tracestate: a=1\r\n", &task("u", json!({}))).await.json()["result"].clone();
    assert_eq!((&said["state"], &said["priority"]), (&Value::Null, &json!("normal")), "no trace, no state of it");
    // Another wish is another task.
    let other = send(&node, "", &task("t", json!({"constraints": {"model": "m-8"}}))).await;
    assert_refused(&other, 409, "conflict");
}
