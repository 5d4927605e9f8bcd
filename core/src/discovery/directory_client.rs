//! Calls to a directory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use crate::crypto::digest::unhex;
use crate::crypto::ticket;
use crate::error::{Code, Error, Result};
use crate::options::Discover;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::transport::http_client::{Call, HttpClient, NoReply, Redirects, Reply};
use crate::types::{Qos, Secret, Traceparent};
use crate::wire::directory::{
    AwardRequest, ConsumerTokenReply, DirectoryKeyReply, HeartbeatReply, HeartbeatRequest, Listed, ListedRelay,
    ProbeReply, RegisterReply, RegisterRequest, RelayTicketReply, Ticketed, read, read_nodes, read_relays, read_ticket,
};
use crate::wire::failure::Failure;

/// Largest answer that is read from a directory.
const MOST_BYTES: usize = 4 << 20;
/// Longest silence inside an answer that has begun.
const IDLE: Duration = Duration::from_secs(5);

/// Clocks that differ by no more show the same time: the rest is what the answer took.
const SAME_TIME_S: i64 = 5;

/// A directory's address and the pool to reach it with.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryClient {
    http: HttpClient,
    base: Endpoint,
    /// By how many seconds the directory's clock is ahead of ours.
    ahead_s: Arc<AtomicI64>,
}

/// What a request for a ticket was answered with.
pub(crate) enum TicketAnswer {
    Route(Box<Ticketed>),
    /// No node is left that is eligible and not excluded.
    NoRoute,
    /// This directory has no tickets to give.
    NoTickets,
}

#[derive(Serialize)]
struct TicketRequest<'a> {
    intent: &'a str,
    limit: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_reputation: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    exclude_node_id_prefixes: &'a [&'a str],
}

impl DirectoryClient {
    pub(crate) fn new(http: HttpClient, url: &str) -> Result<Self> {
        let base = Endpoint::parse("the directory", url)?;
        // The caller wrote it himself: it may be anywhere, but it must be somewhere.
        base.judge(Reach::Private)?;
        Ok(DirectoryClient { http, base, ahead_s: Arc::default() })
    }

    /// Where it is, in the one spelling that is compared.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Whether it is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.base.is_loopback()
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
    ) -> Result<Listed> {
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
            if let Some(profile) = &query.profile_request {
                pairs.append_pair("profile_id", &profile.profile_id);
                pairs.append_pair("profile_version", &profile.profile_version);
                pairs.append_pair("profile_fixture_sha256", &profile.profile_fixture_sha256);
                pairs.append_pair("profile_required", if profile.required { "true" } else { "false" });
            }
        }
        let call = Call { traceparent: trace, redirects: Redirects::Anywhere, ..call(Method::GET, url, deadline) };
        let reply = self.send("discover", call).await?;
        read_nodes(&reply.body, usize::try_from(query.limit).unwrap_or(usize::MAX))
    }

    /// Asks for one route with a ticket. `exclude` are ids, or the beginnings of ids, that are not wanted.
    pub(crate) async fn ticket(
        &self,
        query: &Discover,
        exclude: &[&str],
        trace: Option<&Traceparent>,
        deadline: Instant,
    ) -> Result<TicketAnswer> {
        let url = self.base.join("/v1/dispatch/ticket")?;
        let wish = TicketRequest {
            intent: &query.intent,
            limit: query.limit.min(50),
            region: query.region.as_deref(),
            model: query.model.as_deref(),
            qos: query.qos.map(Qos::as_str),
            min_reputation: query.min_reputation,
            exclude_node_id_prefixes: exclude,
        };
        let call = Call { traceparent: trace, body: Some(body(&wish)?), ..call(Method::POST, url, deadline) };
        let reply = self.exchange("dispatch/ticket", call).await?;
        self.note_time(&reply);
        let failure = Failure::read(&reply.body);
        match (reply.status, failure.code.as_deref()) {
            (200..300, _) => read_ticket(&reply.body).map(|ticketed| TicketAnswer::Route(Box::new(ticketed))),
            (404, Some("no_route_available")) => Ok(TicketAnswer::NoRoute),
            (404 | 405 | 501, _) | (503, Some("not_configured")) => Ok(TicketAnswer::NoTickets),
            (409, Some("ambiguous_node_prefix")) => Ok(TicketAnswer::NoRoute),
            _ => Err(refused("dispatch/ticket", &reply)),
        }
    }

    /// The key that tickets and tokens are verified with.
    pub(crate) async fn key(&self, deadline: Instant) -> Result<[u8; 32]> {
        let reply =
            self.send("directory-key", call(Method::GET, self.base.join("/v1/directory-key")?, deadline)).await?;
        self.note_time(&reply);
        let key: DirectoryKeyReply = read("directory-key", &reply.body)?;
        unhex(&key.public_key).ok_or_else(|| {
            Error::new(Code::DirectoryMalformed, "the directory's key is not 64 hex digits; ask its operator")
        })
    }

    /// Asks for a token that names the caller to one provider. The credential goes to the directory only.
    pub(crate) async fn consumer_token(
        &self,
        credential: &Secret,
        own_id: Option<&str>,
        target: &str,
        intent: &str,
        deadline: Instant,
    ) -> Result<ConsumerTokenReply> {
        let url = Url::parse(&format!("{}/api/v1/consumer-token", self.issuer()))
            .map_err(|e| Error::new(Code::ConfigInvalid, format!("the directory's URL cannot be extended: {e}")))?;
        let wish = body(&serde_json::json!({ "target_node_id": target, "intent": intent }))?;
        let call = Call {
            bearer: Some(credential.expose()),
            node_id: own_id,
            body: Some(wish),
            ..call(Method::POST, url, deadline)
        };
        let reply = self.send("consumer-token", call).await?;
        if reply.status != 201 {
            return Err(Error::new(Code::DirectoryMalformed, "the directory gave no consumer token"));
        }
        read("consumer-token", &reply.body)
    }

    /// Who signs as this directory: its URL without a final `/api`.
    pub(crate) fn issuer(&self) -> &str {
        ticket::issuer(self.base.as_str())
    }

    /// The time by the directory's clock, which is what its tickets are dated with, in seconds since 1970.
    pub(crate) fn now_unix_s(&self) -> u64 {
        let own = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        u64::try_from(own.saturating_add(self.ahead_s.load(Ordering::Relaxed))).unwrap_or(0)
    }

    /// Notes how far the directory's clock is ahead of ours. Seconds of difference are delay, not drift.
    fn note_time(&self, reply: &Reply) {
        let Some(theirs) = reply.date else { return };
        let ahead = i64::try_from(theirs).unwrap_or(0).saturating_sub(i64::try_from(unix_now()).unwrap_or(0));
        self.ahead_s.store(if ahead.abs() <= SAME_TIME_S { 0 } else { ahead }, Ordering::Relaxed);
    }

    pub(crate) async fn register(&self, request: &RegisterRequest<'_>, deadline: Instant) -> Result<RegisterReply> {
        let url = self.base.join("/v1/register")?;
        let call = Call { body: Some(body(request)?), ..call(Method::POST, url, deadline) };
        let reply = self.send("register", call).await?;
        self.note_time(&reply);
        let reply: RegisterReply = read("register", &reply.body)?;
        // They come back in a header and in a file.
        let good = |text: &str, most| text.len() <= most && text.bytes().all(|b| b.is_ascii_graphic());
        let token = reply.node_token.expose();
        let token_good = !token.is_empty() && good(token, 4096);
        if token_good && reply.node_hmac_key.as_ref().is_none_or(|key| good(key.expose(), 256)) {
            return Ok(reply);
        }
        Err(Error::new(Code::DirectoryMalformed, "the directory's answer to register has no usable token or key"))
    }

    pub(crate) async fn heartbeat(
        &self,
        token: &str,
        request: &HeartbeatRequest<'_>,
        deadline: Instant,
    ) -> Result<HeartbeatReply> {
        let url = self.base.join("/v1/heartbeat")?;
        let call = Call { bearer: Some(token), body: Some(body(request)?), ..call(Method::POST, url, deadline) };
        let reply = self.send("heartbeat", call).await?;
        self.note_time(&reply);
        read("heartbeat", &reply.body)
    }

    /// Asks for the credits of a task.
    pub(crate) async fn award(&self, token: &str, request: &AwardRequest<'_>, deadline: Instant) -> Result<()> {
        let url = self.base.join("/v1/credits/award")?;
        let call = Call { bearer: Some(token), body: Some(body(request)?), ..call(Method::POST, url, deadline) };
        self.send("credits/award", call).await.map(|_| ())
    }

    /// Asks for a ticket to bind at a relay with; `relay` is its id if only it is to take the ticket. None if the directory
    /// gives no tickets.
    pub(crate) async fn relay_ticket(
        &self,
        token: &Secret,
        own_id: &str,
        relay: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<RelayTicketReply>> {
        let wish = match relay {
            Some(relay) => serde_json::json!({ "relay_node_id": relay }),
            None => serde_json::json!({}),
        };
        let url = self.base.join("/v1/relay/ticket")?;
        let call = Call {
            bearer: Some(token.expose()),
            node_id: Some(own_id),
            body: Some(body(&wish)?),
            ..call(Method::POST, url, deadline)
        };
        let reply = self.exchange("relay/ticket", call).await?;
        match (reply.status, Failure::read(&reply.body).code.as_deref()) {
            (200..300, _) => read("relay/ticket", &reply.body).map(Some),
            (404 | 405 | 501, _) | (503, Some("not_configured")) => Ok(None),
            _ => Err(refused("relay/ticket", &reply)),
        }
    }

    /// The relays that the directory lists under an intent.
    pub(crate) async fn relays(&self, intent: &str, deadline: Instant) -> Result<Vec<ListedRelay>> {
        let mut url = self.base.join("/v1/discover")?;
        url.query_pairs_mut()
            .append_pair("intent", intent)
            .append_pair("relay_capable", "true")
            .append_pair("limit", "50");
        read_relays(&self.send("discover", call(Method::GET, url, deadline)).await?.body)
    }

    /// Whether the directory can connect to a place: how it looks from outside.
    pub(crate) async fn probe(&self, place: SocketAddr, deadline: Instant) -> Result<ProbeReply> {
        let mut url = self.base.join("/v1/probe")?;
        url.query_pairs_mut()
            .append_pair("host", &place.ip().to_string())
            .append_pair("port", &place.port().to_string());
        read("probe", &self.send("probe", call(Method::GET, url, deadline)).await?.body)
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

    async fn exchange(&self, what: &str, call: Call<'_>) -> Result<Reply> {
        self.http.call(call).await.map_err(|no_reply| self.no_reply(what, no_reply))
    }

    async fn send(&self, what: &str, call: Call<'_>) -> Result<Reply> {
        let reply = self.exchange(what, call).await?;
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
            NoReply::Tls(why) => (Code::DirectoryUnreachable, why.as_str()),
            NoReply::Deadline => (Code::DirectoryUnreachable, "no answer in time"),
            NoReply::Lost => (Code::DirectoryUnreachable, "the connection broke or fell silent"),
            NoReply::Malformed => (Code::DirectoryMalformed, "the answer is no HTTP, or compressed"),
            NoReply::TooLarge => (Code::DirectoryMalformed, "the answer is over 4 MiB"),
        };
        Error::of_options(code, format!("{what} at the directory {at} failed: {why}"))
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
