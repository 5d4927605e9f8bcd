//! The consumer: discover nodes, submit a task to one of them, chat.

mod attempt;
mod task;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;
use uuid::Uuid;

pub use task::Task;

use crate::crypto::digest::jitter;
use crate::discovery::directory_client::DirectoryClient;
use crate::discovery::routes::{Found, Route, Routes};
use crate::error::{Code, Error, Result};
use crate::options::{Chat, ClientOptions, Discover, TaskOptions, Validate as _};
use crate::protocol::retry::{Outcome, Plan, Step};
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::transport::http_client::{Call, HttpClient, Redirects};
use crate::types::{ChatReply, NodeInfo, Payload, TaskResult, Timings, Traceparent};
use crate::wire::task::write_request;
use attempt::Failed;

/// A consumer of the mesh. Cloning gives another handle to the same connections and routes; every call may be made
/// concurrently, and dropping the future of a call cancels it at the far end.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: ClientOptions,
    http: HttpClient,
    routes: Arc<Routes>,
    group: TaskGroup,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.group.abort();
    }
}

impl Client {
    /// Checks the options. Nothing is sent before the first call.
    ///
    /// # Errors
    /// `CONFIG_INVALID` or `TIMEOUT_TOO_LARGE`; `ENDPOINT_REFUSED` for a directory that nobody can call, such as `0.0.0.0`.
    pub fn new(options: ClientOptions) -> Result<Self> {
        options.validate()?;
        let http = HttpClient::new()?;
        let directory = DirectoryClient::new(http.clone(), &options.directory)?;
        let group = TaskGroup::new();
        let routes = Routes::new(directory, Duration::from_millis(options.route_ttl_ms), group.clone());
        Ok(Client(Arc::new(Inner { options, http, routes, group })))
    }

    /// Asks the directory for nodes, best first. Always asks; nothing is held back for later.
    ///
    /// # Errors
    /// `INTENT_INVALID` or `CONFIG_INVALID` before any network; then 3xxx. No node at all is an empty list.
    pub async fn discover(&self, mut query: Discover) -> Result<Vec<NodeInfo>> {
        query.validate()?;
        query.region = query.region.or_else(|| self.0.options.region.clone());
        let deadline = Instant::now() + Duration::from_millis(self.0.options.timeout_ms);
        self.0.routes.directory().discover(&query, Some(&Traceparent::random()), deadline).await
    }

    /// Submits a task to the best node that takes it, and waits for the result.
    ///
    /// The task is sent again, with the same id and within the same deadline, when it provably did not run (no
    /// connection, node at capacity), and when it may have run only if it is idempotent.
    ///
    /// # Errors
    /// 2xxx before any network; `NO_NODES` and other 3xxx from the directory; 4xxx from the transport; 5xxx from the
    /// provider; `TIMEOUT` when the deadline passed.
    pub async fn submit(&self, task: Task) -> Result<TaskResult> {
        let submit = Submit::new(&self.0, task)?;
        let (deadline, timeout) = (submit.deadline, submit.timeout);
        // Every part has the deadline too; this is the one that cannot be forgotten.
        tokio::time::timeout_at(deadline, submit.run()).await.unwrap_or_else(|_| Err(out_of_time(timeout)))
    }

    /// Chats with a language model: a text, or a [`Chat`] with messages and options.
    ///
    /// # Errors
    /// As [`Client::submit`]; `MALFORMED` if the result holds no message.
    pub async fn chat(&self, chat: impl Into<Chat>) -> Result<ChatReply> {
        let task = chat_task(chat.into())?;
        ChatReply::read(self.submit(task).await?)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("directory", &self.0.options.directory).finish_non_exhaustive()
    }
}

fn chat_task(chat: Chat) -> Result<Task> {
    chat.validate()?;
    let (options, payload) = chat.into_task();
    Ok(Task { options, payload: serde_json::Value::Object(payload).into() })
}

fn out_of_time(timeout: Duration) -> Error {
    Error::new(Code::Timeout, format!("no result within {} ms; give the task more time", timeout.as_millis()))
}

/// One submit on its way.
struct Submit<'a> {
    client: &'a Inner,
    options: TaskOptions,
    payload: Payload,
    task_id: String,
    trace: Traceparent,
    query: Discover,
    started: Instant,
    timeout: Duration,
    deadline: Instant,
    discover: Duration,
    attempts: u32,
}

impl<'a> Submit<'a> {
    fn new(client: &'a Inner, task: Task) -> Result<Self> {
        let Task { mut options, payload } = task;
        options.validate()?;
        let most = client.options.max_request_bytes;
        if payload.bytes().len() > most {
            return Err(Error::new(
                Code::PayloadTooLarge,
                format!("the payload has {} bytes; max_request_bytes allows {most}", payload.bytes().len()),
            ));
        }
        let started = Instant::now();
        let timeout = Duration::from_millis(options.timeout_ms.unwrap_or(client.options.timeout_ms));
        let mut query = Discover::intent(options.intent.as_str());
        query.region = options.region.take().or_else(|| client.options.region.clone());
        query.qos = options.qos;
        query.model.clone_from(&options.model);
        query.min_reputation = options.min_reputation;
        let trace = options.traceparent.as_deref().and_then(Traceparent::parse).unwrap_or_else(Traceparent::random);
        Ok(Submit {
            client,
            task_id: options.task_id.take().unwrap_or_else(|| Uuid::new_v4().to_string()),
            trace,
            query,
            started,
            timeout,
            deadline: started + timeout,
            discover: Duration::ZERO,
            attempts: 0,
            options,
            payload,
        })
    }

    async fn run(mut self) -> Result<TaskResult> {
        let found = self.find().await?;
        let failed = match self.try_all(&found.routes).await {
            Ok(result) => return Ok(result),
            Err(failed) => failed,
        };
        // Held routes may be of nodes that have moved since: if nothing can have run, ask once more who is there.
        if found.fresh || !matches!(failed.outcome, Outcome::Elsewhere) {
            return Err(failed.error);
        }
        self.client.routes.doubt(&self.query);
        let found = self.find().await?;
        self.try_all(&found.routes).await.map_err(|failed| failed.error)
    }

    async fn find(&mut self) -> Result<Found> {
        let begun = Instant::now();
        let found = self.client.routes.find(&self.query, &self.trace, self.deadline).await;
        self.discover += begun.elapsed();
        // The directory's own patience is shorter than most deadlines; what ran out is the caller's to know.
        if found.is_err() && Instant::now() >= self.deadline {
            return Err(out_of_time(self.timeout));
        }
        found
    }

    /// Sends the task along the routes until one gives a result, or the plan gives up with the last failure.
    async fn try_all(&mut self, routes: &[Route]) -> Result<TaskResult, Failed> {
        let mut plan = Plan::new(routes.len(), self.client.options.max_attempts, self.options.idempotent);
        let mut last: Option<Failed> = None;
        loop {
            let now = self.started.elapsed();
            match plan.next(now, self.timeout.saturating_sub(now)) {
                Step::Send(at) => match self.send(&routes[at]).await {
                    Ok(result) => return Ok(result),
                    Err(failed) => {
                        tracing::debug!(
                            target: telemetry::CLIENT, task_id = %self.task_id, node_id = %routes[at].node_id,
                            code = %failed.error.code(), "attempt failed"
                        );
                        plan.tried(at, failed.outcome, self.started.elapsed(), jitter());
                        last = Some(worse(last, failed));
                    }
                },
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::GiveUp => break,
            }
        }
        Err(last.unwrap_or_else(|| Failed { error: out_of_time(self.timeout), outcome: Outcome::Final }))
    }

    async fn send(&mut self, route: &Route) -> Result<TaskResult, Failed> {
        self.attempts += 1;
        let left = self.deadline.saturating_duration_since(Instant::now());
        // The provider gets a little less, so that its own word on a timeout arrives before our deadline.
        let budget = left.saturating_sub((left / 10).min(Duration::from_millis(200)));
        let budget_ms = crate::options::millis(budget).max(1);
        let options = &self.client.options;
        let body = Bytes::from(write_request(&self.options, &self.task_id, &self.payload, budget_ms));
        let most_bytes = options.max_response_bytes;
        let call = Call {
            redirects: Redirects::SameOrigin,
            traceparent: Some(&self.trace),
            body: Some(body),
            idle: Duration::from_millis(options.idle_timeout_ms),
            ..Call::new(Method::POST, route.task_url.clone(), route.reach, self.deadline, most_bytes)
        };
        let answer = self.client.http.call(call).await;
        let result = attempt::read(&route.node_id, &self.task_id, answer)?;
        Ok(TaskResult {
            task_id: self.task_id.clone(),
            node_id: route.node_id.clone(),
            result,
            attempts: self.attempts,
            traceparent: self.trace.as_str().to_owned(),
            timings: Timings { discover: self.discover, total: self.started.elapsed(), ..Timings::default() },
            receipt: crate::types::RoutingReceipt::default(),
            sealed: false,
        })
    }
}

/// Of several failures the one that says most: a node that answered rather than one that was not there.
fn worse(last: Option<Failed>, new: Failed) -> Failed {
    match last {
        Some(last) if new.outcome == Outcome::Elsewhere && last.outcome != Outcome::Elsewhere => last,
        _ => new,
    }
}
