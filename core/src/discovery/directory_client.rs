//! Calls to a directory.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use tokio::time::Instant;

use crate::error::{Code, Error, Result};
use crate::options::Discover;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::transport::http_client::{Call, HttpClient, NoReply, Redirects, Reply};
use crate::types::{NodeInfo, Traceparent};
use crate::wire::directory::{HeartbeatReply, HeartbeatRequest, RegisterReply, RegisterRequest, read, read_nodes};
use crate::wire::failure::Failure;

/// Largest answer that is read from a directory.
const MOST_BYTES: usize = 4 << 20;
/// Longest silence inside an answer that has begun.
const IDLE: Duration = Duration::from_secs(5);

/// A directory's address and the pool to reach it with.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryClient {
    http: HttpClient,
    base: Endpoint,
}

impl DirectoryClient {
    pub(crate) fn new(http: HttpClient, url: &str) -> Result<Self> {
        let base = Endpoint::parse("the directory", url)?;
        // The caller wrote it himself: it may be anywhere, but it must be somewhere.
        base.judge(Reach::Private)?;
        Ok(DirectoryClient { http, base })
    }

    /// How far the nodes that it names may be: one on this machine may name others on it.
    pub(crate) fn reach_of_nodes(&self) -> Reach {
        if self.base.is_loopback() { Reach::Loopback } else { Reach::Public }
    }

    pub(crate) async fn discover(
        &self,
        query: &Discover,
        trace: Option<&Traceparent>,
        deadline: Instant,
    ) -> Result<Vec<NodeInfo>> {
        let mut url = self.base.join("/v1/discover")?;
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("intent", &query.intent).append_pair("limit", &query.limit.to_string());
            if let Some(region) = &query.region {
                pairs.append_pair("region", region);
            }
            if let Some(qos) = query.qos {
                pairs.append_pair("qos", qos.as_str());
            }
            if let Some(model) = &query.model {
                pairs.append_pair("model", model);
            }
            if let Some(least) = query.min_reputation {
                pairs.append_pair("min_reputation", &least.to_string());
            }
        }
        let call = Call { traceparent: trace, redirects: Redirects::Anywhere, ..call(Method::GET, url, deadline) };
        let reply = self.send("discover", call).await?;
        read_nodes(&reply.body, usize::try_from(query.limit).unwrap_or(usize::MAX))
    }

    pub(crate) async fn register(&self, request: &RegisterRequest<'_>, deadline: Instant) -> Result<RegisterReply> {
        let url = self.base.join("/v1/register")?;
        let call = Call { body: Some(body(request)?), ..call(Method::POST, url, deadline) };
        read("register", &self.send("register", call).await?.body)
    }

    pub(crate) async fn heartbeat(
        &self,
        token: &str,
        request: &HeartbeatRequest<'_>,
        deadline: Instant,
    ) -> Result<HeartbeatReply> {
        let url = self.base.join("/v1/heartbeat")?;
        let call = Call { bearer: Some(token), body: Some(body(request)?), ..call(Method::POST, url, deadline) };
        read("heartbeat", &self.send("heartbeat", call).await?.body)
    }

    /// Leaves the directory; one that has forgotten the node already is as good.
    pub(crate) async fn deregister(&self, node_id: &str, token: &str, deadline: Instant) -> Result<()> {
        let url = self.base.join("/v1/register")?;
        let gone = body(&serde_json::json!({ "node_id": node_id }))?;
        let call = Call { bearer: Some(token), body: Some(gone), ..call(Method::DELETE, url, deadline) };
        match self.send("deregister", call).await {
            Err(error) if error.http_status() == Some(404) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn send(&self, what: &str, call: Call<'_>) -> Result<Reply> {
        let reply = self.http.call(call).await.map_err(|no_reply| self.no_reply(what, no_reply))?;
        if (200..300).contains(&reply.status) {
            return Ok(reply);
        }
        Err(refused(what, &reply))
    }

    fn no_reply(&self, what: &str, no_reply: NoReply) -> Error {
        let at = self.base.as_str();
        let (code, why) = match no_reply {
            NoReply::Refused => (Code::EndpointRefused, "it leads to an address that may not be called"),
            NoReply::Connect => (Code::DirectoryUnreachable, "no connection; is it running?"),
            NoReply::Tls => (Code::DirectoryUnreachable, "the TLS handshake failed; check its certificate"),
            NoReply::Deadline => (Code::DirectoryUnreachable, "no answer in time"),
            NoReply::Lost => (Code::DirectoryUnreachable, "the connection broke or fell silent"),
            NoReply::Malformed => (Code::DirectoryMalformed, "the answer is no HTTP, or compressed"),
            NoReply::TooLarge => (Code::DirectoryMalformed, "the answer is over 4 MiB"),
        };
        Error::new(code, format!("{what} at the directory {at} failed: {why}"))
    }
}

fn call<'a>(method: Method, url: url::Url, deadline: Instant) -> Call<'a> {
    // The directory is one that the caller wrote himself.
    Call { idle: IDLE, ..Call::new(method, url, Reach::Private, deadline, MOST_BYTES) }
}

fn body<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|_| Error::new(Code::Internal, "a request to the directory has no JSON form"))
}

fn refused(what: &str, reply: &Reply) -> Error {
    let status = reply.status;
    let failure = Failure::read(&reply.body);
    let code = match status {
        401 => Code::DirectoryUnauthorized,
        429 => Code::DirectoryRateLimited,
        500.. => Code::DirectoryUnreachable,
        _ => Code::DirectoryRejected,
    };
    let detail = failure.message.map_or_else(String::new, |message| format!(": {message}"));
    let mut error =
        Error::new(code, format!("the directory answered {what} with {status}{detail}")).with_http_status(status);
    // A directory that has just forgotten the id may take it in a moment.
    if matches!(status, 404 | 408 | 410) {
        error = error.with_retryable(true);
    }
    if let Some(wire_code) = failure.code {
        error = error.with_wire_code(wire_code);
    }
    if let Some(pause) = reply.retry_after.or(failure.retry_after) {
        error = error.with_retry_after(pause);
    }
    error
}
