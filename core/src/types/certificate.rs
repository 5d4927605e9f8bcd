//! What a node's certificate says of itself.

use serde::Serialize;

/// How long and for whom the certificate of a node is good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CertificateReport {
    /// From when on it is good, in seconds since 1970.
    pub from_unix_s: u64,
    /// Until when, in seconds since 1970.
    pub until_unix_s: u64,
    /// The host that callers are sent to, if the options say which.
    pub host: Option<String>,
    /// Whether it is for that host; true if there is none.
    pub is_for_host: bool,
}

impl CertificateReport {
    pub(crate) fn new(from_unix_s: u64, until_unix_s: u64, host: Option<String>, is_for_host: bool) -> Self {
        CertificateReport { from_unix_s, until_unix_s, host, is_for_host }
    }
}
