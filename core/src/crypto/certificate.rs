//! What a certificate chain and its key are read from, and what they say.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use webpki::{EndEntityCert, Error as CertificateError, KeyUsage};

/// Most certificates of one text: the system's own are fewer.
const MOST: usize = 1024;

/// Why a text or what stands in it cannot be used.
pub(crate) type Why = &'static str;

/// The certificates of a PEM text, in its order. Other things that stand in it are passed over.
pub(crate) fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Why> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "it is no well-formed PEM")?;
        EndEntityCert::try_from(&certificate).map_err(|_| "a certificate in it cannot be read")?;
        if chain.len() == MOST {
            return Err("it holds over a thousand certificates");
        }
        chain.push(certificate);
    }
    if chain.is_empty() { Err("it holds no certificate (-----BEGIN CERTIFICATE-----)") } else { Ok(chain) }
}

/// The private key of a PEM text: the first one in it.
pub(crate) fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Why> {
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        _ if pem.windows(encrypted.len()).any(|text| text == encrypted) => {
            "the key is encrypted, and nobody is asked for its password; decrypt it (openssl pkey)"
        }
        PemError::NoItemsFound => "it holds no private key (-----BEGIN PRIVATE KEY-----)",
        _ => "it is no well-formed PEM",
    })
}

/// Why a chain and a key are of no use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    Key(Why),
    /// Both are good, and belong to others.
    Pair,
}

/// A chain and its key, ready to be served.
pub(crate) fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Misfit> {
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => Misfit::Pair,
        _ => Misfit::Key(
            "the key is of a kind that is not known here (RSA from 2048 bits, ECDSA P-256 or P-384, Ed25519)",
        ),
    })
}

/// When a certificate begins and ceases to be good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

/// None if the certificate does not say it as it should.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    // Judged at the two ends of time, it says when it would have been good. Nothing else of it is looked at before that.
    let at = |seconds| {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None).err()
    };
    let until = match at(u64::MAX)? {
        CertificateError::CertExpired { not_after, .. } => not_after.as_secs(),
        _ => return None,
    };
    let from = match at(0)? {
        CertificateError::CertNotValidYet { not_before, .. } => not_before.as_secs(),
        // It was always good.
        _ => 0,
    };
    Some(Validity { from, until })
}

/// Whether a certificate is for this host, a name or an address.
pub(crate) fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let name = ServerName::try_from(host.trim_matches(['[', ']']));
    let certificate = EndEntityCert::try_from(certificate);
    matches!((name, certificate), (Ok(name), Ok(known)) if known.verify_is_valid_for_subject_name(&name).is_ok())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = vec!["node.example.com".to_owned(), "192.0.2.7".into(), "2001:db8::7".into()];
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        (pem("CERTIFICATE", params.self_signed(&key).unwrap().der()), pem("PRIVATE KEY", &key.serialize_der()))
    }

    fn pem(kind: &str, der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
    }

    fn provider() -> CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    #[test]
    fn a_chain_and_its_key_are_read_and_a_stranger_is_known() {
        let (one, other) = (certificate(|_| {}), certificate(|_| {}));
        let chain = read_chain(format!("words\n{}{}{}", one.1, one.0, other.0).as_bytes()).unwrap();
        assert_eq!(chain.len(), 2, "in the order of the text, and nothing but certificates");
        assert!(pair(chain.clone(), read_key(one.1.as_bytes()).unwrap(), &provider()).is_ok());
        let stranger = pair(chain, read_key(other.1.as_bytes()).unwrap(), &provider());
        assert_eq!(stranger.err(), Some(Misfit::Pair));
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let (chain, key) = certificate(|_| {});
        for (text, why) in [
            ("", "no certificate"),
            (&*key, "no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "well-formed"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "well-formed"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        ] {
            assert!(read_chain(text.as_bytes()).unwrap_err().contains(why), "{text}");
        }
        for (text, why) in [
            ("", "no private key"),
            (&*chain, "no private key"),
            ("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n", "well-formed"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "encrypted"),
        ] {
            assert!(read_key(text.as_bytes()).unwrap_err().contains(why), "{text}");
        }
        let nonsense = read_key(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        let chain = read_chain(chain.as_bytes()).unwrap();
        assert!(matches!(pair(chain, nonsense, &provider()), Err(Misfit::Key(why)) if why.contains("kind")));
    }

    #[test]
    fn a_certificate_says_how_long_and_for_whom_it_is_good() {
        let (text, _) = certificate(|params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        });
        let certificate = &read_chain(text.as_bytes()).unwrap()[0];
        assert_eq!(validity(certificate), Some(Validity { from: 1_577_836_800, until: 1_609_459_200 }));
        assert_eq!(validity(&CertificateDer::from(vec![0x30, 0])), None);
        for (host, expected) in [
            ("node.example.com", true),
            ("NODE.example.com", true),
            ("192.0.2.7", true),
            ("[2001:db8::7]", true),
            ("example.com", false),
            ("192.0.2.8", false),
            ("", false),
        ] {
            assert_eq!(is_for(certificate, host), expected, "{host}");
        }
    }
}
