//! The HTTP client: pooled connections, a deadline for everything, a cap on what is read, no redirect, no proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;
use url::Url;

use crate::error::{Code, Error, Result};
use crate::types::Traceparent;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A pooled connection is dropped before the peer's own idle deadline can hit a task that is being sent.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) traceparent: Option<&'a Traceparent>,
    pub(crate) bearer: Option<&'a str>,
    /// JSON.
    pub(crate) body: Option<Bytes>,
    pub(crate) deadline: Instant,
    /// Longest silence inside an answer that has begun.
    pub(crate) idle: Duration,
    pub(crate) most_bytes: usize,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

/// Why there is no answer. Only the first two prove that the request was not acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    Connect,
    Tls,
    /// The deadline passed.
    Deadline,
    /// The connection broke, or fell silent, inside the exchange.
    Lost,
    /// What came is no HTTP.
    Malformed,
    TooLarge,
}

/// Pools of connections: one for plain HTTP, one for HTTPS that is only made when it is needed.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    plain: reqwest::Client,
    tls: Arc<OnceLock<reqwest::Client>>,
}

impl HttpClient {
    pub(crate) fn new() -> Result<Self> {
        // The plain pool never shakes hands; an empty root store costs nothing, reading the system's does.
        let roots = Arc::new(rustls::RootCertStore::empty());
        let config = tls_builder()?.with_root_certificates(roots).with_no_client_auth();
        Ok(HttpClient { plain: build(config)?, tls: Arc::default() })
    }

    fn pool(&self, scheme: &str) -> Result<&reqwest::Client> {
        if scheme != "https" {
            return Ok(&self.plain);
        }
        if let Some(client) = self.tls.get() {
            return Ok(client);
        }
        let verifier = rustls_platform_verifier::Verifier::new(provider()).map_err(tls_error)?;
        let config =
            tls_builder()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        let client = build(config)?;
        Ok(self.tls.get_or_init(|| client))
    }

    /// Sends one request and reads the whole answer.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Reply, NoReply> {
        let pool = self.pool(call.url.scheme()).map_err(|_| NoReply::Tls)?;
        let (deadline, idle, most_bytes) = (call.deadline, call.idle, call.most_bytes);
        let request = request(call);
        let exchange = async {
            let response = pool.execute(request).await.map_err(|e| classify(&e))?;
            read(response, idle, most_bytes).await
        };
        tokio::time::timeout_at(deadline, exchange).await.unwrap_or(Err(NoReply::Deadline))
    }
}

fn request(call: Call<'_>) -> reqwest::Request {
    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    let mut request = reqwest::Request::new(call.method, call.url);
    let headers = request.headers_mut();
    if let Some(trace) = call.traceparent
        && let Ok(value) = HeaderValue::from_str(trace.as_str())
    {
        headers.insert(TRACEPARENT, value);
    }
    if let Some(bearer) = call.bearer
        && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {bearer}"))
    {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    if let Some(body) = call.body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
    }
    request
}

async fn read(mut response: reqwest::Response, idle: Duration, most: usize) -> Result<Reply, NoReply> {
    let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
    if response.content_length().is_some_and(|length| usize::try_from(length).map_or(true, |length| length > most)) {
        return Err(NoReply::TooLarge);
    }
    let (mut whole, mut grown) = (Bytes::new(), BytesMut::new());
    loop {
        let chunk = tokio::time::timeout(idle, response.chunk()).await.map_err(|_| NoReply::Lost)?;
        let Some(data) = chunk.map_err(|e| classify(&e))? else { break };
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
    Ok(Reply { status, retry_after, body })
}

/// Seconds only: the date form is not used in this protocol.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}

fn classify(error: &reqwest::Error) -> NoReply {
    if error.is_connect() {
        return if has_source::<rustls::Error>(error) { NoReply::Tls } else { NoReply::Connect };
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

fn has_source<E: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        let inside_io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<E>() || inside_io.is_some_and(|inner| inner.is::<E>()) {
            return true;
        }
        source = error.source();
    }
    false
}

fn build(config: rustls::ClientConfig) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .dns_resolver(LocalhostOnly)
        .build()
        .map_err(|e| Error::new(Code::Internal, "the HTTP client could not be set up").with_source(e))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    // Named everywhere it is needed: a library must not install a process-wide default.
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls_builder() -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>> {
    rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(tls_error)
}

fn tls_error(error: rustls::Error) -> Error {
    Error::new(Code::Internal, "TLS could not be set up").with_source(error)
}

/// Answers for `localhost` from the standard that defines it (RFC 6761) and for nothing else: [`super::endpoint`] lets
/// no other name pass.
struct LocalhostOnly;

impl Resolve for LocalhostOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let known = name.as_str().trim_end_matches('.').eq_ignore_ascii_case("localhost");
        Box::pin(async move {
            if !known {
                return Err("only localhost is resolved".into());
            }
            let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            Ok(Box::new(ips.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}
