//! The serving node: `bind` takes the address, `serve` takes tasks and keeps the node registered.

mod answer;
mod availability;
mod backend;
mod callers;
mod envelope;
mod event_stream;
mod handler;
mod limits;
mod metrics;
mod native;
mod offer;
mod punching;
mod reaching;
mod receipts;
mod refusal;
mod registration;
mod relay_metrics;
mod relaying;
mod service;
mod stream;
mod task;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use backend::Backend;
pub use handler::{Caller, Handler, Inbound, Reply};

use crate::crypto::cx::NodeKey;
use crate::crypto::pinned::PinnedKey;
use crate::discovery::directory_client::DirectoryClient;
use crate::error::{Code, Error, Result};
use crate::nat::{Ladder, Standing};
use crate::options::{NodeOptions, Validate as _};
use crate::protocol::gate::Gate;
use crate::protocol::nonces::Nonces;
use crate::protocol::punching::Rendezvous;
use crate::protocol::replay::ReplayMemory;
use crate::relay::{Exchange, Listeners, Relay};
use crate::runtime::TaskGroup;
use crate::state::{self, Identity};
use crate::transport::conn::{ConnTable, Deadlines};
use crate::transport::endpoint::Endpoint;
use crate::transport::http_client::HttpClient;
use crate::transport::http_server::{Behind, HttpServer, ServerLimits, affordable_connections};
use crate::transport::server_tls::ServerTls;
use crate::types::{CertificateReport, NatReport};
use callers::Callers;
use handler::DynHandler;
use limits::Limits;
use metrics::Metrics;
use offer::Offer;
use receipts::Receipts;

/// Most connections of a node that names no bound.
const MOST_CONNECTIONS: usize = 16_384;

/// What every part of a running node shares.
struct State {
    options: NodeOptions,
    node_id: String,
    /// Holds the lock of the node's id.
    _identity: Identity,
    offer: Offer,
    receipts: Receipts,
    intents: Vec<Arc<str>>,
    advertised: String,
    endpoint: Endpoint,
    /// Where native frames are taken, if callers are told.
    native_endpoint: Option<String>,
    /// What tasks are sealed to.
    key: Arc<NodeKey>,
    limits: Limits,
    callers: Callers,
    gate: Arc<Gate>,
    nonces: Arc<Nonces>,
    replay: ReplayMemory<CancellationToken>,
    metrics: Metrics,
    handler: Box<dyn DynHandler>,
    /// The operator was told that the handler wraps what it returns.
    told_wrapped: AtomicBool,
    registered: AtomicBool,
    /// There if the node lends its address to workers.
    relay: Option<Arc<Relay>>,
    /// There if the node looks for the way by which it is reached.
    standing: Option<Arc<Standing>>,
    /// There if the node is a worker itself, or may become one.
    exchange: Option<Arc<Exchange>>,
    /// There once the node is one that callers may find a direct path to.
    rendezvous: OnceLock<Weak<dyn Rendezvous>>,
    table: Arc<ConnTable>,
    http: HttpClient,
    group: TaskGroup,
    /// Tells the registration to leave the directory.
    leaving: CancellationToken,
    /// When that must be done.
    leave_by: OnceLock<Instant>,
    task_ended: Notify,
    started: Instant,
}

impl State {
    /// Time since the node began: for windows that a change of the clock on the wall must not move.
    fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Share of what is used most, 0 to 1: the slots, or what a relay may carry.
    fn load(&self) -> f64 {
        self.relay.as_ref().map_or(0.0, |relay| relay.load()).max(self.gate.load())
    }

    /// Waits until no task runs.
    async fn idle(&self) {
        loop {
            let ended = self.task_ended.notified();
            if self.gate.active() == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// A node with an address, not serving yet.
pub struct Node {
    options: NodeOptions,
    server: HttpServer,
    advertised: String,
    endpoint: Endpoint,
    identity: Identity,
    key: NodeKey,
    directory: Option<DirectoryClient>,
    http: HttpClient,
    /// Where workers are accepted, if the node is a relay.
    listeners: Option<Listeners>,
    /// What its workers know it by then.
    relay_key: Option<PinnedKey>,
    tls: Option<Arc<ServerTls>>,
    backend: Option<Backend>,
    /// Ends when nobody waits for the first registration any more.
    /// Behind a mutex only because a future need not be `Sync`, and a node is.
    until: Mutex<BoxFuture<'static, ()>>,
}

impl Node {
    /// Checks the options and binds the address. Needs a tokio runtime.
    ///
    /// # Errors
    /// `CONFIG_INVALID` or `INTENT_INVALID` for the options, `CONFIG_INVALID` for a file in `state_dir` that the node cannot
    /// do without and that cannot be read, and for a certificate or key of `tls` that cannot be used, `NODE_LOCKED` if another node serves with the same id and `state_dir`, `BIND` for
    /// the address. A node that listens on all addresses of its machine and is registered with a directory on it needs the
    /// option `endpoint`, and so does one with `tls`, which is known by the name in its certificate; elsewhere it looks for its way itself, see [`NatOptions`](crate::options::NatOptions).
    pub async fn bind(mut options: NodeOptions) -> Result<Self> {
        options.validate()?;
        let backend = options.backend.as_ref().map(|backend| Backend::new(backend, &options)).transpose()?;
        if let Some(backend) = backend.as_ref().filter(|_| options.intents.is_empty()) {
            options.intents = backend.usual_intents().map(str::to_owned).collect();
        }
        let (tls, trust) = tls::load(&options).await?;
        let http = HttpClient::trusting(trust)?;
        let directory = match options.directory.as_str() {
            "" => None,
            url => Some(DirectoryClient::new(http.clone(), url)?),
        };
        let bracketed = if options.host.contains(':') { format!("[{}]", options.host) } else { options.host.clone() };
        Endpoint::parse("the node's host", &format!("http://{bracketed}:{}", options.port))?;
        let advertised = options.endpoint.as_ref().map(|url| url.trim_end_matches('/').to_owned());
        if let Some(url) = &advertised {
            Endpoint::parse("the node's endpoint", url)?;
        }
        let limits = ServerLimits {
            deadlines: Deadlines {
                head: Duration::from_millis(options.header_timeout_ms),
                idle: Duration::from_millis(options.idle_timeout_ms),
                transfer_grace: Duration::from_millis(options.transfer_grace_ms),
            },
            max_connections: options.max_connections.unwrap_or_else(|| affordable_connections(MOST_CONNECTIONS)),
        };
        let Kept { identity, key, relay_key } =
            kept(&options, directory.as_ref().map_or("", DirectoryClient::url)).await?;
        let server = HttpServer::bind(&options.host, options.port, limits).await?;
        let advertised = advertised.unwrap_or_else(|| format!("{}://{}", tls::scheme(&options), server.addr));
        let endpoint = Endpoint::parse("the node's endpoint", &advertised)?;
        let climbs = reaching::has_to_climb(&options, directory.as_ref(), endpoint.is_unspecified());
        if directory.is_some() && endpoint.is_unspecified() && (!climbs || tls.is_some()) {
            let url = if tls.is_some() { "https URL, with a name in the certificate," } else { "URL" };
            return Err(Error::new(
                Code::ConfigInvalid,
                format!(
                    "nobody can call a node at {advertised}; set endpoint to the {url} that callers reach it under"
                ),
            ));
        }
        if let Some(tls) = &tls {
            tls::check_name(tls, &advertised);
        }
        let listeners = relaying::listen(&options)?;
        Ok(Node {
            options,
            server,
            advertised,
            endpoint,
            identity,
            key,
            directory,
            http,
            listeners,
            relay_key,
            tls,
            backend,
            until: Mutex::new(std::future::pending().boxed()),
        })
    }

    /// The address that is listened on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// The URL under which callers reach the node.
    #[must_use]
    pub fn url(&self) -> String {
        self.advertised.clone()
    }

    /// Id of the node.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.identity.node_id
    }

    /// Tries every way by which the node might be reached, once, and gives back what gateways gave. Nothing is served or
    /// registered.
    ///
    /// # Errors
    /// `INTERNAL` if the system has no random numbers.
    pub async fn nat_report(&self) -> Result<NatReport> {
        let ladder: Ladder = reaching::ladder(
            &self.options,
            self.node_id(),
            &self.http,
            self.server.addr,
            self.directory.clone(),
            None,
        )?;
        Ok(ladder.try_out().await)
    }

    /// How long and for whom the certificate is good that a node with these options shows; none if they have no `tls`.
    /// Nothing is bound.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for options, and for a certificate or a key that cannot be used.
    pub async fn certificate_report(options: &NodeOptions) -> Result<Option<CertificateReport>> {
        options.validate()?;
        tls::examine(options).await
    }

    /// Has [`Node::serve`] return as soon as `stop` ends, without waiting for the backend or for the first registration. A node
    /// that is asked to stop while it begins can then be shut down in good order; one whose `serve` is dropped gives nothing
    /// back, neither to its directory nor to a gateway that has opened a port.
    #[must_use]
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Mutex::new(stop.boxed());
        self
    }

    /// The backend, if the options have one: to be called by a handler that does more than that.
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        self.backend.clone()
    }

    /// Serves tasks with the backend of the options, and registers if there is a directory. Returns when the backend was
    /// asked for its models and the first registration was tried; what is away is asked again in the background.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if there is no backend, or none that can serve one of the intents; the others as
    /// [`Node::serve`].
    pub async fn serve_backend(self) -> Result<LiveNode> {
        let backend = self.backend.clone().ok_or_else(|| {
            Error::of_options(
                Code::ConfigInvalid,
                "option `backend` of a node is missing; name the server that runs its tasks",
            )
        })?;
        backend.check_intents(&self.options.intents)?;
        self.serve(backend).await
    }

    /// Serves tasks with `handler`, and registers if there is a directory. Returns when the first registration was
    /// tried: a directory that is away is asked again in the background, see [`LiveNode::is_registered`].
    ///
    /// # Errors
    /// `DIRECTORY_REJECTED` or `DIRECTORY_UNAUTHORIZED` if the directory refuses what waiting cannot mend.
    pub async fn serve<H: Handler>(self, handler: H) -> Result<LiveNode> {
        let Node { options, server, advertised, endpoint, directory, http, listeners, backend, .. } = self;
        let Node { mut identity, key, relay_key, tls, until, .. } = self;
        let intents: Vec<Arc<str>> = options.intents.iter().map(|intent| Arc::from(intent.as_str())).collect();
        let group = TaskGroup::new();
        let credentials = identity.credentials.take();
        let relay_addr = listeners.as_ref().and_then(Listeners::addr);
        let relay = match (listeners, &relay_key) {
            (Some(listeners), Some(key)) => {
                let (node_id, port) = (&identity.node_id, endpoint.port());
                Some(relaying::serve(listeners, &options, node_id, key, port, directory.clone(), &group)?)
            }
            _ => None,
        };
        let climbs = reaching::has_to_climb(&options, directory.as_ref(), endpoint.is_unspecified());
        let ladder = match (&directory, climbs) {
            (Some(directory), true) => {
                let table = server.table.clone();
                let arrivals: crate::nat::Arrivals = Arc::new(move || table.arrived());
                let (node_id, directory) = (&identity.node_id, Some(directory.clone()));
                Some(reaching::ladder(&options, node_id, &http, server.addr, directory, Some(arrivals))?)
            }
            _ => None,
        };
        let standing = ladder.is_some().then(Arc::<Standing>::default);
        let exchange = reaching::may_need_relay(&options, climbs).then(Arc::<Exchange>::default);
        let slots = usize::try_from(options.max_concurrent).unwrap_or(usize::MAX);
        let state = Arc::new(State {
            relay,
            standing: standing.clone(),
            exchange,
            rendezvous: OnceLock::new(),
            limits: Limits::new(&options),
            callers: Callers::new(&options, &identity.node_id, directory.as_ref()),
            node_id: identity.node_id.clone(),
            _identity: identity,
            offer: Offer::new(&options, backend.clone()),
            receipts: Receipts::new(),
            native_endpoint: native::endpoint(&options, &endpoint),
            advertised,
            endpoint,
            key: Arc::new(key),
            gate: Gate::new(slots, options.queue_length),
            nonces: Nonces::new(options.replay_bytes),
            replay: ReplayMemory::new(options.replay_bytes, options.result_bytes),
            metrics: Metrics::new(&intents),
            handler: Box::new(handler),
            told_wrapped: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            table: server.table.clone(),
            http,
            group: group.clone(),
            leaving: CancellationToken::new(),
            leave_by: OnceLock::new(),
            task_ended: Notify::new(),
            started: Instant::now(),
            intents,
            options,
        });
        let live = LiveNode { addr: server.addr, relay_addr, state: state.clone() };
        availability::follow(&state);
        if let Some(tls) = &tls {
            tls.keep_fresh(&group);
        }
        server.serve(Behind { http: state.clone(), native: native::behind(&state), tls }, &group);
        let begin = async {
            if let Some(backend) = backend {
                backend.keep_watch(&state).await;
            }
            let Some(directory) = directory else { return Ok(()) };
            relaying::be_reached(&state, &directory);
            if let (Some(ladder), Some(standing)) = (ladder, standing) {
                reaching::keep(&state, ladder, standing, directory.clone());
            }
            let (first, tried) = oneshot::channel();
            group.spawn("registration", registration::keep(state.clone(), directory, credentials, first));
            match tried.await {
                Ok(Err(error)) if !error.retryable() => Err(error),
                _ => Ok(()),
            }
        };
        tokio::select! {
            begun = begin => begun?,
            () = until.into_inner().unwrap_or_else(PoisonError::into_inner) => {}
        }
        Ok(live)
    }
}

/// What makes a node the one that it is.
struct Kept {
    identity: Identity,
    /// What tasks are sealed to.
    key: NodeKey,
    /// There if it is a relay.
    relay_key: Option<PinnedKey>,
}

/// Who the node is and what it is known by: what outlives the process, if the options say where, else something new.
async fn kept(options: &NodeOptions, directory: &str) -> Result<Kept> {
    let (node_id, directory) = (options.node_id.clone(), directory.to_owned());
    let is_relay = options.relay_server.is_some();
    let Some(state_dir) = options.state_dir.clone() else {
        let relay_key = is_relay.then(PinnedKey::generate).transpose()?;
        return Ok(Kept { identity: Identity::passing(node_id), key: NodeKey::generate()?, relay_key });
    };
    // A disk may take its time, and nothing else may wait for it.
    let reading = tokio::task::spawn_blocking(move || {
        let identity = state::identity(state_dir.as_ref(), node_id.as_deref(), &directory)?;
        let key = state::sealing_key(state_dir.as_ref(), &identity.node_id)?;
        let relay_key = is_relay.then(|| state::relay_key(state_dir.as_ref(), &identity.node_id)).transpose()?;
        Ok(Kept { identity, key, relay_key })
    });
    reading.await.map_err(|_| Error::of_options(Code::Internal, "the thread that reads `state_dir` broke down"))?
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("url", &self.advertised).finish_non_exhaustive()
    }
}

/// How a serving node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Id of the node.
    pub node_id: String,
    /// The URL under which callers reach it.
    pub url: String,
    /// Whether the directory has taken the last registration.
    pub registered: bool,
    /// Handlers that run.
    pub active_jobs: usize,
    /// How many may run now: fewer than `max_concurrent` where `availability` says so.
    pub effective_max_concurrent: usize,
    /// The models that the directory knows of.
    pub models: Vec<String>,
    /// `ok`, `degraded` (it works, but slowly or nobody knows how) or `draining` (it takes no tasks); `ok` without a backend.
    pub backend_state: String,
    /// Why: `ok`, `backend_cold`, `backend_loading`, `backend_unstable` or `observer_error`.
    pub backend_reason: String,
}

/// A serving node. Dropping it stops everything at once; [`LiveNode::shutdown`] lets tasks finish.
pub struct LiveNode {
    addr: SocketAddr,
    relay_addr: Option<SocketAddr>,
    state: Arc<State>,
}

impl LiveNode {
    /// The address that is listened on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the node, if it is a relay, accepts workers; the first of its addresses.
    #[must_use]
    pub fn relay_addr(&self) -> Option<SocketAddr> {
        self.relay_addr
    }

    /// Workers that are bound at this node, if it is a relay.
    #[must_use]
    pub fn relay_workers(&self) -> usize {
        self.state.relay.as_ref().map_or(0, |relay| relay.workers())
    }

    /// The URL under which callers reach the node: its own, or that of the relay where it is bound.
    #[must_use]
    pub fn url(&self) -> String {
        self.state.way().map_or_else(|| self.state.advertised.clone(), |way| way.endpoint().to_owned())
    }

    /// How the node can be reached from outside: what was tried, what came back, what to do about it. Empty but for what is
    /// known of a relay if the node has no reason to look for a way, see [`NatOptions`](crate::options::NatOptions).
    #[must_use]
    pub fn nat_report(&self) -> NatReport {
        self.state.nat_report()
    }

    /// Id of the node.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.state.node_id
    }

    /// Whether the directory has taken the last registration.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.state.registered.load(Ordering::Acquire)
    }

    /// Handlers that run now.
    #[must_use]
    pub fn active_jobs(&self) -> usize {
        self.state.gate.active()
    }

    /// How the node is just now.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let stability = self.state.offer.stability();
        NodeStatus {
            node_id: self.node_id().to_owned(),
            url: self.url(),
            registered: self.is_registered(),
            active_jobs: self.active_jobs(),
            effective_max_concurrent: self.state.gate.limit(),
            models: self.state.offer.models(),
            backend_state: stability.backend_state.as_str().to_owned(),
            backend_reason: stability.reason_class.as_str().to_owned(),
        }
    }

    /// Takes no new task and leaves the directory, waits up to `grace` for running tasks, then stops what is left.
    /// Until then health answers, and says that the node is draining. True if every task ended in time.
    pub async fn shutdown(self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        self.state.gate.drain();
        let _ = self.state.leave_by.set(deadline);
        self.state.leaving.cancel();
        let idle = tokio::time::timeout_at(deadline, self.state.idle()).await.is_ok();
        // The last answers may still be on their way out, and the farewell to the directory.
        let closed = self.state.group.shutdown(deadline.saturating_duration_since(Instant::now())).await;
        idle && closed
    }
}

impl Drop for LiveNode {
    fn drop(&mut self) {
        self.state.gate.drain();
        self.state.group.abort();
    }
}

impl fmt::Debug for LiveNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveNode")
            .field("node_id", &self.state.node_id)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}
