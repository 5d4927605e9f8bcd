//! One gate for every way: what a node says of a task over HTTP, it says natively and through a relay.

use std::time::Duration;

use iicp_core::options::{NodeOptions, RelayWorkerOptions, TaskAuth};
use iicp_core::{CHAT, EMBEDDING, Error, Inbound, LiveNode, Node, Reply};
use iicp_tests::http::{Conn, post};
use iicp_tests::native::{Native, call_with};
use serde_json::{Value, json};

use super::soon;
use super::worker::{directory, relay_with};

const TOOL: &str = "urn:iicp:intent:tool:shell:v1";
const MOST: usize = 64 << 10;
const WAYS: [&str; 3] = ["http", "native", "relayed"];

/// What came of a task: status, code, message, and the result.
#[derive(Debug, PartialEq)]
struct Verdict {
    status: u64,
    code: Value,
    message: Value,
    result: Value,
}

struct Served {
    relay: LiveNode,
    worker: LiveNode,
    native: Native,
    count: usize,
    _directory: iicp_core::Directory,
}

/// A node behind a relay, which is also called where it listens.
async fn served(change: impl FnOnce(&mut NodeOptions)) -> Served {
    let directory = directory().await;
    let relay = relay_with(&directory, "relay-1", (0, 0), |_| ()).await;
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into(), TOOL.into()];
    options.node_id = Some("worker-1".into());
    options.directory = directory.url();
    options.max_body_bytes = MOST;
    options.access_token = Some("known-to-some".into());
    options.relay_worker = Some(RelayWorkerOptions::default());
    change(&mut options);
    let handler = async |task: Inbound| match task.json::<Value>()? {
        payload if payload["bad"] == true => Err(Error::rejected("not this one")),
        payload if payload["breaks"] == true => std::panic::resume_unwind(Box::new("as told")),
        payload if payload["hangs"] == true => std::future::pending().await,
        _ => Ok(Reply::from(task.payload)),
    };
    let worker = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    soon(async {
        while super::get(&relay, "/v1/relay-for/worker-1/iicp/health").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let native = Native::greet(worker.addr()).await.unwrap();
    Served { relay, worker, native, count: 0, _directory: directory }
}

impl Served {
    async fn over_http(&self, relayed: bool, body: &[u8]) -> Verdict {
        let (addr, path) = match relayed {
            true => (self.relay.addr(), "/v1/relay-for/worker-1/v1/task"),
            false => (self.worker.addr(), "/v1/task"),
        };
        let mut conn = Conn::open(addr).await.unwrap();
        conn.write(&post(path, "", body)).await.unwrap();
        let answer = soon(conn.answer()).await.unwrap();
        let json = answer.json();
        let (error, status) = (&json["error"], answer.status.into());
        Verdict {
            status,
            code: error["code"].clone(),
            message: error["message"].clone(),
            result: json["result"].clone(),
        }
    }

    async fn natively(&mut self, body: &[u8]) -> Verdict {
        self.native.send(&call_with("c", body.to_vec())).await.unwrap();
        let frame = soon(self.native.next()).await.unwrap().unwrap();
        let status = frame.get(100).as_integer().map_or(200, |status| u64::try_from(status).unwrap());
        let mut failed =
            frame.get(6).into_map().unwrap_or_default().into_iter().filter_map(|(_, value)| value.into_text().ok());
        let mut text = || failed.next().map_or(Value::Null, Value::from);
        Verdict { status, code: text(), message: text(), result: frame.json()["result"].take() }
    }

    /// The same task on each way, under an id of its own where it asks for one.
    async fn judge(&mut self, body: &[u8]) -> [Verdict; 3] {
        self.count += 1;
        let count = self.count;
        let named = |way: &str| match std::str::from_utf8(body) {
            // Ids of one length, so that what is wrong is at one place.
            Ok(text) => text.replace("$id", &format!("{}-{count}", &way[..4])).into_bytes(),
            Err(_) => body.to_vec(),
        };
        let http = self.over_http(false, &named(WAYS[0])).await;
        let native = self.natively(&named(WAYS[1])).await;
        [http, native, self.over_http(true, &named(WAYS[2])).await]
    }
}

fn with(change: Value) -> Vec<u8> {
    let mut task = json!({ "task_id": "$id", "intent": EMBEDDING, "payload": {"n": 1} });
    change.as_object().unwrap().iter().for_each(|(name, value)| task[name] = value.clone());
    task.to_string().into_bytes()
}

fn nested(depth: usize) -> Vec<u8> {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"task_id":"$id","intent":"{EMBEDDING}","payload":{open}{close}}}"#).into_bytes()
}

/// Tasks, and with which status they end.
fn matrix() -> Vec<(u64, Vec<u8>)> {
    let raw = |text: &str| text.replace("$intent", EMBEDDING).into_bytes();
    vec![
        (200, with(json!({}))),
        (200, with(json!({ "payload": [] }))),
        (200, with(json!({ "payload": "é\u{1F600}" }))),
        (200, with(json!({ "unknown": {"field": 1}, "source_node_id": "n-9" }))),
        (200, with(json!({ "constraints": null, "auth": null, "nonce": null }))),
        (200, with(json!({ "constraints": {"timeout_ms": 5_000, "qos": "batch"} }))),
        (200, with(json!({ "constraints": {"required_profiles": []} }))),
        (200, with(json!({ "auth": {"node_token": "known-to-some"} }))),
        (200, nested(100)),
        (422, nested(129)),
        (422, with(json!({ "payload": {"bad": true} }))),
        (500, with(json!({ "payload": {"breaks": true} }))),
        (504, with(json!({ "payload": {"hangs": true}, "constraints": {"timeout_ms": 100} }))),
        (413, with(json!({ "payload": "x".repeat(MOST) }))),
        (422, with(json!({ "payload": null }))),
        (422, with(json!({ "intent": "chat" }))),
        (422, with(json!({ "intent": null }))),
        (422, with(json!({ "intent": 7 }))),
        (422, with(json!({ "intent": format!("{EMBEDDING}\n") }))),
        (404, with(json!({ "intent": CHAT }))),
        (404, with(json!({ "intent": "urn:iicp:intent:llm:other:v1" }))),
        (403, with(json!({ "intent": TOOL }))),
        (422, with(json!({ "task_id": "" }))),
        (422, with(json!({ "task_id": null }))),
        (422, with(json!({ "task_id": 7 }))),
        (422, with(json!({ "task_id": "a|b" }))),
        (422, with(json!({ "task_id": "a\u{0}b" }))),
        (422, with(json!({ "task_id": "x".repeat(1_000) }))),
        (200, with(json!({ "constraints": [] }))),
        (422, with(json!({ "constraints": {"timeout_ms": 0} }))),
        (422, with(json!({ "constraints": {"timeout_ms": -1} }))),
        (422, with(json!({ "constraints": {"required_profiles": ["urn:iicp:profile:unheard-of:v1"]} }))),
        (400, with(json!({ "iicp_conf": {} }))),
        (400, with(json!({ "iicp_conf": {}, "payload": null }))),
        (400, with(json!({ "cx_response_encryption": "required" }))),
        (422, raw("")),
        (422, raw("null")),
        (422, raw("7")),
        (422, raw("[]")),
        (422, raw("{}")),
        (422, raw("no JSON")),
        (422, raw(r#"{"task_id":"$id","intent":"$intent","payload":{"n":1}"#)),
        (422, raw(r#"{"task_id":"$id","intent":"$intent","payload":{"n":1}} x"#)),
        (422, b"{\"task_id\":\"a\xff\",\"intent\":\"i\",\"payload\":{}}".to_vec()),
    ]
}

#[tokio::test]
async fn s16_the_same_tasks_are_judged_the_same_over_http_natively_and_through_a_relay() {
    let mut served = served(|_| ()).await;
    let matrix = matrix();
    assert!(matrix.len() >= 40);
    let mut unlike = Vec::new();
    for (status, body) in matrix {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let [http, native, relayed] = served.judge(&body).await;
        // What is no object at all the relay refuses itself, in its own words.
        let is_like = (http.status, &http.code, &http.result) == (relayed.status, &relayed.code, &relayed.result);
        if http.status != status || http != native || !is_like {
            unlike.push(format!("{shown}: not {status} but {http:.200?}, {native:.200?}, {relayed:.200?}"));
        }
    }
    assert!(unlike.is_empty(), "{unlike:#?}");
    // A task is the same task, and a nonce the same nonce, whichever way they come.
    for way in WAYS {
        let once = json!({ "task_id": format!("once-{way}"), "intent": EMBEDDING, "payload": {"n": 1} });
        let first = match way {
            "native" => served.natively(once.to_string().as_bytes()).await,
            way => served.over_http(way == "relayed", once.to_string().as_bytes()).await,
        };
        assert_eq!(first.status, 200, "{way}");
        let (same, mut other) = (served.judge(once.to_string().as_bytes()).await, once.clone());
        assert!(same.iter().all(|verdict| verdict.status == 200 && verdict.result == json!({"n": 1})), "{same:?}");
        other["payload"] = 2.into();
        let other = served.judge(other.to_string().as_bytes()).await;
        assert!(other.iter().all(|verdict| verdict.status == 409 && verdict.code == "conflict"), "{other:?}");
    }
    for (n, first) in WAYS.into_iter().enumerate() {
        let verdicts =
            served.judge(&with(json!({ "nonce": format!("after-{first}"), "task_id": format!("nonce-{n}") }))).await;
        assert_eq!(verdicts[0].status, 200);
        assert!(
            verdicts[1..].iter().all(|verdict| verdict.status == 409 && verdict.code == "IICP-E011"),
            "{verdicts:?}"
        );
    }
}

#[tokio::test]
async fn s16_who_proves_nothing_is_served_on_no_way_where_proof_is_required() {
    let mut served = served(|options| options.auth = TaskAuth::Required).await;
    for (status, auth) in
        [(401, Value::Null), (401, json!({ "node_token": "a guess" })), (200, json!({ "node_token": "known-to-some" }))]
    {
        for verdict in served.judge(&with(json!({ "auth": auth }))).await {
            assert_eq!(verdict.status, status, "{auth}: {verdict:?}");
        }
    }
}

#[tokio::test]
async fn s16_a_full_node_is_full_on_every_way() {
    let mut served = served(|options| options.max_concurrent = 2).await;
    let mut held = Vec::new();
    for n in 0..2 {
        let mut conn = Conn::open(served.worker.addr()).await.unwrap();
        let body = json!({ "task_id": format!("held-{n}"), "intent": EMBEDDING, "payload": {"hangs": true} });
        conn.write(&post("/v1/task", "", body.to_string().as_bytes())).await.unwrap();
        held.push(conn);
    }
    while served.worker.active_jobs() < 2 {
        tokio::task::yield_now().await;
    }
    for verdict in served.judge(&with(json!({}))).await {
        assert_eq!((verdict.status, verdict.code.as_str()), (429, Some("capacity_exceeded")));
    }
    for (addr, path) in [(served.worker.addr(), "/v1/task"), (served.relay.addr(), "/v1/relay-for/worker-1/v1/task")] {
        let task = json!({ "task_id": "one-more", "intent": EMBEDDING, "payload": {} });
        let answer = Conn::open(addr).await.unwrap().post(path, &task).await.unwrap();
        assert_eq!(answer.header("retry-after"), Some("2"), "{path}: with the same pause");
    }
}
