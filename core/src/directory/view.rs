//! A node as discovery, tickets and look-ups show it.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::node::Node;
use super::operator::Operator;
use super::pricing::Pricing;
use super::record::{Capability, Policy, Software};

/// How reputation is reckoned, and since when.
pub(super) const REPUTATION_MODEL: &str = "outcome-v2";
pub(super) const REPUTATION_EPOCH: &str = "outcome-v2-initial";

/// The fields that published clients read. What they cannot take as null is always there; the rest is left out rather
/// than null.
#[derive(Serialize)]
pub(super) struct NodeView<'a> {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    route: Option<RouteView<'a>>,
    node_id_prefix: &'a str,
    region: &'a str,
    score: f64,
    available: bool,
    load: f64,
    active_jobs: u32,
    max_concurrent: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_estimate_ms: Option<f64>,
    transport: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport_method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposure_mode: Option<&'a str>,
    reachability_tier: &'static str,
    route_evidence: &'static str,
    routing_hint: &'static str,
    browser_usable: bool,
    relay_capable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_accept_port: Option<u32>,
    reputation_score: f64,
    reputation_model: &'static str,
    reputation_epoch: &'static str,
    completed_tasks_count: u64,
    models: Vec<&'a str>,
    capability_summary: Summary,
    capabilities: Vec<&'a Capability>,
    input_modalities: BTreeSet<&'a str>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    supported_profiles: BTreeSet<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(flatten)]
    software: &'a Software,
    key_ready: bool,
    cip_policy: &'a Policy,
    cip_conformance_level: &'static str,
    pricing: &'a Pricing,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_policy_manifest: Option<Value>,
    operator_verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator_display_name: Option<&'a str>,
    /// Tells apart operators whose names look alike; only beside a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    operator_fingerprint: Option<String>,
}

/// What it takes to call a node; left out where nodes are only shown.
#[derive(Serialize)]
struct RouteView<'a> {
    node_id: &'a str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport_endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport_metadata: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cx_public_key: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Summary {
    registered_model_count: usize,
    live_model_count: usize,
}

impl<'a> NodeView<'a> {
    /// Everything, as seen by somebody who asks for `intent`.
    pub(super) fn route(node: &'a Node, score: f64, intent: Option<&'a str>, now_unix_s: u64) -> Self {
        let record = &*node.record;
        let route = RouteView {
            node_id: &node.id,
            endpoint: &record.endpoint,
            transport_endpoint: record.transport_endpoint.as_deref(),
            transport_metadata: record.transport_metadata.as_deref(),
            cx_public_key: record.cx_public_key.as_deref(),
        };
        NodeView { route: Some(route), ..NodeView::public(node, score, intent, now_unix_s) }
    }

    /// What may be shown without disclosing a route.
    pub(super) fn public(node: &'a Node, score: f64, intent: Option<&'a str>, now_unix_s: u64) -> Self {
        let (record, state) = (&*node.record, &node.state);
        let capabilities: Vec<&Capability> = record.serving(intent).collect();
        let registered: BTreeSet<&str> =
            capabilities.iter().flat_map(|capability| &capability.models).map(String::as_str).collect();
        let is_live = |model: &&str| match &state.live_models {
            Some(live) => live.iter().any(|live| live == model),
            None => true,
        };
        let models: Vec<&str> = registered.iter().copied().filter(is_live).collect();
        let operator = record.operator.as_ref();
        let https = record.endpoint.starts_with("https:");
        let relayed = record.transport_method == Some("turn_relay");
        let mut transport = vec![if https { "https" } else { "http" }];
        transport.extend(record.transport_endpoint.is_some().then_some("iicp-native"));
        NodeView {
            route: None,
            node_id_prefix: prefix(&node.id),
            region: &record.region,
            score,
            available: state.available,
            load: state.load,
            active_jobs: state.active_jobs,
            max_concurrent: record.max_concurrent,
            latency_estimate_ms: state.latency_ms,
            transport,
            transport_method: record.transport_method,
            nat_type: record.nat_type,
            exposure_mode: record.exposure_mode,
            reachability_tier: if relayed { "relay" } else { "direct" },
            route_evidence: if state.probed { "directory_observed" } else { "self_attested" },
            routing_hint: match (relayed, https) {
                (true, _) => "relay_service",
                (false, true) => "https_direct",
                (false, false) => "http_direct",
            },
            browser_usable: true,
            relay_capable: record.relay_capable,
            relay_accept_port: record.relay_accept_port,
            reputation_score: state.reputation,
            reputation_model: REPUTATION_MODEL,
            reputation_epoch: REPUTATION_EPOCH,
            completed_tasks_count: state.completed,
            capability_summary: Summary { registered_model_count: registered.len(), live_model_count: models.len() },
            models,
            input_modalities: capabilities.iter().flat_map(|c| c.input_modalities.iter().copied()).collect(),
            supported_profiles: capabilities.iter().flat_map(|c| &c.supported_profiles).map(String::as_str).collect(),
            capabilities,
            backend: record.backend,
            software: &record.software,
            key_ready: record.cx_public_key.is_some(),
            cip_policy: &record.policy,
            cip_conformance_level: if record.policy.allow_remote_inference { "CIP-Provider" } else { "CIP-None" },
            pricing: &state.pricing,
            node_policy_manifest: record.manifest.as_ref().map(|manifest| manifest.shown(operator, now_unix_s)),
            operator_verified: operator.is_some(),
            operator_display_name: operator.and_then(|operator| operator.display_name.as_deref()),
            operator_fingerprint: operator
                .filter(|operator| operator.display_name.is_some())
                .map(Operator::fingerprint),
        }
    }
}

/// How a node is named where its whole id need not be told: eight characters of a UUID, or a short id whole.
pub(super) fn prefix(id: &str) -> &str {
    if id.len() == 36 && Uuid::try_parse(id).is_ok() { &id[..8] } else { id }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::directory::node::Report;
    use crate::directory::store::Store;
    use crate::directory::store::tests::{START, candidate, store};

    fn with(more: Value) -> Store {
        let mut store = store(1);
        store.register("aaaaaaaa-0000-4000-8000-000000000001", candidate("t", None, more), START).unwrap();
        store
    }

    #[test]
    fn nothing_that_breaks_a_published_client_is_null_and_the_key_is_echoed_as_sent() {
        let key = r#"{"key_id":"cx-1","algorithm":"X25519","encoding":"base64url","key":"k","zzz":1.50}"#;
        let store = with(json!({ "cx_public_key": serde_json::from_str::<Value>(key).unwrap() }));
        let node = store.with_prefix("aaaa").unwrap();
        let text = serde_json::to_string(&NodeView::route(&node, 0.5, Some(crate::types::CHAT), 0)).unwrap();
        let sent = node.record.cx_public_key.as_ref().unwrap().get();
        assert!(text.contains(&format!(r#""cx_public_key":{sent}"#)), "{text}");
        let view: Value = serde_json::from_str(&text).unwrap();
        for name in ["node_id", "endpoint", "region", "score", "available", "load", "transport"] {
            assert!(!view[name].is_null(), "{name}");
        }
        assert!(!text.contains("null"), "{text}");
        assert_eq!(view["models"], json!(["m-1", "m-2"]));
    }

    #[test]
    fn the_public_view_discloses_no_route() {
        let store = with(json!({ "transport_endpoint": "iicp://127.0.0.1:1" }));
        let node = store.with_prefix("aaaa").unwrap();
        let text = serde_json::to_string(&NodeView::public(&node, 0.5, None, 0)).unwrap();
        assert!(!text.contains("127.0.0.1") && !text.contains("8000") && text.contains("aaaaaaaa"), "{text}");
    }

    #[test]
    fn profiles_are_shown_with_the_intent_that_they_are_kept_for_and_together() {
        let (profile, chat) = ("urn:iicp:profile:service-lifecycle:v1", crate::types::CHAT);
        let other = "urn:iicp:intent:llm:embedding:v1";
        let capabilities = json!([{ "intent": chat, "supported_profiles": [profile] }, { "intent": other }]);
        let store = with(json!({ "capabilities": capabilities }));
        let node = store.with_prefix("aaaa").unwrap();
        let shown = |intent| serde_json::to_value(NodeView::route(&node, 0.5, Some(intent), 0)).unwrap();
        assert_eq!(shown(chat)["supported_profiles"], json!([profile]));
        assert_eq!(shown(chat)["capabilities"][0]["supported_profiles"], json!([profile]));
        assert!(shown(other)["supported_profiles"].is_null(), "{}", shown(other));
    }

    #[test]
    fn only_models_that_are_loaded_are_shown() {
        let mut store = with(json!({}));
        let node = store.with_prefix("a").unwrap();
        let report =
            Report { available: true, live_models: Some(vec!["m-2".into(), "other".into()]), ..Report::default() };
        store.heartbeat(&node.id, report, "c".into(), START).unwrap();
        let node = store.with_prefix("a").unwrap();
        let view = serde_json::to_value(NodeView::route(&node, 0.5, None, 0)).unwrap();
        assert_eq!(view["models"], json!(["m-2"]));
        assert_eq!(view["capability_summary"], json!({ "registered_model_count": 2, "live_model_count": 1 }));
    }

    #[test]
    fn a_uuid_is_told_by_its_first_eight_characters() {
        assert_eq!(prefix("aaaaaaaa-0000-4000-8000-000000000001"), "aaaaaaaa");
        assert_eq!(prefix("my-node-1"), "my-node-1");
    }
}
