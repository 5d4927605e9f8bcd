//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use http::StatusCode;

use super::answer::Refusal;
use super::{Shared, credits, discover, lookups, nodes, probe, reports, tickets};

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
