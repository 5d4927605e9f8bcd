//! The task as a consumer writes it.

use std::time::Duration;

use crate::options::{TaskOptions, millis};
use crate::types::{Payload, Priority, Qos};

/// A task: an intent, a payload and how it may be served.
#[derive(Clone, Debug)]
pub struct Task {
    /// Everything but the payload.
    pub options: TaskOptions,
    /// JSON for the handler.
    pub payload: Payload,
}

impl Task {
    /// A task with the client's own defaults. The intent is checked by [`crate::Client::submit`].
    #[must_use]
    pub fn new(intent: impl Into<String>, payload: impl Into<Payload>) -> Self {
        let options = TaskOptions { intent: intent.into(), ..TaskOptions::default() };
        Task { options, payload: payload.into() }
    }

    /// Sets the id, at most 128 visible ASCII characters without `|`; by default a fresh UUIDv4.
    #[must_use]
    pub fn task_id(mut self, task_id: impl Into<String>) -> Self {
        self.options.task_id = Some(task_id.into());
        self
    }

    /// Sets the time for the whole submit, at most 120 s; by default the client's.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout_ms = Some(millis(timeout));
        self
    }

    /// Says that running the task twice does no harm, so that it may be sent again when it may have run already.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.options.idempotent = idempotent;
        self
    }

    /// Prefers a region; by default the client's.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.options.region = Some(region.into());
        self
    }

    /// Sets the quality of service.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.options.qos = Some(qos);
        self
    }

    /// Says how the task stands among others of its class; a node that is full serves those first that stand higher.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Asks for a model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.options.model = Some(model.into());
        self
    }

    /// Asks for nodes of at least this reputation, 0 to 1.
    #[must_use]
    pub fn min_reputation(mut self, least: f64) -> Self {
        self.options.min_reputation = Some(least);
        self
    }
}
