//! What a client is made with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::check_trusted_ca;
use super::{
    ConsumerAuth, MAX_TIMEOUT_MS, NativeTransport, ProfileRequest, Punch, RouteDiscovery, RoutingPolicy,
    RoutingStrategy, Validate, check_node_id, check_routing, check_timeout, in_range,
};
use crate::error::{Code, Error, Result};
use crate::types::{Secret, base_url};

/// How a client finds nodes, whom it trusts and how long it waits for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Base URL of the directory; `/v1/...` is appended. An `/api` at the end belongs to it.
    pub directory: String,
    /// Time for one whole submit, all attempts included, in milliseconds; at most 120,000.
    pub timeout_ms: u64,
    /// Preferred region of the nodes, unless a call names one.
    pub region: Option<String>,
    /// Times a task may be sent to the same node, where sending again is allowed at all.
    pub max_attempts: u32,
    /// How long a list of nodes is used before the directory is asked again, in milliseconds. A ticketed route is used
    /// until ten seconds before its ticket ends.
    pub route_ttl_ms: u64,
    /// The largest answer that is read from a node, in bytes.
    pub max_response_bytes: usize,
    /// The largest task that is sent, in bytes.
    pub max_request_bytes: usize,
    /// Longest silence between two pieces of an answer that has begun, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Where routes come from.
    pub route_discovery: RouteDiscovery,
    /// In which order nodes are asked.
    pub routing_strategy: RoutingStrategy,
    /// How often `epsilon` begins with a node at random, 0 to 1.
    pub routing_epsilon: f64,
    /// From how many of the best nodes `softmax_top_k` and `weighted_v1` choose.
    pub routing_top_k: u32,
    /// How much `softmax_top_k` cares for the score; the smaller the more, at least 0.001.
    pub routing_softmax_tau: f64,
    /// Who may be sent a task, unless a call says otherwise.
    pub routing_policy: RoutingPolicy,
    /// A profile that the directory is to take into account, unless a call names one.
    pub profile_request: Option<ProfileRequest>,
    /// Whether the application ranks the candidates; it is asked before every task, by an event.
    pub external_ranker: bool,
    /// Whether providers are shown a token that names the caller; takes `node_token`.
    pub consumer_auth: ConsumerAuth,
    /// The caller's own credential at the directory; goes nowhere else.
    pub node_token: Option<Secret>,
    /// Id of the node that `node_token` belongs to, where the directory wants to be told.
    pub node_id: Option<String>,
    /// Certificates of authorities that are trusted beside the system's: path of a PEM file, or its text. For directories and
    /// nodes, over HTTPS and native connections; read once.
    #[schemars(extend("contentMediaType" = "application/x-pem-file"))]
    pub trusted_ca: Option<String>,
    /// Whether nodes on private, loopback and other addresses that are not public may be called. A directory that is
    /// itself on this machine may name nodes on this machine.
    pub allow_private_endpoints: bool,
    /// Whether nodes that take native frames are sent them. A node's place is tried once before; who does not answer there
    /// is sent his tasks over HTTP.
    pub native: NativeTransport,
    /// Whether a direct path (QUIC over UDP) is looked for to nodes that are behind a relay, by which both learn each other's
    /// address. Tasks go through the relay until there is one, and again when it dies. Not with `native` off.
    pub punch: Punch,
    /// Failures in a row after which a node is left alone for a while.
    pub breaker_failures: u32,
    /// How long such a node is left alone before it is tried again, in milliseconds.
    pub breaker_open_ms: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            directory: "http://127.0.0.1:9480".into(),
            timeout_ms: 30_000,
            region: None,
            max_attempts: 3,
            route_ttl_ms: 30_000,
            max_response_bytes: 32 << 20,
            max_request_bytes: 16 << 20,
            idle_timeout_ms: 10_000,
            route_discovery: RouteDiscovery::default(),
            routing_strategy: RoutingStrategy::default(),
            routing_epsilon: 0.05,
            routing_top_k: 3,
            routing_softmax_tau: 0.04,
            routing_policy: RoutingPolicy::default(),
            profile_request: None,
            external_ranker: false,
            consumer_auth: ConsumerAuth::default(),
            node_token: None,
            node_id: None,
            trusted_ca: None,
            allow_private_endpoints: false,
            native: NativeTransport::default(),
            punch: Punch::default(),
            breaker_failures: 5,
            breaker_open_ms: 30_000,
        }
    }
}

impl Validate for ClientOptions {
    const WHAT: &'static str = "a client";

    fn validate(&self) -> Result<()> {
        base_url("the directory", &self.directory)?;
        check_trusted_ca(Self::WHAT, self.trusted_ca.as_deref())?;
        check_timeout(self.timeout_ms)?;
        check_routing(Self::WHAT, self.region.as_deref(), None, None)?;
        in_range(Self::WHAT, "max_attempts", self.max_attempts, 1, 10)?;
        in_range(Self::WHAT, "route_ttl_ms", self.route_ttl_ms, 0, 3_600_000)?;
        in_range(Self::WHAT, "max_response_bytes", self.max_response_bytes, 1 << 10, 1 << 30)?;
        in_range(Self::WHAT, "max_request_bytes", self.max_request_bytes, 1 << 10, 1 << 30)?;
        in_range(Self::WHAT, "idle_timeout_ms", self.idle_timeout_ms, 10, MAX_TIMEOUT_MS)?;
        in_range(Self::WHAT, "routing_epsilon", self.routing_epsilon, 0.0, 1.0)?;
        in_range(Self::WHAT, "routing_top_k", self.routing_top_k, 1, 50)?;
        in_range(Self::WHAT, "routing_softmax_tau", self.routing_softmax_tau, 0.001, 1000.0)?;
        in_range(Self::WHAT, "breaker_failures", self.breaker_failures, 1, 1000)?;
        in_range(Self::WHAT, "breaker_open_ms", self.breaker_open_ms, 100, 3_600_000)?;
        self.routing_policy.validate()?;
        self.profile_request.as_ref().map_or(Ok(()), ProfileRequest::validate)?;
        self.node_id.as_deref().map_or(Ok(()), check_node_id)?;
        if let Some(token) = &self.node_token
            && !token.is_header_text()
        {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `node_token` of a client must be 1 to 4096 visible ASCII characters",
            ));
        }
        if self.consumer_auth == ConsumerAuth::Required && self.node_token.is_none() {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `consumer_auth` of a client is required, and so `node_token` must be given",
            ));
        }
        Ok(())
    }
}
