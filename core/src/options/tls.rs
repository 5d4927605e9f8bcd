//! TLS of a node, and whom everybody trusts with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Validate;
use crate::error::{Code, Error, Result};
use crate::types::Secret;

/// The TLS of a serving node: its one port takes HTTPS and native frames over TLS 1.3, beside what comes in plain text from
/// this machine. Files are looked at every few seconds: renewed ones are taken without a restart, and connections that are
/// open stay open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsOptions {
    /// The certificate and those that lead from it to an authority, the node's own first: path of a PEM file, or its text.
    #[schemars(extend("contentMediaType" = "application/x-pem-file"))]
    pub certificate: String,
    /// The certificate's private key, not encrypted: path of a PEM file, or its text.
    #[schemars(extend("contentMediaType" = "application/x-pem-file"))]
    pub key: Secret,
    /// Whether nothing is taken in plain text. By default callers on this machine may do without TLS, everybody may ask for the
    /// node's health, and a relay takes what is for its workers (unless its own `tls_required`): published ones are called by
    /// `http`. Whatever else comes in plain text is told to use `https`.
    pub only: bool,
}

impl Default for TlsOptions {
    fn default() -> Self {
        TlsOptions { certificate: String::new(), key: "".into(), only: false }
    }
}

/// Longest PEM text, and longest path.
pub(crate) const MOST_PEM_BYTES: usize = 1 << 20;
const MOST_PATH_BYTES: usize = 4096;

/// Whether a value is PEM itself, and not the path of a file.
pub(crate) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

fn check_pem(what: &str, option: &str, text: &str) -> Result<()> {
    let (most, is_pem) = if is_pem(text) { (MOST_PEM_BYTES, true) } else { (MOST_PATH_BYTES, false) };
    if text.is_empty() || text.len() > most || !is_pem && text.chars().any(char::is_control) {
        return Err(Error::of_options(
            Code::ConfigInvalid,
            format!("option `{option}` of {what} must be the path of a PEM file, or its text"),
        ));
    }
    Ok(())
}

pub(super) fn check_trusted_ca(what: &str, trusted_ca: Option<&str>) -> Result<()> {
    trusted_ca.map_or(Ok(()), |text| check_pem(what, "trusted_ca", text))
}

impl Validate for TlsOptions {
    const WHAT: &'static str = "TLS";

    fn validate(&self) -> Result<()> {
        check_pem(Self::WHAT, "certificate", &self.certificate)?;
        check_pem(Self::WHAT, "key", self.key.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::from_json;

    #[test]
    fn both_halves_are_needed_and_no_secret_is_shown() {
        let read = |json: &str| from_json::<TlsOptions>(json);
        let good = read(r#"{"certificate": "/etc/cert.pem", "key": "-----BEGIN PRIVATE KEY-----\nSESAME"}"#).unwrap();
        assert!(!format!("{good:?}").contains("SESAME"));
        for (bad, option) in [
            ("{}", "certificate"),
            (r#"{"certificate": "a"}"#, "key"),
            (r#"{"key": "SESAME"}"#, "certificate"),
            (r#"{"certificate": "a", "key": "SES\nAME"}"#, "key"),
        ] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.code(), Code::ConfigInvalid, "{bad}");
            assert!(error.message().contains(&format!("option {option} of TLS")), "{error}");
            assert!(!error.message().contains("SES"), "{error}");
        }
    }
}
