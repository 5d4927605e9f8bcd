//! What a node says of itself in the directory, beside what it serves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Validate, check_names, in_range};
use crate::error::{Code, Error, Result};
use crate::types::Intent;

/// What a model takes or gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Text.
    Text,
    /// Pictures.
    Image,
    /// Sound.
    Audio,
    /// Moving pictures.
    Video,
}

/// An intent as the node serves it with some models: directories list one entry per intent and set of modalities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeCapability {
    /// The intent, one of the node's.
    pub intent: String,
    /// Models that serve it, at most 64.
    pub models: Vec<String>,
    /// Most tokens of one answer; by default the node's `max_tokens`.
    pub max_tokens: Option<u32>,
    /// What the models take.
    pub input_modalities: Vec<Modality>,
    /// What the models give; an empty list leaves it unsaid.
    pub output_modalities: Vec<Modality>,
    /// Profiles that are kept, as `urn:iicp:profile:…`, at most 16.
    pub supported_profiles: Vec<String>,
}

impl Default for NodeCapability {
    fn default() -> Self {
        NodeCapability {
            intent: String::new(),
            models: Vec::new(),
            max_tokens: None,
            input_modalities: vec![Modality::Text],
            output_modalities: Vec::new(),
            supported_profiles: Vec::new(),
        }
    }
}

impl NodeCapability {
    /// Whether directories would take the two for one and the same entry.
    pub(crate) fn is_like(&self, other: &NodeCapability) -> bool {
        let sorted = |list: &[Modality]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        self.intent == other.intent
            && sorted(&self.input_modalities) == sorted(&other.input_modalities)
            && sorted(&self.output_modalities) == sorted(&other.output_modalities)
    }
}

impl Validate for NodeCapability {
    const WHAT: &'static str = "a capability";

    fn validate(&self) -> Result<()> {
        Intent::parse(&self.intent)?;
        in_range(Self::WHAT, "models", self.models.len(), 0, 64)?;
        check_names(Self::WHAT, "models", &self.models, 255)?;
        in_range(Self::WHAT, "max_tokens", self.max_tokens.unwrap_or(1), 1, u32::MAX)?;
        in_range(Self::WHAT, "input_modalities", self.input_modalities.len(), 1, 4)?;
        in_range(Self::WHAT, "output_modalities", self.output_modalities.len(), 0, 4)?;
        for (name, list) in [("input", &self.input_modalities), ("output", &self.output_modalities)] {
            let twice = |at: usize| list[..at].contains(&list[at]);
            if (0..list.len()).any(twice) {
                return Err(Error::of_options(
                    Code::ConfigInvalid,
                    format!("option `{name}_modalities` of a capability names one twice"),
                ));
            }
        }
        in_range(Self::WHAT, "supported_profiles", self.supported_profiles.len(), 0, 16)?;
        check_names(Self::WHAT, "supported_profiles", &self.supported_profiles, 160)?;
        if self.supported_profiles.iter().all(|profile| profile.starts_with("urn:iicp:profile:")) {
            return Ok(());
        }
        Err(Error::of_options(
            Code::ConfigInvalid,
            "option `supported_profiles` of a capability: each must begin with urn:iicp:profile:",
        ))
    }
}

/// What runs the models, as the directory shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Ollama.
    Ollama,
    /// LM Studio.
    Lmstudio,
    /// vLLM.
    Vllm,
    /// llama.cpp.
    Llamacpp,
    /// MeshLLM.
    Meshllm,
    /// Anthropic's interface.
    Anthropic,
    /// Anything else.
    Custom,
}

/// What a node lets others' tasks do, and what it asks for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodePolicy {
    /// Whether others may have their tasks run here as parts of larger ones.
    pub allow_remote_inference: bool,
    /// Whether a task may run tools.
    pub allow_tool_execution: bool,
    /// Whether a task may read files.
    pub allow_file_access: bool,
    /// Credits that 1,000 tokens cost, 0 to 1,000.
    pub pricing_credits_per_1000: Option<f64>,
}

impl Validate for NodePolicy {
    const WHAT: &'static str = "a node's policy";

    fn validate(&self) -> Result<()> {
        let credits = self.pricing_credits_per_1000.unwrap_or_default();
        in_range(Self::WHAT, "pricing_credits_per_1000", credits, 0.0, 1_000.0)
    }
}

/// What a price is counted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PricingModel {
    /// Tokens.
    #[default]
    PerToken,
    /// Requests.
    PerRequest,
    /// Nothing: the price is fixed.
    Flat,
}

impl PricingModel {
    /// The spelling of the specification.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PricingModel::PerToken => "per_token",
            PricingModel::PerRequest => "per_request",
            PricingModel::Flat => "flat",
        }
    }
}

/// A node's price, which is declared to the directory under the node's own signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodePricing {
    /// How many times the usual credits a task costs, 0 to 1,000.
    pub credit_cost_multiplier: f64,
    /// What it is counted by.
    pub pricing_model: PricingModel,
    /// From when on, such as `2026-01-31T00:00:00Z`.
    pub effective_from: Option<String>,
    /// Until when, in the same form.
    pub effective_until: Option<String>,
}

impl Default for NodePricing {
    fn default() -> Self {
        NodePricing {
            credit_cost_multiplier: 1.0,
            pricing_model: PricingModel::PerToken,
            effective_from: None,
            effective_until: None,
        }
    }
}

impl Validate for NodePricing {
    const WHAT: &'static str = "a node's pricing";

    fn validate(&self) -> Result<()> {
        in_range(Self::WHAT, "credit_cost_multiplier", self.credit_cost_multiplier, 0.0, 1_000.0)?;
        let time = |name: &str, text: &Option<String>| match text.as_deref().map(str::parse::<jiff::Timestamp>) {
            None => Ok(None),
            Some(Ok(time)) => Ok(Some(time)),
            Some(Err(_)) => Err(Error::of_options(
                Code::ConfigInvalid,
                format!("option `{name}` of {} must be a time such as 2026-01-31T00:00:00Z", Self::WHAT),
            )),
        };
        match (time("effective_from", &self.effective_from)?, time("effective_until", &self.effective_until)?) {
            (Some(from), Some(until)) if from >= until => Err(Error::of_options(
                Code::ConfigInvalid,
                format!("option `effective_until` of {} must be after `effective_from`", Self::WHAT),
            )),
            _ => Ok(()),
        }
    }
}

/// By which way a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransportMethod {
    /// At its own address.
    Direct,
    /// Through a port that the router opened.
    UpnpMapped,
    /// Through a hole in the NAT.
    StunHolePunch,
    /// Through a relay.
    TurnRelay,
    /// Through a tunnel of somebody else.
    ExternalTunnel,
    /// Not known.
    Unknown,
}

/// What kind of NAT a node is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NatType {
    /// Whoever knows the port is let in.
    FullCone,
    /// Addresses that were sent to are let in.
    RestrictedCone,
    /// Ports that were sent to are let in.
    PortRestricted,
    /// Another port for every destination.
    Symmetric,
    /// Not known.
    Unknown,
}

/// How a node stands towards the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExposureMode {
    /// It can call, and cannot be called.
    OutboundOnly,
    /// At a public IPv4 address.
    Ipv4PublicDirect,
    /// Behind its carrier's NAT.
    Ipv4CgnatBlocked,
    /// At a public IPv6 address, behind a firewall.
    Ipv6DirectFirewallRequired,
    /// At a public IPv6 address whose firewall can be opened.
    Ipv6DirectPinholeAvailable,
    /// Through a relay only.
    RelayRequired,
    /// Through a tunnel only.
    TunnelRequired,
    /// By IPv4 and IPv6.
    DualStackAvailable,
}

/// Whether and how a node is shown to people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PublicListing {
    /// Whether it is shown in public lists.
    pub public_listing: bool,
    /// Where its operator tells more, at most 256 bytes.
    pub operator_url: Option<String>,
    /// How its operator is reached, at most 256 bytes.
    pub operator_contact: Option<String>,
}

impl Validate for PublicListing {
    const WHAT: &'static str = "a node's listing";

    fn validate(&self) -> Result<()> {
        check_names(Self::WHAT, "operator_url", self.operator_url.as_slice(), 256)?;
        check_names(Self::WHAT, "operator_contact", self.operator_contact.as_slice(), 256)
    }
}

/// Receipts of tasks that directories know beside their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptProfile {
    /// Signed by the one who asked as well.
    ConsumerCosignatureV1,
}

/// A part of the day, and how much of the node is given to others in it. Both ends belong to it; one that ends before it
/// begins goes over midnight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AvailabilityWindow {
    /// First minute, `HH:MM` by the clock of the place where the node is.
    pub start: String,
    /// Last minute, in the same form.
    pub end: String,
    /// Share of `max_concurrent`, 0 to 1; above 0 it is at least one task, at 0 none.
    pub share: f64,
}

impl Default for AvailabilityWindow {
    fn default() -> Self {
        AvailabilityWindow { start: "00:00".into(), end: "23:59".into(), share: 1.0 }
    }
}

impl AvailabilityWindow {
    /// The first and the last minute of the day.
    pub(crate) fn minutes(&self) -> Option<(u16, u16)> {
        Some((minute_of_day(&self.start)?, minute_of_day(&self.end)?))
    }
}

impl Validate for AvailabilityWindow {
    const WHAT: &'static str = "an availability window";

    fn validate(&self) -> Result<()> {
        for (name, text) in [("start", &self.start), ("end", &self.end)] {
            if minute_of_day(text).is_none() {
                return Err(Error::of_options(
                    Code::ConfigInvalid,
                    format!("option `{name}` of {} must be a time of day from 00:00 to 23:59", Self::WHAT),
                ));
            }
        }
        in_range(Self::WHAT, "share", self.share, 0.0, 1.0)
    }
}

fn minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |part: &str, most: u16| {
        let good = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>().ok().filter(|number| good && *number <= most)
    };
    Some(number(hour, 23)? * 60 + number(minute, 59)?)
}
