//! Discovery: the nodes for an intent, and the profiles that a client may ask for with it.

use axum::extract::State;
use http::{StatusCode, Uri};
use serde::Serialize;

use super::answer::{Outcome, Refusal, ok};
use super::desk::{Caller, Desk};
use super::form::Form;
use super::limits::Route;
use super::score::Wish;
use super::view::NodeView;
use crate::protocol::profiles::{self, Asked, Negotiation, negotiate};

#[derive(Serialize)]
struct Found<'a> {
    count: usize,
    nodes: Vec<NodeView<'a>>,
    query_ms: u64,
    relay_available: bool,
    view: &'a str,
    data_class: &'static str,
    route_fields_present: bool,
    dispatch_ticket_endpoint: &'static str,
    ticketed_dispatch_available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_negotiation: Option<Negotiation>,
}

/// `GET discover`: the nodes for an intent, best first; none is an empty list.
pub(super) async fn discover(State(desk): Desk, caller: Caller, uri: Uri) -> Outcome {
    desk.limit(Route::Discover, caller.ip)?;
    let mut form = Form::query(uri.query().unwrap_or_default());
    let wish = Wish::read(&mut form);
    let public = form.choice("view", &["dispatch", "public"]) == Some("public");
    let negotiation = read_profile(&mut form);
    form.finish()?;
    wish.check_risk()?;
    if !negotiation.dispatch_allowed {
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            profiles::UNSUPPORTED,
            "this directory does not know the required profile in this version; ask without profile_required",
        ));
    }
    let now = desk.now();
    let nodes = desk.store().select(&wish, now);
    let view = if public { NodeView::public } else { NodeView::route };
    ok(&Found {
        count: nodes.len(),
        nodes: nodes.iter().map(|(score, node)| view(node, *score, Some(&wish.intent), now.unix_s)).collect(),
        query_ms: 0,
        relay_available: nodes.iter().any(|(_, node)| node.record.relay_capable),
        view: if public { "public" } else { "dispatch" },
        data_class: if public { "public_presentation" } else { "route_dispatch" },
        route_fields_present: !public,
        dispatch_ticket_endpoint: "/api/v1/dispatch/ticket",
        ticketed_dispatch_available: true,
        profile_negotiation: negotiation.requested.then_some(negotiation),
    })
}

fn read_profile(form: &mut Form<'_>) -> Negotiation {
    let id = form.text("profile_id", 160);
    let version = form.text("profile_version", 64);
    let sha256 = form.text("profile_fixture_sha256", 64);
    negotiate(Asked {
        profile_id: id.as_deref(),
        profile_version: version.as_deref(),
        profile_fixture_sha256: sha256.as_deref(),
        profile_required: form.flag("profile_required").unwrap_or_default(),
    })
}
