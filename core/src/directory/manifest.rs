//! What an operator promises about tasks: his policy manifest, as it is read, judged and shown.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::form::Form;
use super::operator::{Operator, fingerprint, is_signed};
use crate::crypto::digest::sha256_hex;
use crate::types::unix_seconds;

/// Most bytes of a manifest.
const MOST_BYTES: usize = 16 << 10;
/// What is shown of a manifest; its statement and its key are not.
const SHOWN: &[&str] = &[
    "version",
    "jurisdiction",
    "policy_url",
    "contact_url",
    "remote_executor_can_read_prompt",
    "training_use",
    "retention",
    "subprocessors",
    "unsupported_intents",
];

/// A manifest that was taken.
pub(super) struct Manifest {
    /// Exactly as it was sent.
    pub(super) sent: Box<RawValue>,
    /// Digest of its canonical text, which tickets are bound to.
    pub(super) sha256: String,
    fields: Map<String, Value>,
    signed: Option<Signed>,
}

/// A good signature.
struct Signed {
    key: String,
    expires_at: Option<i64>,
    rotation_epoch: Option<u64>,
}

impl Manifest {
    /// Reads a manifest. One that is signed must be signed well, and not be revoked; whether it is over is asked later.
    pub(super) fn read(form: &mut Form<'_>) -> Option<Manifest> {
        let sent = form.raw("policy_manifest")?;
        let fields = form.nested("policy_manifest")?;
        check_fields(form, fields);
        if sent.get().len() > MOST_BYTES {
            form.fault("policy_manifest", format!("must be at most {MOST_BYTES} bytes"));
            return None;
        }
        let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(sent.get()) else {
            form.fault("policy_manifest", "is nested too deeply");
            return None;
        };
        let signature = fields.get_mut("signature").and_then(Value::as_object_mut);
        let signature = signature.and_then(|signature| signature.remove("signature"));
        // Names are sorted by the map, and the writer leaves out white space: that is the text which is signed.
        let canonical = serde_json::to_vec(&fields).ok()?;
        let signed = match read_signature(&fields, signature.as_ref(), &canonical) {
            Ok(signed) => signed,
            Err(fault) => {
                form.fault("policy_manifest.signature", fault);
                None
            }
        };
        Some(Manifest { sent: sent.to_owned(), sha256: sha256_hex(&[&canonical]), fields, signed })
    }

    pub(super) fn is_over(&self, now_unix_s: u64) -> bool {
        let over = |until: i64| until <= i64::try_from(now_unix_s).unwrap_or(i64::MAX);
        self.signed.as_ref().and_then(|signed| signed.expires_at).is_some_and(over)
    }

    /// Whether `older` says that the key of this one was replaced.
    pub(super) fn is_superseded_by(&self, older: &Manifest) -> bool {
        let epoch = |manifest: &Manifest| manifest.signed.as_ref().and_then(|signed| signed.rotation_epoch);
        epoch(self).unwrap_or(0) < epoch(older).unwrap_or(0)
    }

    /// What is shown of it, with what the directory says about it.
    pub(super) fn shown(&self, operator: Option<&Operator>, now_unix_s: u64) -> Value {
        let mut shown: Map<String, Value> =
            SHOWN.iter().filter_map(|name| Some(((*name).to_owned(), self.fields.get(*name)?.clone()))).collect();
        let over = self.is_over(now_unix_s);
        let key = self.signed.as_ref().filter(|_| !over).map(|signed| signed.key.as_str());
        let bound = operator.filter(|operator| Some(operator.key.as_str()) == key);
        let (status, evidence) = match (&self.signed, over) {
            (None, _) => ("self_attested", "self_attested"),
            (Some(_), true) => ("signed_expired", "signed_expired"),
            (Some(_), false) => ("signed_valid", "signed_verified"),
        };
        let level = match (key, bound) {
            (None, _) => "self_attested",
            (Some(_), None) => "signed_valid",
            (Some(_), Some(_)) => "operator_bound",
        };
        let of_signature = |name: &str| self.fields.get("signature").and_then(|signature| signature.get(name));
        shown.insert("manifest_identity_level".into(), level.into());
        shown.insert("operator_fingerprint".into(), bound.map(Operator::fingerprint).into());
        shown.insert(
            "policy_key_fingerprint".into(),
            self.signed.as_ref().map(|signed| fingerprint(&signed.key)).into(),
        );
        shown.insert("evidence".into(), evidence.into());
        shown.insert(
            "verification".into(),
            json!({
                "status": status,
                "algorithm": of_signature("algorithm"),
                "key_id": of_signature("key_id"),
                "signed_at": of_signature("signed_at"),
                "expires_at": of_signature("expires_at"),
                "canonical_sha256": self.sha256,
                "public_key_sha256": self.signed.as_ref().map(|signed| sha256_hex(&[signed.key.as_bytes()])),
            }),
        );
        shown.into()
    }
}

fn check_fields(form: &mut Form<'_>, mut manifest: Form<'_>) {
    for (name, most) in
        [("version", 32), ("jurisdiction", 64), ("policy_url", 256), ("contact_url", 256), ("signed_statement", 1_024)]
    {
        manifest.text(name, most);
    }
    manifest.flag("remote_executor_can_read_prompt");
    manifest.choice("training_use", &["none", "opt_in", "provider_defined"]);
    manifest.texts("subprocessors", 20, 256);
    manifest.texts("unsupported_intents", 100, 255);
    if let Some(mut retention) = manifest.nested("retention") {
        retention.choice("task_payload", &["none", "transient", "provider_defined"]);
        retention.count("logs_days", 0..=3_650);
        manifest.absorb(retention);
    }
    form.absorb(manifest);
}

/// The signature of a manifest, if it has one.
fn read_signature(
    fields: &Map<String, Value>,
    signature: Option<&Value>,
    canonical: &[u8],
) -> Result<Option<Signed>, &'static str> {
    let about = match fields.get("signature") {
        None | Some(Value::Null) => return Ok(None),
        Some(about) => about,
    };
    let text = |name: &str| about.get(name).and_then(Value::as_str);
    if text("algorithm") != Some("Ed25519") {
        return Err("must be of the algorithm Ed25519");
    }
    let (Some(key), Some(signature)) = (text("public_key"), signature.and_then(Value::as_str)) else {
        return Err("must have a public_key and a signature, in base64");
    };
    if about.get("revoked_at").is_some_and(|at| !at.is_null()) {
        return Err("was revoked");
    }
    let expires_at = match about.get("expires_at").filter(|at| !at.is_null()) {
        None => None,
        Some(at) => Some(at.as_str().and_then(unix_seconds).ok_or("has an expires_at that is no time in RFC 3339")?),
    };
    if !is_signed(key, signature, canonical) {
        return Err("does not belong to this manifest and this key; sign it again, or leave the signature out");
    }
    let rotation_epoch = about.get("rotation_epoch").and_then(Value::as_u64);
    Ok(Some(Signed { key: key.to_owned(), expires_at, rotation_epoch }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::operator::tests::{delegation, signed};

    const DAY_S: u64 = 86_400;
    /// 2026-07-10T00:00:00Z.
    const SIGNED_AT: u64 = 1_783_641_600;

    fn read(manifest: &Value) -> Result<Manifest, String> {
        let body = json!({ "policy_manifest": manifest }).to_string();
        let mut form = Form::json(body.as_bytes()).unwrap();
        let manifest = Manifest::read(&mut form);
        form.finish().map_err(|refusal| format!("{refusal:?}"))?;
        manifest.ok_or_else(|| "none".into())
    }

    /// A signed manifest, as operators' tools make it.
    fn manifest(seed: u8, more: &Value) -> Value {
        let (key, _) = signed(seed, "");
        let mut manifest = json!({ "version": "1", "jurisdiction": "DE", "retention": { "task_payload": "none" } });
        manifest["signature"] = json!({
            "algorithm": "Ed25519", "key_id": fingerprint(&key), "public_key": key,
            "signed_at": "2026-07-10T00:00:00Z", "expires_at": "2026-10-08T00:00:00Z",
        });
        for (name, value) in more.as_object().unwrap() {
            manifest["signature"][name] = value.clone();
        }
        manifest["signature"]["signature"] = signed(seed, &manifest.to_string()).1.into();
        manifest
    }

    #[test]
    fn a_signature_over_the_canonical_text_makes_it_signed_and_the_operator_bound() {
        let signed = read(&manifest(7, &json!({}))).unwrap();
        let shown = signed.shown(None, SIGNED_AT);
        assert_eq!(shown["verification"]["status"], "signed_valid");
        assert_eq!(
            (&shown["manifest_identity_level"], &shown["evidence"]),
            (&json!("signed_valid"), &json!("signed_verified"))
        );
        assert_eq!(shown["retention"]["task_payload"], "none");
        assert!(shown.get("signature").is_none() && !shown.to_string().contains("public_key\""), "{shown}");
        let body = json!({ "operator_delegation": delegation(7, "n", u64::MAX >> 12) }).to_string();
        let operator = Operator::read(&mut Form::json(body.as_bytes()).unwrap()).unwrap();
        assert_eq!(signed.shown(Some(&operator), SIGNED_AT)["manifest_identity_level"], "operator_bound");
        let other = read(&manifest(8, &json!({}))).unwrap();
        assert_eq!(other.shown(Some(&operator), SIGNED_AT)["manifest_identity_level"], "signed_valid");
        let over = SIGNED_AT + 90 * DAY_S;
        assert!(!signed.is_over(over - 1) && signed.is_over(over));
        assert_eq!(signed.shown(Some(&operator), over)["manifest_identity_level"], "self_attested");
    }

    #[test]
    fn an_unsigned_one_is_somebodys_word_and_a_badly_signed_one_is_refused() {
        let plain = read(&json!({ "training_use": "none", "signature": null })).unwrap();
        assert_eq!(plain.shown(None, 0)["verification"]["status"], "self_attested");
        let mut changed = manifest(7, &json!({}));
        changed["jurisdiction"] = "US".into();
        let cases = [
            (changed, "does not belong"),
            (manifest(7, &json!({ "revoked_at": "2026-07-11T00:00:00Z" })), "was revoked"),
            (manifest(7, &json!({ "algorithm": "RS256" })), "Ed25519"),
            (manifest(7, &json!({ "expires_at": "soon" })), "RFC 3339"),
            (json!({ "signature": { "algorithm": "Ed25519" } }), "public_key"),
            (json!({ "training_use": "maybe" }), "training_use"),
            (json!({ "retention": { "logs_days": 9_999 } }), "logs_days"),
            (json!({ "signed_statement": "x".repeat(1_025) }), "signed_statement"),
            (json!({ "more": "x".repeat(17 << 10) }), "at most"),
        ];
        for (bad, why) in cases {
            let refusal = read(&bad).err().unwrap_or_default();
            assert!(refusal.contains(why), "{bad}: {refusal}");
        }
    }

    #[test]
    fn the_key_of_an_older_epoch_comes_too_late() {
        let of = |epoch: u64| read(&manifest(7, &json!({ "rotation_epoch": epoch }))).unwrap();
        assert!(of(1).is_superseded_by(&of(2)) && !of(2).is_superseded_by(&of(1)) && !of(2).is_superseded_by(&of(2)));
        assert!(read(&manifest(7, &json!({}))).unwrap().is_superseded_by(&of(1)));
    }

    #[test]
    fn the_published_signature_is_a_good_one() {
        let mut published = manifest(7, &json!({}));
        let key = published["signature"]["public_key"].as_str().unwrap().to_owned();
        published["signature"]["key_id"] = sha256_hex(&[&base64_bytes(&key)])[..12].into();
        published["signature"]["signature"] =
            "Horps0SnJ4lenW97Z/vAEEihQ4/ICfBFo//uF4r808FuZzopAXzz2V3vgFXarl1FdPMXwndIo/7qP2/aXMZrAw==".into();
        assert!(read(&published).is_ok(), "{:?}", read(&published).err());
    }

    fn base64_bytes(text: &str) -> Vec<u8> {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    }
}
