//! What a base URL of a directory, a node or a backend may look like. Whether it may be called is another question, which
//! `transport` answers.

use url::{Host, Url};

use crate::error::{Code, Error, Result};

/// Reads a base URL; `what` names its owner in the error, which does not repeat the text: it may hold a password.
///
/// # Errors
/// `CONFIG_INVALID` if it is none: neither http nor https, without a host, with credentials, a query or a fragment.
pub(crate) fn base_url(what: &str, text: &str) -> Result<Url> {
    let invalid = |why: &str| {
        let example = "it should look like http://127.0.0.1:9480";
        Error::new(Code::ConfigInvalid, format!("the URL of {what} {why}; {example}"))
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
    without_trailing_dot(url).ok_or_else(|| invalid("has no host"))
}

/// The URL without the dots that a host name may end in: with and without them it is the same host, but not the same
/// text for a rule, a pool or a certificate. `None` if nothing is left, or nothing that is a host.
pub(crate) fn without_trailing_dot(mut url: Url) -> Option<Url> {
    if let Some(Host::Domain(name)) = url.host()
        && name.ends_with('.')
    {
        let name = name.trim_end_matches('.').to_owned();
        url.set_host(Some(&name)).ok()?;
    }
    url.has_host().then_some(url)
}
