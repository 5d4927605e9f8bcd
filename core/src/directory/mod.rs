//! The embedded directory: who serves what, for development and for meshes on one machine. It never sees a task.
//!
//! `store`, `record` and `score` know nothing of HTTP and take the time as an argument. With a `path`, `kept` is what
//! outlives the process, `keeper` the thread that writes it and `disk` the file. The other modules read requests and write
//! answers.

mod answer;
mod credits;
mod desk;
#[cfg(feature = "sqlite")]
mod disk;
#[cfg(not(feature = "sqlite"))]
#[path = "no_disk.rs"]
mod disk;
mod discover;
mod form;
#[cfg(feature = "testing")]
pub(crate) mod fuzzed;
mod guard;
mod keeper;
mod kept;
mod limits;
mod lookups;
mod manifest;
mod node;
mod nodes;
mod once;
mod operator;
mod pricing;
mod probe;
mod record;
mod reports;
mod routes;
mod score;
mod store;
mod tickets;
mod view;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use http::header::{DATE, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tower_service::Service as _;
use zeroize::Zeroizing;

use crate::crypto::digest::{hex, hmac_hex};
use crate::crypto::token::TokenSigner;
use crate::error::{Code, Error, Result};
use crate::options::{DirectoryOptions, Validate as _};
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::transport::conn::{Conn, Deadlines};
use crate::transport::http_server::{
    AnswerFuture, Behind, BodyFailure, HttpServer, ServerLimits, Service, affordable_connections, read_body,
};
use answer::{Outcome, Refusal};
use desk::{Caller, Peer};
use disk::Disk;
use keeper::Keeper;
use kept::{Row, Secrets};
use limits::{Limits, MOST_NODES_PER_ADDRESS, Route};
use node::{Node, Now, TokenHash};
use once::Onces;
use probe::Probe;
use store::{KEEP_DORMANT_MS, Rules, Store};

/// Most bytes of a request's body.
const MOST_BODY_BYTES: usize = 256 << 10;
const MOST_CONNECTIONS: usize = 4_096;
const DEADLINES: Deadlines =
    Deadlines { head: Duration::from_secs(10), idle: Duration::from_secs(75), transfer_grace: Duration::from_secs(10) };
/// How often what is no longer needed is forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How long a directory that ends waits for its disk.
const LAST_TURN: Duration = Duration::from_secs(5);
/// Where a directory's clock begins: behind it lies every moment at which a node that is still known was seen.
const CLOCK_BEGINS_MS: u64 = KEEP_DORMANT_MS + 3_600_000;

/// A directory in this process.
///
/// Dropping it stops it at once; [`Directory::shutdown`] lets running requests finish.
#[derive(Debug)]
pub struct Directory {
    url: String,
    addr: SocketAddr,
    group: TaskGroup,
    keeper: Option<Arc<Keeper>>,
}

impl Directory {
    /// Binds the address and serves on it.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for a bad option and for a file at `path` that cannot be used, `UNSUPPORTED` for a `path` in a
    /// build without SQLite, `CONFIDENTIALITY_REQUIRED` for an address that is not on loopback, `BIND` if the address
    /// cannot be bound.
    pub async fn bind(options: DirectoryOptions) -> Result<Directory> {
        options.validate()?;
        let host = options.host.as_str();
        let literal: Option<IpAddr> = host.parse().ok();
        if !literal.map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback()) {
            return Err(off_loopback(host));
        }
        let probe = if options.probe { Some(Probe::trusting(options.trusted_ca.as_deref())?) } else { None };
        let limits = ServerLimits { deadlines: DEADLINES, max_connections: affordable_connections(MOST_CONNECTIONS) };
        let server = HttpServer::bind(host, options.port, limits).await?;
        let addr = server.addr;
        // The name was resolved by the system, which may be configured in any way.
        if !addr.ip().is_loopback() {
            return Err(off_loopback(host));
        }
        let url = format!("http://{addr}");
        let file = match options.path.clone() {
            // Reading a large file takes a moment.
            Some(path) => Some(tokio::task::spawn_blocking(move || Disk::open(&path)).await.map_err(no_thread)??),
            None => None,
        };
        let shared = open(options, url.clone(), probe, file)?;
        let keeper = shared.keeper.clone();
        let group = TaskGroup::new();
        let http = Arc::new(Front { router: routes::router(shared.clone()), desk: shared.clone() });
        server.serve(Behind { http, native: None, tls: None }, &group);
        let closing = group.closing();
        group.spawn("tidy", async move {
            tokio::select! {
                () = closing => {}
                () = shared.tidy() => {}
            }
        });
        Ok(Directory { url, addr, group, keeper })
    }

    /// The base URL for clients and nodes, such as `http://127.0.0.1:9480`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The bound address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no new request, waits up to `grace` for running ones, then stops them. True if all ended in time. What there
    /// is to keep is written before it returns, unless the disk takes longer than five seconds.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        let in_time = self.group.shutdown(grace).await;
        if let Some(keeper) = &self.keeper {
            keeper.close();
            let _ = tokio::time::timeout(LAST_TURN, keeper.ended()).await;
        }
        in_time
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.group.abort();
        if let Some(keeper) = &self.keeper {
            keeper.close();
        }
    }
}

/// What all requests share, with the nodes of a file and with a thread that writes it, if there is one.
fn open(
    options: DirectoryOptions,
    url: String,
    probe: Option<Probe>,
    file: Option<(Disk, Secrets, Vec<Row>, Option<String>)>,
) -> Result<Arc<Shared>> {
    let Some((disk, secrets, rows, why_not)) = file else {
        return Ok(Arc::new(Shared::new(options, url, probe, &Secrets::random()?, None)));
    };
    let keeper = Arc::new(Keeper::new());
    let shared = Arc::new(Shared::new(options, url, probe, &secrets, Some(keeper.clone())));
    let (now, found) = (shared.now(), rows.len());
    let nodes: Vec<_> = rows.into_iter().filter_map(|row| row.kept(now)).collect();
    if nodes.len() < found {
        let unread = found - nodes.len();
        tracing::warn!(target: telemetry::DIRECTORY, path = disk.path(), unread, "nodes of another version have to register again");
    }
    shared.store().restore(nodes, now);
    if let Some(why) = why_not {
        keeper.fails(disk.path(), &why);
    }
    keeper.start(disk, shared.clone())?;
    Ok(shared)
}

fn no_thread(error: tokio::task::JoinError) -> Error {
    Error::new(Code::Internal, "the directory's file could not be opened: its thread broke off").with_source(error)
}

fn off_loopback(host: &str) -> Error {
    Error::new(
        Code::ConfidentialityRequired,
        format!("the directory would listen on {host:?}, which is not loopback; use 127.0.0.1, ::1 or localhost"),
    )
}

/// What all requests share.
struct Shared {
    options: DirectoryOptions,
    url: String,
    store: Mutex<Store>,
    signer: TokenSigner,
    /// Keys of heartbeat challenges are made from it and the node's id.
    hmac_secret: Zeroizing<String>,
    limits: Option<Limits>,
    once: Mutex<Onces>,
    /// Answers by the first digit of their status.
    answered: [AtomicU64; 6],
    probe: Option<Probe>,
    keeper: Option<Arc<Keeper>>,
    started: Instant,
}

impl Shared {
    fn new(
        options: DirectoryOptions,
        url: String,
        probe: Option<Probe>,
        secrets: &Secrets,
        keeper: Option<Arc<Keeper>>,
    ) -> Self {
        let rules = Rules {
            max_nodes: options.max_nodes,
            node_ttl_ms: options.node_ttl_ms,
            qos_gating: options.qos_gating,
            most_per_address: options.limits.then_some(MOST_NODES_PER_ADDRESS),
        };
        Shared {
            store: Mutex::new(Store::new(rules)),
            signer: TokenSigner::from_seed(&secrets.seed),
            hmac_secret: secrets.hmac_secret.clone(),
            limits: options.limits.then(|| Limits::new(options.max_nodes)),
            once: Mutex::new(Onces::new()),
            answered: Default::default(),
            probe,
            keeper,
            started: Instant::now(),
            options,
            url,
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Nothing that runs under the lock can unwind half-way through a change.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn once(&self) -> MutexGuard<'_, Onces> {
        self.once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token under which a node reports what it saw as a proxy. Made from its registration, so that it ends with it
    /// and need not be kept.
    fn proxy_token(&self, node_id: &str, token: &TokenHash) -> String {
        hmac_hex(&self.hmac_secret, &format!("proxy|{node_id}|{}", hex(token)))
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { ms: CLOCK_BEGINS_MS + crate::options::millis(self.started.elapsed()), unix_s: unix.as_secs() }
    }

    /// Waits until what has changed is on the disk, if it is kept and the disk takes it.
    async fn written(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.written().await;
        }
    }

    fn limit(&self, route: Route, from: IpAddr) -> Result<(), Refusal> {
        self.limits.as_ref().map_or(Ok(()), |limits| limits.request(route, from))
    }

    /// The registered node that is asking.
    fn registered(&self, caller: &Caller) -> Result<Node, Refusal> {
        let token = caller.token.as_ref().ok_or_else(Refusal::unauthorized)?;
        self.store().owner(token).ok_or_else(Refusal::unauthorized)
    }

    async fn tidy(&self) {
        let mut tick = tokio::time::interval(TIDY_EVERY);
        loop {
            tick.tick().await;
            self.store().forget_dormant(self.now());
            if let Some(limits) = &self.limits {
                limits.forget_idle();
            }
        }
    }
}

/// Between the socket and the routes.
struct Front {
    router: Router,
    desk: Arc<Shared>,
}

impl Service for Front {
    fn call(self: Arc<Self>, request: Request<Incoming>, conn: Arc<Conn>) -> AnswerFuture {
        Box::pin(async move {
            let mut answer = self.answer(request, &conn).await.unwrap_or_else(Refusal::answer);
            answer.headers_mut().insert(DATE, date());
            self.desk.answered[usize::from(answer.status().as_u16() / 100) % 6].fetch_add(1, Ordering::Relaxed);
            answer
        })
    }
}

/// The time, from which nodes and clients learn how their clocks differ. hyper's own header stands still while a clock that was set
/// back catches up.
fn date() -> HeaderValue {
    let date = httpdate::fmt_http_date(SystemTime::now());
    HeaderValue::from_str(&date).unwrap_or(HeaderValue::from_static(""))
}

impl Front {
    async fn answer(&self, request: Request<Incoming>, conn: &Conn) -> Outcome {
        let (mut head, body) = request.into_parts();
        guard::check(&head)?;
        let body = read_body(body, MOST_BODY_BYTES, conn).await.map_err(|failure| match failure {
            BodyFailure::TooLarge => Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                format!("a body must be at most {MOST_BODY_BYTES} bytes"),
            ),
            BodyFailure::Busy => Refusal::overloaded(),
            BodyFailure::Broken => Refusal::unreadable("the body ended too early"),
        })?;
        head.extensions.insert(Peer(conn.peer));
        let Ok(response) = self.router.clone().call(Request::from_parts(head, Full::new(body))).await;
        let (head, body) = response.into_parts();
        let broken = |_| Error::new(Code::Internal, "an answer of the directory broke off");
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(http::Response::from_parts(head, body.into()))
    }
}
