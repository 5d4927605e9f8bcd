//! Pools of connections: one for each reach and scheme, made when it is first needed. A connection that was opened for a
//! call that reaches far is never lent to one that does not.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::guard::Reach;
use super::trust::{Trust, failed, provider};
use crate::error::{Code, Error, Result};

/// Longest wait for a connection, TLS included; the name is known by then. Every address of a family gets its share of it,
/// and the other family starts after 300 ms.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A pooled connection is dropped before the peer's own idle deadline can hit a task that is being sent.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// The servers that models are run by close what was idle for five seconds (uvicorn, Node.js, llama.cpp).
const BACKEND_IDLE: Duration = Duration::from_secs(4);

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Directories and nodes.
    Mesh,
    /// An inference server of the operator's own choice, which the specification has no rules for.
    Backend,
}

impl Peer {
    /// TLS 1.3 and nothing older on the mesh, as the specification has it.
    pub(super) fn tls_versions(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        static VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Peer::Mesh => &VERSIONS[..1],
            Peer::Backend => &VERSIONS,
        }
    }

    fn idle(self) -> Duration {
        match self {
            Peer::Mesh => POOL_IDLE,
            Peer::Backend => BACKEND_IDLE,
        }
    }
}

/// The pools of one client.
#[derive(Debug)]
pub(super) struct Pools {
    peer: Peer,
    trust: Trust,
    /// The plain pools never shake hands; an empty root store costs nothing, reading the system's does.
    no_roots: rustls::ClientConfig,
    /// Plain and TLS, for each reach.
    made: [[OnceLock<reqwest::Client>; 2]; 3],
}

impl Pools {
    pub(super) fn new(peer: Peer, trust: Trust) -> Result<Self> {
        let roots = Arc::new(rustls::RootCertStore::empty());
        let no_roots = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(peer.tls_versions())
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Pools { peer, trust, no_roots, made: Default::default() })
    }

    pub(super) fn get(&self, scheme: &str, reach: Reach) -> Result<&reqwest::Client> {
        let is_tls = scheme == "https";
        let place = &self.made[reach as usize][usize::from(is_tls)];
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let config = if is_tls { self.trust.client(self.peer.tls_versions())? } else { self.no_roots.clone() };
        let client = build(config, self.peer)?;
        Ok(place.get_or_init(|| client))
    }

    /// How many were made: none of them, no socket.
    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.made.iter().flatten().filter(|pool| pool.get().is_some()).count()
    }
}

fn build(config: rustls::ClientConfig, peer: Peer) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(peer.idle())
        .dns_resolver(Known);
    // Behind a layer, a client copies its connector into new boxes for every request; nobody asks how long a backend took.
    let builder = if peer == Peer::Mesh { builder.connector_layer(Clock) } else { builder };
    builder.build().map_err(|e| Error::new(Code::Internal, "the HTTP client could not be set up").with_source(e))
}

tokio::task_local! {
    static CONNECTING: Connecting;
}

/// What passes between a request and the connection that is opened for it, if one is.
#[derive(Default)]
pub(super) struct Connecting {
    /// Judged addresses of a name: used up by one connection.
    addresses: RefCell<Option<(String, Vec<SocketAddr>)>>,
    took: Cell<Duration>,
}

impl Connecting {
    pub(super) fn to(name: String, addresses: Vec<SocketAddr>) -> Self {
        Connecting { addresses: RefCell::new(Some((name, addresses))), took: Cell::default() }
    }

    /// Runs a request. Beside what it gives: how long a connection was being opened for it, zero if a pooled one was used.
    pub(super) async fn during<F: Future>(self, request: F) -> (F::Output, Duration) {
        CONNECTING
            .scope(self, async {
                let output = request.await;
                (output, CONNECTING.with(|connecting| connecting.took.get()))
            })
            .await
    }
}

/// A connection to a name needs to be opened, and its addresses are not known yet. Names are asked for outside of the
/// connector, so that a slow answer takes nothing from the time for connecting, and only when there is no pooled connection.
#[derive(Debug)]
pub(super) struct NameNeeded;

impl std::fmt::Display for NameNeeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name was not resolved yet")
    }
}

impl std::error::Error for NameNeeded {}

/// Hands the connector the addresses that were judged for the request, and no others.
struct Known;

impl Resolve for Known {
    fn resolve(&self, name: Name) -> Resolving {
        let known = CONNECTING.try_with(|connecting| connecting.addresses.take());
        let known = known.ok().flatten().filter(|(of, _)| of == name.as_str());
        Box::pin(async move {
            let (_, addresses) = known.ok_or(NameNeeded)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Measures how long a connection takes. A connection that is finished in the background, because a pooled one became
/// free meanwhile, is nobody's.
#[derive(Clone)]
struct Clock;

impl<S> Layer<S> for Clock {
    type Service = Clocked<S>;

    fn layer(&self, inner: S) -> Clocked<S> {
        Clocked(inner)
    }
}

#[derive(Clone)]
struct Clocked<S>(S);

impl<S, R> Service<R> for Clocked<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let connecting = self.0.call(request);
        Box::pin(async move {
            let begun = Instant::now();
            let connected = connecting.await;
            let _ = CONNECTING.try_with(|connecting| connecting.took.set(begun.elapsed()));
            connected
        })
    }
}
