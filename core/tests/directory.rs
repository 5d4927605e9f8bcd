//! The embedded directory as nodes, clients and web pages meet it: over a socket, byte by byte.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iicp_core::options::DirectoryOptions;
use iicp_core::{CHAT, Code, Directory};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// No answer may take longer, however busy the machine is.
const LIVE: Duration = Duration::from_secs(30);

struct Reply {
    status: u16,
    headers: HashMap<String, String>,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn code(&self) -> String {
        let body = self.json();
        assert_eq!(body["error"]["code"], body["code"], "{body}");
        body["code"].as_str().unwrap().to_owned()
    }
}

/// A connection that sends what it is told to, well-formed or not.
struct Wire(TcpStream, Vec<u8>);

impl Wire {
    async fn connect(addr: SocketAddr) -> Wire {
        Wire(TcpStream::connect(addr).await.unwrap(), Vec::new())
    }

    async fn exchange(&mut self, request: &[u8]) -> Reply {
        timeout(LIVE, async {
            self.0.write_all(request).await.unwrap();
            let head = loop {
                if let Some(end) = self.1.windows(4).position(|four| four == b"\r\n\r\n") {
                    break self.1.drain(..end + 4).collect::<Vec<u8>>();
                }
                assert_ne!(self.0.read_buf(&mut self.1).await.unwrap(), 0, "closed before an answer");
            };
            let head = String::from_utf8(head).unwrap();
            let mut lines = head.split("\r\n");
            let status = lines.next().unwrap()[9..12].parse().unwrap();
            let headers: HashMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers["content-length"].parse().unwrap();
            while self.1.len() < length {
                assert_ne!(self.0.read_buf(&mut self.1).await.unwrap(), 0, "closed inside an answer");
            }
            let text = String::from_utf8(self.1.drain(..length).collect()).unwrap();
            // What holds for every answer, whatever was asked.
            assert_eq!(headers["content-type"], "application/json", "{head}{text}");
            assert!(serde_json::from_str::<Value>(&text).is_ok_and(|body| body.is_object()), "{head}{text}");
            assert!(!headers.contains_key("access-control-allow-origin"), "{head}");
            Reply { status, headers, text }
        })
        .await
        .expect("no answer in time")
    }
}

fn request(line: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("{line} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    format!("{head}\r\n{body}").into_bytes()
}

/// Asks as a well-behaved peer does.
async fn ask(directory: &Directory, line: &str, token: Option<&str>, body: &str) -> Reply {
    let host = directory.addr().to_string();
    let bearer = format!("Bearer {}", token.unwrap_or_default());
    let mut headers = vec![("host", host.as_str()), ("content-type", "application/json")];
    headers.extend(token.map(|_| ("authorization", bearer.as_str())));
    Wire::connect(directory.addr()).await.exchange(&request(line, &headers, body)).await
}

async fn loopback() -> Directory {
    Directory::bind(DirectoryOptions::loopback()).await.unwrap()
}

async fn with(change: impl FnOnce(&mut DirectoryOptions)) -> Directory {
    let mut options = DirectoryOptions::loopback();
    change(&mut options);
    Directory::bind(options).await.unwrap()
}

fn node(id: &str, more: Value) -> String {
    let mut body = json!({
        "node_id": id, "endpoint": "http://127.0.0.1:9600", "region": "eu",
        "capabilities": [{ "intent": CHAT, "models": ["m-1"], "max_tokens": 8192, "input_modalities": ["text"] }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
        "sdk_version": "0.7.109", "sdk_update_consecutive_failures": 0, "something_new": [1, { "x": null }],
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

/// Registers a node and returns its token.
async fn registered(directory: &Directory, id: &str, more: Value) -> String {
    let reply = ask(directory, "POST /v1/register", None, &node(id, more)).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.json()["node_token"].as_str().unwrap().to_owned()
}

async fn beat(directory: &Directory, id: &str, token: &str, more: Value) -> Reply {
    let mut body = json!({ "node_id": id, "node_token": token, "status": "available", "max_concurrent": 4 });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    ask(directory, "POST /v1/heartbeat", Some(token), &body.to_string()).await
}

async fn found(directory: &Directory, query: &str) -> Vec<String> {
    let reply = ask(directory, &format!("GET /v1/discover?intent={CHAT}&{query}"), None, "").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.json();
    let nodes = body["nodes"].as_array().unwrap();
    assert_eq!(body["count"], nodes.len());
    nodes.iter().map(|node| node["node_id"].as_str().unwrap().to_owned()).collect()
}

/// Repeats a question until its answer is as it should be.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let asking = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(LIVE, asking).await.is_ok(), "never happened: {what}");
}

fn hmac(key: &Value, message: &Value) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.as_str().unwrap().as_bytes());
    let tag = ring::hmac::sign(&key, message.as_str().unwrap().as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks a signed text as a published client does, and reads its claims.
async fn verified(directory: &Directory, domain: &str, token: &Value) -> Value {
    let key = ask(directory, "GET /v1/directory-key", None, "").await.json();
    assert_eq!(key["algorithm"], "ed25519");
    let unhex = |text: &str| -> Vec<u8> {
        assert!(text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{text}");
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let (claims, signature) = token.as_str().unwrap().split_once('.').unwrap();
    let key: [u8; 32] = unhex(key["public_key"].as_str().unwrap()).try_into().unwrap();
    let signature: [u8; 64] = unhex(signature).try_into().unwrap();
    ed25519_dalek::VerifyingKey::from_bytes(&key)
        .unwrap()
        .verify_strict(format!("{domain}\n{claims}").as_bytes(), &ed25519_dalek::Signature::from_bytes(&signature))
        .unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn a_node_lives_through_its_whole_life_under_both_prefixes() {
    for base in ["/v1", "/api/v1"] {
        let directory = loopback().await;
        let ask = |line: &str, token: Option<String>, body: String| {
            let (method, path) = line.split_once(' ').unwrap();
            let line = format!("{method} {base}{path}");
            let directory = &directory;
            async move { ask(directory, &line, token.as_deref(), &body).await }
        };
        let id = "aaaaaaaa-0000-4000-8000-000000000001";
        let key = r#"{"key_id":"cx-1","features":["response_encryption_v1"],"encoding":"base64url","key":"Ip5","algorithm":"X25519"}"#;
        let body = node(id, json!({ "cx_public_key": "KEY" })).replace(r#""KEY""#, key);
        let reply = ask("POST /register", None, body).await;
        let new = reply.json();
        assert_eq!((reply.status, &new["expires_at"], &new["recovered"]), (201, &Value::Null, &json!(false)));
        assert_eq!((&new["node_id"], &new["observed_source_ip"]), (&json!(id), &json!("127.0.0.1")));
        let token = new["node_token"].as_str().unwrap().to_owned();
        assert!(token.len() <= 64 && !token.is_empty());

        let first = ask("POST /heartbeat", Some(token.clone()), json!({ "node_id": id }).to_string()).await;
        let first_body = first.json();
        assert_eq!(
            (first.status, &first_body["ok"], &first_body["next_heartbeat_ms"]),
            (200, &json!(true), &json!(30_000))
        );
        assert!(first_body["challenge_verified"].is_null(), "nothing was asked yet");
        let answer = hmac(&new["node_hmac_key"], &first_body["challenge"]);
        let second = json!({
            "node_id": id, "challenge_response": answer, "metrics_batch_id": "b-1",
            "metrics": { "tasks_success": 2, "tasks_failed": 1, "avg_latency_ms": 12.5 },
        });
        let second = ask("POST /heartbeat", Some(token.clone()), second.to_string()).await.json();
        assert_eq!((&second["challenge_verified"], &second["metrics_batch_accepted"]), (&json!(true), &json!("b-1")));
        assert_eq!(second["reputation_score"], 0.47);
        assert_ne!(second["challenge"], first_body["challenge"]);

        let found =
            ask(&format!("GET /discover?limit=10&intent={CHAT}&qos=interactive&model=m-1"), None, String::new()).await;
        let list = found.json();
        assert_eq!((found.status, &list["count"]), (200, &json!(1)));
        let entry = &list["nodes"][0];
        assert_eq!((&entry["node_id"], &entry["endpoint"]), (&json!(id), &json!("http://127.0.0.1:9600")));
        assert!(entry["score"].as_f64().unwrap() > 0.5 && entry["available"] == true);
        assert!(!found.text.contains("null"), "{}", found.text);
        assert!(found.text.contains(&format!(r#""cx_public_key":{key}"#)), "{}", found.text);

        let asked = json!({ "intent": CHAT, "limit": 10, "qos": "interactive", "exclude_node_id_prefixes": [] });
        let reply = ask("POST /dispatch/ticket", None, asked.to_string()).await;
        let ticket = reply.json();
        assert_eq!((reply.status, reply.headers["cache-control"].as_str()), (201, "no-store"));
        assert!(reply.text.contains(&format!(r#""cx_public_key":{key}"#)), "{}", reply.text);
        assert_eq!((&ticket["node_id"], &ticket["route"]["node_id"]), (&json!(id), &json!(id)));
        assert_eq!(
            (&ticket["node_id_prefix"], &ticket["prompt_payload_accepted"]),
            (&json!("aaaaaaaa"), &json!(false))
        );
        let claims = verified(&directory, "iicp:dispatch-route-ticket:v1", &ticket["ticket"]).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let iat = claims["iat"].as_u64().unwrap();
        assert!(now.abs_diff(iat) <= 30 && claims["exp"] == iat + 120 && ticket["expires_at"] == claims["exp"]);
        let jti = claims["jti"].as_str().unwrap();
        assert!(jti.len() == 24 && jti.starts_with(ticket["ticket_id_prefix"].as_str().unwrap()));
        let expected = json!({
            "v": 1, "typ": "dispatch-route-ticket", "iss": directory.url(), "aud": "iicp.directory.dispatch",
            "jti": jti, "node_id": id, "intent": CHAT, "iat": iat, "exp": iat + 120,
        });
        assert_eq!(claims, expected);

        let asked = json!({ "intent": CHAT, "exclude_node_id_prefixes": ["aaaaaaaa"] });
        let none = ask("POST /dispatch/ticket", None, asked.to_string()).await;
        assert_eq!((none.status, none.code().as_str()), (404, "no_route_available"));

        let listed = ask("GET /registry/nodes/aaaaaaaa", None, String::new()).await;
        assert_eq!((listed.status, &listed.json()["browser_usable"]), (200, &json!(true)));
        assert_eq!(listed.json()["node_id_prefix"], "aaaaaaaa");
        assert_eq!(ask("GET /registry/nodes/bbbbbbbb", None, String::new()).await.status, 404);

        let award = json!({ "node_id": id, "task_id": "t", "tokens_used": 1, "amount": 0.001 }).to_string();
        assert_eq!(ask("POST /credits/award", Some(token.clone()), award.clone()).await.status, 201);
        assert_eq!(ask("POST /credits/award", None, award).await.status, 401);

        let gone = ask("DELETE /register", Some(token.clone()), json!({ "node_id": id }).to_string()).await;
        assert_eq!((gone.status, &gone.json()["deregistered"]), (200, &json!(true)));
        let again = ask("DELETE /register", Some(token.clone()), json!({ "node_id": id }).to_string()).await;
        assert_eq!((again.status, again.code().as_str()), (404, "IICP-E003"));
        let late = ask("POST /heartbeat", Some(token), json!({ "node_id": id }).to_string()).await;
        assert_eq!((late.status, late.code().as_str()), (401, "unauthorized"));
        let empty = ask(&format!("GET /discover?intent={CHAT}"), None, String::new()).await;
        assert_eq!((empty.status, &empty.json()["nodes"]), (200, &json!([])));
    }
}

#[tokio::test]
async fn every_fault_of_a_credential_is_a_401() {
    let directory = loopback().await;
    let stale = registered(&directory, "n-1", json!({})).await;
    let token = registered(&directory, "n-1", json!({})).await;
    let other = registered(&directory, "n-2", json!({})).await;
    let body = json!({ "node_id": "n-1" }).to_string();
    for bad in [None, Some(""), Some(stale.as_str()), Some(other.as_str()), Some("nonsense")] {
        for body in [body.as_str(), r#"{"node_id":"n-1","load":"bad"}"#] {
            let reply = ask(&directory, "POST /v1/heartbeat", bad, body).await;
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"), "{bad:?}");
        }
        assert_eq!(ask(&directory, "DELETE /v1/register", bad, &body).await.status, 401, "{bad:?}");
    }
    assert_eq!(beat(&directory, "unknown", &token, json!({})).await.status, 401);
    for bad in [None, Some(stale.as_str())] {
        for line in [
            "GET /v1/me",
            "GET /v1/credits/balance",
            "GET /v1/credits/summary",
            "POST /v1/credits/award",
            "POST /v1/consumer-token",
        ] {
            assert_eq!(ask(&directory, line, bad, "{}").await.status, 401, "{line}");
        }
    }
    assert_eq!(beat(&directory, "n-1", &token, json!({})).await.status, 200);
    let me = ask(&directory, "GET /v1/me", Some(&token), "").await.json();
    assert_eq!((&me["node_id"], &me["observed_source_ip"]), (&json!("n-1"), &json!("127.0.0.1")));
}

#[tokio::test]
async fn registering_again_changes_the_token_and_keeps_the_challenge_key() {
    let directory = loopback().await;
    let first = ask(&directory, "POST /v1/register", None, &node("n-1", json!({}))).await.json();
    let second = ask(&directory, "POST /v1/register", None, &node("n-1", json!({ "region": "us" }))).await.json();
    assert_ne!(first["node_token"], second["node_token"]);
    assert_eq!(first["node_hmac_key"], second["node_hmac_key"]);
    assert_eq!((&first["recovered"], &second["recovered"]), (&json!(false), &json!(true)));
    assert_eq!(found(&directory, "region=us").await, ["n-1"]);
    let own = ask(&directory, "POST /v1/register", None, &node("n-2", json!({ "node_hmac_key": "mine" }))).await.json();
    assert_eq!(own["node_hmac_key"], "mine");
    let unnamed = ask(&directory, "POST /v1/register", None, &node("", json!({}))).await.json();
    assert_eq!(unnamed["node_id"].as_str().unwrap().len(), 36, "the directory gives it a UUID");
}

#[tokio::test]
async fn the_key_that_clients_seal_to_needs_proof_to_change() {
    let directory = loopback().await;
    let key = |key: &str| json!({ "algorithm": "X25519", "encoding": "base64url", "key": key, "key_id": "cx-1" });
    let token = registered(&directory, "n-1", json!({ "cx_public_key": key("a") })).await;
    let refused = ask(&directory, "POST /v1/register", None, &node("n-1", json!({ "cx_public_key": key("b") }))).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "IICP-E049"));
    assert_eq!(beat(&directory, "n-1", &token, json!({})).await.status, 200, "nothing has changed");
    registered(&directory, "n-1", json!({ "cx_public_key": key("b"), "current_node_token": token })).await;
    registered(&directory, "n-1", json!({ "cx_public_key": key("b"), "current_node_token": "stale" })).await;
}

#[tokio::test]
async fn what_is_signed_names_the_url_that_the_client_uses() {
    let directory = loopback().await;
    registered(&directory, "n-1", json!({})).await;
    let port = directory.addr().port();
    for host in [format!("localhost:{port}"), format!("127.1:{port}")] {
        let body = json!({ "intent": CHAT }).to_string();
        let request = request("POST /api/v1/dispatch/ticket", &[("host", &host)], &body);
        let ticket = Wire::connect(directory.addr()).await.exchange(&request).await.json();
        let claims = verified(&directory, "iicp:dispatch-route-ticket:v1", &ticket["ticket"]).await;
        assert_eq!(claims["iss"], format!("http://{host}"));
    }
}

#[tokio::test]
async fn a_ticket_is_for_the_node_that_was_asked_for() {
    let directory = loopback().await;
    for id in ["node-a1", "node-a2", "node-b1"] {
        registered(&directory, id, json!({})).await;
    }
    let ticket = |more: Value| {
        let mut body = more;
        body["intent"] = CHAT.into();
        let directory = &directory;
        async move {
            let reply = ask(directory, "POST /v1/dispatch/ticket", None, &body.to_string()).await;
            let what =
                if reply.status == 201 { reply.json()["node_id"].as_str().unwrap().into() } else { reply.code() };
            (reply.status, what)
        }
    };
    assert_eq!(ticket(json!({ "node_id": "node-b1" })).await, (201, "node-b1".into()));
    assert_eq!(ticket(json!({ "node_id_prefix": "node-b" })).await, (201, "node-b1".into()));
    assert_eq!(ticket(json!({ "node_id_prefix": "node-a" })).await, (409, "ambiguous_node_prefix".into()));
    assert_eq!(ticket(json!({ "node_id": "node-c" })).await, (404, "no_route_available".into()));
    assert_eq!(ticket(json!({ "exclude_node_id_prefixes": ["node-a"] })).await, (201, "node-b1".into()));
    for bad in [
        json!({ "node_id": "node-b1", "node_id_prefix": "node-b" }),
        json!({ "exclude_node_id_prefixes": vec!["node"; 11] }),
        json!({ "messages": [{ "role": "user", "content": "secret" }] }),
        json!({ "prompt": "secret" }),
        json!({ "qos": "soon" }),
    ] {
        assert_eq!(ticket(bad.clone()).await, (422, "validation_error".into()), "{bad}");
    }
}

#[tokio::test]
async fn a_consumer_token_names_the_caller_to_one_provider() {
    let directory = loopback().await;
    let token = registered(&directory, "consumer", json!({})).await;
    registered(&directory, "provider", json!({})).await;
    let asked = json!({ "target_node_id": "provider", "intent": CHAT }).to_string();
    let reply = ask(&directory, "POST /api/v1/consumer-token", Some(&token), &asked).await;
    let body = reply.json();
    assert_eq!(
        (reply.status, &body["caller_node_id"], &body["target_node_id"]),
        (201, &json!("consumer"), &json!("provider"))
    );
    let claims = verified(&directory, "iicp:consumer-token:v1", &body["token"]).await;
    let iat = claims["iat"].as_u64().unwrap();
    let expected = json!({
        "v": 1, "iss": directory.url(), "sub": "consumer", "aud": "provider", "intent": CHAT, "iat": iat, "exp": iat + 300,
    });
    assert_eq!(claims, expected);
    let unknown = json!({ "target_node_id": "nobody" }).to_string();
    assert_eq!(ask(&directory, "POST /v1/consumer-token", Some(&token), &unknown).await.status, 404);
    assert_eq!(ask(&directory, "POST /v1/consumer-token", Some(&token), "{}").await.status, 422);
}

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
    for endpoint in [dead.clone(), healthy("503 Service Unavailable").await, "http://192.0.2.1:9600".into()] {
        let reply = register("n-2", json!({ "endpoint": endpoint })).await;
        assert_eq!((reply.status, reply.code().as_str()), (422, "IICP-E036"), "{endpoint}");
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
            assert!(reply.status < 300, "{line}: {}", reply.text);
        }
        let (served, reply) = limited.unwrap_or_else(|| panic!("{line} is not limited"));
        assert!(served >= allowed, "{line}: {served}");
        assert_eq!(reply.code(), "rate_limited");
        assert!((1..=60).contains(&reply.headers["retry-after"].parse::<u32>().unwrap()), "{line}");
    }
    assert_eq!(ask(&directory, "GET /v1/stats", None, "").await.status, 200, "this one has no rate");
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
async fn what_a_heartbeat_says_decides_whether_a_node_is_found() {
    let directory = loopback().await;
    let token = registered(&directory, "n-1", json!({})).await;
    for (report, seen) in [
        (json!({ "available": false }), 0),
        (json!({}), 1),
        (json!({ "health_models": [] }), 0),
        (json!({ "health_models": ["m-1"] }), 1),
        (json!({ "backend_stability": { "backend_state": "draining" } }), 0),
        (json!({ "backend_stability": { "backend_state": "ok", "reason_class": "ok" } }), 1),
        (json!({ "load": null, "metrics": {}, "challenge_response": null }), 1),
    ] {
        assert_eq!(beat(&directory, "n-1", &token, report.clone()).await.status, 200, "{report}");
        assert_eq!(found(&directory, "").await.len(), seen, "{report}");
        let known = ask(&directory, "GET /v1/registry/nodes/n-1", None, "").await;
        assert_eq!(known.status, 200, "a node that is known must not be told to register again");
    }
}

#[tokio::test]
async fn a_silent_node_leaves_discovery_and_comes_back_with_a_heartbeat() {
    let directory = with(|options| options.node_ttl_ms = 1_000).await;
    let token = registered(&directory, "n-1", json!({})).await;
    let directory = &directory;
    eventually("the node leaves", || async move { found(directory, "").await.is_empty() }).await;
    assert_eq!(ask(directory, "GET /v1/registry/nodes/n-1", None, "").await.status, 200);
    assert_eq!(beat(directory, "n-1", &token, json!({})).await.status, 200);
    assert_eq!(found(directory, "").await, ["n-1"]);
}

#[tokio::test]
async fn web_pages_are_kept_out() {
    let directory = loopback().await;
    let own = directory.addr().to_string();
    let body = node("n-1", json!({}));
    for headers in [
        vec![("host", "evil.example")],
        vec![("host", "rebound.evil.example:9480"), ("content-type", "application/json")],
        vec![("host", own.as_str()), ("origin", "http://evil.example")],
        vec![("host", own.as_str()), ("origin", "null")],
        vec![("host", own.as_str()), ("host", "evil.example")],
    ] {
        for line in ["GET /iicp/health", "GET /v1/stats", "POST /v1/register", "OPTIONS /v1/register"] {
            let reply = Wire::connect(directory.addr()).await.exchange(&request(line, &headers, &body)).await;
            assert_eq!((reply.status, reply.code().as_str()), (403, "forbidden"), "{line} {headers:?}");
        }
    }
    for form in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = [("host", own.as_str()), ("content-type", form)];
        let reply =
            Wire::connect(directory.addr()).await.exchange(&request("POST /v1/register", &headers, &body)).await;
        assert_eq!(reply.status, 415, "{form}");
    }
    assert_eq!(ask(&directory, "GET /v1/node/n-1", None, "").await.status, 404, "nothing was registered");
    let here = [("host", own.as_str()), ("origin", "http://localhost:3000")];
    let reply = Wire::connect(directory.addr()).await.exchange(&request("GET /v1/stats", &here, "")).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn every_refusal_is_json_and_says_what_is_wrong() {
    let directory = loopback().await;
    let token = registered(&directory, "n-1", json!({})).await;
    let deep = format!(r#"{{"cx_public_key":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(65 << 10));
    let huge = format!(r#"{{"x":"{}"}}"#, "y".repeat(257 << 10));
    for (line, body, status, code) in [
        ("GET /", "", 404, "not_found"),
        ("GET /v1", "", 404, "not_found"),
        ("GET /v2/discover", "", 404, "not_found"),
        ("POST /v1/relay/ticket", "{}", 404, "not_found"),
        ("GET /v1/node/%ff%fe", "", 404, "not_found"),
        ("GET /v1/registry/nodes/%ff", "", 404, "REGISTRY-NODE-NOT-FOUND"),
        ("GET /v1/register", "", 405, "method_not_allowed"),
        ("PUT /api/v1/register", "{}", 405, "method_not_allowed"),
        ("OPTIONS /v1/register", "", 405, "method_not_allowed"),
        ("POST /v1/discover", "{}", 405, "method_not_allowed"),
        ("POST /v1/register", "", 400, "request_error"),
        ("POST /v1/register", "{", 400, "request_error"),
        ("POST /v1/register", "[]", 400, "request_error"),
        ("POST /v1/register", "{}", 422, "validation_error"),
        ("POST /v1/register", deep.as_str(), 422, "validation_error"),
        ("POST /v1/register", long.as_str(), 413, "payload_too_large"),
        ("POST /v1/register", huge.as_str(), 413, "payload_too_large"),
        ("POST /v1/heartbeat", huge.as_str(), 413, "payload_too_large"),
        ("POST /v1/heartbeat", "nonsense", 400, "request_error"),
        ("POST /v1/heartbeat", r#"{"health_models":"all"}"#, 422, "validation_error"),
        ("DELETE /v1/register", "{}", 422, "validation_error"),
        ("POST /v1/dispatch/ticket", "7", 400, "request_error"),
        ("POST /v1/dispatch/ticket", "{}", 422, "validation_error"),
        ("GET /v1/discover", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&limit=many", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&prompt=secret", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&profile_required=1", "", 422, "unsupported_pre_normative_profile"),
    ] {
        let reply = ask(&directory, line, Some(&token), body).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{line}: {}", reply.text);
    }
    let missing = ask(&directory, "POST /v1/register", None, r#"{"region":"1"}"#).await.json();
    assert_eq!(missing["error"]["fields"]["endpoint"], json!(["is required"]));
    assert!(missing["error"]["fields"]["region"].is_array());
    assert_eq!(beat(&directory, "n-1", &token, json!({})).await.status, 200, "the directory lives on");
}

#[tokio::test]
async fn the_smaller_look_ups_have_their_shapes() {
    let directory = loopback().await;
    let token = registered(&directory, "n-1", json!({})).await;
    let get = |path: &str| {
        let (line, directory, token) = (format!("GET {path}"), &directory, &token);
        async move {
            let reply = ask(directory, &line, Some(token), "").await;
            assert_eq!(reply.status, 200, "{line}: {}", reply.text);
            reply.json()
        }
    };
    assert_eq!(get("/iicp/health").await["role"], "directory");
    let did = get("/.well-known/did.json").await;
    let x = URL_SAFE_NO_PAD.decode(did["verificationMethod"][0]["publicKeyJwk"]["x"].as_str().unwrap()).unwrap();
    let hex: String = x.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(get("/v1/directory-key").await["public_key"], hex);
    assert_eq!(get("/v1/node/n-1").await["endpoint"], "http://127.0.0.1:9600");
    assert_eq!(get("/v1/bootstrap?limit=5").await["peers"][0]["node_id"], "n-1");
    assert_eq!(get("/v1/stats").await["server"]["active_nodes"], 1);
    assert_eq!(get("/v1/registry/nodes").await["count"], 1);
    assert_eq!(get("/v1/registry/intents").await["intents"], json!([{ "intent": CHAT, "nodes": 1 }]));
    assert_eq!(get("/v1/registry/stats").await, json!({ "active_nodes": 1, "intents": 1, "registered_nodes": 1 }));
    assert_eq!(get("/v1/credits/balance").await["tokens_per_credit"], 1000);
    assert_eq!(get("/v1/credits/summary?node_id=n-1").await["reconciles"], true);
    let public = get(&format!("/v1/discover?intent={CHAT}&view=public")).await;
    assert_eq!(
        (&public["data_class"], &public["nodes"][0]["node_id_prefix"]),
        (&json!("public_presentation"), &json!("n-1"))
    );
    assert!(public["nodes"][0]["endpoint"].is_null() && public["nodes"][0]["node_id"].is_null());
}

#[tokio::test]
async fn a_flood_of_registrations_stays_within_the_bound() {
    let directory = with(|options| (options.max_nodes, options.node_ttl_ms) = (200, 50)).await;
    let host = directory.addr().to_string();
    let headers = [("host", host.as_str()), ("content-type", "application/json")];
    let mut wire = Wire::connect(directory.addr()).await;
    let mut taken = 0;
    for n in 0..5_000 {
        let reply = wire.exchange(&request("POST /v1/register", &headers, &node(&format!("n-{n}"), json!({})))).await;
        match reply.status {
            201 => taken += 1,
            503 => assert_eq!((reply.code().as_str(), reply.headers["retry-after"].as_str()), ("directory_full", "30")),
            other => panic!("{other}: {}", reply.text),
        }
    }
    assert!(taken >= 200, "{taken}");
    let stats = wire.exchange(&request("GET /v1/registry/stats", &headers, "")).await.json();
    assert_eq!(stats["registered_nodes"], 200);
    let directory = &directory;
    eventually("dormant nodes make room", || async move {
        ask(directory, "POST /v1/register", None, &node("late", json!({}))).await.status == 201
    })
    .await;
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
