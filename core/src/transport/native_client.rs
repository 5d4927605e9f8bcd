//! Native connections to nodes. A place is called natively once it has answered a greeting, as our kind or as published nodes
//! do; until then, and for a while after it did not, it is left to HTTP.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::{Host, Url};

use super::guard::{self, Reach};
use super::http_client::{HttpClient, NoReply};
use super::native_answers::{Answers, Spoken};
use super::native_link::{IDLE, Link};
use super::native_published::{Lane, Published};
use super::native_socket::Socket;
use super::pool;
use super::resolve::Names;
use super::trust::{Distrust, Trust};
use crate::options::NativeTransport;
use crate::runtime::TaskGroup;
use crate::telemetry;

/// Longest wait for a connection, TLS included, and for the answer to a greeting after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a task waits for a place that was never tried, before HTTP has it.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a place is left to HTTP after it did not answer; twice as long each time, up to the most (specification: no
/// sooner than a minute).
const LEFT_ALONE: Duration = Duration::from_secs(60);
const MOST_LEFT_ALONE: Duration = Duration::from_secs(3600);
/// Places that are remembered.
const MOST_PLACES: usize = 4096;

/// Where a node takes native frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    host: Host<String>,
    port: u16,
    is_tls: bool,
    reach: Reach,
}

impl Place {
    /// Reads what a node advertises; none if it is no native endpoint, or none that may be called.
    pub(crate) fn parse(text: &str, reach: Reach) -> Option<Place> {
        let (is_tls, rest) = match text.strip_prefix("iicpsec://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("iicp://")?),
        };
        // A scheme that is known to the parser, so that hosts are brought to one form, and a default port that is ours.
        let url = guard::without_trailing_dot(Url::parse(&format!("https://{rest}")).ok()?)?;
        guard::judge_url(&url, reach).ok()?;
        let names_port = rest.split('/').next()?.rsplit_once(':').is_some_and(|(_, port)| port == "443");
        let port = url.port().unwrap_or(if names_port { 443 } else { DEFAULT_PORT });
        Some(Place { host: url.host()?.to_owned(), port, is_tls, reach })
    }

    fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ipv4(ip) => guard::is_loopback(&Host::<&str>::Ipv4(*ip)),
            Host::Ipv6(ip) => guard::is_loopback(&Host::<&str>::Ipv6(*ip)),
            Host::Domain(name) => guard::is_loopback(&Host::Domain(name.as_str())),
        }
    }
}

/// The port of a native endpoint that names none.
const DEFAULT_PORT: u16 = 9484;

/// What is known of a place.
enum Known {
    /// Its greeting is on the way.
    Trying,
    Open(Way),
    /// It did not answer; so often in a row.
    Silent {
        until: Instant,
        times: u32,
    },
}

/// How a place is called.
#[derive(Clone)]
enum Way {
    /// On one connection that all calls share.
    Shared(Arc<Link>),
    /// In the published form, on connections that calls have to themselves.
    Published(Arc<Published>),
}

impl Way {
    fn is_open(&self) -> bool {
        match self {
            Way::Shared(link) => link.is_open(),
            Way::Published(published) => published.is_open(),
        }
    }
}

/// A connection for one call.
pub(crate) enum Open {
    Shared(Arc<Link>),
    Published(Lane),
}

struct Peer {
    known: Mutex<Known>,
    /// Told when a trial is over.
    tried: Notify,
}

impl Peer {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Inner {
    mode: NativeTransport,
    names: Names,
    trust: Trust,
    tls: OnceLock<Option<Arc<rustls::ClientConfig>>>,
    peers: Mutex<HashMap<Place, Arc<Peer>>>,
    said_plaintext: OnceLock<()>,
    group: TaskGroup,
}

/// Native connections of one client. Cloning gives another handle to the same ones.
#[derive(Clone)]
pub(crate) struct NativeClient(Arc<Inner>);

impl fmt::Debug for NativeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeClient").field("mode", &self.0.mode).finish_non_exhaustive()
    }
}

impl NativeClient {
    /// Connections with the names and the trust of an HTTP client.
    pub(crate) fn new(mode: NativeTransport, http: &HttpClient, group: TaskGroup) -> Self {
        NativeClient(Arc::new(Inner {
            mode,
            names: http.names(),
            trust: http.trust().clone(),
            tls: OnceLock::new(),
            peers: Mutex::default(),
            said_plaintext: OnceLock::new(),
            group,
        }))
    }

    /// A connection to a place that has proven that it answers; none if HTTP is to have the task. The published form is only
    /// for tasks that it can say, and for the node that is meant: `plain_for` names it.
    pub(crate) async fn open(&self, place: &Place, plain_for: Option<&str>) -> Option<Open> {
        match self.way(place).await? {
            Way::Shared(link) => Some(Open::Shared(link)),
            Way::Published(published) if plain_for == Some(&published.node_id) => {
                self.lane(place, published).await.map(Open::Published)
            }
            Way::Published(_) => None,
        }
    }

    async fn way(&self, place: &Place) -> Option<Way> {
        let may = match self.0.mode {
            NativeTransport::Off => false,
            NativeTransport::Auto => place.is_tls || place.is_loopback(),
            NativeTransport::Any => true,
        };
        if !may || self.0.group.is_closing() {
            return None;
        }
        let peer = self.0.peer(place);
        let mut tried = std::pin::pin!(peer.tried.notified());
        tried.as_mut().enable();
        if let Some(decided) = self.known(place, &peer) {
            return decided;
        }
        tokio::time::timeout(PATIENCE, tried).await.ok()?;
        match &*peer.known() {
            Known::Open(way) if way.is_open() => Some(way.clone()),
            _ => None,
        }
    }

    /// A connection to a published node for one call. Every one of them is greeted, so that whoever listens there now is known.
    async fn lane(&self, place: &Place, published: Arc<Published>) -> Option<Lane> {
        let room = published.room()?;
        if let Some(answers) = published.take() {
            return Some(Lane::new(published, answers, room));
        }
        match tokio::time::timeout(PATIENCE, self.0.greeted(place)).await {
            Ok(Ok((answers, Spoken::Published { node_id }))) if node_id == published.node_id => {
                Some(Lane::new(published, answers, room))
            }
            _ => {
                published.give_up();
                None
            }
        }
    }

    /// What is known of a place; none if a trial runs that is worth a moment.
    fn known(&self, place: &Place, peer: &Arc<Peer>) -> Option<Option<Way>> {
        let mut known = peer.known();
        match &*known {
            Known::Trying => return None,
            Known::Open(way) if way.is_open() => return Some(Some(way.clone())),
            Known::Silent { until, .. } if *until > Instant::now() => return Some(None),
            Known::Open(_) | Known::Silent { .. } => {}
        }
        let times = match &*known {
            Known::Silent { times, .. } => *times,
            _ => 0,
        };
        *known = Known::Trying;
        drop(known);
        self.clone().try_out(place.clone(), peer.clone(), times);
        // Who was silent before is tried again beside the tasks, not before them.
        (times > 0).then_some(None)
    }

    fn try_out(self, place: Place, peer: Arc<Peer>, times: u32) {
        // A client that goes away in the middle must not leave the place in this state.
        let trial = Trial { peer, times, way: None };
        self.0.group.clone().spawn("native-greeting", async move {
            let mut trial = trial;
            match self.0.greet(&place).await {
                Ok(way) => trial.way = Some(way),
                Err(why) => {
                    tracing::debug!(target: telemetry::TRANSPORT, place = ?place.host, why, "left to HTTP");
                }
            }
        });
    }
}

/// A trial that runs; when it is dropped, it is over.
struct Trial {
    peer: Arc<Peer>,
    times: u32,
    way: Option<Way>,
}

impl Drop for Trial {
    fn drop(&mut self) {
        *self.peer.known() = match self.way.take() {
            Some(way) => Known::Open(way),
            None => {
                let pause = LEFT_ALONE.saturating_mul(1 << self.times.min(6)).min(MOST_LEFT_ALONE);
                Known::Silent { until: Instant::now() + pause, times: self.times + 1 }
            }
        };
        self.peer.tried.notify_waiters();
    }
}

impl Inner {
    fn peer(&self, place: &Place) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(place) {
            return peer.clone();
        }
        if peers.len() >= MOST_PLACES {
            // Whoever is not connected has nothing but a memory to lose.
            peers.retain(|_, peer| matches!(&*peer.known(), Known::Open(way) if way.is_open()));
        }
        let since = Instant::now();
        let fresh =
            Arc::new(Peer { known: Mutex::new(Known::Silent { until: since, times: 0 }), tried: Notify::new() });
        peers.insert(place.clone(), fresh.clone());
        fresh
    }

    async fn greet(&self, place: &Place) -> Result<Way, &'static str> {
        if !place.is_tls && !place.is_loopback() && self.said_plaintext.set(()).is_ok() {
            tracing::warn!(
                target: telemetry::CLIENT,
                "native frames go out in plain text, as option native says; whoever listens can read them; said once"
            );
        }
        let (answers, spoken) = self.greeted(place).await?;
        Ok(match spoken {
            Spoken::Ours { max_payload } => {
                let link = Link::new(answers.direct(), max_payload, IDLE);
                let (owner, closing) = (link.clone(), self.group.closing());
                self.group.spawn("native-link", async move { answers.serve(&owner, closing).await });
                Way::Shared(link)
            }
            Spoken::Published { node_id } => {
                let published = Published::new(node_id, answers);
                self.group.spawn("native-published", Published::keep(Arc::downgrade(&published)));
                Way::Published(published)
            }
        })
    }

    async fn greeted(&self, place: &Place) -> Result<(Answers, Spoken), &'static str> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(place));
        let socket = connecting.await.map_err(|_| "no connection in time")??;
        let greeting = tokio::time::timeout(GREETING_TIMEOUT, Answers::greet(socket));
        greeting.await.map_err(|_| "no ACK in time")?
    }

    async fn connect(&self, place: &Place) -> Result<Socket, &'static str> {
        let addresses = match &place.host {
            Host::Ipv4(ip) => vec![SocketAddr::from((*ip, 0))],
            Host::Ipv6(ip) => vec![SocketAddr::from((*ip, 0))],
            Host::Domain(name) => self.names.resolve(name, place.reach).await.map_err(|why| match why {
                NoReply::Refused => "its name leads to where nobody may call",
                _ => "its name is not known",
            })?,
        };
        let share = CONNECT_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        for address in addresses {
            let address = SocketAddr::new(address.ip(), place.port);
            if let Ok(Ok(stream)) = tokio::time::timeout(share, TcpStream::connect(address)).await {
                let _ = stream.set_nodelay(true);
                return self.secure(place, stream).await;
            }
        }
        Err("nobody listens there")
    }

    async fn secure(&self, place: &Place, stream: TcpStream) -> Result<Socket, &'static str> {
        if !place.is_tls {
            return Ok(Socket::Plain(Arc::new(stream)));
        }
        let config = self.tls.get_or_init(|| self.trust.client(pool::Peer::Mesh.tls_versions()).ok().map(Arc::new));
        let config = config.clone().ok_or("TLS could not be set up")?;
        let name = rustls::pki_types::ServerName::try_from(place.host.to_string().trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| "its host is none that a certificate names")?;
        let secured: Result<TlsStream<TcpStream>, _> = TlsConnector::from(config).connect(name, stream).await;
        let (reader, writer) = tokio::io::split(secured.map_err(|error| {
            let why = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            why.map_or(Distrust::Handshake, Distrust::of).as_str()
        })?);
        Ok(Socket::secured(reader, writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_in_every_spelling_and_only_if_it_may_be_called() {
        let place = |text: &str, reach| Place::parse(text, reach).map(|p| (p.host.to_string(), p.port, p.is_tls));
        for (text, host, port, is_tls) in [
            ("iicp://127.0.0.1:9484", "127.0.0.1", 9484, false),
            ("iicp://127.1", "127.0.0.1", 9484, false),
            ("iicp://localhost:443/", "localhost", 443, false),
            ("iicpsec://[::1]:7/x", "[::1]", 7, true),
            ("iicpsec://LOCALHOST.", "localhost", 9484, true),
        ] {
            assert_eq!(place(text, Reach::Loopback), Some((host.to_owned(), port, is_tls)), "{text}");
            assert_eq!(place(text, Reach::Public), None, "{text}");
        }
        assert_eq!(place("iicpsec://node.example.com:1", Reach::Public), Some(("node.example.com".into(), 1, true)));
        for text in [
            "",
            "iicp://",
            "iicp://:1",
            "http://127.0.0.1:1",
            "127.0.0.1:1",
            "iicp://127.0.0.1:99999",
            "iicp://u@127.0.0.1",
            "iicp://10.0.0.1:9484",
            "iicpsec://169.254.169.254",
            "iicp://0.0.0.0:1",
            "iicp://[fe80::1]:1",
            "IICP://127.0.0.1",
        ] {
            assert_eq!(place(text, Reach::Loopback), None, "{text}");
        }
    }
}
