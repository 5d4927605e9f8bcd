//! What an operator can switch on, off and elsewhere.

use iicp_core::options::DirectoryOptions;
use iicp_core::{CHAT, Code, Directory};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::peer::{LIVE, Wire, ask, beat, eventually, found, loopback, node, registered, with};

/// A node's health endpoint that answers everything with one status.
async fn healthy(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap_or_default();
            let asked_health = head[..n].starts_with(b"GET /iicp/health ");
            let status = if asked_health { status } else { "400 Bad Request" };
            let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn with_the_probe_on_only_a_node_that_answers_is_taken() {
    let directory = with(|options| options.probe = true).await;
    let register = |id: &str, more: Value| {
        let body = node(id, more);
        let directory = &directory;
        async move { ask(directory, "POST /v1/register", None, &body).await }
    };
    let live = healthy("200 OK").await;
    assert_eq!(register("n-1", json!({ "endpoint": live })).await.status, 201);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dead = format!("http://{free}");
    for (endpoint, code) in [
        (dead.clone(), "IICP-E036"),
        (healthy("503 Service Unavailable").await, "IICP-E036"),
        ("http://192.0.2.1:9600".into(), "IICP-E035"),
        ("http://node.example.com".into(), "IICP-E035"),
    ] {
        let reply = register("n-2", json!({ "endpoint": endpoint })).await;
        assert_eq!((reply.status, reply.code().as_str()), (422, code), "{endpoint}");
    }
    let behind_nat = json!({ "endpoint": dead, "nat_type": "symmetric", "transport_method": "turn_relay" });
    assert_eq!(register("n-3", behind_nat).await.status, 201, "asking it would prove nothing");

    let elsewhere = healthy("200 OK").await;
    let reply = register("n-1", json!({ "endpoint": elsewhere })).await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "IICP-E050"), "its owner still answers at the old place");
    let again = register("n-1", json!({ "endpoint": live })).await;
    let token = again.json()["node_token"].clone();
    let moved = register("n-1", json!({ "endpoint": elsewhere, "current_node_token": token })).await;
    assert_eq!(moved.status, 201);
    assert_eq!(register("n-3", json!({ "endpoint": elsewhere })).await.status, 201, "nobody answers at its old place");
}

#[tokio::test]
async fn with_limits_on_each_route_has_its_own_rate() {
    let directory = with(|options| options.limits = true).await;
    let token = registered(&directory, "n-1", json!({})).await;
    let discover = format!("GET /v1/discover?intent={CHAT}");
    let lines = [
        (discover.as_str(), 60),
        ("POST /v1/dispatch/ticket", 60),
        ("GET /v1/directory-key", 60),
        ("GET /v1/registry/nodes", 60),
        ("GET /v1/bootstrap", 60),
        ("GET /v1/node/n-1", 60),
        ("POST /v1/heartbeat", 60),
        ("POST /v1/consumer-token", 20),
        ("POST /v1/relay/ticket", 20),
        ("GET /v1/probe?host=10.0.0.1&port=9484", 10),
        ("POST /v1/register", 59),
    ];
    for (line, allowed) in lines {
        let body = if line.contains("register") {
            node("n-2", json!({}))
        } else {
            json!({ "intent": CHAT, "target_node_id": "n-1" }).to_string()
        };
        let mut limited = None;
        // An allowance grows back while it is used up, so a slow machine gets some more.
        for n in 0..10 * allowed {
            let reply = ask(&directory, line, Some(&token), &body).await;
            if reply.status == 429 {
                limited = Some((n, reply));
                break;
            }
            assert!(reply.status < 300 || reply.code() == "private_address", "{line}: {}", reply.text);
        }
        let (served, reply) = limited.unwrap_or_else(|| panic!("{line} is not limited"));
        assert!(served >= allowed, "{line}: {served}");
        let retry_after = reply.headers["retry-after"].parse::<u32>().unwrap();
        assert!((1..=60).contains(&retry_after), "{line}");
        if line.contains("register") {
            let body = reply.json();
            assert_eq!((&body["error"], &body["retry_after"]), (&json!("IICP-E034"), &json!(retry_after)), "bare");
        } else {
            assert_eq!(reply.code(), "rate_limited");
        }
    }
    let left = ask(&directory, "DELETE /v1/register", Some(&token), &json!({ "node_id": "n-1" }).to_string()).await;
    assert_eq!(left.status, 200);
    let again = ask(&directory, "POST /v1/register", None, &node("n-2", json!({}))).await;
    assert_eq!(again.status, 201, "who leaves in order may come back: {}", again.text);
    assert_eq!(ask(&directory, "GET /v1/stats", None, "").await.status, 200, "this one has no rate");
}

#[cfg(not(feature = "sqlite"))]
#[tokio::test]
async fn without_sqlite_a_path_is_refused_before_anything_is_opened() {
    let mut options = DirectoryOptions::loopback();
    options.path = Some("/nowhere/directory.db".into());
    let error = Directory::bind(options).await.unwrap_err();
    assert!(error.code() == Code::Unsupported && error.message().contains("feature sqlite"), "{error}");
}

#[tokio::test]
async fn with_limits_on_an_address_has_twenty_nodes() {
    let directory = with(|options| options.limits = true).await;
    for n in 0..20 {
        registered(&directory, &format!("n-{n}"), json!({})).await;
    }
    let refused = ask(&directory, "POST /v1/register", None, &node("n-20", json!({}))).await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "IICP-E052"));
    registered(&directory, "n-19", json!({})).await;
}

#[tokio::test]
async fn with_limits_off_nothing_is_refused() {
    let directory = loopback().await;
    let token = registered(&directory, "n-1", json!({})).await;
    for _ in 0..100 {
        assert_eq!(beat(&directory, "n-1", &token, json!({})).await.status, 200);
        assert_eq!(found(&directory, "").await, ["n-1"]);
    }
}

#[tokio::test]
async fn with_gating_on_a_record_opens_the_stricter_classes() {
    let directory = with(|options| options.qos_gating = true).await;
    let token = registered(&directory, "n-1", json!({})).await;
    let sees = |qos: &'static str| {
        let directory = &directory;
        async move { !found(directory, &format!("qos={qos}")).await.is_empty() }
    };
    assert!(!sees("interactive").await && !sees("realtime").await && sees("batch").await && sees("best-effort").await);
    let batch = |id: &str, success: u32| json!({ "metrics_batch_id": id, "metrics": { "tasks_success": success } });
    beat(&directory, "n-1", &token, batch("b1", 99)).await;
    beat(&directory, "n-1", &token, batch("b1", 99)).await;
    assert!(!sees("interactive").await, "the same batch counts once");
    beat(&directory, "n-1", &token, batch("b2", 1)).await;
    assert!(sees("interactive").await && !sees("realtime").await);
    beat(&directory, "n-1", &token, batch("b3", 1_000)).await;
    assert!(!sees("realtime").await, "its reputation has not grown that much yet");
    assert_eq!(beat(&directory, "n-1", &token, batch("b4", 1_001)).await.status, 422);

    let open = loopback().await;
    registered(&open, "n-1", json!({})).await;
    assert_eq!(found(&open, "qos=realtime").await, ["n-1"], "without gating every node is seen");
}

#[tokio::test]
async fn a_silent_node_leaves_discovery_and_comes_back_with_a_heartbeat() {
    let directory = with(|options| options.node_ttl_ms = 3_000).await;
    let token = registered(&directory, "n-1", json!({})).await;
    let directory = &directory;
    eventually("the node leaves", || async move { found(directory, "").await.is_empty() }).await;
    assert_eq!(ask(directory, "GET /v1/registry/nodes/n-1", None, "").await.status, 200);
    assert_eq!(beat(directory, "n-1", &token, json!({})).await.status, 200);
    assert_eq!(found(directory, "").await, ["n-1"]);
}

#[tokio::test]
async fn only_loopback_is_served() {
    for host in ["0.0.0.0", "::", "192.0.2.1", "example.com", "", "localhost.example.com"] {
        let mut options = DirectoryOptions::loopback();
        options.host = host.into();
        assert_eq!(Directory::bind(options).await.unwrap_err().code(), Code::ConfidentialityRequired, "{host}");
    }
    let directory = with(|options| options.host = "localhost".into()).await;
    assert_eq!(ask(&directory, "GET /iicp/health", None, "").await.status, 200);
    let mut options = DirectoryOptions::loopback();
    options.max_nodes = 0;
    assert_eq!(Directory::bind(options).await.unwrap_err().code(), Code::ConfigInvalid);
    let mut options = DirectoryOptions::loopback();
    (options.host, options.port) = (directory.addr().ip().to_string(), directory.addr().port());
    assert_eq!(Directory::bind(options).await.unwrap_err().code(), Code::Bind);
}

#[tokio::test]
async fn after_shutdown_and_after_drop_nobody_listens() {
    let directory = loopback().await;
    let addr = directory.addr();
    assert!(directory.url().ends_with(&addr.to_string()));
    let idle = Wire::connect(addr).await;
    assert!(timeout(LIVE, directory.shutdown(LIVE)).await.unwrap(), "an idle connection does not hold it up");
    assert!(TcpStream::connect(addr).await.is_err());
    drop(idle);

    let directory = loopback().await;
    let addr = directory.addr();
    drop(directory);
    eventually("the port is closed", || async move { TcpStream::connect(addr).await.is_err() }).await;
}
