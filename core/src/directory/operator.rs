//! Who runs a node: an operator's signed word that the node is his, and the name that he is shown under.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::form::Form;
use crate::crypto::digest::sha256_hex;

/// Hex digits of the short hash that stands for a key in public.
const FINGERPRINT: usize = 12;

/// An operator, and what he said about a node. Its JSON is one that [`Operator::read`] reads.
#[derive(Serialize)]
pub(super) struct Operator {
    /// Exactly as it was sent.
    operator_delegation: Box<RawValue>,
    #[serde(rename = "operator_display_name", skip_serializing_if = "Option::is_none")]
    pub(super) display_name: Option<String>,
    /// The operator's key, in base64; never shown.
    #[serde(skip)]
    pub(super) key: String,
    #[serde(skip)]
    node_id: String,
    #[serde(skip)]
    not_after: u64,
}

impl Operator {
    /// Reads a delegation. One with a bad signature is none, and no fault either: the node is just not known to be
    /// anybody's.
    pub(super) fn read(form: &mut Form<'_>) -> Option<Operator> {
        let display_name = form.text("operator_display_name", 64);
        let sent = form.raw("operator_delegation")?;
        let mut fields = form.nested("operator_delegation")?;
        let mut text = |name, most| {
            let text = fields.text(name, most);
            fields.require(name, text)
        };
        let (node_id, key, signature) = (text("node_id", 64), text("operator_pub", 64), text("sig", 128));
        let not_after = fields.number("not_after", 0.0..=9.0e15);
        let not_after = fields.require("not_after", not_after);
        form.absorb(fields);
        // The range was checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let (node_id, key, not_after) = (node_id?, key?, not_after? as u64);
        let signed = json!({ "node_id": node_id, "not_after": not_after, "operator_pub": key }).to_string();
        is_signed(&key, &signature?, signed.as_bytes()).then(|| Operator {
            operator_delegation: sent.to_owned(),
            display_name,
            key,
            node_id,
            not_after,
        })
    }

    /// Whether he speaks of this node, and still does.
    pub(super) fn vouches_for(&self, node_id: &str, now_unix_s: u64) -> bool {
        self.node_id == node_id && now_unix_s < self.not_after
    }

    /// The name in the form in which two names are the same.
    pub(super) fn folded_name(&self) -> Option<String> {
        let name = self.display_name.as_ref()?;
        Some(name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase())
    }

    /// What stands for his key in public.
    pub(super) fn fingerprint(&self) -> String {
        fingerprint(&self.key)
    }

    /// What keeping it costs, nearly.
    pub(super) fn weight(&self) -> usize {
        size_of::<Operator>()
            + self.operator_delegation.get().len()
            + self.key.len()
            + self.node_id.len()
            + self.display_name.as_ref().map_or(0, String::len)
    }
}

/// The short hash of a key in base64.
pub(super) fn fingerprint(key: &str) -> String {
    let mut hash = sha256_hex(&[key.as_bytes()]);
    hash.truncate(FINGERPRINT);
    hash
}

/// Whether an Ed25519 key, in base64 like the signature, has signed a text.
pub(super) fn is_signed(key: &str, signature: &str, text: &[u8]) -> bool {
    let bytes = |text: &str| STANDARD.decode(text).ok();
    let key = bytes(key).and_then(|key| VerifyingKey::from_bytes(key.as_slice().try_into().ok()?).ok());
    let signature = bytes(signature).and_then(|signature| Signature::from_slice(&signature).ok());
    matches!((key, signature), (Some(key), Some(signature)) if key.verify_strict(text, &signature).is_ok())
}

#[cfg(test)]
pub(super) mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::Value;

    use super::*;

    /// An operator's key, in base64, and a signature by it.
    pub(in crate::directory) fn signed(seed: u8, text: &str) -> (String, String) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        (STANDARD.encode(key.verifying_key().to_bytes()), STANDARD.encode(key.sign(text.as_bytes()).to_bytes()))
    }

    /// A delegation as an operator's tools write it.
    pub(in crate::directory) fn delegation(seed: u8, node_id: &str, not_after: u64) -> Value {
        let (key, _) = signed(seed, "");
        let text = format!(r#"{{"node_id":"{node_id}","not_after":{not_after},"operator_pub":"{key}"}}"#);
        json!({ "node_id": node_id, "operator_pub": key, "not_after": not_after, "sig": signed(seed, &text).1 })
    }

    fn read(body: &Value) -> (Option<Operator>, bool) {
        let body = body.to_string();
        let mut form = Form::json(body.as_bytes()).unwrap();
        let read = Operator::read(&mut form);
        (read, form.finish().is_ok())
    }

    #[test]
    fn only_what_the_operator_signed_makes_him_one() {
        let good = json!({ "operator_delegation": delegation(7, "n-1", 2_000), "operator_display_name": "Ann  B" });
        let operator = read(&good).0.unwrap();
        assert!(operator.vouches_for("n-1", 1_999));
        assert!(!operator.vouches_for("n-1", 2_000) && !operator.vouches_for("n-2", 0));
        assert_eq!(operator.folded_name().as_deref(), Some("ann b"));
        assert_eq!(operator.fingerprint().len(), 12);
        for (name, value) in
            [("node_id", json!("n-2")), ("not_after", json!(3_000)), ("operator_pub", json!(signed(8, "").0))]
        {
            let mut forged = good.clone();
            forged["operator_delegation"][name] = value;
            assert!(matches!(read(&forged), (None, true)), "{name}");
        }
        for name in ["node_id", "operator_pub", "not_after", "sig"] {
            let mut without = good.clone();
            without["operator_delegation"].as_object_mut().unwrap().remove(name);
            assert!(matches!(read(&without), (None, false)), "{name}");
        }
        assert!(matches!(read(&json!({ "operator_display_name": "Ann" })), (None, true)), "a name alone binds nobody");
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let operator = read(&json!({ "operator_delegation": delegation(7, "n-1", 2_000) })).0.unwrap();
        let kept = serde_json::to_value(&operator).unwrap();
        assert_eq!(read(&kept).0.unwrap().key, operator.key);
    }
}
