//! Which path leads where, and who is asking.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;

use super::answer::Refusal;
use super::store::TokenHash;
use super::{Shared, credits, discover, lookups, nodes, probe, reports, tickets};
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

/// Every route, under both prefixes that clients are configured with.
pub(super) fn router(desk: Arc<Shared>) -> Router {
    Router::new()
        .nest("/v1", api())
        .nest("/api/v1", api())
        .route("/iicp/health", get(lookups::health))
        .route("/iicp/ready", get(lookups::ready))
        .route("/metrics", get(lookups::metrics))
        .route("/api/metrics", get(lookups::metrics))
        .route("/.well-known/did.json", get(lookups::did))
        .fallback(|| async { Refusal::not_found("not_found", "no such route") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the route does not take this method")
        })
        .with_state(desk)
}

fn api() -> Router<Arc<Shared>> {
    Router::new()
        .route("/register", post(nodes::register).delete(nodes::deregister))
        .route("/heartbeat", post(nodes::heartbeat))
        .route("/me", get(nodes::me))
        .route("/discover", get(discover::discover))
        .route("/dispatch/ticket", post(tickets::dispatch_ticket))
        .route("/directory-key", get(tickets::directory_key))
        .route("/consumer-token", post(tickets::consumer_token))
        .route("/relay/ticket", post(tickets::relay_ticket))
        .route("/credits/award", post(credits::award))
        .route("/credits/balance", get(credits::balance))
        .route("/credits/summary", get(credits::summary))
        .route("/credits/transactions", get(credits::transactions))
        .route("/credits/quote", get(credits::quote))
        .route("/telemetry", post(reports::telemetry))
        .route("/audit-report", post(reports::audit))
        .route("/probe", get(probe::probe))
        .route("/node/{id}", get(lookups::node))
        .route("/registry/nodes", get(lookups::registry_nodes))
        .route("/registry/nodes/{prefix}", get(lookups::registry_node))
        .route("/registry/intents", get(lookups::registry_intents))
        .route("/registry/stats", get(lookups::registry_stats))
        .route("/bootstrap", get(lookups::bootstrap))
        .route("/stats", get(lookups::stats))
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
