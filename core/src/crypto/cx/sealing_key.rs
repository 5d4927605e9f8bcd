//! The consumer's side: a node's published key, and sealing to it.

use std::fmt;

use serde_json::Value;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::{ALGORITHM, ENCODING, NONCE_BYTES, ReplyKey, SEALED_REPLIES, TASK_LABEL, agree, key_id, seal};
use crate::crypto::digest::random;
use crate::error::{Code, Error, Result};
use crate::wire::sealed::{self, Parts, write_envelope};

/// A node's public key as the directory shows it, read and verified.
#[derive(Clone)]
pub(crate) struct SealingKey {
    public: [u8; 32],
    key_id: String,
    not_after: Option<u64>,
    sealed_replies: bool,
}

/// Why a published key cannot be sealed to. Names the field, never what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFault {
    NoObject,
    Algorithm,
    Encoding,
    /// Not 32 bytes of base64url.
    Key,
    /// Missing, or not the one of this key.
    KeyId,
    /// Neither unix seconds nor a time as RFC 3339 writes it.
    NotAfter,
    Expired,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyFault::NoObject => "it is no object",
            KeyFault::Algorithm => "its algorithm is not X25519",
            KeyFault::Encoding => "its encoding is not base64url",
            KeyFault::Key => "it is not 32 bytes of base64url",
            KeyFault::KeyId => "its key_id is not the one of the key",
            KeyFault::NotAfter => "its not_after is no time",
            KeyFault::Expired => "its not_after has passed",
        })
    }
}

impl SealingKey {
    /// Reads `cx_public_key`. Features that are not known are passed over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(key: &Value, now_unix_s: u64) -> Result<SealingKey, KeyFault> {
        let key = key.as_object().ok_or(KeyFault::NoObject)?;
        if key.get("algorithm").and_then(Value::as_str) != Some(ALGORITHM) {
            return Err(KeyFault::Algorithm);
        }
        match key.get("encoding") {
            None | Some(Value::Null) => {}
            Some(encoding) if encoding.as_str() == Some(ENCODING) => {}
            Some(_) => return Err(KeyFault::Encoding),
        }
        let public = key.get("key").and_then(Value::as_str).and_then(sealed::fixed).ok_or(KeyFault::Key)?;
        let id = key_id(&public);
        if key.get("key_id").and_then(Value::as_str) != Some(&id) {
            return Err(KeyFault::KeyId);
        }
        let not_after = match key.get("not_after") {
            None | Some(Value::Null) => None,
            Some(time) => Some(unix_seconds(time).ok_or(KeyFault::NotAfter)?),
        };
        let features = key.get("features").and_then(Value::as_array);
        let sealed_replies =
            features.is_some_and(|features| features.iter().any(|feature| feature.as_str() == Some(SEALED_REPLIES)));
        let key = SealingKey { public, key_id: id, not_after, sealed_replies };
        if key.has_expired(now_unix_s) { Err(KeyFault::Expired) } else { Ok(key) }
    }

    /// `cx-` and 16 hex digits.
    #[cfg(any(test, feature = "testing", feature = "punch"))]
    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Whether the node seals its replies, so that a plain one must be refused.
    pub(crate) fn sealed_replies(&self) -> bool {
        self.sealed_replies
    }

    /// Whether the key's time has passed; a route is held for longer than the moment it was read.
    pub(crate) fn has_expired(&self, now_unix_s: u64) -> bool {
        self.not_after.is_some_and(|last| now_unix_s > last)
    }

    /// Seals a payload for one task, under a key made for it alone. Gives `iicp_conf` as JSON, and what opens the reply.
    ///
    /// # Errors
    /// `CONFIDENTIALITY_REQUIRED` if the node's key is of low order, `INTERNAL` without randomness.
    pub(crate) fn seal(&self, task_id: &str, intent: &str, plaintext: &[u8]) -> Result<(Vec<u8>, ReplyKey)> {
        let mut fresh = Zeroizing::new(random::<{ 32 + NONCE_BYTES }>()?);
        let (mut ephemeral, mut nonce) = ([0; 32], [0; NONCE_BYTES]);
        ephemeral.copy_from_slice(&fresh[..32]);
        nonce.copy_from_slice(&fresh[32..]);
        fresh.zeroize();
        let private = StaticSecret::from(ephemeral);
        ephemeral.zeroize();
        self.seal_with(&private, nonce, task_id, intent, plaintext)
    }

    pub(crate) fn seal_with(
        &self,
        ephemeral: &StaticSecret,
        nonce: [u8; NONCE_BYTES],
        task_id: &str,
        intent: &str,
        plaintext: &[u8],
    ) -> Result<(Vec<u8>, ReplyKey)> {
        let shared = agree(ephemeral, self.public).ok_or_else(|| {
            Error::new(
                Code::ConfidentialityRequired,
                "the node's sealing key is one that hides nothing (low order); choose another node",
            )
        })?;
        let info = [TASK_LABEL, task_id.as_bytes(), intent.as_bytes()];
        let aad = [task_id.as_bytes(), b"|", intent.as_bytes()].concat();
        let body = seal(&shared, nonce, &info, &aad, plaintext)?;
        let envelope = write_envelope(&Parts {
            recipient_key_id: &self.key_id,
            ephemeral: PublicKey::from(ephemeral).as_bytes(),
            encrypted_body: &body,
            nonce: &nonce,
            aad: &aad,
            plaintext_size: plaintext.len(),
        });
        Ok((envelope, ReplyKey(shared)))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Unix seconds as a number or its text, or a time as RFC 3339 writes it; a fraction is cut off.
fn unix_seconds(time: &Value) -> Option<u64> {
    match time {
        // Checked for sign and range.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Value::Number(number) => number.as_f64().filter(|s| (0.0..9.0e15).contains(s)).map(|s| s as u64),
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        Value::String(text) => crate::types::unix_seconds(text).and_then(|s| u64::try_from(s).ok()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_read_in_every_common_form() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-11-22T19:51:05.123456Z", Some(1_795_377_065)),
            ("2026-11-22T19:51:05+02:00", Some(1_795_369_865)),
            ("2026-11-22 19:51:05-00:30", Some(1_795_378_865)),
            ("1795377065", Some(1_795_377_065)),
            ("2026-11-22T19:51:05", None),
            ("2026-13-22T19:51:05Z", None),
            ("2026-11-22T19:51:05+0200", None),
            ("2026-11-22T19:51:05.Zx", None),
            ("tomorrow", None),
            ("2026-11-22T19:51:0éZ", None),
            ("", None),
        ] {
            assert_eq!(unix_seconds(&json!(text)), seconds, "{text}");
        }
        assert_eq!(unix_seconds(&json!(12.9)), Some(12));
        assert_eq!((unix_seconds(&json!(-1)), unix_seconds(&json!([]))), (None, None));
    }
}
