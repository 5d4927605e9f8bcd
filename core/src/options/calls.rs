//! What one call of a client may say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Consensus, ProfileRequest, RouteConstraints, RoutingPolicy, Validate, check_node_id, check_routing, check_task_id,
    check_timeout, in_range,
};
use crate::error::{Code, Error, Result};
use crate::types::{CHAT, Intent, Priority, Qos, Traceparent};

/// What to ask the directory for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Discover {
    /// The intent that the nodes must serve.
    pub intent: String,
    /// Preferred region; a preference, not a filter.
    pub region: Option<String>,
    /// Quality of service that the nodes must be fit for.
    pub qos: Option<Qos>,
    /// A model that the nodes must serve.
    pub model: Option<String>,
    /// Least reputation of the nodes, 0 to 1.
    pub min_reputation: Option<f64>,
    /// Most nodes to return, 1 to 50.
    pub limit: u32,
    /// Whether only nodes that a browser can call are returned.
    pub browser_usable_only: bool,
    /// A profile that the directory is to take into account.
    pub profile_request: Option<ProfileRequest>,
}

impl Default for Discover {
    fn default() -> Self {
        Discover {
            intent: String::new(),
            region: None,
            qos: None,
            model: None,
            min_reputation: None,
            limit: 10,
            browser_usable_only: false,
            profile_request: None,
        }
    }
}

impl Discover {
    /// Asks for nodes that serve `intent`.
    #[must_use]
    pub fn intent(intent: impl Into<String>) -> Self {
        Discover { intent: intent.into(), ..Discover::default() }
    }

    /// Prefers a region.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Asks for nodes fit for a quality of service.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = Some(qos);
        self
    }

    /// Asks for nodes that serve a model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Asks for nodes of at least this reputation, 0 to 1.
    #[must_use]
    pub fn min_reputation(mut self, least: f64) -> Self {
        self.min_reputation = Some(least);
        self
    }

    /// Asks for at most this many nodes, 1 to 50.
    #[must_use]
    pub fn limit(mut self, most: u32) -> Self {
        self.limit = most;
        self
    }
}

impl Validate for Discover {
    const WHAT: &'static str = "a discovery";

    fn validate(&self) -> Result<()> {
        check_intent(Self::WHAT, &self.intent)?;
        in_range(Self::WHAT, "limit", self.limit, 1, 50)?;
        self.profile_request.as_ref().map_or(Ok(()), ProfileRequest::validate)?;
        check_routing(Self::WHAT, self.region.as_deref(), self.model.as_deref(), self.min_reputation)
    }
}

/// A task apart from its payload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TaskOptions {
    /// The intent of the task.
    pub intent: String,
    /// Id of the task; by default a fresh UUIDv4. Visible ASCII without `|`, at most 128 characters.
    pub task_id: Option<String>,
    /// Time for the whole submit, in milliseconds, at most 120,000; by default the client's.
    pub timeout_ms: Option<u64>,
    /// Whether running the task twice does no harm, so that it may be sent again when it may have run already.
    pub idempotent: bool,
    /// Preferred region, by default the client's.
    pub region: Option<String>,
    /// Quality of service.
    pub qos: Option<Qos>,
    /// How the task stands among others of its class, told to the provider; by default nothing is said, which is `normal`.
    pub priority: Option<Priority>,
    /// The model that must serve the task.
    pub model: Option<String>,
    /// Least reputation of the node, 0 to 1.
    pub min_reputation: Option<f64>,
    /// W3C trace context of the caller; by default a fresh one.
    pub traceparent: Option<String>,
    /// What the caller's tracing system adds to `traceparent` (W3C `tracestate`), passed on as it is; at most 512 visible
    /// ASCII characters. Without `traceparent` it means nothing and is not sent.
    pub tracestate: Option<String>,
    /// Id of the node on whose behalf the task is sent, if there is one.
    pub source_node_id: Option<String>,
    /// Who may be sent the task; by default as the client says.
    pub routing_policy: Option<RoutingPolicy>,
    /// What is asked of the route and never told to a provider; what it does not give is taken from the task.
    pub route: Option<RouteConstraints>,
    /// How many nodes run the task and must agree; by default one, whose result counts.
    pub consensus: Option<Consensus>,
}

impl Validate for TaskOptions {
    const WHAT: &'static str = "a task";

    fn validate(&self) -> Result<()> {
        check_intent(Self::WHAT, &self.intent)?;
        if let Some(timeout_ms) = self.timeout_ms {
            check_timeout(timeout_ms)?;
        }
        if let Some(task_id) = &self.task_id {
            check_task_id(task_id)?;
        }
        if let Some(source) = &self.source_node_id {
            check_node_id(source)?;
        }
        if let Some(traceparent) = &self.traceparent
            && Traceparent::parse(traceparent).is_none()
        {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `traceparent` of a task must be 00-<32 hex>-<16 hex>-<2 hex>",
            ));
        }
        if self.tracestate.as_ref().is_some_and(|state| !is_tracestate(state)) {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `tracestate` of a task must be 1 to 512 visible ASCII characters",
            ));
        }
        self.routing_policy.as_ref().map_or(Ok(()), RoutingPolicy::validate)?;
        self.route.as_ref().map_or(Ok(()), RouteConstraints::validate)?;
        check_routing(Self::WHAT, self.region.as_deref(), self.model.as_deref(), self.min_reputation)
    }
}

/// An empty intent is one that was not given.
fn check_intent(what: &str, intent: &str) -> Result<()> {
    if intent.is_empty() {
        let message = format!("option `intent` of {what} is missing; give what it is about, such as {CHAT}");
        return Err(Error::of_options(Code::IntentInvalid, message));
    }
    Intent::parse(intent).map(drop)
}

/// Whether it may stand in a header as it is (W3C Trace Context: 512 characters at most are passed on).
fn is_tracestate(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}
