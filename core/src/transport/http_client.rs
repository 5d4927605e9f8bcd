//! The HTTP client: pooled connections, a deadline for everything, a cap on what is read, no proxy. Every place that a
//! call comes to, by a literal address, a name or a redirect, is judged before a connection to it is used.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use http::{HeaderMap, Method};
use tokio::time::Instant;
use url::{Host, Url};

use super::guard::{self, Reach};
use super::pool::{Connecting, NameNeeded, Peer, Pools};
use super::redirect::Hop;
pub(crate) use super::redirect::Redirects;
use super::resolve::{Lookup, Names, SystemLookup};
use super::trust::{Distrust, Trust};
use crate::error::Result;
use crate::types::Traceparent;

/// How often one request may find that its pooled connection is gone and the name has to be asked for again.
const MOST_QUESTIONS: usize = 4;

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// How far the call may go.
    pub(crate) reach: Reach,
    pub(crate) redirects: Redirects,
    pub(crate) traceparent: Option<&'a Traceparent>,
    /// What stands beside it; nothing without it.
    pub(crate) tracestate: Option<&'a str>,
    pub(crate) bearer: Option<&'a str>,
    pub(crate) consumer_token: Option<&'a str>,
    pub(crate) node_id: Option<&'a str>,
    /// The media types that are taken beside JSON, as the header says it.
    pub(crate) accept: Option<&'static str>,
    /// What else stands in the head; goes to no other origin.
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    /// JSON.
    pub(crate) body: Option<Bytes>,
    /// A body of another type, in the place of `body`.
    pub(crate) stream: Option<&'a dyn Stream>,
    pub(crate) deadline: Instant,
    /// Longest silence inside an answer that has begun.
    pub(crate) idle: Duration,
    pub(crate) most_bytes: usize,
}

impl Call<'_> {
    /// A call without credentials, trace or body that follows no redirect and may be silent until its deadline.
    pub(crate) fn new(method: Method, url: Url, reach: Reach, deadline: Instant, most_bytes: usize) -> Self {
        Call {
            method,
            url,
            reach,
            redirects: Redirects::None,
            traceparent: None,
            tracestate: None,
            bearer: None,
            consumer_token: None,
            node_id: None,
            accept: None,
            headers: &[],
            body: None,
            stream: None,
            deadline,
            idle: deadline.saturating_duration_since(Instant::now()),
            most_bytes,
        }
    }
}

/// A request's body that is made piece by piece, and anew for every place that the request is led to.
pub(crate) trait Stream: Sync {
    fn content_type(&self) -> HeaderValue;
    fn body(&self) -> reqwest::Body;
}

/// An answer, whatever its status, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) retry_after: Option<Duration>,
    /// What the peer's clock said, in seconds since 1970.
    pub(crate) date: Option<u64>,
    pub(crate) body: Bytes,
    /// Time for names and connections; zero if pooled ones were used.
    pub(crate) connect: Duration,
    /// From the sending, over an open connection, to the head of the answer.
    pub(crate) first_byte: Duration,
}

/// Why there is no answer. Only the first three prove that the request was not acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    /// The place may not be called, or its name leads to one that may not.
    Refused,
    Connect,
    Tls(Distrust),
    /// The deadline passed.
    Deadline,
    /// The connection broke, or fell silent, inside the exchange.
    Lost,
    /// What came is no HTTP, or is compressed, which was not asked for and is never unpacked.
    Malformed,
    TooLarge,
}

/// The client. Cloning gives another handle to the same connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    pools: Arc<Pools>,
    names: Names,
    trust: Trust,
}

impl HttpClient {
    /// A client that trusts nobody but the platform's authorities.
    #[cfg(test)]
    pub(crate) fn new() -> Result<Self> {
        HttpClient::trusting(Trust::default())
    }

    pub(crate) fn trusting(trust: Trust) -> Result<Self> {
        HttpClient::made(Peer::Mesh, trust, Arc::new(SystemLookup))
    }

    /// A client for one inference server, which is no peer of the mesh.
    pub(crate) fn for_backend() -> Result<Self> {
        HttpClient::made(Peer::Backend, Trust::default(), Arc::new(SystemLookup))
    }

    /// A client that asks somebody else than the system for names.
    #[cfg(test)]
    pub(crate) fn with_lookup(lookup: Arc<dyn Lookup>) -> Result<Self> {
        HttpClient::made(Peer::Mesh, Trust::default(), lookup)
    }

    fn made(peer: Peer, trust: Trust, lookup: Arc<dyn Lookup>) -> Result<Self> {
        Ok(HttpClient { pools: Arc::new(Pools::new(peer, trust.clone())?), names: Names::new(lookup), trust })
    }

    /// Sends one request, to wherever it is led, and reads the whole answer.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Reply, NoReply> {
        let whole = async { self.exchange(&call).await?.read().await };
        tokio::time::timeout_at(call.deadline, whole).await.unwrap_or(Err(NoReply::Deadline))
    }

    /// Sends one request, to wherever it is led, and reads the head of the answer. Dropping what is returned before its
    /// end closes the connection.
    pub(crate) async fn open(&self, call: Call<'_>) -> Result<Incoming, NoReply> {
        tokio::time::timeout_at(call.deadline, self.exchange(&call)).await.unwrap_or(Err(NoReply::Deadline))
    }

    /// The addresses of a host, judged, for who opens a connection of his own. The port is left open.
    ///
    /// # Errors
    /// `Refused` if it may not be called, `Connect` if it has no address, or none in time.
    pub(crate) async fn resolve(&self, host: &Host, reach: Reach) -> Result<Vec<std::net::SocketAddr>, NoReply> {
        let ip = match host {
            Host::Ipv4(ip) => std::net::IpAddr::V4(*ip),
            Host::Ipv6(ip) => std::net::IpAddr::V6(*ip),
            Host::Domain(name) => {
                guard::judge_host(&Host::Domain(name.as_str()), reach).map_err(|_| NoReply::Refused)?;
                return self.names.resolve(name, reach).await;
            }
        };
        guard::judge_ip(ip, reach).map_err(|_| NoReply::Refused)?;
        Ok(vec![std::net::SocketAddr::new(ip, 0)])
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Incoming, NoReply> {
        let url = guard::without_trailing_dot(call.url.clone()).ok_or(NoReply::Refused)?;
        let mut hop = Hop::first(url, call.reach);
        let mut connect = Duration::ZERO;
        loop {
            let answer = self.send(call, &hop).await?;
            connect += answer.connect;
            let head = &answer.response;
            let location = head.headers().get(LOCATION).map(HeaderValue::as_bytes);
            match hop.follow(redirects(call), head.status().as_u16(), location) {
                Some(next) => hop = next,
                None => return Incoming::new(answer, connect, call),
            }
        }
    }

    /// Sends the request to one place.
    async fn send(&self, call: &Call<'_>, hop: &Hop) -> Result<Answer, NoReply> {
        guard::judge_url(&hop.url, hop.reach).map_err(|_| NoReply::Refused)?;
        let pool = self.pools.get(hop.url.scheme(), hop.reach).map_err(|_| NoReply::Tls(Distrust::Nobody))?;
        let mut connecting = Connecting::default();
        let mut connect = Duration::ZERO;
        for _ in 0..MOST_QUESTIONS {
            let begun = Instant::now();
            let (answer, connected_in) = connecting.during(pool.execute(request(call, hop))).await;
            connect += connected_in;
            let error = match answer {
                Ok(response) => {
                    let first_byte = begun.elapsed().saturating_sub(connected_in);
                    return Ok(Answer { response, connect, first_byte });
                }
                Err(error) => error,
            };
            let Some(Host::Domain(name)) = hop.url.host().filter(|_| source::<NameNeeded>(&error).is_some()) else {
                return Err(classify(&error));
            };
            let begun = Instant::now();
            connecting = Connecting::to(name.to_owned(), self.names.resolve(name, hop.reach).await?);
            connect += begun.elapsed();
        }
        Err(NoReply::Connect)
    }

    /// Who is asked for names, and judges the answers.
    pub(crate) fn names(&self) -> Names {
        self.names.clone()
    }

    /// Whom it trusts.
    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Pools made so far.
    #[cfg(test)]
    pub(super) fn pools_made(&self) -> usize {
        self.pools.made()
    }
}

/// The head of an answer.
struct Answer {
    response: reqwest::Response,
    connect: Duration,
    first_byte: Duration,
}

/// A body goes to no other origin.
fn redirects(call: &Call<'_>) -> Redirects {
    match call.redirects {
        Redirects::Anywhere if call.method != Method::GET || call.body.is_some() || call.stream.is_some() => {
            Redirects::SameOrigin
        }
        wanted => wanted,
    }
}

fn request(call: &Call<'_>, hop: &Hop) -> reqwest::Request {
    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
    const CONSUMER_TOKEN: HeaderName = HeaderName::from_static("x-iicp-consumer-token");
    const NODE_ID: HeaderName = HeaderName::from_static("x-node-id");
    let mut request = reqwest::Request::new(call.method.clone(), hop.url.clone());
    let headers = request.headers_mut();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(accept) = call.accept {
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
    }
    if let Some(trace) = call.traceparent
        && let Ok(value) = HeaderValue::from_str(trace.as_str())
    {
        headers.insert(TRACEPARENT, value);
        if let Some(Ok(state)) = call.tracestate.map(HeaderValue::from_str) {
            headers.insert(TRACESTATE, state);
        }
    }
    if hop.same_origin {
        let bearer = call.bearer.map(|bearer| format!("Bearer {bearer}"));
        secret(headers, AUTHORIZATION, bearer.as_deref());
        secret(headers, CONSUMER_TOKEN, call.consumer_token);
        secret(headers, NODE_ID, call.node_id);
        for (name, value) in call.headers {
            headers.insert(name, value.clone());
        }
    }
    if let Some(stream) = call.stream {
        headers.insert(CONTENT_TYPE, stream.content_type());
        *request.body_mut() = Some(stream.body());
    } else if let Some(body) = &call.body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.clone().into());
    }
    request
}

fn secret(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value
        && let Ok(mut value) = HeaderValue::from_str(value)
    {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}

/// An answer whose body is still on its way.
#[derive(Debug)]
pub(crate) struct Incoming {
    response: reqwest::Response,
    connect: Duration,
    first_byte: Duration,
    deadline: Instant,
    idle: Duration,
    most_bytes: usize,
}

impl Incoming {
    fn new(answer: Answer, connect: Duration, call: &Call<'_>) -> Result<Self, NoReply> {
        let Answer { response, first_byte, .. } = answer;
        if !response.headers().get_all(CONTENT_ENCODING).iter().all(is_identity) {
            return Err(NoReply::Malformed);
        }
        let (deadline, idle, most_bytes) = (call.deadline, call.idle, call.most_bytes);
        Ok(Incoming { response, connect, first_byte, deadline, idle, most_bytes })
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// How long the peer asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        retry_after(self.headers())
    }

    /// When the call's time is over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The same, of which not more is read than that.
    pub(crate) fn at_most(mut self, bytes: usize) -> Self {
        self.most_bytes = bytes;
        self
    }

    /// Time for names and connections; zero if pooled ones were used.
    pub(crate) fn connect(&self) -> Duration {
        self.connect
    }

    /// From the sending, over an open connection, to the head of the answer.
    pub(crate) fn first_byte(&self) -> Duration {
        self.first_byte
    }

    /// The next bytes of the body as they arrive; none at its end. The bound on the whole is the caller's to keep.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, NoReply> {
        let (idle, now) = (self.idle, Instant::now());
        // Of two bounds the nearer one: a stream takes no timer more than a whole answer does.
        let last = self.deadline.min(now.checked_add(idle).unwrap_or(self.deadline));
        match tokio::time::timeout_at(last, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|e| classify(&e)),
            Err(_) if last == self.deadline => Err(NoReply::Deadline),
            Err(_) => Err(NoReply::Lost),
        }
    }

    /// Reads the whole body.
    pub(crate) async fn read(mut self) -> Result<Reply, NoReply> {
        let (status, headers, most) = (self.status(), self.headers(), self.most_bytes);
        let (retry_after, date) = (retry_after(headers), date(headers));
        let length = self.response.content_length();
        if length.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > most)) {
            return Err(NoReply::TooLarge);
        }
        let (mut whole, mut grown) = (Bytes::new(), BytesMut::new());
        while let Some(data) = self.chunk().await? {
            if whole.len() + grown.len() + data.len() > most {
                return Err(NoReply::TooLarge);
            }
            if whole.is_empty() && grown.is_empty() {
                whole = data;
                continue;
            }
            grown.extend_from_slice(&std::mem::take(&mut whole));
            grown.extend_from_slice(&data);
        }
        let body = if grown.is_empty() { whole } else { grown.freeze() };
        let content_type = self.headers().get(CONTENT_TYPE).cloned();
        Ok(Reply { status, content_type, retry_after, date, body, connect: self.connect, first_byte: self.first_byte })
    }
}

fn is_identity(coding: &HeaderValue) -> bool {
    let coding = coding.as_bytes().trim_ascii();
    coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
}

/// Seconds only: the date form is not used in this protocol.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}

fn date(headers: &HeaderMap) -> Option<u64> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    date.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn classify(error: &reqwest::Error) -> NoReply {
    if error.is_connect() {
        return source::<rustls::Error>(error).map_or(NoReply::Connect, |why| NoReply::Tls(Distrust::of(why)));
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(http) = error.downcast_ref::<hyper::Error>()
            && http.is_parse()
        {
            return NoReply::Malformed;
        }
        source = error.source();
    }
    NoReply::Lost
}

/// The error of this type below another one.
fn source<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What an error of the system holds is no source of it, only that one's source is.
        source = match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests;
