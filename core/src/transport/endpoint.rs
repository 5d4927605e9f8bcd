//! Which endpoints may be called.
//!
//! Until tasks can be sealed, a prompt must not leave this machine: every endpoint off loopback is refused. A literal
//! address is judged here, before a request is built; the only name that is accepted is `localhost`, which the HTTP
//! client never asks a resolver for.

use std::net::IpAddr;

use url::{Host, Url};

use crate::error::{Code, Error, Result};

/// A base URL that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    base: String,
}

impl Endpoint {
    /// Judges a base URL; `what` names its owner in the error.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if it is no base URL, `CONFIDENTIALITY_REQUIRED` if it is off loopback.
    pub(crate) fn parse(what: &str, text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(
                Code::ConfigInvalid,
                format!("the URL of {what} {why}; it should look like http://127.0.0.1:9480"),
            )
        };
        let url = Url::parse(text).map_err(|e| invalid(&format!("cannot be read ({e})")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("carries credentials"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("has a query or a fragment"));
        }
        let loopback = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip).to_canonical().is_loopback(),
            Some(Host::Domain(name)) => name.trim_end_matches('.') == "localhost",
            None => return Err(invalid("has no host")),
        };
        if !loopback {
            return Err(Error::new(
                Code::ConfidentialityRequired,
                format!("{what} is not on this machine, and tasks cannot be sealed yet; use a loopback address"),
            ));
        }
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Endpoint { base })
    }

    /// The URL of a path below the base; the path begins with a slash.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if both together are no URL.
    pub(crate) fn join(&self, path: &str) -> Result<Url> {
        Url::parse(&format!("{}{path}", self.base))
            .map_err(|e| Error::new(Code::ConfigInvalid, format!("{}{path} is no URL: {e}", self.base)))
    }

    /// The base without trailing slash.
    pub(crate) fn as_str(&self) -> &str {
        &self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_taken_in_every_spelling() {
        for good in [
            "http://127.0.0.1:80",
            "http://127.1:8080/",
            "http://2130706433",
            "http://0x7f.1",
            "http://0177.0.0.1",
            "http://[::1]:9",
            "http://[::ffff:127.0.0.1]",
            "http://localhost:1/api",
            "http://LOCALHOST.",
            "https://127.8.9.10/api/",
        ] {
            assert!(Endpoint::parse("x", good).is_ok(), "{good}");
        }
        assert_eq!(Endpoint::parse("x", "http://127.1:8080/api/").unwrap().as_str(), "http://127.0.0.1:8080/api");
        assert_eq!(
            Endpoint::parse("x", "http://[::1]:9/").unwrap().join("/v1/task").unwrap().as_str(),
            "http://[::1]:9/v1/task"
        );
    }

    #[test]
    fn everything_off_loopback_needs_sealing() {
        for bad in [
            "http://10.0.0.1",
            "http://192.168.1.1",
            "http://0.0.0.0",
            "http://[::]",
            "http://[::ffff:10.0.0.1]",
            "http://[::127.0.0.1]",
            "http://example.com",
            "http://localhost.example.com",
            "http://127.0.0.1.nip.io",
            "http://[64:ff9b::7f00:1]",
            "http://128.0.0.1",
        ] {
            assert_eq!(Endpoint::parse("x", bad).unwrap_err().code(), Code::ConfidentialityRequired, "{bad}");
        }
    }

    #[test]
    fn what_is_no_base_url_says_why() {
        for bad in [
            "",
            "127.0.0.1:80",
            "ftp://127.0.0.1",
            "http://",
            "http://u:p@127.0.0.1",
            "http://127.0.0.1/?q",
            "http://127.0.0.1:99999",
        ] {
            let error = Endpoint::parse("the directory", bad).unwrap_err();
            assert_eq!(error.code(), Code::ConfigInvalid, "{bad}");
            assert!(error.message().contains("the directory") && !error.message().contains("u:p"), "{error}");
        }
    }
}
