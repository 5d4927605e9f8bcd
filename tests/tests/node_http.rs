//! What a node answers to HTTP as it comes: from browsers, probes, published clients and worse.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use iicp_core::options::NodeOptions;
use iicp_core::{CHAT, Inbound, LiveNode, Node, Reply};
use iicp_tests::http::{Answer, Conn, post};
use serde_json::{Value, json};

/// A node that returns the payload, or hangs on `{"hang": true}`.
async fn node(change: impl FnOnce(&mut NodeOptions)) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.models = vec!["m-1".into()];
    options.region = "eu-central".into();
    change(&mut options);
    let handler = async |task: Inbound| {
        if task.json::<Value>()?["hang"] == true {
            std::future::pending::<()>().await;
        }
        Ok(Reply::from(task.payload))
    };
    Node::bind(options).await.unwrap().serve(handler).await.unwrap()
}

async fn open(node: &LiveNode) -> Conn {
    Conn::open(node.addr()).await.unwrap()
}

async fn send(node: &LiveNode, bytes: &[u8]) -> Answer {
    let mut conn = open(node).await;
    conn.write(bytes).await.unwrap();
    conn.answer().await.unwrap()
}

fn task(more: Value) -> Value {
    let mut task =
        json!({ "task_id": "t-1", "intent": CHAT, "payload": {"n": 1}, "constraints": {"timeout_ms": 5000} });
    for (name, value) in more.as_object().unwrap() {
        task[name] = value.clone();
    }
    task
}

/// What holds for every refusal: JSON, the code where every published client looks for it, readable for browsers.
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{answer:?}");
    assert_eq!(answer.json()["code"], code);
    assert!(answer.json()["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn health_is_what_directories_probe_for() {
    let node = node(|options| options.node_id = Some("n-1".into())).await;
    let mut conn = open(&node).await;
    let health = conn.get("/iicp/health").await.unwrap();
    assert_eq!(health.status, 200);
    let facts = health.json();
    for (name, value) in [
        ("status", json!("ok")),
        ("node_id", json!("n-1")),
        ("region", json!("eu-central")),
        ("available", json!(true)),
        ("active_jobs", json!(0)),
        ("max_concurrent", json!(4)),
        ("model", json!("m-1")),
        ("models", json!(["m-1"])),
        ("intent", json!(CHAT)),
        ("pinhole_state", json!({"active": false})),
    ] {
        assert_eq!(facts[name], value, "{name}");
    }
    assert!(facts["load"].is_f64() && facts["backend_stability"]["backend_state"] == "ok", "{facts}");
    conn.write(b"HEAD /iicp/health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let (status, _) = conn.head().await.unwrap();
    assert_eq!(status, 200);
    let next = conn.get("/iicp/health").await.unwrap();
    assert_eq!(next.json()["status"], "ok", "a HEAD has no body, so the connection goes on");
}

#[tokio::test]
async fn browsers_may_ask_and_read() {
    let node = node(|_| {}).await;
    for path in ["/v1/task", "/iicp/health", "/metrics"] {
        let preflight = format!(
            "OPTIONS {path} HTTP/1.1\r\nhost: localhost\r\norigin: https://example.com\r\n\
             access-control-request-method: POST\r\naccess-control-request-headers: content-type,traceparent\r\n\r\n"
        );
        let answer = send(&node, preflight.as_bytes()).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("*")), "{path}");
        assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
        let headers = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
        assert!(
            ["content-type", "traceparent", "authorization"].iter().all(|name| headers.contains(name)),
            "{headers}"
        );
    }
    let answer =
        send(&node, &post("/v1/task", "origin: https://example.com\r\n", task(json!({})).to_string().as_bytes())).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
}

#[tokio::test]
async fn a_reply_has_all_that_the_specification_asks_for() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    let reply = conn.post("/v1/task", &task(json!({"payload": {"x": [1, null]}}))).await.unwrap();
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    assert_eq!((&reply["task_id"], &reply["status"]), (&json!("t-1"), &json!("success")));
    assert_eq!(reply["result"], json!({"x": [1, null]}));
    assert_eq!(reply["generated_by_ai"], true);
    assert!(reply["metrics"]["latency_ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{reply}");
    assert!(reply.get("usage").is_none() && reply["error"].is_null());
}

#[tokio::test]
async fn paths_and_methods_that_are_none_are_refused_as_json() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    for path in ["/", "/v1/tasks", "/v1/task/", "/V1/TASK", "/v1/task%00", "/../v1/task", "//v1/task", "/iicp/health/x"]
    {
        assert_refused(&conn.get(path).await.unwrap(), 404, "not_found");
    }
    for (method, path, allowed) in [
        ("GET", "/v1/task", "POST"),
        ("DELETE", "/v1/task", "POST"),
        ("POST", "/iicp/health", "GET"),
        ("PUT", "/metrics", "GET"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
        conn.write(request.as_bytes()).await.unwrap();
        let answer = conn.answer().await.unwrap();
        assert_refused(&answer, 405, "method_not_allowed");
        assert!(answer.header("allow").unwrap().contains(allowed), "{method} {path}");
    }
    // A path with a query is still the path.
    assert_eq!(conn.get("/iicp/health?probe=1").await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_no_task_is_refused_with_its_reason() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    let deep = format!(r#"{{"task_id":"t","intent":"{CHAT}","payload":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let bomb = "[".repeat(1_000_000);
    let list = json!(["t-1", CHAT, { "n": 1 }]).to_string();
    let bodies: &[(&[u8], u16, &str)] = &[
        (list.as_bytes(), 422, "validation_error"),
        (b"", 422, "validation_error"),
        (b"null", 422, "validation_error"),
        (b"[]", 422, "validation_error"),
        (b"{", 422, "validation_error"),
        (b"{}", 422, "validation_error"),
        (b"\xff\xfe", 422, "validation_error"),
        (b"task_id=t&intent=x", 422, "validation_error"),
        (deep.as_bytes(), 422, "validation_error"),
        (bomb.as_bytes(), 422, "validation_error"),
    ];
    for (body, status, code) in bodies {
        conn.write(&post("/v1/task", "", body)).await.unwrap();
        assert_refused(&conn.answer().await.unwrap(), *status, code);
    }
    for (change, status, code) in [
        (json!({"task_id": ""}), 422, "validation_error"),
        (json!({"task_id": 7}), 422, "validation_error"),
        (json!({"task_id": null}), 422, "validation_error"),
        (json!({"intent": "chat"}), 422, "validation_error"),
        (json!({"intent": "urn:iicp:intent:llm:chat:v1+fast"}), 422, "validation_error"),
        (json!({"intent": "urn:iicp:intent:llm:embedding:v1"}), 404, "unknown_intent"),
        (json!({"payload": null}), 422, "validation_error"),
        (json!({"payload": null, "iicp_conf": {"v": 1}}), 400, "IICP-CX-02"),
        (json!({"constraints": {"timeout_ms": 0}}), 422, "validation_error"),
        (json!({"constraints": {"timeout_ms": -5}}), 422, "validation_error"),
        (json!({"constraints": {"timeout_ms": "soon"}}), 422, "validation_error"),
    ] {
        let answer = conn.post("/v1/task", &task(change)).await.unwrap();
        assert_refused(&answer, status, code);
    }
    let cbor = b"POST /v1/task HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/iicp+cbor\r\ncontent-length: 1\r\n\r\n\xa0";
    assert_refused(&send(&node, cbor).await, 415, "unsupported_media_type");
    assert_eq!(node.active_jobs(), 0);
}

#[tokio::test]
async fn what_published_clients_send_beside_the_task_is_passed_over() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    let more = json!({
        "auth": {"node_token": "x"}, "nonce": "n", "trace": {"trace_id": "x"}, "cip": {}, "cx_response_encryption": null, "iicp_conf": null,
        "source_node_id": "other", "constraints": {"timeout_ms": 60000.0, "qos": "best_effort", "priority": "high", "consensus": "none", "required_profiles": []}
    });
    assert_eq!(conn.post("/v1/task", &task(more)).await.unwrap().status, 200);
    for constraints in
        [json!(null), json!({}), json!({"timeout_ms": null, "qos": "no such class"}), json!({"timeout_ms": 99_999_999})]
    {
        let more = json!({"task_id": constraints.to_string().replace(' ', ""), "constraints": constraints});
        assert_eq!(conn.post("/v1/task", &task(more)).await.unwrap().status, 200, "{constraints}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let node = node(|options| options.max_body_bytes = 4096).await;
    let body = task(json!({"payload": {"pad": "x".repeat(100_000)}})).to_string();
    assert_refused(&send(&node, &post("/v1/task", "", body.as_bytes())).await, 413, "request_too_large");
    let chunked = format!(
        "POST /v1/task HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_refused(&send(&node, chunked.as_bytes()).await, 413, "request_too_large");
    let huge = b"POST /v1/task HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10000000000\r\n\r\n{";
    assert_refused(&send(&node, huge).await, 413, "request_too_large");
    let answer = send(&node, &post("/v1/task", "", task(json!({})).to_string().as_bytes())).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_body_that_breaks_off_runs_nothing() {
    let node = node(|_| {}).await;
    let whole = post("/v1/task", "", task(json!({})).to_string().as_bytes());
    for cut in [whole.len() - 1, whole.len() / 2, 30, 1] {
        let mut conn = open(&node).await;
        conn.write(&whole[..cut]).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(conn.socket()).await.unwrap();
        let rest = String::from_utf8(conn.rest().await).unwrap();
        assert!(!rest.contains("200 OK"), "cut at {cut}: {rest}");
    }
    assert_eq!(finished(&node).await, 0, "no handler ran");
}

#[tokio::test]
async fn the_providers_own_word_on_a_timeout_is_504() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    let begun = Instant::now();
    let more = json!({"payload": {"hang": true}, "constraints": {"timeout_ms": 300}});
    let answer = conn.post("/v1/task", &task(more)).await.unwrap();
    assert_refused(&answer, 504, "task_timeout");
    assert_eq!(answer.json()["error"]["task_id"], "t-1");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(node.active_jobs(), 0);
}

#[tokio::test]
async fn a_full_node_says_when_to_come_back() {
    let node = node(|options| options.max_concurrent = 1).await;
    let mut first = open(&node).await;
    first.write(&post("/v1/task", "", task(json!({"payload": {"hang": true}})).to_string().as_bytes())).await.unwrap();
    until(|| node.active_jobs() == 1).await;
    let mut conn = open(&node).await;
    let more = json!({"task_id": "t-2", "constraints": {"qos": "interactive"}});
    let answer = conn.post("/v1/task", &task(more)).await.unwrap();
    assert_refused(&answer, 429, "capacity_exceeded");
    assert_eq!(answer.header("retry-after"), Some("2"));
    let error = &answer.json()["error"];
    assert_eq!((&error["qos_class"], &error["retry_after_ms"]), (&json!("interactive"), &json!(2000)));
    let health = conn.get("/iicp/health").await.unwrap().json();
    assert_eq!((&health["available"], &health["load"]), (&json!(false), &json!(1.0)));
}

#[tokio::test]
async fn a_draining_node_answers_health_and_refuses_tasks() {
    let node = node(|_| {}).await;
    let addr = node.addr();
    let (mut busy, mut other) = (Conn::open(addr).await.unwrap(), Conn::open(addr).await.unwrap());
    let more = json!({"payload": {"hang": true}, "constraints": {"timeout_ms": 2000}});
    busy.write(&post("/v1/task", "", task(more).to_string().as_bytes())).await.unwrap();
    until(|| node.active_jobs() == 1).await;
    let draining = tokio::spawn(node.shutdown(Duration::from_secs(30)));
    let health = loop {
        let health = other.get("/iicp/health").await.unwrap().json();
        if health["backend_stability"]["backend_state"] == "draining" {
            break health;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(health["available"], false);
    let refused = other.post("/v1/task", &task(json!({"task_id": "t-2"}))).await.unwrap();
    assert_refused(&refused, 503, "temporarily_unavailable");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(busy.answer().await.unwrap().status, 504, "the running task gets its answer");
    assert!(draining.await.unwrap(), "and then the node is done, in time");
    assert!(Conn::open(addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn the_metrics_page_counts_what_ended_how() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    for n in 0..3 {
        conn.post("/v1/task", &task(json!({"task_id": format!("t-{n}"), "constraints": {"qos": "batch"}})))
            .await
            .unwrap();
    }
    let hang = json!({"task_id": "h", "payload": {"hang": true}, "constraints": {"timeout_ms": 100}});
    conn.post("/v1/task", &task(hang)).await.unwrap();
    let page = conn.get("/metrics").await.unwrap();
    assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let page = String::from_utf8(page.body).unwrap();
    let value = |parts: &[&str]| {
        let line = page.lines().find(|line| parts.iter().all(|part| line.contains(part)) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!(value(&["iicp_tasks_total", "completed", "\"batch\"", CHAT]), Some(3.0), "{page}");
    assert_eq!(value(&["iicp_tasks_total", "timeout", CHAT, "best"]), Some(1.0), "{page}");
    assert_eq!(value(&["iicp_task_latency_ms_count", "\"batch\""]), Some(3.0), "{page}");
    assert!(value(&["iicp_task_latency_ms_bucket", "le=\"5000\"", "\"batch\""]).is_some(), "{page}");
    assert_eq!(value(&["iicp_active_jobs"]), Some(0.0));
    assert_eq!(value(&["iicp_connections "]), Some(1.0), "{page}");
}

#[tokio::test]
async fn requests_that_come_before_their_turn_are_answered_in_order() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    let requests: Vec<u8> = (0..20)
        .flat_map(|n| {
            post("/v1/task", "", task(json!({"task_id": format!("t-{n}"), "payload": n})).to_string().as_bytes())
        })
        .collect();
    conn.write(&requests).await.unwrap();
    for n in 0..20 {
        assert_eq!(conn.answer().await.unwrap().json()["result"], n);
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_continue_is_told() {
    let node = node(|_| {}).await;
    let mut conn = open(&node).await;
    let body = task(json!({})).to_string();
    let head = format!(
        "POST /v1/task HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    conn.write(head.as_bytes()).await.unwrap();
    assert_eq!(conn.head().await.unwrap().0, 100);
    conn.write(body.as_bytes()).await.unwrap();
    assert_eq!(conn.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn old_http_and_closing_are_understood() {
    let node = node(|_| {}).await;
    for request in [
        "GET /iicp/health HTTP/1.0\r\n\r\n",
        "GET /iicp/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    ] {
        let mut conn = open(&node).await;
        conn.write(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(conn.rest().await).unwrap();
        assert!(answer.contains("200 OK") && answer.ends_with('}'), "{answer}");
    }
}

#[tokio::test]
async fn the_callers_trace_id_comes_back_and_carries_nothing_else_in() {
    let node = node(|_| {}).await;
    let answer = send(&node, b"GET /iicp/health HTTP/1.1\r\nhost: localhost\r\nx-iicp-trace-id: abc-123\r\n\r\n").await;
    assert_eq!(answer.header("x-iicp-trace-id"), Some("abc-123"));
    // A bare CR is not a line end to us, and must not become one in the answer.
    let mut conn = open(&node).await;
    conn.write(b"GET /iicp/health HTTP/1.1\r\nhost: localhost\r\nx-iicp-trace-id: a\rset-cookie: x\r\n\r\n")
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::shutdown(conn.socket()).await.unwrap();
    let answer = String::from_utf8_lossy(&conn.rest().await).into_owned();
    assert!(!answer.contains("set-cookie"), "{answer}");
}

/// Tasks that the node has counted as ended, in whatever way.
async fn finished(node: &LiveNode) -> u64 {
    let page = open(node).await.get("/metrics").await.unwrap().body;
    let page = String::from_utf8(page).unwrap();
    let counts = page.lines().filter(|line| line.starts_with("iicp_tasks_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

async fn until(mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !reached() {
        assert!(Instant::now() < deadline, "it never came to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
