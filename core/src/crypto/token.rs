//! The compact signed text that directories issue: `<base64url of JSON>.<128 hex digits>`, an Ed25519 signature over a
//! domain line and the base64url text as transmitted, so that nothing has to be made canonical.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde::Serialize;

use super::digest::{hex, random};
use crate::error::{Code, Error, Result};

/// Signed first, so that a token of one kind never passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// Discloses one route.
    DispatchTicket,
    /// Names a caller to one provider.
    ConsumerToken,
}

impl Domain {
    const fn line(self) -> &'static [u8] {
        match self {
            Domain::DispatchTicket => b"iicp:dispatch-route-ticket:v1\n",
            Domain::ConsumerToken => b"iicp:consumer-token:v1\n",
        }
    }
}

/// A directory's signing key. No `Debug`.
pub(crate) struct TokenSigner(SigningKey);

impl TokenSigner {
    pub(crate) fn random() -> Result<Self> {
        Ok(TokenSigner(SigningKey::from_bytes(&random::<32>()?)))
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The public half as directories publish it: 64 hex digits.
    pub(crate) fn public_key_hex(&self) -> String {
        hex(&self.public_key())
    }

    pub(crate) fn sign<T: Serialize>(&self, domain: Domain, claims: &T) -> Result<String> {
        let json = serde_json::to_vec(claims).map_err(|_| Error::new(Code::Internal, "claims have no JSON form"))?;
        let text = URL_SAFE_NO_PAD.encode(json);
        let signature = self.0.sign(&[domain.line(), text.as_bytes()].concat());
        Ok(format!("{text}.{}", hex(&signature.to_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signature, VerifyingKey};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    /// Checks the signature of a token and reads its claims. What the claims say is the caller's to judge.
    ///
    /// # Errors
    /// `INVALID_ARG`; the token itself is never quoted.
    fn verify<T: DeserializeOwned>(domain: Domain, public_key: &[u8; 32], token: &str) -> Result<T> {
        let refuse = |why: &str| Error::new(Code::InvalidArg, format!("a signed token is not valid: {why}"));
        let (text, signature) = token.split_once('.').ok_or_else(|| refuse("it has no signature"))?;
        let signature: [u8; 64] = unhex(signature).ok_or_else(|| refuse("its signature is not 128 hex digits"))?;
        let key = VerifyingKey::from_bytes(public_key).map_err(|_| refuse("the key is not an Ed25519 key"))?;
        key.verify_strict(&[domain.line(), text.as_bytes()].concat(), &Signature::from_bytes(&signature))
            .map_err(|_| refuse("its signature does not match"))?;
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse("its claims are not base64url"))?;
        serde_json::from_slice(&json).map_err(|_| refuse("its claims are not the expected JSON"))
    }

    fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
        let digits = text.as_bytes();
        if digits.len() != 2 * N {
            return None;
        }
        let value =
            |b: u8| (b as char).to_digit(16).filter(|_| !b.is_ascii_uppercase()).and_then(|d| u8::try_from(d).ok());
        let mut out = [0; N];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(out)
    }

    #[test]
    fn a_token_verifies_under_its_own_key_and_domain_only() {
        let (signer, other) = (TokenSigner::random().unwrap(), TokenSigner::random().unwrap());
        let key: [u8; 32] = unhex(&signer.public_key_hex()).unwrap();
        let other: [u8; 32] = unhex(&other.public_key_hex()).unwrap();
        let token = signer.sign(Domain::DispatchTicket, &json!({"v": 1})).unwrap();
        assert!(!token.contains('='));
        let claims: Value = verify(Domain::DispatchTicket, &key, &token).unwrap();
        assert_eq!(claims, json!({"v": 1}));
        assert!(verify::<Value>(Domain::ConsumerToken, &key, &token).is_err());
        assert!(verify::<Value>(Domain::DispatchTicket, &other, &token).is_err());
    }

    #[test]
    fn a_changed_token_is_refused_and_never_quoted() {
        let signer = TokenSigner::random().unwrap();
        let key: [u8; 32] = unhex(&signer.public_key_hex()).unwrap();
        let token = signer.sign(Domain::DispatchTicket, &json!({"v": 1})).unwrap();
        for bad in [
            token.to_uppercase(),
            token.replacen('e', "f", 1),
            token[..token.len() - 1].into(),
            "a.b".into(),
            String::new(),
        ] {
            let error = verify::<Value>(Domain::DispatchTicket, &key, &bad).unwrap_err();
            assert!(bad.is_empty() || !error.to_string().contains(&bad), "{error}");
        }
    }
}
