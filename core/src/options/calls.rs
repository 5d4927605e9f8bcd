//! What one call of a client may say.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Validate, check_node_id, check_routing, check_task_id, check_timeout, in_range, millis};
use crate::error::{Code, Error, Result};
use crate::types::{Intent, Qos, Traceparent};

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
}

impl Default for Discover {
    fn default() -> Self {
        Discover { intent: String::new(), region: None, qos: None, model: None, min_reputation: None, limit: 10 }
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
        Intent::parse(&self.intent)?;
        in_range(Self::WHAT, "limit", self.limit, 1, 50)?;
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
    /// The model that must serve the task.
    pub model: Option<String>,
    /// Least reputation of the node, 0 to 1.
    pub min_reputation: Option<f64>,
    /// W3C trace context of the caller; by default a fresh one.
    pub traceparent: Option<String>,
    /// Id of the node on whose behalf the task is sent, if there is one.
    pub source_node_id: Option<String>,
}

impl Validate for TaskOptions {
    const WHAT: &'static str = "a task";

    fn validate(&self) -> Result<()> {
        Intent::parse(&self.intent)?;
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
            return Err(Error::new(
                Code::ConfigInvalid,
                "option traceparent of a task must be 00-<32 hex>-<16 hex>-<2 hex>",
            ));
        }
        check_routing(Self::WHAT, self.region.as_deref(), self.model.as_deref(), self.min_reputation)
    }
}

/// One message of a chat.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl fmt::Debug for ChatMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatMessage {{ role: {:?}, content: <{} bytes> }}", self.role, self.content.len())
    }
}

/// A chat task: messages and the usual knobs of inference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Chat {
    /// The conversation, oldest first.
    pub messages: Vec<ChatMessage>,
    /// The model that must answer.
    pub model: Option<String>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// Sampling temperature, 0 to 2.
    pub temperature: Option<f64>,
    /// Time for the whole call, in milliseconds, at most 120,000; by default the client's.
    pub timeout_ms: Option<u64>,
    /// Whether the chat may be sent again when it may have run already; it harms no one, so by default yes.
    pub idempotent: bool,
    /// Preferred region, by default the client's.
    pub region: Option<String>,
    /// Quality of service.
    pub qos: Option<Qos>,
    /// Least reputation of the node, 0 to 1.
    pub min_reputation: Option<f64>,
    /// W3C trace context of the caller; by default a fresh one.
    pub traceparent: Option<String>,
}

impl Default for Chat {
    fn default() -> Self {
        Chat {
            messages: Vec::new(),
            model: None,
            max_tokens: None,
            temperature: None,
            timeout_ms: None,
            idempotent: true,
            region: None,
            qos: None,
            min_reputation: None,
            traceparent: None,
        }
    }
}

impl Chat {
    /// A chat that begins with a user's message.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Chat::default().message("user", content)
    }

    /// A chat that begins with a system message.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Chat::default().message("system", content)
    }

    /// Adds a message.
    #[must_use]
    pub fn message(mut self, role: impl Into<String>, content: impl Into<String>) -> Self {
        self.messages.push(ChatMessage { role: role.into(), content: content.into() });
        self
    }

    /// Asks for a model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Limits the tokens of the answer.
    #[must_use]
    pub fn max_tokens(mut self, most: u32) -> Self {
        self.max_tokens = Some(most);
        self
    }

    /// Sets the sampling temperature, 0 to 2.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Sets the time for the whole call, at most 120 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = Some(millis(timeout));
        self
    }
}

impl From<&str> for Chat {
    fn from(content: &str) -> Self {
        Chat::user(content)
    }
}

impl From<String> for Chat {
    fn from(content: String) -> Self {
        Chat::user(content)
    }
}

impl Validate for Chat {
    const WHAT: &'static str = "a chat";

    fn validate(&self) -> Result<()> {
        if self.messages.is_empty() {
            return Err(Error::new(
                Code::ConfigInvalid,
                "option messages of a chat is empty; give at least one message",
            ));
        }
        for message in &self.messages {
            if !matches!(message.role.as_str(), "system" | "developer" | "user" | "assistant" | "tool") {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    "a message's role must be system, developer, user, assistant or tool",
                ));
            }
        }
        if let Some(temperature) = self.temperature {
            in_range(Self::WHAT, "temperature", temperature, 0.0, 2.0)?;
        }
        if let Some(max_tokens) = self.max_tokens {
            in_range(Self::WHAT, "max_tokens", max_tokens, 1, u32::MAX)?;
        }
        if let Some(timeout_ms) = self.timeout_ms {
            check_timeout(timeout_ms)?;
        }
        check_routing(Self::WHAT, self.region.as_deref(), self.model.as_deref(), self.min_reputation)
    }
}
