//! A UDP port that speaks two protocols: QUIC, and the STUN by which it is found. What is opened past a NAT is opened for
//! this one port, so both go through it.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime as _, ServerConfig, TokioRuntime, UdpPoller};
use tokio::sync::mpsc;

use crate::wire::stun::{self, Id, Message, Token};

/// Questions that wait for an answer, and secrets that are listened for, at the same time.
const MOST_ASKED: usize = 1_024;
const MOST_AWAITED: usize = 256;
/// What was heard and nobody has looked at yet, for each who listens.
const MOST_HEARD: usize = 32;

/// An answer: who gave it, and as what he sees us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) by: SocketAddr,
    pub(super) as_: SocketAddr,
}

/// The port.
pub(super) struct Port {
    pub(super) endpoint: Endpoint,
    socket: Arc<Split>,
    is_ipv6: bool,
}

impl Port {
    /// Opens a port of the system's choice. Needs a tokio runtime. `server` is who takes connections over it.
    pub(super) fn open(is_ipv6: bool, server: Option<ServerConfig>) -> io::Result<Arc<Port>> {
        let socket = std::net::UdpSocket::bind((unspecified(is_ipv6), 0))?;
        socket.set_nonblocking(true)?;
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        let socket = Arc::new(Split { inner, ears: Mutex::default() });
        let mut config = EndpointConfig::default();
        // Else what is STUN would be taken for QUIC in disguise.
        config.grease_quic_bit(false);
        let endpoint = Endpoint::new_with_abstract_socket(config, server, socket.clone(), Arc::new(TokioRuntime))?;
        Ok(Arc::new(Port { endpoint, socket, is_ipv6 }))
    }

    pub(super) fn number(&self) -> Option<u16> {
        self.socket.inner.local_addr().ok().map(|addr| addr.port())
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// Whether it can send there.
    pub(super) fn reaches(&self, to: SocketAddr) -> bool {
        to.ip().to_canonical().is_ipv6() == self.is_ipv6
    }

    /// Whether the system knows a way there. Sends nothing.
    pub(super) fn leads_to(&self, to: SocketAddr) -> bool {
        let any = unspecified(self.is_ipv6);
        self.reaches(to) && std::net::UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to)).is_ok()
    }

    /// Asks whoever is there as what it sees us, once. The answer comes to `asking`.
    pub(super) fn ask(&self, to: SocketAddr, token: Option<&Token>, asking: &Asking) {
        self.socket.send(to, &stun::write_request(&asking.id, token));
    }

    /// A question, and its answers, for as long as it is held.
    pub(super) fn asking(&self, id: Id) -> Option<Asking> {
        let (told, answers) = mpsc::channel(MOST_HEARD);
        let mut ears = self.socket.ears();
        if ears.asked.len() >= MOST_ASKED {
            return None;
        }
        ears.asked.insert(id, told);
        drop(ears);
        Some(Asking { id, answers, socket: self.socket.clone() })
    }

    /// Answers who asks with this secret, and says who does, for as long as it is held.
    pub(super) fn await_token(&self, token: Token) -> Option<Awaiting> {
        let (told, sources) = mpsc::channel(MOST_HEARD);
        let mut ears = self.socket.ears();
        if ears.awaited.len() >= MOST_AWAITED {
            return None;
        }
        ears.awaited.insert(token, told);
        drop(ears);
        Some(Awaiting { token, sources, socket: self.socket.clone() })
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("at", &self.socket.inner.local_addr().ok()).finish_non_exhaustive()
    }
}

fn unspecified(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// See [`Port::asking`].
pub(super) struct Asking {
    id: Id,
    answers: mpsc::Receiver<Seen>,
    socket: Arc<Split>,
}

impl Asking {
    /// The next answer.
    pub(super) async fn answer(&mut self) -> Option<Seen> {
        self.answers.recv().await
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.socket.ears().asked.remove(&self.id);
    }
}

/// See [`Port::await_token`].
pub(super) struct Awaiting {
    token: Token,
    sources: mpsc::Receiver<SocketAddr>,
    socket: Arc<Split>,
}

impl Awaiting {
    /// The next who knew the secret.
    pub(super) async fn source(&mut self) -> Option<SocketAddr> {
        self.sources.recv().await
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.socket.ears().awaited.remove(&self.token);
    }
}

/// Who listens to what is no QUIC.
#[derive(Default)]
struct Ears {
    asked: HashMap<Id, mpsc::Sender<Seen>>,
    awaited: HashMap<Token, mpsc::Sender<SocketAddr>>,
}

/// The socket. QUIC gets everything, and passes over what is STUN: its first bits are those of no packet of QUIC.
struct Split {
    inner: Arc<dyn AsyncUdpSocket>,
    ears: Mutex<Ears>,
}

impl Split {
    fn ears(&self) -> MutexGuard<'_, Ears> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a datagram. One that finds no room is lost, as on the way.
    fn send(&self, to: SocketAddr, contents: &[u8]) {
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
        let _ = self.inner.try_send(&transmit);
    }

    fn hear(&self, from: SocketAddr, datagram: &[u8]) {
        match Message::read(datagram) {
            Some(Message::Answer { id, seen }) => {
                let told = self.ears().asked.get(&id).cloned();
                told.map(|told| told.try_send(Seen { by: from, as_: seen }));
            }
            // Who does not know a secret is told nothing, not even that somebody is here.
            Some(Message::Request { id, token: Some(token) }) => {
                let Some(told) = self.ears().awaited.get(&token).cloned() else { return };
                if let Some(answer) = stun::write_answer(&id, from, datagram.len()) {
                    self.send(from, &answer);
                }
                let _ = told.try_send(from);
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Split {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = std::task::ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter().zip(&meta[..count]) {
            // The system may hand over several datagrams of one sender in one piece.
            let datagrams = buf[..meta.len.min(buf.len())].chunks(meta.stride.max(1));
            datagrams.filter(|datagram| stun::is_stun(datagram)).for_each(|datagram| self.hear(meta.addr, datagram));
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
