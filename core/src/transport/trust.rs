//! Whom a client trusts: the authorities that its platform trusts, and those that the operator adds.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::crypto::certificate;
use crate::error::{Code, Error, Result};
use crate::state;

/// What the certificates of others are judged by; the same for HTTP and for native connections. Cloning gives another
/// handle to it.
#[derive(Clone, Default)]
pub(crate) struct Trust(Arc<Inner>);

#[derive(Default)]
struct Inner {
    added: Vec<CertificateDer<'static>>,
    /// Made when it is first needed: reading the system's authorities takes its time.
    verifier: OnceLock<Arc<dyn ServerCertVerifier>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("added", &self.0.added.len()).finish_non_exhaustive()
    }
}

impl Trust {
    /// The platform's authorities and those in a PEM text or file. Blocks on the disk for a file.
    ///
    /// # Errors
    /// `CONFIG_INVALID` with the path of what cannot be read, or holds no authorities.
    pub(crate) fn with(trusted_ca: Option<&str>) -> Result<Self> {
        let Some(given) = trusted_ca else { return Ok(Trust::default()) };
        let unusable = |why: &str| state::unusable("trusted_ca", given, why);
        let added = certificate::read_chain(&state::pem("trusted_ca", given)?).map_err(unusable)?;
        let mut judged = RootCertStore::empty();
        for authority in &added {
            judged.add(authority.clone()).map_err(|_| unusable("a certificate in it is of no authority"))?;
        }
        Ok(Trust(Arc::new(Inner { added, verifier: OnceLock::new() })))
    }

    /// TLS as every connection of a client has it.
    ///
    /// # Errors
    /// `INTERNAL` if the system has no authorities, and none were added.
    pub(super) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
        let builder = builder.map_err(failed)?.dangerous();
        Ok(builder.with_custom_certificate_verifier(self.verifier()?).with_no_client_auth())
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>> {
        if let Some(made) = self.0.verifier.get() {
            return Ok(made.clone());
        }
        let added = self.0.added.iter().cloned();
        let made = rustls_platform_verifier::Verifier::new_with_extra_roots(added, provider()).map_err(failed)?;
        Ok(self.0.verifier.get_or_init(|| Arc::new(made)).clone())
    }
}

/// Why no TLS was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distrust {
    Expired,
    OtherName,
    Stranger,
    Unfit,
    /// Nobody is trusted here.
    Nobody,
    /// It is not about the certificate.
    Handshake,
}

impl Distrust {
    pub(super) fn of(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(why) = error else { return Distrust::Handshake };
        match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Distrust::Expired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Distrust::OtherName,
            // Also one that bears the name of an authority that is trusted.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Distrust::Stranger,
            _ => Distrust::Unfit,
        }
    }

    /// What is wrong, and what to do about it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Distrust::Expired => {
                "its certificate has expired or is not good yet; it has to be renewed, or a clock is wrong"
            }
            Distrust::OtherName => "its certificate is for another name than it was called by",
            Distrust::Stranger => {
                "its certificate is of no authority that is trusted here; option `trusted_ca` adds one"
            }
            Distrust::Unfit => "its certificate is of no use for a server",
            Distrust::Nobody => {
                "no authority is trusted here; install the system's (package ca-certificates), or set `trusted_ca`"
            }
            Distrust::Handshake => "the TLS handshake failed; TLS 1.3 is needed",
        }
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    // Named everywhere it is needed: a library must not install a process-wide default.
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn failed(error: rustls::Error) -> Error {
    Error::new(Code::Internal, "TLS could not be set up").with_source(error)
}
