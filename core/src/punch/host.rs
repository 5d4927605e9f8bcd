//! The worker's side: answers who looks for a path, looks for him, and takes native frames over what was found.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Incoming, ServerConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::port::Port;
use super::search::{self, Observed, Search, Side};
use super::{ALPN, Both, CONNECT_TIMEOUT, transport};
use crate::crypto::cx::{NodeKey, ReplySeal};
use crate::crypto::digest::random;
use crate::crypto::pinned::{Pin as KeyPin, PinnedKey};
use crate::error::{Code, Error, Result};
use crate::protocol::punching::{Answer, Rendezvous};
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::transport::conn::{ConnTable, Deadlines, Entry, Watched};
use crate::transport::native_server::{self, Native};
use crate::transport::pinned;
use crate::types::{Rung, RungReport, RungState};
use crate::wire::failure;
use crate::wire::punch::{Asked, PURPOSE, Words};
use crate::wire::stun::Token;

/// Callers who are looked for at the same time, and connections that they may have.
const MOST_SEARCHES: usize = 32;
const MOST_CONNECTIONS: usize = 256;
/// For how long a place that was heard may begin a connection, and how many are remembered.
const WELCOME: Duration = Duration::from_secs(20);
const MOST_WELCOME: usize = 1_024;
/// Bytes of those who begin to connect.
const MOST_INCOMING: u64 = 64 << 10;
/// How long who looks for us is answered.
const SEARCH: Duration = Duration::from_secs(8);
/// How long a connection may be of no use. The caller goes long before.
const IDLE: Duration = Duration::from_secs(900);

/// A node that may be found. Lives as long as its group.
pub(crate) struct Host(Arc<Inner>);

struct Inner {
    node_key: Arc<NodeKey>,
    native: Arc<Native>,
    /// What connections are proven with: made anew for every run of the node, since it is told to every caller.
    tls: Arc<rustls::ServerConfig>,
    pin: KeyPin,
    /// For IPv4 and IPv6, opened when somebody looks for a path for the first time.
    ports: Mutex<[Option<Arc<Port>>; 2]>,
    searches: Arc<Semaphore>,
    welcome: Mutex<HashMap<SocketAddr, Instant>>,
    table: Arc<ConnTable>,
    counts: Counts,
    observed: Mutex<Vec<Observed>>,
    group: TaskGroup,
}

/// What became of the callers who looked for a path.
#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    heard: AtomicU64,
    connected: AtomicU64,
}

impl Host {
    /// # Errors
    /// `INTERNAL` if the system has no random numbers.
    pub(crate) fn new(node_key: Arc<NodeKey>, native: Arc<Native>, group: TaskGroup) -> Result<Self> {
        let key = PinnedKey::generate()?;
        let mut tls = (*pinned::server(&key)?).clone();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let deadlines =
            Deadlines { head: Duration::from_secs(10), idle: IDLE, transfer_grace: Duration::from_secs(10) };
        let inner = Arc::new(Inner {
            node_key,
            native,
            tls: Arc::new(tls),
            pin: key.pin(),
            ports: Mutex::default(),
            searches: Arc::new(Semaphore::new(MOST_SEARCHES)),
            welcome: Mutex::default(),
            table: ConnTable::new(deadlines),
            counts: Counts::default(),
            observed: Mutex::default(),
            group,
        });
        inner.table.watch_over(&inner.group);
        Ok(Host(inner))
    }
}

/// Why a caller is told no.
struct No(u16, &'static str, &'static str);

const BUSY: No = No(503, "capacity_exceeded", "too many are looked for at the same time");
const UNREAD: No = No(422, "validation_error", "the question cannot be read, or is not sealed to this node");
const APART: No =
    No(422, "validation_error", "neither IPv4 nor IPv6 has the caller, this node and the relay in common");
const UNSEEN: No = No(503, "unavailable", "nobody says as what this node is seen from outside");

impl From<Error> for No {
    fn from(_: Error) -> No {
        No(500, "internal_error", "the node broke down")
    }
}

impl Inner {
    /// The port for a family, opened now if it was not yet.
    fn port(self: &Arc<Self>, is_ipv6: bool) -> Result<Arc<Port>> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let port = &mut ports[usize::from(is_ipv6)];
        if let Some(port) = port {
            return Ok(port.clone());
        }
        let failed = |_| Error::new(Code::Internal, "QUIC could not be set up");
        let crypto = QuicServerConfig::try_from(self.tls.clone()).map_err(failed)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport());
        // Each is judged at once; what comes in the meantime is not kept.
        config
            .max_incoming(MOST_SEARCHES)
            .incoming_buffer_size(MOST_INCOMING)
            .incoming_buffer_size_total(MOST_INCOMING);
        let no_port = |error| Error::new(Code::Bind, "no UDP port can be had").with_source(error);
        let opened = Port::open(is_ipv6, Some(config)).map_err(no_port)?;
        *port = Some(opened.clone());
        self.accept(opened.clone());
        Ok(opened)
    }

    fn accept(self: &Arc<Self>, port: Arc<Port>) {
        let (inner, closing) = (self.clone(), self.group.closing());
        self.group.spawn("direct paths", async move {
            let mut closing = std::pin::pin!(closing);
            loop {
                let incoming = tokio::select! {
                    () = &mut closing => return,
                    incoming = port.endpoint.accept() => incoming,
                };
                match incoming {
                    Some(incoming) => inner.admit(incoming),
                    None => return,
                }
            }
        });
    }

    /// Who was not heard before is not answered.
    fn admit(self: &Arc<Self>, incoming: Incoming) {
        let from = incoming.remote_address();
        let is_welcome = self.welcome().get(&from).is_some_and(|until| *until > Instant::now());
        if !is_welcome || self.table.len() >= MOST_CONNECTIONS {
            return incoming.ignore();
        }
        let (inner, entry) = (self.clone(), self.table.enter(from));
        let conn = entry.conn.clone();
        let task = self.group.spawn_bare(async move {
            // How far it came is nobody's concern.
            let _ = inner.serve(incoming, entry).await;
        });
        Entry::conn_task(&conn, task.abort_handle());
    }

    /// Serves the one stream that a connection has.
    async fn serve(&self, incoming: Incoming, entry: Entry) -> Option<()> {
        let connecting = incoming.accept().ok()?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.ok()?.ok()?;
        let (send, recv) = tokio::time::timeout(CONNECT_TIMEOUT, connection.accept_bi()).await.ok()?.ok()?;
        self.counts.connected.fetch_add(1, Relaxed);
        tracing::info!(target: telemetry::NODE, "a caller has a direct path to this node now");
        entry.conn.is_sealed_now();
        let stream = Watched::new(Both { send, recv }, entry.conn.clone());
        native_server::serve(self.native.clone(), stream, &entry.conn, self.group.closing()).await;
        Some(())
    }

    fn welcome(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.welcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody who knew a secret was heard from there.
    fn heard(&self, from: SocketAddr) {
        let now = Instant::now();
        let mut welcome = self.welcome();
        if welcome.len() >= MOST_WELCOME {
            welcome.retain(|_, until| *until > now);
        }
        if welcome.len() < MOST_WELCOME && welcome.insert(from, now + WELCOME).is_none_or(|until| until <= now) {
            self.counts.heard.fetch_add(1, Relaxed);
        }
    }

    async fn answer(self: &Arc<Self>, relay: &[IpAddr], asked: &[u8]) -> Result<Bytes, No> {
        self.counts.asked.fetch_add(1, Relaxed);
        let permit = self.searches.clone().try_acquire_owned().map_err(|_| BUSY)?;
        let asked = Asked::read(asked).ok_or(UNREAD)?;
        let opened = self.node_key.open(asked.iicp_conf.get().as_bytes(), &asked.id, PURPOSE);
        let (payload, seal) = opened.map_err(|_| UNREAD)?;
        let theirs = Words::read(&payload).ok_or(UNREAD)?;
        let is_theirs = |relay: &&IpAddr| theirs.seen.iter().any(|seen| seen.is_ipv6() == relay.is_ipv6());
        let mut ports = Vec::new();
        for relay in relay.iter().filter(is_theirs) {
            ports.push((*relay, self.port(relay.is_ipv6())?));
        }
        if ports.is_empty() {
            return Err(APART);
        }
        let sides = search::sides(ports, &asked.observers).await;
        if sides.is_empty() {
            return Err(UNSEEN);
        }
        let observed = sides.iter().map(|side| side.observed).collect();
        *self.observed.lock().unwrap_or_else(PoisonError::into_inner) = observed;
        let token = Token(random()?);
        let words = Words {
            seen: sides.iter().map(|side| side.observed.seen).collect(),
            near: sides.iter().filter(|_| asked.beside).flat_map(Side::near).collect(),
            steady: sides.iter().any(|side| side.observed.steady),
            token,
            pin: Some(self.pin.to_string()),
        };
        // If nobody knows to whom which port belongs, there is nothing to be found but neighbours.
        if words.steady || theirs.steady || asked.beside {
            let permit = Arc::new(permit);
            for side in sides {
                let awaiting = side.port.await_token(token).ok_or(BUSY)?;
                if let Some(search) = Search::new(&side, &theirs, asked.beside, awaiting) {
                    self.search(search, permit.clone());
                }
            }
        }
        sealed(&seal, &asked.id, &words).map_err(No::from)
    }

    /// Looks for a caller for a while. The permit is that of all searches for him.
    fn search(self: &Arc<Self>, mut search: Search, permit: Arc<OwnedSemaphorePermit>) {
        let inner = self.clone();
        self.group.spawn("search", async move {
            let searching = async {
                search.run(|from| inner.heard(from)).await;
                // From here on nothing is sent but answers.
                drop(permit);
                search.listen(|from| inner.heard(from)).await;
            };
            tokio::select! {
                () = inner.group.closing() => {}
                _ = tokio::time::timeout(SEARCH, searching) => {}
            }
        });
    }
}

fn sealed(seal: &ReplySeal, id: &str, words: &Words) -> Result<Bytes> {
    let mut body = br#"{"iicp_conf_resp":"#.to_vec();
    seal.seal(id, &words.write(), &mut body)?;
    body.push(b'}');
    Ok(body.into())
}

impl Rendezvous for Host {
    fn answer<'a>(&'a self, relay: &'a [IpAddr], asked: Bytes) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            match self.0.answer(relay, &asked).await {
                Ok(answer) => (200, answer),
                Err(No(status, code, why)) => (status, failure::write(code, why, &[]).into()),
            }
        })
    }

    fn report(&self) -> RungReport {
        let mut report = RungReport::new(Rung::HolePunching);
        let counts = &self.0.counts;
        let [asked, heard, connected] =
            [&counts.asked, &counts.heard, &counts.connected].map(|count| count.load(Relaxed));
        if asked == 0 {
            report.say("no caller has looked for a direct path yet");
            return report;
        }
        for Observed { seen, steady } in self.0.observed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let how = if *steady { "by all who were asked alike" } else { "and differently by everyone" };
            report.say(format!("seen from outside as {seen}, {how}"));
        }
        report.say(format!(
            "callers asked {asked} times, were heard from {heard} places, and connected {connected} times"
        ));
        report.state = if connected > 0 { RungState::Reached } else { RungState::Failed };
        report
    }
}
