//! What a node's operator has signed, and what a price may be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use iicp_core::CHAT;
use serde_json::{Value, json};

use crate::peer::{ask, loopback, node, registered};
use crate::verified;

fn operator(seed: u8) -> (SigningKey, String) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = STANDARD.encode(key.verifying_key().to_bytes());
    (key, public)
}

/// What registers a node as the operator's, under a name, with a manifest that he has signed.
fn signed_by(seed: u8, node_id: &str, name: &str) -> Value {
    let (key, public) = operator(seed);
    let sign = |text: String| STANDARD.encode(key.sign(text.as_bytes()).to_bytes());
    let until = 9_000_000_000_u64;
    let mut manifest = json!({
        "version": "1", "jurisdiction": "DE", "retention": { "task_payload": "none" }, "signed_statement": "private",
        "signature": { "algorithm": "Ed25519", "public_key": public, "expires_at": "2999-01-01T00:00:00Z" },
    });
    manifest["signature"]["signature"] = sign(manifest.to_string()).into();
    let delegated = format!(r#"{{"node_id":"{node_id}","not_after":{until},"operator_pub":"{public}"}}"#);
    json!({
        "policy_manifest": manifest,
        "operator_display_name": name,
        "operator_delegation": { "node_id": node_id, "not_after": until, "operator_pub": public, "sig": sign(delegated) },
    })
}

#[tokio::test]
async fn a_signed_manifest_is_shown_bound_to_its_operator_and_to_the_ticket() {
    let directory = loopback().await;
    registered(&directory, "n-1", signed_by(7, "n-1", "Ann")).await;
    let found = ask(&directory, &format!("GET /v1/discover?intent={CHAT}"), None, "").await.json();
    let shown = &found["nodes"][0];
    assert_eq!((&shown["operator_display_name"], &shown["operator_verified"]), (&json!("Ann"), &json!(true)));
    let manifest = &shown["node_policy_manifest"];
    assert_eq!(manifest["manifest_identity_level"], "operator_bound");
    assert_eq!(manifest["verification"]["status"], "signed_valid");
    assert_eq!(manifest["operator_fingerprint"], shown["operator_fingerprint"]);
    let text = found.to_string();
    assert!(!text.contains(&operator(7).1) && !text.contains("private"), "keys and statements stay in the directory");
    let ticket = ask(&directory, "POST /v1/dispatch/ticket", None, &json!({ "intent": CHAT }).to_string()).await.json();
    let claims = verified(&directory, "iicp:dispatch-route-ticket:v1", &ticket["ticket"]).await;
    assert_eq!(claims["policy_manifest_sha256"], manifest["verification"]["canonical_sha256"]);
    assert_eq!(ticket["route"]["node_policy_manifest"], *manifest);
}

#[tokio::test]
async fn what_is_signed_badly_or_by_another_is_refused_or_worth_nothing() {
    let directory = loopback().await;
    let register = async |id: &str, more: Value| ask(&directory, "POST /v1/register", None, &node(id, more)).await;
    assert_eq!(register("n-1", signed_by(7, "n-1", "Ann")).await.status, 201);
    // The name is taken, however it is spelt.
    let reply = register("n-2", signed_by(8, "n-2", "ANN")).await;
    assert_eq!(reply.status, 422);
    let faults = reply.json()["error"]["fields"]["operator_display_name"].to_string();
    assert!(faults.contains("IICP-E051"), "{}", reply.text);
    // A word about another node binds nobody; the node is registered all the same.
    let mut foreign = signed_by(8, "n-9", "Bob");
    foreign.as_object_mut().unwrap().remove("policy_manifest");
    assert_eq!(register("n-2", foreign).await.status, 201);
    let shown = ask(&directory, "GET /v1/node/n-2", None, "").await.json();
    assert_eq!((&shown["operator_verified"], &shown["operator_display_name"]), (&json!(false), &Value::Null));
    let mut changed = signed_by(9, "n-3", "Cleo");
    changed["policy_manifest"]["jurisdiction"] = "US".into();
    let reply = register("n-3", changed).await;
    assert!(reply.json()["error"]["fields"]["policy_manifest.signature"].is_array(), "{}", reply.text);
    let over =
        json!({ "policy_manifest": { "signature": { "algorithm": "Ed25519", "public_key": "k", "signature": "s" } } });
    assert_eq!(register("n-3", over).await.status, 422);
}

#[tokio::test]
async fn a_price_is_held_to_what_the_largest_model_is_worth() {
    let directory = loopback().await;
    for (id, model, declared, shown) in [
        ("small", "gemma-3-270m", 50.0, 0.15),
        ("usual", "qwen2.5-7b-instruct", 50.0, 3.0),
        ("cheap", "llama3:70b", 50.0, 50.0),
        ("large", "llama3.1:405b", 500.0, 225.0),
        ("nameless", "gpt", 50.0, 50.0),
    ] {
        let more = json!({
            "capabilities": [{ "intent": CHAT, "models": ["m-1", model] }],
            "pricing": { "credit_cost_multiplier": declared },
        });
        registered(&directory, id, more).await;
        let node = ask(&directory, &format!("GET /v1/node/{id}"), None, "").await.json();
        let multiplier = node["pricing"]["credit_cost_multiplier"].as_f64().unwrap();
        assert!((multiplier - shown).abs() < 1e-9, "{model}: {multiplier}");
    }
}
