//! What a node is made with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::listing::{
    AvailabilityWindow, Engine, ExposureMode, NatType, NodeCapability, NodePolicy, NodePricing, PublicListing,
    ReceiptProfile, TransportMethod,
};
use super::statements::{check_operator_delegation, check_policy_manifest};
use super::tls::check_trusted_ca;
use super::{
    BackendOptions, NatOptions, NativeTransport, Punch, RelayServerOptions, RelayWorkerOptions, TlsOptions, Validate,
    check_names, check_node_id, check_region, check_timeout, in_range,
};
use crate::error::{Code, Error, Result};
use crate::types::{Intent, Secret, base_url};

/// What a serving node offers and how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeOptions {
    /// Intents that the handler serves. With a `backend`, by default those that it can serve.
    pub intents: Vec<String>,
    /// Models that the handler serves, as discovery shows them. With a `backend`, by default those that it lists.
    pub models: Vec<String>,
    /// The inference server that runs the tasks; by default there is none, and a handler serves them.
    pub backend: Option<BackendOptions>,
    /// Base URL of the directory to register with; empty: serve without registering.
    pub directory: String,
    /// Id of the node, at most 36 letters, digits, `.`, `_`, `:` or `-`; by default a UUID, which is kept in `state_dir`.
    pub node_id: Option<String>,
    /// Folder for what must outlive the process: the node's id, its sealing key, and what it needs to prove to the directory
    /// that it is the same node. By default nothing is kept, and every start makes another node. Of the nodes with one
    /// id, one at a time may use it.
    pub state_dir: Option<String>,
    /// Region as the directory shows it: a letter, then letters, digits, `-` or `_`.
    pub region: String,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// URL under which callers reach the node; by default the address it listens on.
    pub endpoint: Option<String>,
    /// TLS on the node's port; by default it speaks HTTP, for what speaks TLS in front of it. With it, an `endpoint` begins with
    /// `https`.
    pub tls: Option<TlsOptions>,
    /// Certificates of authorities that are trusted beside the system's: path of a PEM file, or its text. For the directory, and
    /// for the node's look at itself.
    #[schemars(extend("contentMediaType" = "application/x-pem-file"))]
    pub trusted_ca: Option<String>,
    /// Lends the node's address to workers that nobody can reach: the node is a relay. By default it is none.
    pub relay_server: Option<RelayServerOptions>,
    /// Has the node reached through a relay, because nobody can reach it. By default it is called where it listens.
    pub relay_worker: Option<RelayWorkerOptions>,
    /// How the node finds a way to be reached, if it listens on all addresses of its machine.
    pub nat: NatOptions,
    /// Tasks that may run at the same time; one more waits if its class is `realtime` or `interactive`, and is answered
    /// with `capacity_exceeded` otherwise.
    pub max_concurrent: u32,
    /// How long a task of these classes may wait for its turn, in milliseconds; 0: none waits.
    pub queue_wait_ms: u64,
    /// Tasks that may wait at the same time, the more urgent first; of one more, the least urgent is refused.
    pub queue_length: usize,
    /// What callers have to prove.
    pub auth: TaskAuth,
    /// A token that the operator gives to callers of his choice, who show it as `auth.node_token`. The token that the directory
    /// gave the node counts as well, but whoever has that can also speak for the node there.
    pub access_token: Option<Secret>,
    /// Tasks that one web page (`Origin`) may send in a minute; 0: any number.
    pub rate_per_origin: u32,
    /// Tasks that one address may send in a minute, an IPv6 network of 64 bits counting as one; 0: any number. Behind a
    /// tunnel or a proxy all callers have the same address.
    pub rate_per_ip: u32,
    /// Token rate that is advertised to the directory.
    pub tokens_per_min: u32,
    /// Most tokens of one answer, as advertised to the directory.
    pub max_tokens: u32,
    /// What is served by which models, where `models` alone does not say it; an intent without an entry has one with
    /// `models` and text. Directories list it as it stands here, also when a backend turns out to have other models.
    pub capabilities: Vec<NodeCapability>,
    /// What runs the models, as the directory shows it; by default what a `backend` turns out to be.
    pub engine: Option<Engine>,
    /// What others' tasks may do here; by default nothing is declared, and tools are not run.
    pub policy: Option<NodePolicy>,
    /// What tasks cost; by default nothing is declared, which directories take for the usual price.
    pub pricing: Option<NodePricing>,
    /// Key for the proofs that a node gives its directory, at most 128 visible ASCII characters; by default the directory
    /// makes one.
    pub node_hmac_key: Option<Secret>,
    /// By which way the node is reached. With this and a known `nat_type`, neither the directory nor the node itself tries
    /// whether the endpoint answers.
    pub transport_method: Option<TransportMethod>,
    /// What kind of NAT the node is behind.
    pub nat_type: Option<NatType>,
    /// How the node stands towards the Internet.
    pub exposure_mode: Option<ExposureMode>,
    /// What the operator promises about tasks, as an object in the form of the specification; passed on as it is, so that
    /// its signature stays good. At most 16 KiB.
    pub policy_manifest: Option<Map<String, Value>>,
    /// Whether and how the node is shown to people.
    pub listing: Option<PublicListing>,
    /// The operator's signed word that the node is his: an object with `node_id`, `operator_pub`, `not_after` and `sig`.
    pub operator_delegation: Option<Map<String, Value>>,
    /// Name of the operator, at most 64 bytes; directories show it only with a good `operator_delegation`.
    pub operator_display_name: Option<String>,
    /// Receipts that the node can give beside the directory's own.
    pub supported_receipt_profiles: Vec<ReceiptProfile>,
    /// How much of the node is given to others at which time of the day; the first window that fits counts, and outside of
    /// all of them it is half. By default everything, always.
    pub availability: Vec<AvailabilityWindow>,
    /// Whether the directory is asked for credits after every task whose tokens are known.
    pub receipts: bool,
    /// Time of a task that names none, in milliseconds.
    pub default_timeout_ms: u64,
    /// The largest task body that is read, in bytes.
    pub max_body_bytes: usize,
    /// Connections held at the same time; by default what the process's descriptor limit allows, at most 16,384.
    pub max_connections: Option<usize>,
    /// Time to the end of a request's head, counted from its first byte (or from connecting), in milliseconds.
    pub header_timeout_ms: u64,
    /// How long a connection may wait for its next request, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Grace for a body or an answer to move on, in milliseconds; after it at least 1 KiB a second must pass.
    pub transfer_grace_ms: u64,
    /// Whether the port also speaks the native framed transport, and to whom.
    pub native: NativeTransport,
    /// Whether callers of a node behind a relay may find a direct path to it (QUIC over UDP), by which both learn each other's
    /// address; and whether a relay helps them to find it. Not with `native` off.
    pub punch: Punch,
    /// Memory for remembering task ids, in bytes; the oldest are forgotten first. Nonces, which must not be forgotten, have as
    /// much again; when it is full, tasks with a nonce are refused.
    pub replay_bytes: usize,
    /// Memory for stored answers of finished tasks, in bytes; the oldest are dropped first.
    pub result_bytes: usize,
}

/// What the callers of a node have to prove. A consumer token is signed by the directory, and names the caller to this one
/// node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TaskAuth {
    /// Nothing, and what they show is not looked at.
    Open,
    /// Nothing; but a consumer token that is shown must be good.
    #[default]
    Token,
    /// That they have a good consumer token, or the node's own token.
    Required,
}

impl NodeOptions {
    fn check_auth(&self) -> Result<()> {
        if let Some(token) = &self.access_token {
            let length = token.expose().len();
            if !(1..=4096).contains(&length) {
                return Err(refused("access_token", &format!("has {length} bytes; it must have 1 to 4096")));
            }
        }
        if self.auth == TaskAuth::Required && self.directory.is_empty() && self.access_token.is_none() {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `auth` of a node is required, and nobody could prove anything: set `access_token`, or a `directory`",
            ));
        }
        Ok(())
    }
}

impl Default for NodeOptions {
    fn default() -> Self {
        NodeOptions {
            intents: Vec::new(),
            models: Vec::new(),
            backend: None,
            directory: String::new(),
            node_id: None,
            state_dir: None,
            region: "unknown".into(),
            host: "127.0.0.1".into(),
            port: 0,
            endpoint: None,
            tls: None,
            trusted_ca: None,
            relay_server: None,
            relay_worker: None,
            nat: NatOptions::default(),
            max_concurrent: 4,
            queue_wait_ms: 2_000,
            queue_length: 64,
            auth: TaskAuth::Token,
            access_token: None,
            rate_per_origin: 120,
            rate_per_ip: 0,
            tokens_per_min: 10_000,
            max_tokens: 8_192,
            capabilities: Vec::new(),
            engine: None,
            policy: None,
            pricing: None,
            node_hmac_key: None,
            transport_method: None,
            nat_type: None,
            exposure_mode: None,
            policy_manifest: None,
            listing: None,
            operator_delegation: None,
            operator_display_name: None,
            supported_receipt_profiles: Vec::new(),
            availability: Vec::new(),
            receipts: false,
            default_timeout_ms: 30_000,
            max_body_bytes: 16 << 20,
            max_connections: None,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            transfer_grace_ms: 10_000,
            native: NativeTransport::default(),
            punch: Punch::default(),
            replay_bytes: 64 << 20,
            result_bytes: 64 << 20,
        }
    }
}

impl Validate for NodeOptions {
    const WHAT: &'static str = "a node";

    fn validate(&self) -> Result<()> {
        if self.intents.is_empty() && self.backend.is_none() {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `intents` of a node is empty; name at least one intent to serve",
            ));
        }
        in_range(Self::WHAT, "intents", self.intents.len(), 0, 64)?;
        for intent in &self.intents {
            Intent::parse(intent)?;
        }
        in_range(Self::WHAT, "models", self.models.len(), 0, 64)?;
        check_names(Self::WHAT, "models", &self.models, 255)?;
        self.backend.as_ref().map_or(Ok(()), BackendOptions::validate)?;
        if let Some(node_id) = &self.node_id {
            check_node_id(node_id)?;
        }
        if let Some(state_dir) = &self.state_dir {
            check_names(Self::WHAT, "state_dir", &[state_dir], 4096)?;
        }
        check_region(Self::WHAT, &self.region)?;
        self.check_urls()?;
        self.check_tls()?;
        self.check_relay()?;
        self.nat.validate()?;
        self.check_capabilities()?;
        self.check_listing()?;
        check_timeout(self.default_timeout_ms)?;
        in_range(Self::WHAT, "max_concurrent", self.max_concurrent, 1, 256)?;
        in_range(Self::WHAT, "queue_wait_ms", self.queue_wait_ms, 0, 60_000)?;
        in_range(Self::WHAT, "queue_length", self.queue_length, 0, 1 << 16)?;
        self.check_auth()?;
        in_range(Self::WHAT, "tokens_per_min", self.tokens_per_min, 1, u32::MAX)?;
        in_range(Self::WHAT, "max_tokens", self.max_tokens, 1, u32::MAX)?;
        in_range(Self::WHAT, "max_body_bytes", self.max_body_bytes, 1 << 10, 1 << 30)?;
        in_range(Self::WHAT, "max_connections", self.max_connections.unwrap_or(1), 1, 1 << 20)?;
        in_range(Self::WHAT, "header_timeout_ms", self.header_timeout_ms, 100, 600_000)?;
        in_range(Self::WHAT, "idle_timeout_ms", self.idle_timeout_ms, 100, 3_600_000)?;
        in_range(Self::WHAT, "transfer_grace_ms", self.transfer_grace_ms, 100, 600_000)?;
        in_range(Self::WHAT, "replay_bytes", self.replay_bytes, 64 << 10, 1 << 34)?;
        in_range(Self::WHAT, "result_bytes", self.result_bytes, 0, 1 << 34)
    }
}

impl NodeOptions {
    fn check_urls(&self) -> Result<()> {
        if !self.directory.is_empty() {
            base_url("the directory", &self.directory)?;
        }
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        if endpoint.len() > 255 {
            return Err(refused("endpoint", "must be at most 255 bytes: directories take no more"));
        }
        base_url("the node's endpoint", endpoint).map(drop)
    }

    fn check_tls(&self) -> Result<()> {
        check_trusted_ca(Self::WHAT, self.trusted_ca.as_deref())?;
        let Some(tls) = &self.tls else { return Ok(()) };
        tls.validate()?;
        if tls.only && self.native == NativeTransport::Any {
            return Err(refused("native", "cannot be any beside `tls.only`, which takes nothing in plain text"));
        }
        let is_plain =
            |endpoint: &String| base_url("the node's endpoint", endpoint).is_ok_and(|url| url.scheme() == "http");
        if self.endpoint.as_ref().is_some_and(is_plain) {
            return Err(refused("endpoint", "begins with http, and the node has `tls`: write https"));
        }
        Ok(())
    }

    fn check_relay(&self) -> Result<()> {
        self.relay_server.as_ref().map_or(Ok(()), Validate::validate)?;
        let Some(worker) = &self.relay_worker else { return Ok(()) };
        worker.validate()?;
        if self.relay_server.is_some() {
            let why = "cannot stand beside `relay_server`: who nobody can reach has no address to lend";
            return Err(refused("relay_worker", why));
        }
        if self.directory.is_empty() {
            return Err(refused("relay_worker", "needs `directory`: it names the relays, and tells callers the way"));
        }
        if self.endpoint.is_some() {
            let why = "cannot stand beside `endpoint`: the node is called where its relay is";
            return Err(refused("relay_worker", why));
        }
        Ok(())
    }

    fn check_capabilities(&self) -> Result<()> {
        in_range(Self::WHAT, "capabilities", self.capabilities.len(), 0, 64)?;
        for (at, capability) in self.capabilities.iter().enumerate() {
            capability.validate()?;
            if !self.intents.contains(&capability.intent) {
                let message = format!("names {}, which is not one of the option `intents`", capability.intent);
                return Err(refused("capabilities", &message));
            }
            if self.capabilities[..at].iter().any(|other| other.is_like(capability)) {
                let message = format!("has {} twice with the same modalities; join the entries", capability.intent);
                return Err(refused("capabilities", &message));
            }
        }
        Ok(())
    }

    fn check_listing(&self) -> Result<()> {
        self.policy.as_ref().map_or(Ok(()), NodePolicy::validate)?;
        self.pricing.as_ref().map_or(Ok(()), NodePricing::validate)?;
        self.listing.as_ref().map_or(Ok(()), PublicListing::validate)?;
        self.policy_manifest.as_ref().map_or(Ok(()), check_policy_manifest)?;
        let delegation = self.operator_delegation.as_ref();
        delegation.map_or(Ok(()), |delegation| check_operator_delegation(delegation, self.node_id.as_deref()))?;
        check_names(Self::WHAT, "operator_display_name", self.operator_display_name.as_slice(), 64)?;
        in_range(Self::WHAT, "supported_receipt_profiles", self.supported_receipt_profiles.len(), 0, 1)?;
        in_range(Self::WHAT, "availability", self.availability.len(), 0, 64)?;
        self.availability.iter().try_for_each(AvailabilityWindow::validate)?;
        match &self.node_hmac_key {
            Some(key) if key.expose().len() > 128 || !key.is_header_text() => {
                Err(refused("node_hmac_key", "must be 1 to 128 visible ASCII characters"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the node says that asking its endpoint would prove nothing, as directories judge it.
    pub(crate) fn is_behind_nat(&self) -> bool {
        self.transport_method.is_some() && self.nat_type.is_some_and(|nat| nat != NatType::Unknown)
    }

    /// What is served, an entry per intent and set of modalities.
    pub(crate) fn served(&self) -> Vec<NodeCapability> {
        let mut served = self.capabilities.clone();
        for intent in &self.intents {
            if !served.iter().any(|capability| capability.intent == *intent) {
                served.push(NodeCapability {
                    intent: intent.clone(),
                    models: self.models.clone(),
                    ..NodeCapability::default()
                });
            }
        }
        served
    }
}

fn refused(option: &str, what: &str) -> Error {
    Error::of_options(Code::ConfigInvalid, format!("option `{option}` of a node {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::options::from_json;
    use crate::types::{CHAT, EMBEDDING};

    fn read(more: &Value) -> Result<NodeOptions> {
        let mut options = json!({ "intents": [CHAT] });
        for (name, value) in more.as_object().unwrap() {
            options[name] = value.clone();
        }
        from_json(&options.to_string())
    }

    #[test]
    fn every_wrong_option_names_itself_before_any_network_is_touched() {
        let capability = |field: &str, value: Value| json!({ "capabilities": [{ "intent": CHAT, field: value }] });
        let manifest = |field: &str, value: Value| json!({ "policy_manifest": { field: value } });
        let delegation = json!({ "node_id": "n", "operator_pub": "p", "not_after": 1, "sig": "s" });
        let without = |field: &str| {
            let mut delegation = delegation.clone();
            delegation.as_object_mut().unwrap().remove(field);
            json!({ "operator_delegation": delegation })
        };
        for (named, options) in [
            ("capabilities", json!({ "capabilities": [{ "intent": EMBEDDING }] })),
            ("capabilities", json!({ "capabilities": [{ "intent": CHAT }, { "intent": CHAT, "models": ["m"] }] })),
            ("chat", json!({ "capabilities": [{ "intent": "chat" }] })),
            ("models", capability("models", json!(vec!["m"; 65]))),
            ("models", capability("models", json!(["m".repeat(256)]))),
            ("max_tokens", capability("max_tokens", json!(0))),
            ("capabilities", capability("input_modalities", json!(["smell"]))),
            ("input_modalities", capability("input_modalities", json!([]))),
            ("input_modalities", capability("input_modalities", json!(["text", "text"]))),
            ("supported_profiles", capability("supported_profiles", json!(["mine"]))),
            ("supported_profiles", capability("supported_profiles", json!(vec!["urn:iicp:profile:a"; 17]))),
            ("\"modality\"", capability("modality", json!("text"))),
            ("engine", json!({ "engine": "gpt" })),
            ("backend", json!({ "backend": "gpt" })),
            ("url", json!({ "backend": {} })),
            ("policy", json!({ "policy": { "allow_file_access": 1 } })),
            ("pricing_credits_per_1000", json!({ "policy": { "pricing_credits_per_1000": 1000.5 } })),
            ("credit_cost_multiplier", json!({ "pricing": { "credit_cost_multiplier": -1 } })),
            ("pricing", json!({ "pricing": { "pricing_model": "per_day" } })),
            ("effective_from", json!({ "pricing": { "effective_from": "tomorrow" } })),
            (
                "effective_until",
                json!({ "pricing": { "effective_from": "2026-02-01T00:00:00Z", "effective_until": "2026-01-01T00:00:00Z" } }),
            ),
            ("node_hmac_key", json!({ "node_hmac_key": "canary".repeat(30) })),
            ("node_hmac_key", json!({ "node_hmac_key": "can ary" })),
            ("transport_method", json!({ "transport_method": "webrtc_datachannel" })),
            ("nat_type", json!({ "nat_type": "none" })),
            ("exposure_mode", json!({ "exposure_mode": "everywhere" })),
            ("endpoint", json!({ "endpoint": format!("http://{}", "a".repeat(255)) })),
            ("operator_url", json!({ "listing": { "operator_url": "u".repeat(257) } })),
            ("operator_contact", json!({ "listing": { "operator_contact": "a\nb" } })),
            ("operator_display_name", json!({ "operator_display_name": "n".repeat(65) })),
            ("supported_receipt_profiles", json!({ "supported_receipt_profiles": ["mine"] })),
            ("start", json!({ "availability": [{ "start": "24:00" }] })),
            ("end", json!({ "availability": [{ "end": "9:00" }] })),
            ("share", json!({ "availability": [{ "share": 1.5 }] })),
            ("policy_manifest: version", manifest("version", json!("v".repeat(33)))),
            ("policy_manifest: training_use", manifest("training_use", json!("canary"))),
            ("policy_manifest: subprocessors", manifest("subprocessors", json!(vec!["canary"; 21]))),
            ("policy_manifest: retention", manifest("retention", json!(7))),
            ("policy_manifest: retention.logs_days", manifest("retention", json!({ "logs_days": 3651 }))),
            ("policy_manifest: retention.task_payload", manifest("retention", json!({ "task_payload": "canary" }))),
            ("policy_manifest: signature.algorithm", manifest("signature", json!({ "algorithm": "RSA" }))),
            ("policy_manifest: signature.key_id", manifest("signature", json!({ "algorithm": "Ed25519" }))),
            ("policy_manifest", manifest("x", json!("x".repeat(1 << 15)))),
            ("operator_delegation: sig of a node is missing", without("sig")),
            ("operator_delegation: not_after of a node is missing", without("not_after")),
            ("operator_delegation: node_id", json!({ "node_id": "other", "operator_delegation": delegation })),
        ] {
            let refused = read(&options).map(|_| ()).expect_err(named);
            assert!(refused.message().contains(named), "{named}: {refused}");
            assert!(matches!(refused.code(), Code::ConfigInvalid | Code::IntentInvalid), "{named}: {refused}");
            assert!(!refused.message().contains("canary"), "{named}: {refused}");
        }
    }

    #[test]
    fn an_intent_without_an_entry_of_its_own_is_served_with_the_nodes_models() {
        let options = read(&json!({
            "intents": [CHAT, EMBEDDING], "models": ["m"],
            "capabilities": [{ "intent": CHAT, "models": ["v"], "input_modalities": ["text", "image"] }],
        }))
        .unwrap();
        let served: Vec<_> = options.served().into_iter().map(|one| (one.intent, one.models)).collect();
        assert_eq!(served, [(CHAT.into(), vec!["v".into()]), (EMBEDDING.into(), vec!["m".into()])]);
    }

    #[test]
    fn a_key_is_in_no_debug_output() {
        let options = read(&json!({ "node_hmac_key": "canary" })).unwrap();
        assert!(!format!("{options:?}").contains("canary"));
    }
}
