use serde_json::{Value, json};
use x25519_dalek::StaticSecret;

use super::node_key::Unopened;
use super::*;

const TASK: &str = "00000000-0000-4000-8000-000000000001";
const INTENT: &str = crate::types::CHAT;
const NOW: u64 = 1_795_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/cx-v1.json")).unwrap()
}

fn bytes<const N: usize>(hex: &Value) -> [u8; N] {
    let hex = hex.as_str().unwrap();
    assert_eq!(hex.len(), N * 2);
    std::array::from_fn(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A node's key, read as a consumer reads it.
fn published(key: &NodeKey) -> SealingKey {
    SealingKey::read(&key.public_json(), NOW).unwrap()
}

fn sealed_by_the_vectors(vectors: &Value) -> (NodeKey, Vec<u8>, ReplyKey) {
    let node = NodeKey::from_private(bytes(&vectors["node_private"]));
    let ephemeral = StaticSecret::from(bytes::<32>(&vectors["ephemeral_private"]));
    let (nonce, plaintext) = (bytes(&vectors["task"]["nonce"]), text(&vectors["task"]["plaintext"]).as_bytes());
    let (envelope, reply) = published(&node).seal_with(&ephemeral, nonce, TASK, INTENT, plaintext).unwrap();
    (node, envelope, reply)
}

#[test]
fn the_golden_vectors_hold_byte_for_byte() {
    let vectors = vectors();
    assert_eq!((text(&vectors["task_id"]), text(&vectors["intent"])), (TASK, INTENT));
    let (node, envelope, reply) = sealed_by_the_vectors(&vectors);
    let public: [u8; 32] = bytes(&vectors["node_public"]);
    assert_eq!(node.public_json()["key"], sealed::encode(&public));
    assert_eq!(node.key_id(), text(&vectors["key_id"]));
    let shared: [u8; 32] = bytes(&vectors["shared_secret"]);
    assert_eq!(reply.0.as_bytes(), &shared);
    for (message, info) in [("task", format!("IICP-CX-v1{TASK}{INTENT}")), ("reply", format!("IICP-CX-RESP-v1{TASK}"))]
    {
        let nonce: [u8; 12] = bytes(&vectors[message]["nonce"]);
        let secret = Salt::new(HKDF_SHA256, &nonce).extract(&shared);
        let mut key = [0; 32];
        secret.expand(&[info.as_bytes()], HKDF_SHA256).unwrap().fill(&mut key).unwrap();
        assert_eq!(key, bytes::<32>(&vectors[message]["key"]), "{message}");
    }

    let written: Value = serde_json::from_slice(&envelope).unwrap();
    let wanted = json!({
        "version": 1,
        "recipient_key_id": vectors["key_id"],
        "kem_ciphertext": sealed::encode(&bytes::<32>(&vectors["ephemeral_public"])),
        "encrypted_body": vectors["task"]["encrypted_body"],
        "nonce": sealed::encode(&bytes::<12>(&vectors["task"]["nonce"])),
        "aad": sealed::encode(format!("{TASK}|{INTENT}").as_bytes()),
        "plaintext_size": 45,
    });
    assert_eq!(written, wanted);
    let (payload, seal) = node.open(&envelope, TASK, INTENT).unwrap();
    assert_eq!(payload, text(&vectors["task"]["plaintext"]));

    let mut sealed_reply = Vec::new();
    let answer = text(&vectors["reply"]["plaintext"]);
    seal.seal_with(bytes(&vectors["reply"]["nonce"]), TASK, answer.as_bytes(), &mut sealed_reply).unwrap();
    let written: Value = serde_json::from_slice(&sealed_reply).unwrap();
    let nonce = sealed::encode(&bytes::<12>(&vectors["reply"]["nonce"]));
    assert_eq!(written, json!({ "version": 1, "nonce": nonce, "encrypted_body": vectors["reply"]["encrypted_body"] }));
    assert_eq!(reply.open(TASK, &sealed_reply).unwrap(), answer);
}

#[test]
fn no_two_sealings_are_alike_and_each_opens() {
    let node = NodeKey::generate().unwrap();
    let key = published(&node);
    assert!(key.sealed_replies() && key.key_id() == node.key_id());
    let task_id = r#"quote"and\slash"#;
    let mut seen = std::collections::HashSet::new();
    for length in [0, 1, 15, 16, 1024, 100_000] {
        let plaintext = vec![b'x'; length];
        let (envelope, reply_key) = key.seal(task_id, INTENT, &plaintext).unwrap();
        let fields: Value = serde_json::from_slice(&envelope).unwrap();
        assert!(seen.insert(fields["kem_ciphertext"].clone()) && seen.insert(fields["nonce"].clone()));
        let (opened, seal) = node.open(&envelope, task_id, INTENT).unwrap();
        assert_eq!(opened, plaintext);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        seal.seal(task_id, &plaintext, &mut first).unwrap();
        seal.seal(task_id, &plaintext, &mut second).unwrap();
        assert_ne!(first, second, "a stored answer is sealed anew for each asker");
        assert_eq!(reply_key.open(task_id, &first).unwrap(), plaintext);
        assert_eq!(reply_key.open(task_id, &second).unwrap(), plaintext);
    }
}

/// Every way to change one field of an object: left out, of another type, emptied, each character of a text changed.
fn tamperings(json: &[u8]) -> Vec<(String, Vec<u8>)> {
    let whole: Value = serde_json::from_slice(json).unwrap();
    let mut changed = Vec::new();
    let mut with = |what: String, change: &dyn Fn(&mut Value)| {
        let mut copy = whole.clone();
        change(&mut copy);
        changed.push((what, copy.to_string().into_bytes()));
    };
    for name in whole.as_object().unwrap().keys() {
        with(format!("{name} left out"), &|copy| drop(copy.as_object_mut().unwrap().remove(name)));
        for other in [json!(null), json!(""), json!(2), json!([1]), json!({}), json!(true), json!("A".repeat(99_999))] {
            with(format!("{name} {other:.20}"), &|copy| copy[name] = other.clone());
        }
        let Some(text) = whole[name].as_str() else { continue };
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut text = text.to_owned();
            text.replace_range(at..=at, other);
            with(format!("{name} at {at}"), &|copy| copy[name] = text.clone().into());
        }
        for text in [format!("{text}A"), text[1..].to_owned(), text[..text.len() - 1].to_owned()] {
            with(format!("{name} cut or longer"), &|copy| copy[name] = text.clone().into());
        }
    }
    changed
}

#[test]
fn an_envelope_with_any_field_changed_is_refused() {
    let (node, envelope, _) = sealed_by_the_vectors(&vectors());
    let tampered = tamperings(&envelope);
    assert!(tampered.len() > 200, "{}", tampered.len());
    for (what, json) in tampered {
        // The size is a hint; who leaves it out is still understood.
        if matches!(&*what, "plaintext_size left out" | "plaintext_size null") {
            assert!(node.open(&json, TASK, INTENT).is_ok());
            continue;
        }
        let why = node.open(&json, TASK, INTENT).map(|_| ()).expect_err(&what);
        // All that is ever said of it: a fixed sentence.
        assert!(why.text().len() > 20, "{what}");
    }
    for (what, json) in [("nothing", &b""[..]), ("a list", b"[1]"), ("a number", b"7"), ("half", &envelope[..60])] {
        assert_eq!(node.open(json, TASK, INTENT).map(|_| ()), Err(Unopened::Form), "{what}");
    }
}

#[test]
fn an_envelope_opens_for_its_own_task_intent_and_node_only() {
    let (node, envelope, _) = sealed_by_the_vectors(&vectors());
    let refused = |key: &NodeKey, task_id, intent| key.open(&envelope, task_id, intent).map(|_| ()).unwrap_err();
    assert_eq!(refused(&node, "other", INTENT), Unopened::Context);
    assert_eq!(refused(&node, TASK, crate::types::EMBEDDING), Unopened::Context);
    assert_eq!(refused(&NodeKey::generate().unwrap(), TASK, INTENT), Unopened::Recipient);
    // Claims of an envelope do not help: the tag holds task, intent and recipient.
    let mut claims: Value = serde_json::from_slice(&envelope).unwrap();
    claims["aad"] = sealed::encode(format!("other|{INTENT}").as_bytes()).into();
    assert_eq!(node.open(claims.to_string().as_bytes(), "other", INTENT).map(|_| ()), Err(Unopened::Tag));
    claims["version"] = 2.into();
    assert_eq!(node.open(claims.to_string().as_bytes(), "other", INTENT).map(|_| ()), Err(Unopened::Version));
    let other = NodeKey::generate().unwrap();
    let mut claims: Value = serde_json::from_slice(&envelope).unwrap();
    claims["recipient_key_id"] = other.key_id().into();
    assert_eq!(other.open(claims.to_string().as_bytes(), TASK, INTENT).map(|_| ()), Err(Unopened::Tag));
}

#[test]
fn padding_and_unknown_fields_of_an_envelope_are_read_over() {
    let (node, envelope, _) = sealed_by_the_vectors(&vectors());
    let mut lenient: Value = serde_json::from_slice(&envelope).unwrap();
    for name in ["kem_ciphertext", "encrypted_body", "nonce", "aad"] {
        let text = text(&lenient[name]).to_owned();
        lenient[name] = format!("{text}{}", &"==="[..(4 - text.len() % 4) % 4]).into();
    }
    lenient["hybrid_pq"] = json!({ "x": [1] });
    lenient["plaintext_size"] = json!(45.0);
    assert!(node.open(lenient.to_string().as_bytes(), TASK, INTENT).is_ok());
}

#[test]
fn a_sealed_reply_with_any_field_changed_is_refused_and_says_nothing_of_it() {
    let (node, envelope, key) = sealed_by_the_vectors(&vectors());
    let (_, seal) = node.open(&envelope, TASK, INTENT).unwrap();
    let mut reply = Vec::new();
    seal.seal(TASK, br#"{"secret":"canary"}"#, &mut reply).unwrap();
    let refused = |task_id: &str, json: &[u8], what: &str| {
        let error = key.open(task_id, json).expect_err(what);
        assert_eq!((error.code(), error.wire_code()), (Code::ReplyUnsealed, Some("IICP-CX-RESP-INVALID")), "{what}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    };
    for (what, json) in tamperings(&reply) {
        if matches!(&*what, "version left out" | "version null") {
            assert!(key.open(TASK, &json).is_ok());
            continue;
        }
        refused(TASK, &json, &what);
    }
    refused("other", &reply, "the reply to another task");
    let (_, other) = published(&node).seal(TASK, INTENT, b"{}").unwrap();
    assert!(other.open(TASK, &reply).is_err(), "the reply to another asker");
    assert!(node.open(&envelope, TASK, INTENT).is_ok());
}

#[test]
fn a_published_key_that_cannot_be_trusted_is_refused_with_its_fault() {
    let node = NodeKey::from_private(bytes(&vectors()["node_private"]));
    let good = node.public_json();
    let read = |change: Value| {
        let mut key = good.clone();
        for (name, value) in change.as_object().unwrap() {
            key[name] = value.clone();
        }
        SealingKey::read(&key, NOW)
    };
    for (change, fault) in [
        (json!({ "algorithm": "RSA" }), KeyFault::Algorithm),
        (json!({ "algorithm": null }), KeyFault::Algorithm),
        (json!({ "encoding": "hex" }), KeyFault::Encoding),
        (json!({ "key": null }), KeyFault::Key),
        (json!({ "key": sealed::encode(&[7; 31]) }), KeyFault::Key),
        (json!({ "key": sealed::encode(&[7; 33]) }), KeyFault::Key),
        (json!({ "key": "A".repeat(1 << 20) }), KeyFault::Key),
        (json!({ "key": sealed::encode(&[7; 32]) }), KeyFault::KeyId),
        (json!({ "key_id": null }), KeyFault::KeyId),
        (json!({ "key_id": "cx-aaa8fff703b50b23" }), KeyFault::KeyId),
        (json!({ "not_after": NOW - 1 }), KeyFault::Expired),
        (json!({ "not_after": "2026-11-17T00:00:00Z" }), KeyFault::Expired),
        (json!({ "not_after": "soon" }), KeyFault::NotAfter),
        (json!({ "not_after": {} }), KeyFault::NotAfter),
    ] {
        let found = read(change.clone()).expect_err(&change.to_string());
        assert_eq!(found, fault, "{change}");
        assert!(!found.to_string().contains("aaa8"), "{found}");
    }
    for no_object in [json!(null), json!("key"), json!([]), json!(7)] {
        assert_eq!(SealingKey::read(&no_object, NOW).unwrap_err(), KeyFault::NoObject);
    }
    let padded = format!("{}=", text(&good["key"]));
    for change in [
        json!({ "key": padded, "encoding": null, "hybrid_pq": {} }),
        json!({ "not_after": NOW }),
        json!({ "not_after": null, "features": null }),
        json!({ "not_after": "2099-01-01T00:00:00Z", "features": [7, "other", "response_encryption_v1"] }),
    ] {
        let key = read(change.clone()).unwrap_or_else(|fault| panic!("{change}: {fault}"));
        assert_eq!(key.sealed_replies(), change["features"].is_array() || change.get("features").is_none());
        assert_eq!(format!("{key:?}"), r#"SealingKey { key_id: "cx-aaa8fff703b50b22", .. }"#);
    }
    let key = read(json!({ "not_after": NOW + 5 })).unwrap();
    assert!(!key.has_expired(NOW + 5) && key.has_expired(NOW + 6), "also when it is held");
}

/// Points for which every private key gives the same secret: 0, 1, two of order eight, and their other spellings.
fn low_order() -> Vec<[u8; 32]> {
    let hex = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    hex.iter().map(|hex| bytes(&json!(hex))).collect()
}

#[test]
fn keys_that_everybody_can_open_are_refused_on_both_sides() {
    let (node, envelope, _) = sealed_by_the_vectors(&vectors());
    for point in low_order() {
        let id = key_id(&point);
        let key = json!({ "algorithm": "X25519", "key": sealed::encode(&point), "key_id": id });
        let error = SealingKey::read(&key, NOW).unwrap().seal(TASK, INTENT, b"canary").map(|_| ()).unwrap_err();
        assert_eq!(error.code(), Code::ConfidentialityRequired, "{point:?}");
        assert!(!format!("{error:?}").contains("canary"));
        let mut forged: Value = serde_json::from_slice(&envelope).unwrap();
        forged["kem_ciphertext"] = sealed::encode(&point).into();
        assert_eq!(node.open(forged.to_string().as_bytes(), TASK, INTENT).map(|_| ()), Err(Unopened::Tag));
    }
}
