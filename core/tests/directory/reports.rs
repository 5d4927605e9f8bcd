//! What nodes and proxies hand in beside heartbeats, and what they are given for it.

use iicp_core::{CHAT, Directory};
use serde_json::{Value, json};

use crate::peer::{Reply, Wire, ask, beat, found, loopback, node, registered, request, with};
use crate::{hmac, verified};

/// A receipt as published nodes write it, signed with a key.
fn receipt(key: &Value, more: Value) -> Value {
    let mut receipt = json!({
        "node_id": "n-1", "task_id": "t-1", "tokens_used": 1500, "amount": 1.5, "nonce": "n".repeat(32),
        "expires_at": in_five_minutes(), "response_hash": "a".repeat(64), "reason": "task",
    });
    for (name, value) in more.as_object().unwrap() {
        receipt[name] = value.clone();
    }
    if receipt["signature"].is_null() {
        let text = |name: &str| receipt[name].as_str().unwrap_or_default().to_owned();
        let mut signed = format!(
            "{}:{}:{}:{}:{}:{}",
            text("task_id"),
            receipt["tokens_used"],
            text("cip_parent_task_id"),
            text("cip_session_key"),
            text("nonce"),
            text("response_hash")
        );
        if receipt["querying_node_id"].is_string() {
            signed += &format!(":{}", text("querying_node_id"));
        }
        receipt["signature"] = hmac(key, &signed).into();
    }
    receipt
}

fn in_five_minutes() -> String {
    let at = std::time::SystemTime::now() + std::time::Duration::from_secs(300);
    // "Fri, 27 Nov 2026 15:56:28 GMT"
    let http = httpdate::fmt_http_date(at);
    let parts: Vec<&str> = http.split(' ').collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = 1 + months.iter().position(|month| *month == parts[2]).unwrap();
    format!("{}-{month:02}-{}T{}+00:00", parts[3], parts[1], parts[4])
}

async fn award(directory: &Directory, token: &str, receipt: &Value) -> Reply {
    ask(directory, "POST /v1/credits/award", Some(token), &receipt.to_string()).await
}

#[tokio::test]
async fn a_receipt_is_judged_and_pays_nothing() {
    let directory = loopback().await;
    let new = ask(&directory, "POST /v1/register", None, &node("n-1", json!({}))).await.json();
    let (token, key) = (new["node_token"].as_str().unwrap(), &new["node_hmac_key"]);
    let good = receipt(key, json!({}));
    let reply = award(&directory, token, &good).await;
    assert_eq!((reply.status, &reply.json()["awarded"]), (200, &json!(0.0)), "{}", reply.text);
    let querying = json!({ "nonce": "q".repeat(40), "querying_node_id": "n-2", "cip_parent_task_id": "p" });
    assert_eq!(award(&directory, token, &receipt(key, querying)).await.status, 200);
    // A task without tokens is paid as one of a thousandth credit.
    let free = json!({ "nonce": "f".repeat(32), "tokens_used": 0, "amount": 0.001 });
    assert_eq!(award(&directory, token, &receipt(key, free)).await.status, 200);
    let changed = |name: &str, value: Value| {
        let mut receipt = receipt(key, json!({ "nonce": format!("{name:->32}") }));
        receipt[name] = value;
        receipt
    };
    for (what, bad) in [
        ("again", good.clone()),
        ("another task", changed("task_id", json!("t-2"))),
        ("another caller", changed("querying_node_id", json!("n-2"))),
        ("another key", receipt(&json!("guessed"), json!({ "nonce": "k".repeat(32) }))),
        ("too late", receipt(key, json!({ "nonce": "l".repeat(32), "expires_at": "2026-01-01T00:00:00Z" }))),
        ("for ever", receipt(key, json!({ "nonce": "e".repeat(32), "expires_at": "9999-01-01T00:00:00Z" }))),
        ("too much", receipt(key, json!({ "nonce": "m".repeat(32), "amount": 2.3 }))),
    ] {
        let reply = award(&directory, token, &bad).await;
        assert_eq!((reply.status, reply.code().as_str()), (422, "IICP-E027"), "{what}: {}", reply.text);
    }
    for (nonce, status) in [("1", 200), ("2", 422)] {
        let dear = json!({ "nonce": nonce.repeat(32), "tokens_used": 900_000, "amount": 900.0 });
        let reply = award(&directory, token, &receipt(key, dear)).await;
        assert_eq!(reply.status, status, "an hour has a limit: {}", reply.text);
    }
    for (field, value) in [
        ("nonce", json!("short")),
        ("signature", json!("zz")),
        ("response_hash", json!("A".repeat(64))),
        ("expires_at", json!("soon")),
        ("amount", json!(0)),
        ("tokens_used", json!(-1)),
        ("task_id", json!(null)),
    ] {
        let reply = award(&directory, token, &receipt(key, json!({ "signature": "b".repeat(64), field: value }))).await;
        assert!(reply.json()["error"]["fields"][field].is_array(), "{field}: {}", reply.text);
    }
    assert_eq!(award(&directory, token, &receipt(key, json!({ "node_id": "n-2" }))).await.status, 401);
    let balance = ask(&directory, "GET /v1/credits/balance", Some(token), "").await.json();
    assert_eq!(balance["balance"], 0.0);
}

#[tokio::test]
async fn what_a_proxy_saw_counts_once_a_minute_and_needs_its_token() {
    let directory = loopback().await;
    let new = ask(&directory, "POST /v1/register", None, &node("n-1", json!({}))).await.json();
    let (token, proxy) = (new["node_token"].as_str().unwrap(), new["proxy_token"].as_str().unwrap());
    let seen = |proxy_id: &str| {
        json!({ "proxy_node_id": proxy_id, "node_id": "n-2", "status": "success", "latency_ms_observed": 12 })
            .to_string()
    };
    let send = async |token: &str, body: &str| ask(&directory, "POST /v1/telemetry", Some(token), body).await;
    let first = send(proxy, &seen("n-1")).await;
    assert_eq!((first.status, &first.json()["accepted"]), (202, &json!(true)));
    let again = send(proxy, &seen("n-1")).await;
    assert_eq!((again.status, &again.json()["reason"]), (200, &json!("duplicate")));
    for (token, body) in [(token, seen("n-1")), (proxy, seen("n-2")), (proxy, "{}".into()), ("", seen("n-1"))] {
        let reply = send(token, &body).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "IICP-E032"), "{body}");
    }
    assert_eq!(send(proxy, r#"{"proxy_node_id":"n-1","status":"fine"}"#).await.status, 422);
    registered(&directory, "n-1", json!({})).await;
    assert_eq!(send(proxy, &seen("n-1")).await.status, 401, "it ends with the registration");
}

#[tokio::test]
async fn a_node_may_accuse_another_once_a_day_and_nothing_follows() {
    let directory = loopback().await;
    let token = registered(&directory, "n-1", json!({})).await;
    registered(&directory, "n-2", json!({})).await;
    let report = async |target: &str| {
        let body = json!({ "node_id": "n-1", "target_node_id": target, "finding": "declaration_divergence" });
        ask(&directory, "POST /v1/audit-report", Some(&token), &body.to_string()).await.status
    };
    assert_eq!(report("n-2").await, 202);
    assert_eq!(report("n-2").await, 429);
    assert_eq!(report("n-1").await, 422, "itself");
    assert_eq!(report("n-3").await, 404);
    assert_eq!(found(&directory, "min_reputation=0.5").await, ["n-1", "n-2"]);
}

#[tokio::test]
async fn a_worker_gets_a_ticket_for_one_relay_or_for_any() {
    let directory = loopback().await;
    let token = registered(&directory, "worker", json!({})).await;
    let mut ids = Vec::new();
    for (asked, relay) in [("{}", "*"), ("", "*"), (r#"{"relay_node_id":"relay-1"}"#, "relay-1")] {
        let reply = ask(&directory, "POST /api/v1/relay/ticket", Some(&token), asked).await;
        let body = reply.json();
        assert_eq!((reply.status, &body["worker_node_id"]), (201, &json!("worker")), "{}", reply.text);
        assert_eq!((&body["algorithm"], body["relay_node_id"].as_str().unwrap_or("*")), (&json!("ed25519"), relay));
        let claims = verified(&directory, "iicp:relay-bind-ticket:v1", &body["ticket"]).await;
        let (iat, jti) = (claims["iat"].as_u64().unwrap(), claims["jti"].as_str().unwrap().to_owned());
        let expected = json!({
            "v": 1, "typ": "relay-bind-ticket", "jti": jti, "iss": directory.url(), "sub": "worker", "aud": relay,
            "iat": iat, "exp": iat + 120,
        });
        assert_eq!((claims, &body["expires_at"]), (expected, &json!(iat + 120)));
        assert!(jti.len() == 32 && jti.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{jti}");
        ids.push(jti);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "each is another");
}

#[tokio::test]
async fn nobody_looks_around_in_this_machines_network_through_the_directory() {
    for probing in [false, true] {
        let directory = with(|options| options.probe = probing).await;
        let port = directory.addr().port();
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "localhost",
            "10.0.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "[::1]",
            "fe80::1",
            "::ffff:127.0.0.1",
            "host.local",
            "metadata.internal",
        ] {
            let line = format!("GET /v1/probe?host={host}&port={port}");
            let reply = ask(&directory, &line, None, "").await;
            assert_eq!((reply.status, reply.code().as_str()), (422, "private_address"), "{host}");
        }
    }
    let directory = loopback().await;
    let reply = ask(&directory, "GET /v1/probe?host=iicp.network&port=9484", None, "").await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "not_configured"),
        "and nobody at all if it does not probe"
    );
}

#[tokio::test]
async fn a_price_is_attested_if_it_is_signed_and_refused_if_it_is_signed_wrongly() {
    let directory = loopback().await;
    let key = json!("operators-key");
    let signed = |text: &str| hmac(&key, text);
    let with_price = |pricing: Value| node("n-1", json!({ "node_hmac_key": key, "pricing": pricing }));
    let price = async || {
        let listed = ask(&directory, &format!("GET /v1/discover?intent={CHAT}"), None, "").await.json();
        listed["nodes"][0]["pricing"].clone()
    };
    let signature = signed(r#"{"credit_cost_multiplier":2,"pricing_model":"flat"}"#);
    let good = json!({ "credit_cost_multiplier": 2.0, "pricing_model": "flat", "declaration_signature": signature });
    let reply = ask(&directory, "POST /v1/register", None, &with_price(good)).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let token = reply.json()["node_token"].as_str().unwrap().to_owned();
    assert_eq!(price().await, json!({ "credit_cost_multiplier": 2.0, "pricing_model": "flat", "attested": true }));
    let bad = json!({ "credit_cost_multiplier": 1.0, "pricing_model": "flat", "declaration_signature": signature });
    let reply = ask(&directory, "POST /v1/register", None, &with_price(bad.clone())).await;
    assert_eq!((reply.status, reply.code().as_str()), (422, "IICP-E010"));
    let reply = beat(&directory, "n-1", &token, json!({ "pricing": bad })).await;
    assert_eq!((reply.status, reply.code().as_str()), (422, "IICP-E010"));
    let signature = signed(r#"{"credit_cost_multiplier":1.5,"pricing_model":"per_token"}"#);
    let better = json!({ "credit_cost_multiplier": 1.5, "declaration_signature": signature });
    assert_eq!(beat(&directory, "n-1", &token, json!({ "pricing": better })).await.status, 200);
    assert_eq!(price().await, json!({ "credit_cost_multiplier": 1.5, "pricing_model": "per_token", "attested": true }));
    assert_eq!(found(&directory, "max_multiplier=1.5").await, ["n-1"]);
    assert_eq!(found(&directory, "max_multiplier=1.4").await, [""; 0]);
}

#[tokio::test]
async fn a_relay_shows_how_it_is_reached_and_how_busy_it_is() {
    let directory = loopback().await;
    let relay = json!({
        "relay_capable": true, "relay_accept_port": 9485, "transport_metadata": { "tls": "sha256" },
        "transport_candidates": [{ "type": "host" }], "relay_endpoint": "http://127.0.0.1:9485",
    });
    let token = registered(&directory, "relay", relay).await;
    registered(&directory, "plain", json!({})).await;
    beat(&directory, "relay", &token, json!({ "load": 0.25, "active_jobs": 1 })).await;
    let line = format!("GET /v1/discover?intent={CHAT}&relay_capable=true");
    let listed = ask(&directory, &line, None, "").await.json();
    assert_eq!((&listed["count"], &listed["relay_available"]), (&json!(1), &json!(true)));
    let shown = &listed["nodes"][0];
    assert_eq!((&shown["node_id"], &shown["load"], &shown["active_jobs"]), (&json!("relay"), &json!(0.25), &json!(1)));
    assert_eq!(shown["relay_accept_port"], 9485);
    let expected =
        json!({ "tls": "sha256", "candidates": [{ "type": "host" }], "relay_endpoint": "http://127.0.0.1:9485" });
    assert_eq!(shown["transport_metadata"], expected);
    let high = found(&directory, "min_quality_score=0.9").await;
    assert!(high.is_empty(), "{high:?}");
    assert_eq!(found(&directory, "min_quality_score=0.3").await.len(), 2);
}

#[tokio::test]
async fn an_intent_of_the_risk_table_is_neither_registered_nor_ticketed() {
    let directory = loopback().await;
    let intent = "urn:iicp:intent:credit:decision:v1";
    let body = node("n-1", json!({ "capabilities": [{ "intent": CHAT }, { "intent": intent }] }));
    for (line, body) in
        [("POST /v1/register", body), ("POST /v1/dispatch/ticket", json!({ "intent": intent }).to_string())]
    {
        let reply = ask(&directory, line, None, &body).await;
        assert_eq!((reply.status, reply.code().as_str()), (422, "IICP-POLICY-001"), "{line}");
        assert!(reply.text.contains("eu-ai-act-credit-essential-services"), "{}", reply.text);
    }
    assert_eq!(ask(&directory, "GET /v1/node/n-1", None, "").await.status, 404);
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads() {
    let directory = loopback().await;
    registered(&directory, "n-1", json!({})).await;
    let host = directory.addr().to_string();
    for path in ["/metrics", "/api/metrics"] {
        let request = request(&format!("GET {path}"), &[("host", &host)], "");
        let reply = Wire::connect(directory.addr()).await.answer(&request).await;
        assert!(reply.status == 200 && reply.headers["content-type"].starts_with("text/plain; version=0.0.4"));
        let text = reply.text;
        assert!(text.contains("iicp_directory_nodes{state=\"active\"} 1\n"), "{text}");
        assert!(text.contains("iicp_directory_answers_total{status=\"2xx\"} "), "{text}");
    }
}
