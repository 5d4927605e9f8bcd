//! The way to the inference server: what is sent, and what an answer or its absence means.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::form::Form;
use super::parts::Patience;
use crate::error::{Code, Error, Result};
use crate::options::{BackendKind, BackendOptions};
use crate::telemetry;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::transport::http_client::{Call, HttpClient, Incoming, NoReply, Reply, Stream};
use crate::types::Traceparent;

/// Most bytes of an answer that says what went wrong.
const MOST_OF_A_FAILURE: usize = 64 << 10;
/// Longest pause that the server's word is taken for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Where tasks go.
const TASK_PATHS: [&str; 7] = [
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/moderations",
    "/audio/speech",
    "/audio/transcriptions",
    "/messages",
];
/// The version of Anthropic's interface that is spoken.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// What a task becomes on its way to the server.
#[derive(Debug)]
pub(super) enum Content {
    Json(Bytes),
    Form(Form),
}

/// The trace that a task belongs to.
#[derive(Clone, Copy)]
pub(super) struct Trace<'a> {
    pub(super) parent: Option<&'a Traceparent>,
    pub(super) state: Option<&'a str>,
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The time that the operator gives it has passed, or the task's own.
    Late {
        tasks_own: bool,
    },
    /// There is no connection, or it broke.
    Transport(NoReply),
    /// It answered, but not what was asked for.
    Garbage(&'static str),
    TooLarge,
    /// It asks for a pause.
    Busy(Option<Duration>),
    /// It takes no tasks for so long.
    Draining(Duration),
    /// Its model is on the way into memory.
    Loading,
    /// It does not want what the caller sent.
    Refused(u16),
    NoModel,
    /// It does not work, or not for us.
    Broken(u16),
}

impl Failure {
    /// What the failure says about the server: that it works, that it does not, or nothing.
    pub(super) fn works(self) -> Option<bool> {
        match self {
            // A caller in a hurry must not speak ill of the server; nor one who asked for a very long answer.
            Failure::Late { tasks_own: true } | Failure::Busy(_) | Failure::TooLarge => None,
            Failure::Draining(_) | Failure::Loading => None,
            Failure::Refused(_) | Failure::NoModel => Some(true),
            Failure::Late { tasks_own: false } | Failure::Transport(_) | Failure::Garbage(_) | Failure::Broken(_) => {
                Some(false)
            }
        }
    }

    /// What the node makes of it. Nothing of what the server said is in it.
    pub(super) fn error(self) -> Error {
        match self {
            Failure::Late { .. } => Error::new(Code::TaskTimeout, "the backend did not finish in time"),
            Failure::Transport(why) => Error::new(Code::Backend, format!("the backend gave no answer: {why:?}")),
            Failure::Garbage(what) => Error::new(Code::Backend, format!("the backend's answer is {what}")),
            Failure::TooLarge => Error::new(Code::Backend, "the backend's answer is over the limit"),
            Failure::Busy(pause) => {
                let error = Error::new(Code::Capacity, "the backend asks for a pause");
                pause.into_iter().fold(error, Error::with_retry_after)
            }
            Failure::Draining(pause) => {
                Error::new(Code::Capacity, "the backend takes no tasks now").with_retry_after(pause)
            }
            Failure::Loading => {
                Error::new(Code::Capacity, "the backend loads its model").with_retry_after(super::LOADING)
            }
            Failure::Refused(_) => Error::rejected("the backend refused the task; check its payload"),
            Failure::NoModel => no_model(),
            Failure::Broken(status) => Error::new(Code::Backend, format!("the backend answered {status}")),
        }
    }
}

/// The caller asks for a model that is not here.
pub(super) fn no_model() -> Error {
    Error::rejected("the model is not one of this node; ask the directory who has it")
        .with_wire_code("IICP-E029")
        .with_http_status(404)
}

impl Stream for Form {
    fn content_type(&self) -> HeaderValue {
        self.mime()
    }

    fn body(&self) -> reqwest::Body {
        reqwest::Body::wrap(self.read())
    }
}

/// One inference server, and a pool of connections to it.
#[derive(Debug)]
pub(super) struct Upstream {
    http: HttpClient,
    /// Ends in `/v1`.
    base: Endpoint,
    /// Without the `/v1`.
    root: Endpoint,
    /// The URL of every path that tasks have; making one costs as much as sending it.
    places: Vec<(&'static str, Url)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    idle: Duration,
    most_bytes: usize,
}

impl Upstream {
    /// # Errors
    /// `CONFIG_INVALID` for a URL that is none.
    pub(super) fn new(options: &BackendOptions) -> Result<Self> {
        let given = Endpoint::parse("the backend", options.base_url()?)?;
        let root = given.as_str().strip_suffix("/v1").unwrap_or(given.as_str());
        let root = Endpoint::parse("the backend", root)?;
        root.judge(Reach::Private)?;
        let base = Endpoint::parse("the backend", &format!("{}/v1", root.as_str()))?;
        let places = TASK_PATHS.iter().map(|path| Ok((*path, base.join(path)?))).collect::<Result<_>>()?;
        let mut headers = Vec::new();
        if options.kind == BackendKind::Anthropic {
            headers.push((HeaderName::from_static("anthropic-version"), ANTHROPIC_VERSION));
        }
        if let Some(key) = &options.api_key {
            let (name, value) = match options.kind {
                BackendKind::Anthropic => (HeaderName::from_static("x-api-key"), key.expose().to_owned()),
                _ => (AUTHORIZATION, format!("Bearer {}", key.expose())),
            };
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                Error::of_options(Code::ConfigInvalid, "option `api_key` of a backend cannot stand in a header")
            })?;
            value.set_sensitive(true);
            headers.push((name, value));
            if root.as_str().starts_with("http:") && root.judge(Reach::Public).is_ok() {
                tracing::warn!(target: telemetry::NODE, "the backend's key crosses the Internet unencrypted; use https");
            }
        }
        Ok(Upstream {
            http: HttpClient::for_backend()?,
            base,
            root,
            places,
            headers,
            timeout: Duration::from_millis(options.timeout_ms),
            idle: Duration::from_millis(options.idle_timeout_ms),
            most_bytes: options.max_response_bytes,
        })
    }

    /// Sends a task and returns when the head of a good answer is there: its body is still to be taken.
    pub(super) async fn open(
        &self,
        path: &str,
        content: &Content,
        trace: Trace<'_>,
        task_deadline: Instant,
    ) -> Result<Incoming, Failure> {
        let own_deadline = Instant::now() + self.timeout;
        let deadline = own_deadline.min(task_deadline);
        let tasks_own = task_deadline <= own_deadline;
        let place = self.places.iter().find(|(of, _)| *of == path);
        let url = place.map(|(_, url)| url.clone()).ok_or(Failure::Transport(NoReply::Refused))?;
        let mut call = Call {
            traceparent: trace.parent,
            tracestate: trace.state,
            headers: &self.headers,
            ..Call::new(Method::POST, url, Reach::Private, deadline, self.most_bytes)
        };
        match content {
            Content::Json(json) => call.body = Some(json.clone()),
            Content::Form(form) => call.stream = Some(form),
        }
        let answer = self.http.open(call).await.map_err(|why| lost(why, tasks_own))?;
        match answer.status() {
            200..=299 => Ok(answer),
            _ => Err(failed(answer).await),
        }
    }

    /// How long the parts of an answer may take.
    pub(super) fn patience(&self, task_deadline: Instant) -> Patience {
        Patience { idle: self.idle, most_bytes: self.most_bytes, task_deadline }
    }

    /// The rest of an answer.
    pub(super) async fn whole(&self, answer: Incoming, task_deadline: Instant) -> Result<Reply, Failure> {
        let tasks_own = answer.deadline() >= task_deadline;
        answer.read().await.map_err(|why| lost(why, tasks_own))
    }

    /// Asks something of the server that is no task: `path` below the base, which ends in `/v1`.
    pub(super) async fn ask(&self, path: &str, patience: Duration, most: usize) -> Result<(HeaderMap, Reply), NoReply> {
        let url = self.base.join(path).map_err(|_| NoReply::Refused)?;
        self.get(url, &self.headers, patience, most).await
    }

    /// The same below the root, where no key belongs.
    pub(super) async fn ask_root(
        &self,
        path: &str,
        patience: Duration,
        most: usize,
    ) -> Result<(HeaderMap, Reply), NoReply> {
        let url = self.root.join(path).map_err(|_| NoReply::Refused)?;
        self.get(url, &[], patience, most).await
    }

    async fn get(
        &self,
        url: Url,
        headers: &[(HeaderName, HeaderValue)],
        patience: Duration,
        most: usize,
    ) -> Result<(HeaderMap, Reply), NoReply> {
        let call = Call::new(Method::GET, url, Reach::Private, Instant::now() + patience, most);
        let answer = self.http.open(Call { headers, ..call }).await?;
        let said = answer.headers().clone();
        Ok((said, answer.read().await?))
    }
}

pub(super) fn lost(why: NoReply, tasks_own: bool) -> Failure {
    match why {
        NoReply::Deadline => Failure::Late { tasks_own },
        NoReply::TooLarge => Failure::TooLarge,
        NoReply::Malformed => Failure::Garbage("no HTTP that was asked for"),
        other => Failure::Transport(other),
    }
}

/// What a bad status means.
async fn failed(answer: Incoming) -> Failure {
    let (status, pause) = (answer.status(), answer.retry_after());
    match StatusCode::from_u16(status) {
        Ok(StatusCode::SERVICE_UNAVAILABLE) => match pause {
            Some(pause) => Failure::Draining(pause.min(LONGEST_PAUSE)),
            None => unavailable(answer).await,
        },
        // 529 is Anthropic's word for too much to do.
        _ if matches!(status, 429 | 529) => Failure::Busy(pause),
        Ok(StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT) => Failure::Late { tasks_own: false },
        Ok(StatusCode::NOT_FOUND) => {
            // Of a model, servers say so in JSON; a page that says it means that the URL is wrong.
            let body = answer.at_most(MOST_OF_A_FAILURE).read().await;
            let in_json = body.is_ok_and(|reply| reply.body.trim_ascii_start().first() == Some(&b'{'));
            if in_json { Failure::NoModel } else { Failure::Broken(status) }
        }
        // The key is the operator's, and so is what it may do; the caller cannot mend it.
        Ok(StatusCode::UNAUTHORIZED | StatusCode::PAYMENT_REQUIRED | StatusCode::FORBIDDEN) => Failure::Broken(status),
        Ok(StatusCode::METHOD_NOT_ALLOWED | StatusCode::PROXY_AUTHENTICATION_REQUIRED) => Failure::Broken(status),
        Ok(status) if status.is_client_error() => Failure::Refused(status.as_u16()),
        _ => Failure::Broken(status),
    }
}

/// A 503 without a time: servers that load a model say so in words.
async fn unavailable(answer: Incoming) -> Failure {
    let body = answer.at_most(MOST_OF_A_FAILURE).read().await.map(|reply| reply.body.to_ascii_lowercase());
    let loads = body.is_ok_and(|body| memchr::memmem::find(&body, b"loading").is_some());
    if loads { Failure::Loading } else { Failure::Busy(None) }
}
