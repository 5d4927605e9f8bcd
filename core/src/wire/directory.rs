//! The directory's requests and answers, as node and client write and read them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::events::LIFECYCLE;
use crate::error::{Code, Error, Result};
use crate::options::{
    Engine, ExposureMode, Modality, NatType, NodePolicy, PublicListing, ReceiptProfile, TransportMethod,
};
use crate::types::{NodeInfo, Secret, position};

/// The release of the published SDK that this library interoperates with; directories score nodes by it.
pub(crate) const SDK_COMPATIBILITY: &str = "0.7.109";

#[derive(Serialize)]
pub(crate) struct RegisterRequest<'a> {
    pub(crate) node_id: &'a str,
    pub(crate) endpoint: &'a str,
    /// Where native frames are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transport_endpoint: Option<&'a str>,
    pub(crate) region: &'a str,
    pub(crate) capabilities: Vec<Capability<'a>>,
    pub(crate) limits: Limits,
    /// Proof of ownership when the id is registered already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current_node_token: Option<&'a str>,
    /// The key of the last registration, so that it stays the same, or the operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_hmac_key: Option<&'a str>,
    /// Whether the node lends its address to others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) relay_capable: bool,
    /// Where it accepts them; published nodes say so too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relay_accept_port: Option<u16>,
    /// More on how it is reached, and what it is as a relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transport_metadata: Option<TransportMetadata<'a>>,
    /// What tasks for the node are sealed to.
    pub(crate) cx_public_key: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<Engine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pricing: Option<Pricing<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transport_method: Option<TransportMethod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nat_type: Option<NatType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exposure_mode: Option<ExposureMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy_manifest: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listing: Option<Listing<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator_delegation: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator_display_name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) supported_receipt_profiles: &'a [ReceiptProfile],
    pub(crate) sdk_language: &'a str,
    /// The same twice: directories read one or the other, and refuse two that differ.
    pub(crate) sdk_version: &'a str,
    pub(crate) sdk_compatibility_version: &'a str,
    pub(crate) implementation_name: &'a str,
    pub(crate) implementation_version: &'a str,
}

/// What a node says of the way by which it is reached.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum TransportMetadata<'a> {
    /// Of the one that it is reached through.
    Worker {
        /// The worker's id.
        relay_for: &'a str,
        relay_host: &'a str,
        /// Of the relay's HTTP side.
        relay_port: u16,
    },
    /// Of itself.
    Own {
        /// How far down the ladder it had to go for its way.
        #[serde(skip_serializing_if = "Option::is_none")]
        tier: Option<u8>,
        /// The hash of the key that its TLS as a relay is proven with.
        #[serde(skip_serializing_if = "Option::is_none")]
        relay_tls_spki_sha256: Option<String>,
    },
}

#[derive(Serialize)]
pub(crate) struct Capability<'a> {
    pub(crate) intent: &'a str,
    pub(crate) models: &'a [String],
    pub(crate) max_tokens: u32,
    pub(crate) input_modalities: &'a [Modality],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) output_modalities: &'a [Modality],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) supported_profiles: Vec<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct Policy {
    allow_remote_inference: bool,
    allow_tool_execution: bool,
    allow_file_access: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pricing_credits_per_1000: Option<f64>,
}

impl From<&NodePolicy> for Policy {
    fn from(policy: &NodePolicy) -> Self {
        Policy {
            allow_remote_inference: policy.allow_remote_inference,
            allow_tool_execution: policy.allow_tool_execution,
            allow_file_access: policy.allow_file_access,
            pricing_credits_per_1000: policy.pricing_credits_per_1000,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Listing<'a> {
    public_listing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator_contact: Option<&'a str>,
}

impl<'a> From<&'a PublicListing> for Listing<'a> {
    fn from(listing: &'a PublicListing) -> Self {
        Listing {
            public_listing: listing.public_listing,
            operator_url: listing.operator_url.as_deref(),
            operator_contact: listing.operator_contact.as_deref(),
        }
    }
}

/// A price, as it is declared.
#[derive(Serialize)]
pub(crate) struct Pricing<'a> {
    pub(crate) credit_cost_multiplier: Number,
    pub(crate) pricing_model: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) declaration_signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) effective_from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) effective_until: Option<&'a str>,
}

/// How the backend is, in health and heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct BackendStability {
    pub(crate) backend_state: BackendState,
    pub(crate) reason_class: ReasonClass,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_s: Option<u64>,
    /// In seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_until: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BackendState {
    #[default]
    Ok,
    Degraded,
    Draining,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReasonClass {
    #[default]
    Ok,
    BackendCold,
    BackendLoading,
    BackendUnstable,
    ObserverError,
}

impl BackendState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            BackendState::Ok => "ok",
            BackendState::Degraded => "degraded",
            BackendState::Draining => "draining",
        }
    }
}

impl ReasonClass {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ReasonClass::Ok => "ok",
            ReasonClass::BackendCold => "backend_cold",
            ReasonClass::BackendLoading => "backend_loading",
            ReasonClass::BackendUnstable => "backend_unstable",
            ReasonClass::ObserverError => "observer_error",
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Limits {
    pub(crate) max_concurrent: u32,
    pub(crate) tokens_per_min: u32,
}

/// What a node keeps of the answer to its registration. No `Debug`: it holds secrets.
#[derive(Deserialize)]
pub(crate) struct RegisterReply {
    #[serde(alias = "token")]
    pub(crate) node_token: Secret,
    #[serde(default)]
    pub(crate) node_hmac_key: Option<Secret>,
    #[serde(default, deserialize_with = "super::count")]
    pub(crate) next_heartbeat_ms: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct HeartbeatRequest<'a> {
    pub(crate) node_id: &'a str,
    pub(crate) status: &'a str,
    pub(crate) available: bool,
    pub(crate) load: f64,
    pub(crate) active_jobs: usize,
    pub(crate) max_concurrent: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<Outcomes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics_batch_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) challenge_response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_models: Option<Vec<String>>,
    pub(crate) backend_stability: BackendStability,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pricing: Option<Pricing<'a>>,
}

/// A request for the credits of a task.
#[derive(Serialize)]
pub(crate) struct AwardRequest<'a> {
    pub(crate) node_id: &'a str,
    pub(crate) task_id: &'a str,
    pub(crate) tokens_used: u64,
    pub(crate) amount: f64,
    pub(crate) nonce: &'a str,
    pub(crate) expires_at: String,
    pub(crate) signature: String,
    pub(crate) response_hash: &'a str,
    pub(crate) reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) querying_node_id: Option<&'a str>,
}

/// Finished tasks since the last acknowledged report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Outcomes {
    pub(crate) tasks_success: u64,
    pub(crate) tasks_failed: u64,
    pub(crate) avg_latency_ms: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct HeartbeatReply {
    pub(crate) challenge: Option<String>,
    pub(crate) metrics_batch_accepted: Option<String>,
    #[serde(deserialize_with = "super::count")]
    pub(crate) next_heartbeat_ms: Option<u64>,
}

/// Reads an answer of the directory, or says that it is none.
pub(crate) fn read<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T> {
    super::object(body).map_err(|e| {
        Error::new(
            Code::DirectoryMalformed,
            format!("the directory's answer to {what} is not one of this protocol: {}", position(&e)),
        )
    })
}

#[derive(Deserialize)]
struct NodeList<'a> {
    #[serde(borrow, default)]
    nodes: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    profile_negotiation: Option<ProfileNegotiation>,
}

#[derive(Deserialize)]
struct NodeEntry {
    node_id: String,
    endpoint: String,
    #[serde(default)]
    transport_endpoint: Option<String>,
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    available: Option<bool>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    models: Option<Vec<String>>,
    #[serde(default)]
    load: Option<f64>,
    #[serde(default)]
    reputation_score: Option<f64>,
    #[serde(default)]
    cx_public_key: Option<Value>,
    /// The old name of the key, still sent by one directory; only an object is the sealing key.
    #[serde(default)]
    public_key: Option<Value>,
    #[serde(default)]
    health_label: Option<String>,
    #[serde(default)]
    directory_observed_reachable: Option<bool>,
    #[serde(default)]
    browser_usable: Option<bool>,
    #[serde(default)]
    node_policy_manifest: Option<Value>,
    /// Profiles of all that it serves, and of each intent: directories say one or both.
    #[serde(default)]
    supported_profiles: Option<Value>,
    #[serde(default)]
    capabilities: Option<Value>,
}

impl NodeEntry {
    /// Whether its tasks can be followed event by event. A list in another form than the specification's says nothing.
    fn is_followed(&self) -> bool {
        let names = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|name| name == LIFECYCLE));
        let capabilities = self.capabilities.as_ref().and_then(Value::as_array).into_iter().flatten();
        let of_each = capabilities.filter_map(|capability| capability.get("supported_profiles"));
        self.supported_profiles.iter().chain(of_each).any(names)
    }
}

/// What the directory said about the profile that was asked for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct ProfileNegotiation {
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) dispatch_allowed: bool,
}

/// The nodes of a discovery, and what was said beside them.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) nodes: Vec<NodeInfo>,
    pub(crate) profile: Option<ProfileNegotiation>,
}

/// One disclosed route. No `Debug`: a ticket is good for whoever holds it.
pub(crate) struct Ticketed {
    pub(crate) ticket: String,
    pub(crate) node: NodeInfo,
}

#[derive(Deserialize)]
struct TicketReply<'a> {
    ticket: String,
    node_id: String,
    #[serde(borrow)]
    route: &'a RawValue,
}

/// Reads the answer to a request for a ticket. What the ticket is worth is not judged here.
pub(crate) fn read_ticket(body: &[u8]) -> Result<Ticketed> {
    let what = "dispatch/ticket";
    let reply: TicketReply<'_> = read(what, body)?;
    let node = read_node(reply.route.get()).filter(|node| node.node_id == reply.node_id).ok_or_else(|| {
        Error::new(Code::DirectoryMalformed, format!("the directory's answer to {what} discloses no usable route"))
    })?;
    Ok(Ticketed { ticket: reply.ticket, node })
}

/// What is read of a bind ticket's answer. No `Debug`: it holds a credential.
#[derive(Deserialize)]
pub(crate) struct RelayTicketReply {
    pub(crate) ticket: String,
    /// What the directory knows the relay's TLS by.
    #[serde(default)]
    pub(crate) relay_tls_spki_sha256: Option<String>,
}

/// A relay as a directory lists it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct ListedRelay {
    pub(crate) node_id: String,
    pub(crate) endpoint: String,
    #[serde(default)]
    pub(crate) load: Option<f64>,
    #[serde(default)]
    pub(crate) relay_capable: Option<bool>,
    /// Where it accepts workers, if the directory says.
    #[serde(default)]
    pub(crate) relay_accept_port: Option<u16>,
    /// What it says of its ways to be reached.
    #[serde(default)]
    pub(crate) transport_metadata: Option<Value>,
}

impl ListedRelay {
    /// The hash of the key that its TLS is proven with, if it says one.
    pub(crate) fn pin(&self) -> Option<&str> {
        self.transport_metadata.as_ref()?.get("relay_tls_spki_sha256")?.as_str()
    }
}

#[cfg(test)]
impl ListedRelay {
    pub(crate) fn new(node_id: &str, endpoint: &str) -> Self {
        let (node_id, endpoint) = (node_id.to_owned(), endpoint.to_owned());
        ListedRelay {
            node_id,
            endpoint,
            load: None,
            relay_capable: Some(true),
            relay_accept_port: None,
            transport_metadata: None,
        }
    }
}

/// Reads the relays of a list of nodes; a bad entry spoils no other.
pub(crate) fn read_relays(body: &[u8]) -> Result<Vec<ListedRelay>> {
    let list: NodeList<'_> = read("discover", body)?;
    let entries = list.nodes.unwrap_or_default();
    let relays = entries.iter().filter_map(|entry| serde_json::from_str::<ListedRelay>(entry.get()).ok());
    Ok(relays.filter(|relay| relay.relay_capable == Some(true) && crate::options::is_node_id(&relay.node_id)).collect())
}

/// The answer to a request for a consumer token. No `Debug`.
#[derive(Deserialize)]
pub(crate) struct ConsumerTokenReply {
    pub(crate) token: Secret,
}

/// Whether a directory could connect to a place.
#[derive(Deserialize)]
pub(crate) struct ProbeReply {
    pub(crate) reachable: bool,
    #[serde(default)]
    pub(crate) error: Option<String>,
}

/// The key that a directory signs with.
#[derive(Deserialize)]
pub(crate) struct DirectoryKeyReply {
    pub(crate) public_key: String,
}

/// Reads the nodes of a discovery. An entry that cannot be read is skipped, never the whole list.
pub(crate) fn read_nodes(body: &[u8], most: usize) -> Result<Listed> {
    let list: NodeList<'_> = read("discover", body)?;
    let Some(entries) = list.nodes else {
        return Err(Error::new(Code::DirectoryMalformed, "the directory's answer to discover has no list of nodes"));
    };
    let nodes = entries.into_iter().filter_map(|entry| read_node(entry.get())).take(most).collect();
    Ok(Listed { nodes, profile: list.profile_negotiation })
}

fn read_node(entry: &str) -> Option<NodeInfo> {
    let entry: NodeEntry = super::object(entry.as_bytes()).ok()?;
    if !crate::options::is_node_id(&entry.node_id) || entry.endpoint.is_empty() {
        return None;
    }
    let is_followed = entry.is_followed();
    Some(NodeInfo {
        is_followed,
        node_id: entry.node_id,
        endpoint: entry.endpoint,
        transport_endpoint: entry.transport_endpoint.filter(|text| text.len() <= 255),
        score: entry.score.unwrap_or_default(),
        available: entry.available.unwrap_or(true),
        region: entry.region,
        models: entry.models.unwrap_or_default(),
        load: entry.load,
        reputation_score: entry.reputation_score,
        cx_public_key: entry.cx_public_key.or(entry.public_key).filter(Value::is_object),
        health_label: entry.health_label,
        directory_observed_reachable: entry.directory_observed_reachable,
        browser_usable: entry.browser_usable,
        node_policy_manifest: entry.node_policy_manifest.filter(Value::is_object),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_entry_costs_itself_and_nulls_are_normal() {
        let nodes = read_nodes(
            br#"{"nodes":[{"node_id":"a","endpoint":"http://127.0.0.1:1","score":null,"available":null,"region":null,
                "models":null,"load":null,"cx_public_key":null,"public_key":"hex","zzz":1},
                {"node_id":7},{"endpoint":"http://x"},"?",null,{"node_id":"bad id","endpoint":"x"},
                {"node_id":"b","endpoint":"http://127.0.0.1:2","score":0.5}],"count":null}"#,
            10,
        )
        .unwrap()
        .nodes;
        let ids: Vec<&str> = nodes.iter().map(|node| node.node_id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert!(nodes[0].available && nodes[0].cx_public_key.is_none());
    }

    #[test]
    fn a_node_is_followed_if_it_says_so_of_itself_or_of_an_intent() {
        let said = |more: &str| {
            let node = format!(r#"{{"node_id":"a","endpoint":"http://127.0.0.1:1"{more}}}"#);
            read_node(&node).map(|node| node.is_followed)
        };
        let profile = format!("[\"urn:iicp:profile:other:v1\",\"{LIFECYCLE}\"]");
        assert_eq!(said(&format!(r#","supported_profiles":{profile}"#)), Some(true));
        assert_eq!(said(&format!(r#","capabilities":[{{}},7,{{"supported_profiles":{profile}}}]"#)), Some(true));
        for more in [
            "",
            r#","supported_profiles":null,"capabilities":null"#,
            r#","supported_profiles":["urn:iicp:profile:service-lifecycle:v2"]"#,
            r#","supported_profiles":{"urn:iicp:profile:service-lifecycle:v1":true},"capabilities":7"#,
        ] {
            assert_eq!(said(more), Some(false), "{more}");
        }
    }

    #[test]
    fn what_is_no_list_is_said_to_be_none() {
        for body in [&b"<html>"[..], b"", b"[]", b"{}", br#"{"nodes":null}"#, br#"{"nodes":{"#] {
            assert_eq!(read_nodes(body, 10).unwrap_err().code(), Code::DirectoryMalformed);
        }
    }
}
