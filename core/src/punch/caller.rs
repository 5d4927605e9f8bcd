//! The caller's side: while tasks go through the relay, a path is looked for beside them; once there is one, tasks take it
//! until it dies.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Method;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::port::Port;
use super::search::{self, Search, Side};
use super::{ALPN, CONNECT_TIMEOUT, transport};
use crate::crypto::cx::{ReplyKey, SealingKey};
use crate::crypto::digest::random;
use crate::crypto::pinned::{NAME, Pin};
use crate::protocol::relay::{Errand, read_path};
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::transport::guard::Reach;
use crate::transport::http_client::{Call, HttpClient};
use crate::transport::native_answers::Answers;
use crate::transport::native_link::Link;
use crate::transport::native_socket::Socket;
use crate::transport::pinned;
use crate::wire::punch::{Answered, Asked, MOST_BYTES, Observers, PURPOSE, Words};
use crate::wire::stun::Token;

/// Nodes that are remembered, and paths that are kept.
const MOST_PEERS: usize = 1_024;
const MOST_PATHS: usize = 64;
/// Longest wait for the relay, and for the worker behind it.
const ASKED_WITHIN: Duration = Duration::from_secs(8);
/// How long the search may take.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
/// A path over which nothing was asked for so long is let go.
const IDLE: Duration = Duration::from_secs(300);
/// How long a node is left alone to which no path was found; twice as long each time, up to the most.
const LEFT_ALONE: Duration = Duration::from_secs(60);
const MOST_LEFT_ALONE: Duration = Duration::from_secs(3600);
/// The same after a path that was good has died: the next one may be had at once.
const AFTER_DEATH: Duration = Duration::from_secs(5);

/// Where a node is reached without a direct path.
pub(crate) struct Way<'a> {
    pub(crate) node_id: &'a str,
    pub(crate) key: &'a SealingKey,
    /// Where the relay takes its tasks.
    pub(crate) task_url: &'a Url,
    pub(crate) reach: Reach,
}

/// What is known of a node.
enum Known {
    Searching,
    Open(Arc<Link>),
    /// No path was found, so often in a row.
    Left {
        until: Instant,
        times: u32,
    },
}

struct Peer(Mutex<Known>);

impl Peer {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Inner {
    http: HttpClient,
    /// For IPv4 and IPv6, opened when a path is looked for for the first time.
    ports: Mutex<[Option<Arc<Port>>; 2]>,
    /// By the node's id and its key: over a path tasks go to who has proven that it has the key, and to nobody else.
    peers: Mutex<HashMap<(String, String), Arc<Peer>>>,
    group: TaskGroup,
}

/// The direct paths of one client. Cloning gives another handle to the same ones.
#[derive(Clone)]
pub(crate) struct Direct(Arc<Inner>);

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").finish_non_exhaustive()
    }
}

/// Why no path was found. Not worth more than a line in the log: the relay goes on.
type Why = &'static str;

/// Somebody has too much to do just now.
const BUSY: Why = "too many paths are looked for at the relay, or at the worker";
/// How long he is left alone then.
const WHILE_BUSY: Duration = Duration::from_secs(5);

/// What a search needs to know.
struct Wanted {
    key: SealingKey,
    /// Where the relay takes such questions.
    url: Url,
    reach: Reach,
}

impl Direct {
    pub(crate) fn new(http: HttpClient, group: TaskGroup) -> Self {
        Direct(Arc::new(Inner { http, ports: Mutex::default(), peers: Mutex::default(), group }))
    }

    /// A path to the node, if there is one by now. Never waits: if there is none, one is looked for beside.
    pub(crate) fn link(&self, way: &Way<'_>) -> Option<Arc<Link>> {
        let url = punch_url(way.task_url)?;
        let peer = self.0.peer(way)?;
        let mut known = peer.known();
        let times = match &*known {
            Known::Open(link) if link.is_open() => return Some(link.clone()),
            // Its end is noted by who serves it.
            Known::Open(_) | Known::Searching => return None,
            Known::Left { until, .. } if *until > Instant::now() => return None,
            Known::Left { times, .. } => *times,
        };
        if self.0.group.is_closing() {
            return None;
        }
        *known = Known::Searching;
        drop(known);
        let trial = Trial { peer, left: (LEFT_ALONE, times + 1) };
        let wanted = Wanted { key: way.key.clone(), url, reach: way.reach };
        let inner = self.0.clone();
        self.0.group.spawn("direct path", inner.pursue(wanted, trial));
        None
    }
}

/// Where the relay takes questions for a path; none for a node that is not reached through one.
fn punch_url(task_url: &Url) -> Option<Url> {
    let path = task_url.path();
    let (before, _) = path.split_once("/v1/relay-for/")?;
    let (_, errand) = read_path(&path[before.len()..])?;
    let base = path.strip_suffix("/v1/task").filter(|_| errand == Errand::Task)?;
    let mut url = task_url.clone();
    url.set_path(&format!("{base}/v1/punch"));
    Some(url)
}

/// A search that runs, and the path that it found. When it is dropped, the node is left alone for a while.
struct Trial {
    peer: Arc<Peer>,
    left: (Duration, u32),
}

impl Drop for Trial {
    fn drop(&mut self) {
        let (pause, times) = self.left;
        let pause = pause.saturating_mul(1 << times.saturating_sub(1).min(6)).min(MOST_LEFT_ALONE);
        *self.peer.known() = Known::Left { until: Instant::now() + pause, times };
    }
}

/// A path that was found.
struct Path {
    connection: Connection,
    link: Arc<Link>,
    answers: Answers,
}

impl Inner {
    fn peer(&self, way: &Way<'_>) -> Option<Arc<Peer>> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (way.node_id.to_owned(), way.key.key_id().to_owned());
        if let Some(peer) = peers.get(&name) {
            return Some(peer.clone());
        }
        if peers.len() >= MOST_PEERS {
            // Who has no path has nothing but a memory to lose.
            peers.retain(|_, peer| !matches!(&*peer.known(), Known::Left { .. }));
        }
        if peers.len() >= MOST_PEERS {
            return None;
        }
        let fresh = Arc::new(Peer(Mutex::new(Known::Left { until: Instant::now(), times: 0 })));
        peers.insert(name, fresh.clone());
        Some(fresh)
    }

    fn paths(&self) -> usize {
        let peers: Vec<_> = self.peers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        peers.iter().filter(|peer| !matches!(&*peer.known(), Known::Left { .. })).count()
    }

    /// Looks for a path and keeps it for as long as it is of use.
    async fn pursue(self: Arc<Self>, wanted: Wanted, mut trial: Trial) {
        if self.paths() > MOST_PATHS {
            return;
        }
        let found = tokio::select! {
            () = self.group.closing() => return,
            found = self.find(&wanted) => found,
        };
        let Path { connection, link, answers } = match found {
            Ok(path) => path,
            Err(why) => {
                tracing::debug!(target: telemetry::CLIENT, why, "no direct path; tasks go on through the relay");
                if why == BUSY {
                    trial.left.0 = WHILE_BUSY;
                }
                return;
            }
        };
        tracing::info!(target: telemetry::CLIENT, "a direct path was found; tasks take it from now on");
        *trial.peer.known() = Known::Open(link.clone());
        answers.serve(&link, self.group.closing()).await;
        // Closed by nobody, it is dead; else it was let go because nobody needed it.
        let is_dead = connection.close_reason().is_some();
        connection.close(0_u32.into(), b"");
        tracing::info!(target: telemetry::CLIENT, is_dead, "a direct path is over; tasks go through the relay");
        trial.left = if is_dead { (AFTER_DEATH, 1) } else { (Duration::ZERO, 0) };
    }

    fn port(&self, is_ipv6: bool) -> Result<Arc<Port>, Why> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let port = &mut ports[usize::from(is_ipv6)];
        if let Some(port) = port {
            return Ok(port.clone());
        }
        let opened = Port::open(is_ipv6, None).map_err(|_| "no UDP port can be had")?;
        *port = Some(opened.clone());
        Ok(opened)
    }

    async fn find(&self, wanted: &Wanted) -> Result<Path, Why> {
        let asked = self.call(Method::GET, wanted, None).await?;
        let Observers { observers, beside } =
            Observers::read(&asked).ok_or("the relay does not say where it observes")?;
        let host = wanted.url.host().ok_or("the relay has no host")?.to_owned();
        let relays = self.http.resolve(&host, wanted.reach).await.map_err(|_| "the relay has no address")?;
        // A path is that of one family, and which one the worker has is not known before it was asked.
        let four = relays.iter().find(|addr| addr.ip().to_canonical().is_ipv4());
        let six = relays.iter().find(|addr| addr.ip().to_canonical().is_ipv6());
        let relays = [four, six].into_iter().flatten().map(|addr| addr.ip().to_canonical());
        let ports = relays.filter_map(|relay| Some((relay, self.port(relay.is_ipv6()).ok()?))).collect();
        let sides = search::sides(ports, &observers).await;
        if sides.is_empty() {
            return Err("no observer answers by UDP");
        }
        let token = Token(random().map_err(|_| "the system has no random numbers")?);
        let words = Words {
            seen: sides.iter().map(|side| side.observed.seen).collect(),
            near: sides.iter().filter(|_| beside).flat_map(Side::near).collect(),
            steady: sides.iter().any(|side| side.observed.steady),
            token,
            pin: None,
        };
        let mut waiting = Vec::new();
        for side in sides {
            let awaiting = side.port.await_token(token).ok_or("too many paths are looked for")?;
            waiting.push((side, awaiting));
        }
        let theirs = self.ask(wanted, &words).await?;
        if !words.steady && !theirs.steady && !beside {
            return Err("both sides are seen differently by everyone");
        }
        let pin = theirs.pin.as_deref().and_then(Pin::parse).ok_or("the worker does not say what it is known by")?;
        let searches = waiting.into_iter().filter_map(|(side, awaiting)| Search::new(&side, &theirs, beside, awaiting));
        let mut searches: Vec<Search> = searches.collect();
        if searches.is_empty() {
            return Err("the worker is seen in another family");
        }
        let found = tokio::time::timeout(FOUND_WITHIN, first(&mut searches)).await;
        let (port, place) = found.ok().flatten().ok_or("the other side was not heard")?;
        connect(&port, place, pin).await
    }

    /// Asks the worker through the relay.
    async fn ask(&self, wanted: &Wanted, words: &Words) -> Result<Words, Why> {
        let id = Uuid::new_v4().to_string();
        let sealed = wanted.key.seal(&id, PURPOSE, &words.write()).map_err(|_| "the worker's key seals nothing")?;
        let (envelope, reply_key): (Vec<u8>, ReplyKey) = sealed;
        let envelope =
            String::from_utf8(envelope).ok().and_then(|json| serde_json::value::RawValue::from_string(json).ok());
        let envelope = envelope.ok_or("the question could not be written")?;
        let question = Asked { id: id.as_str().into(), iicp_conf: &envelope, observers: Vec::new(), beside: false };
        let answer = self.call(Method::POST, wanted, Some(question.write())).await?;
        let unread = "the worker's answer cannot be read, or is not from the worker";
        let answered: Answered<'_> = crate::wire::object(&answer).map_err(|_| unread)?;
        let opened = reply_key.open(&id, answered.iicp_conf_resp.get().as_bytes()).map_err(|_| unread)?;
        Words::read(&opened).ok_or(unread)
    }

    async fn call(&self, method: Method, wanted: &Wanted, body: Option<Bytes>) -> Result<Bytes, Why> {
        let deadline = Instant::now() + ASKED_WITHIN;
        let call = Call { body, ..Call::new(method, wanted.url.clone(), wanted.reach, deadline, MOST_BYTES) };
        match self.http.call(call).await {
            Ok(reply) if reply.status == 200 => Ok(reply.body),
            Ok(reply) if matches!(reply.status, 429 | 503) => Err(BUSY),
            Ok(_) => Err("the relay or the worker knows no direct paths"),
            Err(_) => Err("the relay does not answer"),
        }
    }
}

/// What the first search finds that finds something.
async fn first(searches: &mut [Search]) -> Option<(Arc<Port>, SocketAddr)> {
    let running: FuturesUnordered<_> = searches.iter_mut().map(|search| search.run(|_| ())).collect();
    let found = running.filter_map(std::future::ready);
    std::pin::pin!(found).next().await
}

/// Has the other side prove that it has the key that it named, and greets it.
async fn connect(port: &Port, place: SocketAddr, pin: Pin) -> Result<Path, Why> {
    let no_tls = "TLS could not be set up";
    let mut tls = (*pinned::client(pin).map_err(|_| no_tls)?).clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|_| no_tls)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    let connecting = port.endpoint.connect_with(config, place, NAME).map_err(|_| "no connection can be begun")?;
    let greeted = async {
        let connection = connecting.await.map_err(|_| "the other side does not prove its key")?;
        let (send, recv) = connection.open_bi().await.map_err(|_| "the connection broke")?;
        let (link, answers) = Link::greet(Socket::secured(recv, send), IDLE).await?;
        Ok(Path { connection, link, answers })
    };
    tokio::time::timeout(CONNECT_TIMEOUT, greeted).await.map_err(|_| "no connection in time")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_looked_for_only_where_there_is_a_relay() {
        let of = |url: &str| punch_url(&Url::parse(url).unwrap()).map(|url| url.to_string());
        for (task, wanted) in [
            ("http://5.5.3.2:9484/v1/relay-for/w-1/v1/task", "http://5.5.3.2:9484/v1/relay-for/w-1/v1/punch"),
            ("https://r.example/base/v1/relay-for/w-1/v1/task", "https://r.example/base/v1/relay-for/w-1/v1/punch"),
        ] {
            assert_eq!(of(task).as_deref(), Some(wanted));
        }
        for none in [
            "http://5.5.3.2:9484/v1/task",
            "http://h/v1/relay-for/w-1/iicp/health",
            "http://h/v1/relay-for/%2e/v1/task",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
