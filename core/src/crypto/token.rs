//! The compact signed text that directories issue: `<base64url of JSON>.<128 hex digits>`, an Ed25519 signature over a
//! domain line and the base64url text as transmitted, so that nothing has to be made canonical.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, de};
use serde_json::{Map, Value};

use super::digest::{hex, unhex};
use crate::error::{Code, Error, Result};
use crate::types::check_depth;

/// The longest token that is looked at, in bytes; those in use have a few hundred.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 << 10;

/// Signed first, so that a token of one kind never passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// Discloses one route.
    DispatchTicket,
    /// Names a caller to one provider.
    ConsumerToken,
    /// Lets a worker bind itself to a relay, once.
    RelayBind,
}

impl Domain {
    const fn line(self) -> &'static [u8] {
        match self {
            Domain::DispatchTicket => b"iicp:dispatch-route-ticket:v1\n",
            Domain::ConsumerToken => b"iicp:consumer-token:v1\n",
            Domain::RelayBind => b"iicp:relay-bind-ticket:v1\n",
        }
    }
}

/// A directory's signing key. No `Debug`.
pub(crate) struct TokenSigner(SigningKey);

impl TokenSigner {
    #[cfg(test)]
    pub(crate) fn random() -> Result<Self> {
        Ok(TokenSigner::from_seed(&crate::crypto::digest::random::<32>()?))
    }

    /// The key that belongs to 32 secret bytes.
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Self {
        TokenSigner(SigningKey::from_bytes(seed))
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
        Ok(self.sign_json(domain, &json))
    }

    pub(crate) fn sign_json(&self, domain: Domain, json: &[u8]) -> String {
        let text = URL_SAFE_NO_PAD.encode(json);
        let signature = self.0.sign(&[domain.line(), text.as_bytes()].concat());
        format!("{text}.{}", hex(&signature.to_bytes()))
    }
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// It has not the form of a token, whoever signed it.
    Malformed,
    /// It has the form, but this key did not sign it.
    Signature,
}

/// Checks form and signature of a token and reads its claims. What the claims say is the caller's to judge.
pub(crate) fn verify(domain: Domain, public_key: &[u8; 32], token: &str) -> Result<Map<String, Value>, TokenFault> {
    // What costs nothing goes before the signature, and nothing is parsed that is not signed.
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenFault::Malformed);
    }
    let (text, signature) = token.split_once('.').ok_or(TokenFault::Malformed)?;
    let signature: [u8; 64] = unhex(signature).ok_or(TokenFault::Malformed)?;
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenFault::Malformed)?;
    let key = VerifyingKey::from_bytes(public_key).map_err(|_| TokenFault::Signature)?;
    key.verify_strict(&[domain.line(), text.as_bytes()].concat(), &Signature::from_bytes(&signature))
        .map_err(|_| TokenFault::Signature)?;
    match serde_json::from_slice(&json) {
        Ok(Unambiguous(Value::Object(claims))) if check_depth(&json).is_ok() => Ok(claims),
        _ => Err(TokenFault::Malformed),
    }
}

/// JSON in which no object says a name twice: readers differ on which of the two would count.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(UnambiguousVisitor)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a name that comes twice")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous(v.into()))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous(v.into()))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous(v.into()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous(v.into()))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unambiguous, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Unambiguous(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Unambiguous, A::Error> {
        let mut values = Map::new();
        while let Some((name, Unambiguous(value))) = object.next_entry::<String, _>()? {
            if values.insert(name, value).is_some() {
                return Err(A::Error::custom("a name comes twice"));
            }
        }
        Ok(Unambiguous(Value::Object(values)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_verifies_under_its_own_key_and_domain_only() {
        let (signer, other) = (TokenSigner::random().unwrap(), TokenSigner::random().unwrap());
        let key: [u8; 32] = unhex(&signer.public_key_hex()).unwrap();
        let other: [u8; 32] = unhex(&other.public_key_hex()).unwrap();
        let claims = json!({"v": 1, "list": [1, -2, 0.5, null, true, {"a": "b"}]});
        let token = signer.sign(Domain::DispatchTicket, &claims).unwrap();
        assert!(!token.contains('='));
        assert_eq!(verify(Domain::DispatchTicket, &key, &token).map(Value::Object), Ok(claims));
        assert_eq!(verify(Domain::ConsumerToken, &key, &token), Err(TokenFault::Signature));
        assert_eq!(verify(Domain::DispatchTicket, &other, &token), Err(TokenFault::Signature));
        assert_eq!(verify(Domain::DispatchTicket, &[0; 32], &token), Err(TokenFault::Signature), "a weak key");
    }

    #[test]
    fn a_changed_token_is_refused() {
        let signer = TokenSigner::random().unwrap();
        let key = signer.public_key();
        let token = signer.sign(Domain::DispatchTicket, &json!({"v": 1})).unwrap();
        assert!(verify(Domain::DispatchTicket, &key, &token).is_ok());
        let (text, signature) = token.split_once('.').unwrap();
        for malformed in [
            token.to_uppercase(),
            format!("{text}=.{signature}"),
            format!("{text}.{}", signature.to_uppercase()),
            format!("{text}.{signature}0"),
            format!("{text}.{signature}."),
            format!(" {token}"),
            format!("{token}\n"),
            token[..token.len() - 1].into(),
            "a.b".into(),
            ".".into(),
            String::new(),
            format!("{}.{signature}", "A".repeat(MAX_TOKEN_BYTES)),
        ] {
            assert_eq!(verify(Domain::DispatchTicket, &key, &malformed), Err(TokenFault::Malformed), "{malformed}");
        }
        let flipped = if signature.starts_with('0') { "1" } else { "0" };
        for unsigned in [format!("{text}.{flipped}{}", &signature[1..]), format!("e30.{signature}")] {
            assert_eq!(verify(Domain::DispatchTicket, &key, &unsigned), Err(TokenFault::Signature), "{unsigned}");
        }
    }

    #[test]
    fn claims_that_are_no_object_or_say_a_name_twice_are_refused_though_signed() {
        let signer = TokenSigner::random().unwrap();
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for bad in [r#"{"v":1,"v":2}"#, r#"{"a":{"b":1,"b":1}}"#, "[]", "7", "", r#"{"v":1} x"#, "\u{ff}", &deep] {
            let token = signer.sign_json(Domain::ConsumerToken, bad.as_bytes());
            assert_eq!(
                verify(Domain::ConsumerToken, &signer.public_key(), &token),
                Err(TokenFault::Malformed),
                "{bad}"
            );
        }
    }
}
