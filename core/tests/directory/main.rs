//! The embedded directory as nodes, clients and web pages meet it: over a socket, byte by byte.

#![allow(clippy::unwrap_used)]

mod hostile;
mod peer;
mod reports;
mod statements;
mod switches;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iicp_core::{CHAT, Directory};
use peer::{Wire, ask, beat, found, loopback, node, registered, request};
use serde_json::{Value, json};

fn hmac(key: &Value, message: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.as_str().unwrap().as_bytes());
    let tag = ring::hmac::sign(&key, message.as_bytes());
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
        let answer = hmac(&new["node_hmac_key"], first_body["challenge"].as_str().unwrap());
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
            "GET /v1/credits/transactions",
            "GET /v1/credits/quote",
            "POST /v1/credits/award",
            "POST /v1/audit-report",
            "POST /v1/relay/ticket",
            "POST /v1/telemetry",
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
    let peer = get("/v1/bootstrap?limit=5").await["peers"][0].clone();
    assert_eq!(peer["node_id"], "n-1");
    assert!(peer["last_seen"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{peer}");
    assert_eq!(get("/v1/stats").await["server"]["active_nodes"], 1);
    assert_eq!(get("/v1/registry/nodes").await["count"], 1);
    assert_eq!(get("/v1/registry/intents").await["intents"], json!([{ "intent": CHAT, "nodes": 1 }]));
    assert_eq!(get("/v1/registry/stats").await, json!({ "active_nodes": 1, "intents": 1, "registered_nodes": 1 }));
    assert_eq!(get("/v1/credits/balance").await["tokens_per_credit"], 1000);
    assert_eq!(get("/v1/credits/summary?node_id=n-1").await["reconciles"], true);
    assert_eq!(get("/v1/credits/transactions").await["transactions"], json!([]));
    let quote = get(&format!("/v1/credits/quote?intent={CHAT}&max_tokens=100")).await;
    assert_eq!((&quote["nodes_quoted"], &quote["balance_sufficient"]), (&json!(1), &json!(true)));
    assert_eq!(get("/iicp/ready").await["ready"], true);
    let public = get(&format!("/v1/discover?intent={CHAT}&view=public")).await;
    assert_eq!(
        (&public["data_class"], &public["nodes"][0]["node_id_prefix"]),
        (&json!("public_presentation"), &json!("n-1"))
    );
    assert!(public["nodes"][0]["endpoint"].is_null() && public["nodes"][0]["node_id"].is_null());
}

#[tokio::test]
async fn a_profile_is_negotiated_when_it_is_asked_for() {
    let directory = loopback().await;
    let known = "profile_id=iicp.profile.compatibility.v0&profile_version=0.4.0-draft&profile_fixture_sha256=\
                 d039eaf52afca6866832779261db7bdd2ffd818a36bc8ba9aea1db0c9c115012";
    let other = known.replace("0.4.0", "0.5.0");
    let discover = async |query: &str| {
        let reply = ask(&directory, &format!("GET /v1/discover?intent={CHAT}&{query}"), None, "").await;
        (reply.status, reply.json()["profile_negotiation"].clone())
    };
    assert_eq!(discover("limit=1").await, (200, Value::Null));
    let compatible =
        json!({ "requested": true, "status": "compatible", "reason": "compatible", "dispatch_allowed": true });
    for required in ["", "&profile_required=false", "&profile_required=true"] {
        assert_eq!(discover(&format!("{known}{required}")).await, (200, compatible.clone()));
    }
    let reason = "unsupported_pre_normative_profile";
    let unsupported = json!({ "requested": true, "status": "unsupported", "reason": reason, "dispatch_allowed": true });
    assert_eq!(discover(&other).await, (200, unsupported));
    let line = format!("GET /v1/discover?intent={CHAT}&{other}&profile_required=true");
    let refused = ask(&directory, &line, None, "").await;
    assert_eq!((refused.status, refused.code().as_str()), (422, reason));
}
