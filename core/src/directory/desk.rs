//! What every route is handed: the directory, and who is asking.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;

use super::Shared;
use super::node::TokenHash;
use crate::crypto::digest::token_hash;

/// The directory, as handlers take it.
pub(super) type Desk = State<Arc<Shared>>;

/// The address that a request came from, as the server puts it beside the request.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Who is asking.
pub(super) struct Caller {
    pub(super) ip: IpAddr,
    /// Hash of the bearer token; none without one.
    pub(super) token: Option<TokenHash>,
    /// The base URL under which the caller knows this directory. Clients expect it as the issuer of what is signed.
    pub(super) base: String,
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Parts, desk: &Arc<Shared>) -> Result<Self, Infallible> {
        let ip = head.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        // The guard has judged the Host header.
        let base = header(HOST).map_or_else(|| desk.url.clone(), |host| format!("http://{host}"));
        Ok(Caller { ip, token: header(AUTHORIZATION).and_then(bearer).map(token_hash), base })
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_with_a_token_is_one() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for none in ["Bearer ", "Bearer", "", "Basic abc", "abc"] {
            assert_eq!(bearer(none), None, "{none}");
        }
    }
}
