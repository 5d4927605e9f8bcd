//! Base URLs of directories and nodes.

use url::{Host, Url};

use super::guard::{self, Reach, Refused};
use crate::error::{Code, Error, Result};
use crate::types::base_url;

/// The protocol's own code for an endpoint that may not be called.
const REFUSED: &str = "IICP-ENDPOINT-REFUSED";
/// Most of a host that is shown in a message: who wrote it may be hostile.
const MOST_SHOWN: usize = 100;

/// A base URL. That it is one does not mean that it may be called: see [`Endpoint::judge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    base: String,
    host: Host<String>,
}

impl Endpoint {
    /// Reads a base URL; `what` names its owner in the error.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if it is no base URL.
    pub(crate) fn parse(what: &str, text: &str) -> Result<Self> {
        let url = base_url(what, text)?;
        let host = url.host().map(|host| host.to_owned());
        let host = host.ok_or_else(|| Error::new(Code::ConfigInvalid, format!("the URL of {what} has no host")))?;
        Ok(Endpoint { base: url.as_str().trim_end_matches('/').to_owned(), host })
    }

    /// Whether it may be called. A name is judged by its form; what it resolves to is judged when it is called.
    ///
    /// # Errors
    /// `ENDPOINT_REFUSED` with the rule that it broke.
    pub(crate) fn judge(&self, reach: Reach) -> Result<()> {
        guard::judge_host(&self.host(), reach).map_err(|rule| self.refused(rule, reach))
    }

    /// Whether it is on this machine, by its own word: no name but `localhost` is.
    pub(crate) fn is_loopback(&self) -> bool {
        guard::is_loopback(&self.host())
    }

    /// Whether the host is an address that stands for all of a machine's, such as `0.0.0.0`: one can listen on it, but
    /// nobody can call it.
    pub(crate) fn is_unspecified(&self) -> bool {
        match &self.host {
            Host::Ipv4(ip) => ip.is_unspecified(),
            Host::Ipv6(ip) => std::net::IpAddr::V6(*ip).to_canonical().is_unspecified(),
            Host::Domain(_) => false,
        }
    }

    /// The port that is called.
    pub(crate) fn port(&self) -> u16 {
        Url::parse(&self.base).ok().and_then(|url| url.port_or_known_default()).unwrap_or(80)
    }

    fn host(&self) -> Host<&str> {
        match &self.host {
            Host::Ipv4(ip) => Host::Ipv4(*ip),
            Host::Ipv6(ip) => Host::Ipv6(*ip),
            Host::Domain(name) => Host::Domain(name),
        }
    }

    fn refused(&self, rule: Refused, reach: Reach) -> Error {
        let host = self.host.to_string();
        let shown: String = host.chars().take(MOST_SHOWN).collect();
        let dots = if shown.len() < host.len() { "…" } else { "" };
        let allowed = match reach {
            Reach::Public => "only globally routable endpoints are called here",
            Reach::Loopback => "only this machine and globally routable endpoints are called here",
            Reach::Private => "it cannot be called",
        };
        Error::new(Code::EndpointRefused, format!("the endpoint's host {shown}{dots} {rule}; {allowed}"))
            .with_wire_code(REFUSED)
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
    fn loopback_is_known_in_every_spelling() {
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
            let endpoint = Endpoint::parse("x", good).unwrap();
            assert!(endpoint.is_loopback(), "{good}");
            assert!(endpoint.judge(Reach::Loopback).is_ok() && endpoint.judge(Reach::Private).is_ok(), "{good}");
        }
        for other in ["http://localhost.example.com", "http://127.0.0.1.nip.io", "http://[::127.0.0.1]", "http://128.1"]
        {
            assert!(!Endpoint::parse("x", other).unwrap().is_loopback(), "{other}");
        }
        assert_eq!(Endpoint::parse("x", "http://127.1:8080/api/").unwrap().as_str(), "http://127.0.0.1:8080/api");
        assert_eq!(Endpoint::parse("x", "http://LOCALHOST.:1").unwrap().as_str(), "http://localhost:1");
        assert_eq!(
            Endpoint::parse("x", "http://[::1]:9/").unwrap().join("/v1/task").unwrap().as_str(),
            "http://[::1]:9/v1/task"
        );
    }

    #[test]
    fn a_refusal_names_the_rule_and_no_more_of_the_host_than_fits() {
        let error = Endpoint::parse("x", "http://0x0a.1/").unwrap().judge(Reach::Public).unwrap_err();
        assert_eq!((error.code(), error.wire_code()), (Code::EndpointRefused, Some(REFUSED)));
        assert!(error.message().contains("10.0.0.1 is in 10.0.0.0/8 (private)"), "{error}");
        let long = Endpoint::parse("x", &format!("http://{}.local", "a.".repeat(5_000))).unwrap();
        let error = long.judge(Reach::Private).unwrap_err();
        assert!(error.message().len() < 300 && error.message().contains('…'), "{error}");
    }

    #[test]
    fn what_is_no_base_url_says_why() {
        for bad in [
            "",
            "127.0.0.1:80",
            "ftp://127.0.0.1",
            "http://",
            "http://.",
            "http://u:p@127.0.0.1",
            "http://127.0.0.1/?q",
            "http://127.0.0.1:99999",
            "http://[fe80::1%eth0]",
            "http://[fe80::1%25eth0]/",
        ] {
            let error = Endpoint::parse("the directory", bad).unwrap_err();
            assert_eq!(error.code(), Code::ConfigInvalid, "{bad}");
            assert!(error.message().contains("the directory") && !error.message().contains("u:p"), "{error}");
        }
    }
}
