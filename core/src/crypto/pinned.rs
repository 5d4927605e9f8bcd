//! A key that others know by its hash, and so need no authority for: what a relay's TLS is proven with.

use std::fmt;

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use ring::digest::{SHA256, digest};
use ring::signature::Ed25519KeyPair;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::digest::{hex, unhex};
use crate::error::{Code, Error, Result};

/// The name in the certificate, which means nothing: who connects looks at the key.
pub(crate) const NAME: &str = "relay.iicp.invalid";

/// SHA-256 of a public key as certificates hold it (`SubjectPublicKeyInfo`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pin([u8; 32]);

impl Pin {
    /// Reads 64 lower-case hex digits.
    pub(crate) fn parse(text: &str) -> Option<Pin> {
        unhex(text).map(Pin)
    }

    /// Of the key that a certificate holds.
    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Pin> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        Some(Pin::of_key(&certificate.subject_public_key_info()))
    }

    fn of_key(info: &[u8]) -> Pin {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest(&SHA256, info).as_ref());
        Pin(pin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// The key itself, Ed25519. No `Debug`: it is secret.
#[derive(Clone)]
pub(crate) struct PinnedKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pin: Pin,
}

impl PinnedKey {
    pub(crate) fn generate() -> Result<Self> {
        let no_random = |_| Error::new(Code::Internal, "the system gives no random numbers");
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).map_err(no_random)?;
        Self::from_pkcs8(document.as_ref()).ok_or_else(unusable)
    }

    /// None if that is no such key.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pkcs8 = Zeroizing::new(pkcs8.to_vec());
        let pin = Pin::of_key(&pair(&pkcs8)?.subject_public_key_info());
        Some(PinnedKey { pkcs8, pin })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn pin(&self) -> Pin {
        self.pin
    }

    /// A certificate for the key, signed with it. It may differ from the one before; the key does not.
    pub(crate) fn certificate(&self) -> Result<CertificateDer<'static>> {
        let pair = pair(&self.pkcs8).ok_or_else(unusable)?;
        let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(|_| unusable())?;
        Ok(params.self_signed(&pair).map_err(|_| unusable())?.der().clone())
    }
}

fn pair(pkcs8: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &rcgen::PKCS_ED25519).ok()
}

fn unusable() -> Error {
    Error::new(Code::Internal, "no certificate can be made for the relay's key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash_whatever_certificate_it_comes_in() {
        let key = PinnedKey::generate().unwrap();
        let again = PinnedKey::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(Pin::of_certificate(&again.certificate().unwrap()), Some(key.pin()));
        assert_eq!(Pin::parse(&key.pin().to_string()), Some(key.pin()));
        assert_ne!(PinnedKey::generate().unwrap().pin(), key.pin());
        for bad in [&b""[..], b"x", &key.pkcs8()[1..]] {
            assert!(PinnedKey::from_pkcs8(bad).is_none());
        }
        assert_eq!(Pin::of_certificate(&CertificateDer::from(vec![0x30, 0])), None);
    }
}
