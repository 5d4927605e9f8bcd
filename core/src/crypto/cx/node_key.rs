//! The node's side: its key, and opening what was sealed to it.

use bytes::Bytes;
use serde_json::{Value, json};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::{ALGORITHM, ENCODING, NONCE_BYTES, ReplySeal, SEALED_REPLIES, TAG_BYTES, TASK_LABEL, agree, key_id, open};
use crate::crypto::digest::random;
use crate::error::Result;
use crate::wire::sealed::{self, Envelope};

/// A node's key pair. The private half is wiped on drop; no `Debug`.
pub(crate) struct NodeKey {
    private: StaticSecret,
    public: [u8; 32],
    key_id: String,
}

/// Why a sealed task was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// Not an envelope: a field is missing or of the wrong type or size.
    Form,
    Version,
    /// Sealed to another key.
    Recipient,
    /// Sealed for another task or intent.
    Context,
    /// `plaintext_size` is not what is inside.
    Size,
    /// Changed on the way, or never sealed with this key.
    Tag,
}

impl Unopened {
    /// What the caller is told.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Unopened::Form => "the sealed task is not in form: a field of iicp_conf is missing, or of the wrong size",
            Unopened::Version => "the sealed task is of a version that this node does not know; version 1 is read",
            Unopened::Recipient => "the task is sealed to another key than this node's; ask the directory for its key",
            Unopened::Context => "the task is sealed for another task id or intent than it is sent with",
            Unopened::Size => "the sealed task is not as long as its plaintext_size says",
            Unopened::Tag => "the sealed task does not open; seal it anew with the key that the directory shows",
        }
    }
}

impl NodeKey {
    /// A new key.
    ///
    /// # Errors
    /// `INTERNAL` if the system has no randomness to give.
    pub(crate) fn generate() -> Result<Self> {
        Ok(NodeKey::from_private(random()?))
    }

    /// The key with this private half.
    pub(crate) fn from_private(mut private: [u8; 32]) -> Self {
        let secret = StaticSecret::from(private);
        private.zeroize();
        let public = PublicKey::from(&secret).to_bytes();
        NodeKey { private: secret, public, key_id: key_id(&public) }
    }

    /// The private half as it is kept: base64url.
    pub(crate) fn private_text(&self) -> Zeroizing<String> {
        Zeroizing::new(sealed::encode(self.private.as_bytes()))
    }

    /// `cx-` and 16 hex digits.
    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What the node publishes as `cx_public_key`.
    pub(crate) fn public_json(&self) -> Value {
        json!({
            "algorithm": ALGORITHM,
            "encoding": ENCODING,
            "key": sealed::encode(&self.public),
            "key_id": self.key_id,
            "features": [SEALED_REPLIES],
        })
    }

    /// Opens `iicp_conf` for the task that it came with: gives the payload's text, and what seals the reply. What is
    /// allocated is bounded by the envelope's length.
    ///
    /// # Errors
    /// Why it was not opened; what can be seen without a key is checked first.
    pub(crate) fn open(&self, iicp_conf: &[u8], task_id: &str, intent: &str) -> Result<(Bytes, ReplySeal), Unopened> {
        let envelope: Envelope<'_> = crate::wire::object(iicp_conf).map_err(|_| Unopened::Form)?;
        if envelope.version != sealed::VERSION {
            return Err(Unopened::Version);
        }
        if envelope.recipient_key_id != self.key_id {
            return Err(Unopened::Recipient);
        }
        let aad = [task_id.as_bytes(), b"|", intent.as_bytes()].concat();
        if envelope.aad.trim_end_matches('=') != sealed::encode(&aad) {
            return Err(Unopened::Context);
        }
        let nonce: [u8; NONCE_BYTES] = sealed::fixed(&envelope.nonce).ok_or(Unopened::Form)?;
        let ephemeral = sealed::fixed(&envelope.kem_ciphertext).ok_or(Unopened::Form)?;
        let body = sealed::decode(&envelope.encrypted_body).ok_or(Unopened::Form)?;
        let inside = body.len().checked_sub(TAG_BYTES).ok_or(Unopened::Form)?;
        if envelope.plaintext_size.is_some_and(|size| usize::try_from(size) != Ok(inside)) {
            return Err(Unopened::Size);
        }
        let shared = agree(&self.private, ephemeral).ok_or(Unopened::Tag)?;
        let info = [TASK_LABEL, task_id.as_bytes(), intent.as_bytes()];
        let payload = open(&shared, nonce, &info, &aad, body).map_err(|_| Unopened::Tag)?;
        Ok((payload, ReplySeal(shared)))
    }
}
