//! Who may be sent a task, and in which order they are asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Validate, check_names, check_routing, in_range};
use crate::error::{Code, Error, Result};
use crate::types::Qos;

/// Where routes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteDiscovery {
    /// Signed dispatch tickets, and discovery where the directory has none.
    #[default]
    Auto,
    /// Dispatch tickets only.
    Ticketed,
    /// Discovery only.
    Legacy,
}

/// In which order the candidates are asked. Every one but the first may stand in for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoutingStrategy {
    /// As the directory orders them.
    Deterministic,
    /// As the directory orders them, but now and then one at random first (`routing_epsilon`).
    Epsilon,
    /// One of the first `routing_top_k` first, by a softmax over the directory's scores (`routing_softmax_tau`).
    SoftmaxTopK,
    /// One of the first `routing_top_k` first, by score over load: spreads work over good nodes.
    #[default]
    WeightedV1,
}

impl RoutingStrategy {
    /// The spelling of the specification, which receipts carry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            RoutingStrategy::Deterministic => "deterministic",
            RoutingStrategy::Epsilon => "epsilon",
            RoutingStrategy::SoftmaxTopK => "softmax_top_k",
            RoutingStrategy::WeightedV1 => "weighted_v1",
        }
    }
}

/// Whether providers are shown a token that names the caller. The caller's own credential never goes to a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerAuth {
    /// A token when there is one to be had.
    #[default]
    Optional,
    /// A token, or no task.
    Required,
    /// No token.
    Disabled,
}

/// Whether a model is told that the request reached it through IICP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeIdentity {
    /// Told where it can be.
    #[default]
    Auto,
    /// Told, or the chat is refused.
    Required,
    /// Not told: the messages go out as they are.
    Disabled,
}

/// How many nodes must agree on a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consensus {
    /// Two nodes at once; the first result counts.
    FirstCompleted,
    /// Three nodes at once; two must agree.
    #[serde(rename = "majority_of_3")]
    MajorityOf3,
    /// Five nodes at once; three must agree.
    #[serde(rename = "majority_of_5")]
    MajorityOf5,
}

impl Consensus {
    /// Nodes that run the task at the same time, and how many of them must agree.
    #[must_use]
    pub const fn nodes_and_quorum(self) -> (usize, usize) {
        match self {
            Consensus::FirstCompleted => (2, 1),
            Consensus::MajorityOf3 => (3, 2),
            Consensus::MajorityOf5 => (5, 3),
        }
    }
}

/// A named set of rules for who may be sent a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyProfile {
    /// Sealed, to anyone.
    #[default]
    Standard,
    /// Sealed, and to no remote executor: every node of a mesh is one, so each is refused.
    Sensitive,
    /// Sealed, to nodes in `eu` or `eea`.
    EuRestricted,
    /// Sealed, to nodes whose signed policy manifest keeps no task.
    StrictPolicy,
    /// To anyone, unsealed where a node has no key. For development.
    DebugOverride,
}

/// How firmly a node's policy manifest is bound to someone, as the directory states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityLevel {
    /// The node says so.
    SelfAttested,
    /// Signed.
    SignedValid,
    /// Signed by the node's operator.
    OperatorBound,
    /// Signed by an operator whom the directory knows.
    KnownOperator,
}

/// Who may be sent a task: a profile, and what is to differ from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RoutingPolicy {
    /// The rules to begin with.
    pub profile: PolicyProfile,
    /// Whether nodes without a key to seal to are refused.
    pub require_encryption: Option<bool>,
    /// Whether nodes that are not the caller's own may run the task.
    pub allow_remote_executor: Option<bool>,
    /// Regions that nodes must be in: equal, or beginning with one of these and a dash; `eea` also takes `eu-…`. An empty
    /// list allows every region.
    pub allowed_regions: Option<Vec<String>>,
    /// Whether nodes without a policy manifest are refused.
    pub require_policy_manifest: Option<bool>,
    /// Whether nodes whose manifest does not rule out keeping the task are refused.
    pub require_no_payload_retention: Option<bool>,
    /// Whether only nodes of operators whom the directory knows are taken; the same as the highest identity level.
    pub known_operator_only: Option<bool>,
    /// The least level of identity that a node's manifest must have.
    pub required_manifest_identity_level: Option<IdentityLevel>,
}

impl Validate for RoutingPolicy {
    const WHAT: &'static str = "a routing policy";

    fn validate(&self) -> Result<()> {
        let regions = self.allowed_regions.as_deref().unwrap_or_default();
        in_range(Self::WHAT, "allowed_regions", regions.len(), 0, 64)?;
        check_names(Self::WHAT, "allowed_regions", regions, 64)
    }
}

/// A version of a profile that discovery is to take into account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProfileRequest {
    /// Id of the profile.
    pub profile_id: String,
    /// Its version.
    pub profile_version: String,
    /// SHA-256 of the profile's fixture, 64 lower-case hex digits.
    pub profile_fixture_sha256: String,
    /// Whether nothing is sent unless the directory supports it.
    pub required: bool,
}

impl Validate for ProfileRequest {
    const WHAT: &'static str = "a profile request";

    fn validate(&self) -> Result<()> {
        check_names(Self::WHAT, "profile_id", &[&self.profile_id], 160)?;
        check_names(Self::WHAT, "profile_version", &[&self.profile_version], 64)?;
        let digest = &self.profile_fixture_sha256;
        if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(());
        }
        Err(Error::of_options(
            Code::ConfigInvalid,
            "option `profile_fixture_sha256` of a profile request must be 64 lower-case hex digits",
        ))
    }
}

/// What is asked of the route and never told to a provider. What is not given here is taken from the task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteConstraints {
    /// Preferred region of the node.
    pub region: Option<String>,
    /// Quality of service that the node must be fit for.
    pub qos: Option<Qos>,
    /// A model that the node must serve.
    pub model: Option<String>,
    /// Least reputation of the node, 0 to 1.
    pub min_reputation: Option<f64>,
    /// Whether only nodes that a browser can call are taken.
    pub browser_usable_only: bool,
    /// Most nodes to choose from, 1 to 50; by default 10.
    pub limit: Option<u32>,
    /// A profile that the directory is to take into account; asks by discovery, not for a ticket.
    pub profile_request: Option<ProfileRequest>,
}

impl Validate for RouteConstraints {
    const WHAT: &'static str = "route constraints";

    fn validate(&self) -> Result<()> {
        check_routing(Self::WHAT, self.region.as_deref(), self.model.as_deref(), self.min_reputation)?;
        in_range(Self::WHAT, "limit", self.limit.unwrap_or(1), 1, 50)?;
        self.profile_request.as_ref().map_or(Ok(()), ProfileRequest::validate)
    }
}
