//! Keeping web pages out. The directory is for programs on this machine; a page that a browser shows here could reach
//! it too, under its own origin, or under a name that it makes resolve to this machine.

use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, StatusCode};

use super::answer::Refusal;
use crate::transport::endpoint::Endpoint;

/// Judges the head of a request, before its body is read.
///
/// # Errors
/// A refusal if the request is addressed to, or comes from, something that is not this machine, or has the form that a
/// page may send without asking first.
pub(super) fn check(head: &Parts) -> Result<(), Refusal> {
    let local = |value: &HeaderValue| value.to_str().is_ok_and(is_local_authority);
    let named_in_line = head.uri.authority().is_none_or(|authority| is_local_authority(authority.as_str()));
    if head.headers.get_all(HOST).iter().count() > 1 || !head.headers.get_all(HOST).iter().all(local) || !named_in_line
    {
        return Err(forbidden("the Host header does not name this machine; use a loopback address or localhost"));
    }
    let from_here = |value: &HeaderValue| value.to_str().is_ok_and(is_here);
    if !head.headers.get_all(ORIGIN).iter().all(from_here) {
        return Err(forbidden("the Origin header is foreign; this directory serves no web pages"));
    }
    let writes = matches!(head.method, Method::POST | Method::DELETE);
    if writes && head.headers.get_all(CONTENT_TYPE).iter().any(is_form) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body must be sent as application/json",
        ));
    }
    Ok(())
}

fn forbidden(message: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "forbidden", message)
}

fn is_local_authority(text: &str) -> bool {
    text.parse::<Authority>().is_ok() && is_here(&format!("http://{text}"))
}

fn is_here(url: &str) -> bool {
    Endpoint::parse("an origin", url).is_ok_and(|endpoint| endpoint.is_loopback())
}

/// Whether a browser sends this type across origins without asking first.
fn is_form(value: &HeaderValue) -> bool {
    let essence = value.as_bytes().split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    [&b"text/plain"[..], b"multipart/form-data", b"application/x-www-form-urlencoded"]
        .iter()
        .any(|form| essence.eq_ignore_ascii_case(form))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn status(method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn loopback_passes_under_every_name_and_port() {
        for host in ["127.0.0.1:9480", "127.1", "localhost", "LOCALHOST:1", "[::1]:80", "127.8.8.8:65535"] {
            assert_eq!(status("GET", "/", &[("host", host)]), 200, "{host}");
        }
        assert_eq!(status("GET", "/", &[]), 200, "no browser leaves it out");
        assert_eq!(status("GET", "/", &[("host", "127.1"), ("origin", "http://localhost:3000")]), 200);
    }

    #[test]
    fn a_foreign_host_or_origin_is_refused() {
        for host in [
            "evil.example",
            "evil.example:9480",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "127.0.0.1/evil",
            "127.0.0.1:99999",
            "127.0.0.1\\evil",
            "",
        ] {
            assert_eq!(status("GET", "/", &[("host", host)]), 403, "{host}");
        }
        for origin in
            ["http://evil.example", "null", "file://", "https://127.0.0.1.evil.example", "chrome-extension://x"]
        {
            assert_eq!(status("GET", "/", &[("host", "127.0.0.1"), ("origin", origin)]), 403, "{origin}");
        }
        assert_eq!(status("GET", "/", &[("host", "127.0.0.1"), ("host", "127.0.0.1")]), 403);
        assert_eq!(status("GET", "http://evil.example/", &[("host", "127.0.0.1")]), 403);
    }

    #[test]
    fn a_form_is_no_write() {
        for form in [
            "text/plain",
            "Text/Plain; charset=utf-8",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded",
        ] {
            assert_eq!(status("POST", "/", &[("host", "localhost"), ("content-type", form)]), 415, "{form}");
            assert_eq!(status("GET", "/", &[("host", "localhost"), ("content-type", form)]), 200, "{form}");
        }
        for good in ["application/json", "application/json; charset=utf-8", "application/octet-stream"] {
            assert_eq!(status("POST", "/", &[("host", "localhost"), ("content-type", good)]), 200, "{good}");
        }
        assert_eq!(status("DELETE", "/", &[("host", "localhost")]), 200);
    }
}
