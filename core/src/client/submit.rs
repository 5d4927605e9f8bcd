//! One submit on its way: find routes, choose among them, send until there is a result or no sense in going on.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use super::attempt::{Failed, Sent};
use super::candidates::{Chosen, Eligible};
use super::ranker::CandidateRanker;
use super::stream::TaskStream;
use super::{Inner, out_of_time};
use crate::crypto::digest::jitter;
use crate::discovery::routes::{Found, Route};
use crate::error::{Code, Error, Result};
use crate::options::{Discover, RuntimeIdentity, TaskOptions, Validate as _};
use crate::protocol::identity::{self, ClientName, Composed, Connection, Facts, Selection, selected_model};
use crate::protocol::policy::{self, Resolved};
use crate::protocol::retry::{Outcome, Plan, Step};
use crate::protocol::{projection, risk};
use crate::telemetry;
use crate::types::{Payload, TaskResult, Timings, Traceparent};

/// Times a submit asks for further routes: a directory lets one exclude no more nodes than that.
const MOST_FURTHER: u32 = 9;
/// How often, after which first pause, the directory is asked for the new place of a node behind a relay; each pause is twice
/// the one before.
const MOST_ASKED_AGAIN: u32 = 4;
const MOVING: Duration = Duration::from_millis(250);

/// Candidates that a ranker is shown where each takes a ticket.
const MOST_RANKED: usize = 3;

/// What is sent.
pub(super) enum Body {
    /// The same bytes to every node.
    Fixed(Payload),
    /// A chat whose messages are composed anew for each node.
    Chat { fields: Map<String, Value>, mode: RuntimeIdentity },
}

impl Body {
    pub(super) fn fields(fields: Map<String, Value>) -> Self {
        Body::Fixed(Value::Object(fields).into())
    }

    pub(super) fn chat(fields: Map<String, Value>, mode: RuntimeIdentity) -> Self {
        match mode {
            RuntimeIdentity::Disabled => Body::fields(fields),
            mode => Body::Chat { fields, mode },
        }
    }

    fn len(&self) -> usize {
        match self {
            Body::Fixed(payload) => payload.bytes().len(),
            // Measured when it is composed.
            Body::Chat { .. } => 0,
        }
    }
}

/// One submit.
pub(super) struct Submit<'a> {
    pub(super) client: &'a Inner,
    pub(super) options: TaskOptions,
    body: Body,
    ranker: Option<Arc<dyn CandidateRanker>>,
    policy: Resolved,
    pub(super) task_id: String,
    pub(super) trace: Traceparent,
    query: Discover,
    started: Instant,
    timeout: Duration,
    discover: Duration,
    select: Duration,
    /// Every route that was looked at, so that none is looked at twice.
    known: Vec<Arc<Route>>,
    /// Whether the directory was asked for this submit.
    fresh: bool,
    further: u32,
    asked_again: u32,
    /// The candidates that nobody answered for at their place.
    unreached: Vec<Arc<Route>>,
    /// Those that had too much to do: they are where they were.
    busy: Vec<Arc<Route>>,
    pub(super) attempts: AtomicU32,
    negotiated: Option<String>,
    /// Whether the result is taken in parts.
    pub(super) streamed: bool,
}

impl<'a> Submit<'a> {
    pub(super) fn new(
        client: &'a Inner,
        mut options: TaskOptions,
        body: Body,
        ranker: Option<Arc<dyn CandidateRanker>>,
    ) -> Result<Self> {
        options.validate()?;
        risk::check_intent(&options.intent)?;
        check_size(client, body.len())?;
        let query = projection::project(&options, &client.options).discover;
        let trace = options.traceparent.as_deref().and_then(Traceparent::parse).unwrap_or_else(Traceparent::random);
        Ok(Submit {
            client,
            policy: policy::resolve(options.routing_policy.as_ref().unwrap_or(&client.options.routing_policy)),
            body,
            ranker,
            task_id: options.task_id.take().unwrap_or_else(|| Uuid::new_v4().to_string()),
            trace,
            query,
            started: Instant::now(),
            timeout: Duration::from_millis(options.timeout_ms.unwrap_or(client.options.timeout_ms)),
            discover: Duration::ZERO,
            select: Duration::ZERO,
            known: Vec::new(),
            fresh: false,
            further: 0,
            asked_again: 0,
            unreached: Vec::new(),
            busy: Vec::new(),
            attempts: AtomicU32::new(0),
            negotiated: None,
            streamed: false,
            options,
        })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn deadline(&self) -> Instant {
        self.started + self.timeout
    }

    pub(super) async fn run(mut self) -> Result<TaskResult> {
        let mut chosen = self.candidates().await?;
        match self.options.consensus {
            None => {
                let (at, sent, waited) = self.one_after_another(&mut chosen).await?;
                Ok(self.finish(&chosen, at, sent, waited))
            }
            Some(consensus) => self.agree(chosen, consensus).await,
        }
    }

    /// Submits the task so that its result comes in parts. Returns with the first: until then the task may go to another
    /// node, and after it no more.
    pub(super) async fn stream(mut self) -> Result<TaskStream> {
        if self.options.consensus.is_some() {
            let why =
                "option `consensus` of a task does not go with a stream: nodes are compared by their whole results";
            return Err(Error::of_options(Code::ConfigInvalid, why));
        }
        self.streamed = true;
        let mut chosen = self.candidates().await?;
        let (at, mut sent, waited) = self.one_after_another(&mut chosen).await?;
        let begun = sent.begun.take();
        let about = self.finish(&chosen, at, sent, waited);
        Ok(TaskStream::new(about, begun, self.client.options.max_response_bytes, self.deadline()))
    }

    /// Who may be sent the task, in the order in which they are tried.
    async fn candidates(&mut self) -> Result<Chosen> {
        let mut eligible = self.find().await?;
        if eligible.routes.is_empty() {
            return Err(self.client.nobody(&eligible, &self.query.intent));
        }
        // A ranker that sees one candidate has nothing to rank.
        while self.ranker.is_some() && eligible.routes.len() < MOST_RANKED && self.is_ticketed() {
            if !self.more(&mut eligible).await {
                break;
            }
        }
        self.choose(eligible.routes).await
    }

    /// The routes that may serve the task; more are asked for while those that were found may not.
    async fn find(&mut self) -> Result<Eligible> {
        let begun = Instant::now();
        let found = self.client.routes.find(&self.query, &self.trace, self.deadline()).await;
        self.discover += begun.elapsed();
        // The directory's own patience is shorter than most deadlines; what ran out is the caller's to know.
        if found.is_err() && Instant::now() >= self.deadline() {
            return Err(out_of_time(self.timeout));
        }
        let Found { routes, fresh, profile } = found?;
        (self.fresh, self.negotiated) = (fresh, profile);
        let mut eligible = Eligible::default();
        self.client.eligible(&routes, &self.policy, &mut eligible);
        self.known = routes;
        while eligible.routes.is_empty() && self.more(&mut eligible).await {}
        if eligible.routes.is_empty() {
            self.search(&mut eligible).await;
        }
        Ok(eligible)
    }

    /// Asks for further routes; false if there are none.
    pub(super) async fn more(&mut self, eligible: &mut Eligible) -> bool {
        if self.further >= MOST_FURTHER {
            return false;
        }
        self.further += 1;
        let begun = Instant::now();
        let deadline = self.deadline();
        let routes = &self.client.routes;
        let found = routes.more(&self.query, &self.known, self.fresh, &self.trace, deadline).await;
        self.fresh = true;
        self.discover += begun.elapsed();
        self.client.eligible(&found, &self.policy, eligible);
        self.known.extend_from_slice(&found);
        if found.is_empty() {
            // There is nobody else: a node that asks for pauses must not have the directory asked before each.
            self.further = MOST_FURTHER;
        }
        !found.is_empty()
    }

    fn is_ticketed(&self) -> bool {
        self.known.iter().any(|route| route.ticket.is_some())
    }

    async fn choose(&mut self, routes: Vec<Arc<Route>>) -> Result<Chosen> {
        let begun = Instant::now();
        let mut chosen = self.client.order(routes);
        if let Some(ranker) = &self.ranker {
            chosen.rank(&**ranker, &self.task_id, &self.query.intent).await?;
        }
        self.select = begun.elapsed();
        Ok(chosen)
    }

    /// Sends the task along the candidates until one gives a result, or the plan gives up with the last failure.
    /// Gives the place of that candidate, what it sent, and how long others were waited for.
    async fn one_after_another(&mut self, chosen: &mut Chosen) -> Result<(usize, Sent, Duration)> {
        let mut plan = Plan::new(chosen.routes.len(), self.client.options.max_attempts, self.options.idempotent);
        let mut waited = Duration::ZERO;
        let mut last: Option<Failed> = None;
        loop {
            let now = self.started.elapsed();
            match plan.next(now, self.timeout.saturating_sub(now)) {
                Step::Send(at) => match self.send(&chosen.routes[at], at).await {
                    Ok(sent) => return Ok((at, sent, waited)),
                    Err(failed) => {
                        plan.tried(at, failed.outcome, self.started.elapsed(), jitter());
                        if failed.error.code() == Code::Connect {
                            self.unreached.push(chosen.routes[at].clone());
                        }
                        if failed.error.http_status() == Some(429) {
                            self.busy.push(chosen.routes[at].clone());
                        }
                        waited += failed.waited;
                        last = Some(worse(last, failed));
                    }
                },
                // Before anyone is waited for, and before giving up: is there somebody else?
                _ if !plan.is_spent() && self.extend(chosen).await => plan.add(chosen.routes.len()),
                Step::Pause(pause) => {
                    tokio::time::sleep(pause).await;
                    waited += pause;
                }
                Step::GiveUp if !plan.is_spent() && self.moved(chosen).await => plan.add(chosen.routes.len()),
                Step::GiveUp => break,
            }
        }
        Err(last.map_or_else(|| out_of_time(self.timeout), |failed| failed.error))
    }

    /// Asks where nodes are by now that do not answer at their place, or have failed there too often: who has started
    /// again may have another address.
    async fn search(&mut self, eligible: &mut Eligible) {
        let is_gone =
            |route: &Route| self.unreached.iter().any(|old| old.at() == route.at()) || self.client.is_left_alone(route);
        if !self.known.iter().any(|route| is_gone(route)) || !self.client.routes.may_search(&self.query) {
            return;
        }
        let begun = Instant::now();
        let found = self.client.routes.moved(&self.query, &self.known, is_gone, &self.trace, self.deadline()).await;
        self.discover += begun.elapsed();
        self.client.eligible(&found, &self.policy, eligible);
        self.known.extend_from_slice(&found);
    }

    /// Looks for the candidates elsewhere. Waits a little for a node behind a relay that is gone: it is about to be listed at
    /// another one.
    async fn moved(&mut self, chosen: &mut Chosen) -> bool {
        let mut eligible = Eligible::default();
        self.search(&mut eligible).await;
        if !eligible.routes.is_empty() {
            chosen.add(eligible);
            return true;
        }
        let is_busy = |at: &Route, busy: &[Arc<Route>]| busy.iter().any(|old| old.at() == at.at());
        while self.asked_again < MOST_ASKED_AGAIN
            && self.known.iter().any(|route| route.is_relayed() && !is_busy(route, &self.busy))
        {
            let pause = MOVING.saturating_mul(1 << self.asked_again);
            self.asked_again += 1;
            if Instant::now() + pause >= self.deadline() {
                return false;
            }
            let begun = Instant::now();
            tokio::time::sleep(pause).await;
            let routes = &self.client.routes;
            let found = routes.moved(&self.query, &self.known, Route::is_relayed, &self.trace, self.deadline()).await;
            self.discover += begun.elapsed();
            let mut eligible = Eligible::default();
            self.client.eligible(&found, &self.policy, &mut eligible);
            self.known.extend_from_slice(&found);
            if !eligible.routes.is_empty() {
                chosen.add(eligible);
                return true;
            }
        }
        false
    }

    async fn extend(&mut self, chosen: &mut Chosen) -> bool {
        let mut eligible = Eligible::default();
        while eligible.routes.is_empty() {
            if !self.more(&mut eligible).await {
                return false;
            }
        }
        chosen.add(eligible);
        true
    }

    /// What is sent to this node, the candidate at this place.
    pub(super) fn payload(&self, route: &Route, at: usize) -> Result<Cow<'_, Payload>> {
        let (fields, mode) = match &self.body {
            Body::Fixed(payload) => return Ok(Cow::Borrowed(payload)),
            Body::Chat { fields, mode } => (fields, *mode),
        };
        let messages = fields.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let facts = Facts {
            client: Some(ClientName::own()),
            connection_mode: Some(Connection::Routed),
            selected_model: selected_model(self.options.model.as_deref(), &route.node.models).map(str::to_owned),
            effective_capabilities: Vec::new(),
            selection_reason: Some(Selection::of_place(at)),
        };
        // Over HTTP every provider of chats takes system messages.
        let payload = match identity::compose(&self.options.intent, mode, true, messages, &facts)? {
            Composed::Unchanged => Payload::from(Value::Object(fields.clone())),
            Composed::Messages(composed) => {
                let mut fields = fields.clone();
                fields.insert("messages".into(), Value::Array(composed));
                Payload::from(Value::Object(fields))
            }
        };
        check_size(self.client, payload.bytes().len())?;
        Ok(Cow::Owned(payload))
    }

    pub(super) fn requires_encryption(&self) -> bool {
        self.policy.require_encryption
    }

    pub(super) fn finish(&self, chosen: &Chosen, at: usize, sent: Sent, waited: Duration) -> TaskResult {
        let route = &chosen.routes[at];
        let total = self.started.elapsed();
        let waits =
            self.discover + waited + sent.waited + if self.ranker.is_some() { self.select } else { Duration::ZERO };
        TaskResult {
            task_id: self.task_id.clone(),
            node_id: route.node.node_id.clone(),
            result: sent.result,
            attempts: self.attempts.load(Ordering::Relaxed),
            traceparent: self.trace.as_str().to_owned(),
            timings: Timings {
                discover: self.discover,
                select: self.select,
                connect: sent.connect,
                first_byte: sent.first_byte,
                overhead: total.saturating_sub(waits),
                total,
            },
            receipt: chosen.receipt(at, route, self.negotiated.as_deref()),
            sealed: sent.sealed,
        }
    }

    pub(super) fn note_failure(&self, route: &Route, failed: &Failed) {
        tracing::debug!(
            target: telemetry::CLIENT, task_id = %self.task_id, node_id = %route.node.node_id,
            code = %failed.error.code(), "attempt failed"
        );
    }
}

fn check_size(client: &Inner, bytes: usize) -> Result<()> {
    let most = client.options.max_request_bytes;
    if bytes <= most {
        return Ok(());
    }
    Err(Error::of_options(
        Code::PayloadTooLarge,
        format!("the payload has {bytes} bytes; `max_request_bytes` allows {most}"),
    ))
}

/// Of several failures the one that says most: a node that answered rather than one that was not there.
pub(super) fn worse(last: Option<Failed>, new: Failed) -> Failed {
    match last {
        Some(last) if new.outcome == Outcome::Elsewhere && last.outcome != Outcome::Elsewhere => last,
        _ => new,
    }
}
