//! Backends: a handler that hands every task to an inference server.
//!
//! The payload goes up as bytes and the result comes down as bytes; `openai` and `anthropic` know what has to change on
//! the way, `parts` follows answers that come in parts. `upstream` carries it all and says what a failure means, `circuit` leaves a failing server alone, `probe` looks
//! what the server is and has. Dropping a call drops its connection, and so stops the server's work.

mod anthropic;
mod circuit;
mod fields;
mod form;
mod models;
mod openai;
mod parts;
mod probe;
mod upstream;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::State;
use super::handler::{Handler, Inbound, Reply};
use crate::error::{Code, Error, Result};
use crate::options::{BackendKind, BackendOptions, Engine, NodeOptions};
use crate::protocol::gate::{Gate, Pause};
use crate::telemetry;
use crate::transport::http_client::Incoming;
use crate::types::{CHAT, EMBEDDING, Traceparent};
use crate::wire::directory::{BackendStability, BackendState, ReasonClass};
use circuit::Circuit;
use models::Models;
use openai::Job;
use probe::Condition;
use upstream::{Failure, Trace, Upstream};

/// How long others are told to wait for a backend that loads its models.
const LOADING: Duration = Duration::from_secs(30);

/// The inference server of a node, as [`Node::backend`](super::Node::backend) gives it. It serves tasks as any other handler
/// does, so a handler of yours may call it; a clone is another handle of the same.
#[derive(Clone)]
pub struct Backend(Arc<Inner>);

struct Inner {
    kind: BackendKind,
    upstream: Upstream,
    circuit: Arc<Circuit>,
    probe_interval: Duration,
    /// Whether the names of models say which intents are served, because the operator does not.
    by_names: bool,
    seen: Mutex<Arc<Seen>>,
    /// Until when the server takes no tasks, as it told one of them.
    drains_until: Mutex<Option<Instant>>,
    /// The node's gate, and the beginning of its time.
    gate: OnceLock<(Arc<Gate>, Instant)>,
    /// There is a reason to look now.
    look_now: Notify,
}

/// What is known of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    engine: Option<Engine>,
    models: Arc<Models>,
    condition: Condition,
}

impl Backend {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `ENDPOINT_REFUSED`.
    pub(super) fn new(options: &BackendOptions, node: &NodeOptions) -> Result<Self> {
        let models = Arc::new(Models::new(&node.models, options.model.as_deref()));
        let seen = Seen { engine: None, models, condition: Condition::Good };
        Ok(Backend(Arc::new(Inner {
            kind: options.kind,
            upstream: Upstream::new(options)?,
            circuit: Arc::new(Circuit::new(options)),
            probe_interval: Duration::from_millis(options.probe_interval_ms),
            by_names: node.intents.is_empty(),
            seen: Mutex::new(Arc::new(seen)),
            drains_until: Mutex::new(None),
            gate: OnceLock::new(),
            look_now: Notify::new(),
        })))
    }

    /// Intents that a backend of this kind can serve.
    fn servable(&self) -> &'static [&'static str] {
        match self.0.kind {
            BackendKind::Anthropic => &anthropic::INTENTS,
            _ => &openai::INTENTS,
        }
    }

    /// Intents of a node that names none: what names of models tell apart.
    pub(super) fn usual_intents(&self) -> impl Iterator<Item = &'static str> {
        self.servable().iter().copied().filter(|intent| [CHAT, EMBEDDING].contains(intent))
    }

    /// Refuses intents that the backend could only refuse task by task.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub(super) fn check_intents(&self, intents: &[String]) -> Result<()> {
        let servable = self.servable();
        match intents.iter().find(|intent| !servable.contains(&intent.as_str())) {
            None => Ok(()),
            Some(intent) => Err(Error::new(
                Code::ConfigInvalid,
                format!("the backend cannot serve {intent}; it has {}", servable.join(", ")),
            )),
        }
    }

    /// Looks once, and then again and again as long as the node lives.
    pub(super) async fn keep_watch(&self, state: &Arc<State>) {
        let _ = self.0.gate.set((state.gate.clone(), state.started));
        self.look(state).await;
        state.group.spawn("backend", probe::watch(self.clone(), state.clone(), self.0.probe_interval));
    }

    async fn look(&self, state: &State) -> Condition {
        let before = self.seen();
        let now = probe::look(&self.0.upstream, self.0.kind, &before).await;
        let (condition, models) = (now.condition, now.models.clone());
        if condition == Condition::Away {
            self.0.circuit.away();
        }
        probe::report(&before, &now);
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        self.pause_the_node();
        // That nothing is known is no news: a list without models would say that nothing can be served.
        if !models.names.is_empty() {
            state.offer.found(models.names.clone(), models.capabilities(&state.intents, self.0.by_names));
        }
        condition
    }

    fn seen(&self) -> Arc<Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What runs the models, once that is known.
    pub(super) fn engine(&self) -> Option<Engine> {
        self.seen().engine
    }

    /// How the backend is, for health and the directory.
    pub(super) fn stability(&self) -> BackendStability {
        let condition = self.seen().condition;
        let is = |backend_state, reason_class| BackendStability {
            backend_state,
            reason_class,
            ..BackendStability::default()
        };
        let draining = |reason_class, pause: Duration| {
            let until = SystemTime::now() + pause;
            let drain_until = until.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let retry_after_s = Some(pause.as_secs().max(1));
            let is = is(BackendState::Draining, reason_class);
            BackendStability { retry_after_s, drain_until: Some(drain_until), ..is }
        };
        if let Some(pause) = self.0.circuit.open_for() {
            return draining(ReasonClass::BackendUnstable, pause);
        }
        if let Some((reason, pause)) = self.drain() {
            return draining(reason, pause);
        }
        match condition {
            Condition::Cold => is(BackendState::Degraded, ReasonClass::BackendCold),
            Condition::Unclear => is(BackendState::Degraded, ReasonClass::ObserverError),
            Condition::Away => draining(ReasonClass::BackendUnstable, self.0.probe_interval),
            Condition::Good | Condition::Loading | Condition::Failing => is(BackendState::Ok, ReasonClass::Ok),
        }
    }

    /// For how long the server takes no tasks by its own word, which is another thing than that nobody reaches it.
    fn drain(&self) -> Option<(ReasonClass, Duration)> {
        let until = *self.0.drains_until.lock().unwrap_or_else(PoisonError::into_inner);
        let told = until.map(|until| until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
        match self.seen().condition {
            Condition::Loading => Some((ReasonClass::BackendLoading, LOADING)),
            Condition::Failing => Some((ReasonClass::BackendUnstable, self.0.probe_interval)),
            _ => told.map(|left| (ReasonClass::BackendUnstable, left)),
        }
    }

    /// Tasks that the server would send back are refused before they cost anything, and the next look lets them in again.
    fn pause_the_node(&self) {
        let Some((gate, started)) = self.0.gate.get() else { return };
        let pause =
            self.drain().map(|(reason, left)| Pause { reason: reason.as_str(), until: started.elapsed() + left });
        gate.pause(pause);
    }

    /// What a task was told concerns all. Of several models it may have meant one, so then it concerns nobody else.
    fn told(&self, failure: Failure) {
        let one_model = self.seen().models.names.len() <= 1;
        match failure {
            Failure::Draining(pause) if one_model => {
                let until = Some(Instant::now() + pause);
                *self.0.drains_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
            }
            Failure::Loading if one_model => {
                let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
                *seen = Arc::new(Seen { condition: Condition::Loading, ..Seen::clone(&seen) });
            }
            _ => return,
        }
        self.pause_the_node();
        self.0.look_now.notify_one();
    }

    fn job(&self, task: &Inbound, models: &Models) -> Result<Job> {
        match self.0.kind {
            BackendKind::Anthropic => anthropic::job(task, models),
            _ => openai::job(task, models),
        }
    }
}

impl Handler for Backend {
    async fn call(&self, task: Inbound) -> Result<Reply> {
        let job = self.job(&task, &self.seen().models)?;
        let pass = self.0.circuit.enter().map_err(|pause| {
            Error::new(Code::Capacity, "the backend has failed too often and is left alone").with_retry_after(pause)
        })?;
        let parent = task.traceparent.as_deref().and_then(Traceparent::parse);
        let trace = Trace { parent: parent.as_ref(), state: task.tracestate.as_deref() };
        let done = async {
            let answer = self.0.upstream.open(job.path, &job.content, trace, task.deadline).await?;
            if job.in_parts && parts::are_in(&answer) {
                return Ok(Done::Begun(answer));
            }
            // A server that does not stream answers once, whatever it was asked for.
            let answer = self.0.upstream.whole(answer, task.deadline).await?;
            openai::reply(&job.wanted, &answer).map(Done::Whole)
        };
        match done.await {
            Ok(Done::Whole(reply)) => {
                pass.ended(None);
                Ok(reply)
            }
            Ok(Done::Begun(answer)) => {
                Ok(parts::reply(answer, &job.wanted, self.0.upstream.patience(task.deadline), pass, task.task_id))
            }
            Err(failure) => {
                tracing::warn!(target: telemetry::NODE, task_id = %task.task_id, ?failure, "the backend gave no result");
                pass.ended(Some(failure));
                self.told(failure);
                Err(failure.error())
            }
        }
    }
}

/// What the server has answered.
enum Done {
    Whole(Reply),
    /// The parts of it are still to come.
    Begun(Incoming),
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("kind", &self.0.kind).finish_non_exhaustive()
    }
}
