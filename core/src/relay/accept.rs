//! Where workers come in: INIT, ACK, RELAY_BIND, RELAY_ACK, and then a session.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::driver::Driver;
use super::session::{Session, Way};
use super::{Arrival, Relay};
use crate::error::{Code, Error, Result};
use crate::options::RelayServerOptions;
use crate::protocol::relay::bind::Refusal;
use crate::protocol::relay::is_worker_id;
use crate::protocol::relay::source::Source;
use crate::telemetry;
use crate::wire::frame::{CustomKinds, HEADER_BYTES, Header, Kind};
use crate::wire::message::{RelayAck, RelayBind};
use crate::wire::relay::{Hello, write_verdict};

/// From connecting to the end of the bind. A published worker asks its directory for a ticket in between, for up to 10 s.
const GREETING: Duration = Duration::from_secs(20);
/// Largest frame of somebody who is not bound.
const MOST_GREETING: usize = 32 << 10;
/// Connections that are not bound yet, in all and from one source.
const MOST_STRANGERS: usize = 2_048;
const MOST_STRANGERS_PER_SOURCE: usize = 512;
/// Connections that the system holds until they are accepted.
const BACKLOG: u32 = 4_096;
/// The first byte of a TLS connection; published workers begin with the magic.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long the reason of a refusal may take to be read.
const FAREWELL: Duration = Duration::from_secs(1);

/// The bound addresses of a relay, not yet served.
pub(crate) struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Binds the address. One that stands for all of a machine's, or for this machine, is bound in both families, as far as
    /// the machine has them.
    ///
    /// # Errors
    /// `BIND` names the address and the system's reason.
    pub(crate) fn bind(host: &str, port: u16) -> Result<Self> {
        let refused = |host: &str, e: std::io::Error| {
            let what = format!("{host}:{port} cannot be bound for the relay's workers: {}", e.kind());
            Error::new(Code::Bind, format!("{what}; choose another host or port")).with_source(e)
        };
        let ip: IpAddr = match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => ip,
            Err(_) if host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
            Err(_) => {
                let message = format!("the relay's host {host:?} is no address; write one, such as 0.0.0.0");
                return Err(Error::new(Code::ConfigInvalid, message));
            }
        };
        let (first, second): (IpAddr, Option<IpAddr>) = match ip {
            IpAddr::V4(ip) if ip.is_unspecified() => (ip.into(), Some(Ipv6Addr::UNSPECIFIED.into())),
            IpAddr::V6(ip) if ip.is_unspecified() => (ip.into(), Some(Ipv4Addr::UNSPECIFIED.into())),
            IpAddr::V4(Ipv4Addr::LOCALHOST) => (ip, Some(Ipv6Addr::LOCALHOST.into())),
            IpAddr::V6(ip) if ip.is_loopback() => (ip.into(), Some(Ipv4Addr::LOCALHOST.into())),
            other => (other, None),
        };
        let mut bound = vec![listen(SocketAddr::new(first, port)).map_err(|e| refused(host, e))?];
        let port = bound[0].local_addr().map_err(|e| refused(host, e))?.port();
        if let Some(second) = second {
            match listen(SocketAddr::new(second, port)) {
                Ok(listener) => bound.push(listener),
                // A machine may have only one family. A port that somebody else holds in the other one is a trap.
                Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => return Err(refused(&second.to_string(), e)),
                Err(e) => {
                    tracing::debug!(target: telemetry::RELAY, kind = %e.kind(), "the relay listens in one address family");
                }
            }
        }
        Ok(Listeners(bound))
    }

    /// Whether workers need a ticket: as the options say, or unless nobody but this machine can bind.
    pub(crate) fn ticket_required(&self, options: &RelayServerOptions) -> bool {
        let is_local = |listener: &TcpListener| listener.local_addr().is_ok_and(|addr| addr.ip().is_loopback());
        options.ticket_required.unwrap_or_else(|| !self.0.iter().all(is_local))
    }

    /// The first address.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.0.first()?.local_addr().ok()
    }

    /// All of them.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    pub(super) fn serve(self, relay: &Arc<Relay>) {
        let lobby = Arc::new(Lobby::default());
        for listener in self.0 {
            let (relay, lobby, closing) = (relay.clone(), lobby.clone(), relay.group.closing());
            relay.group.clone().spawn("relay", async move {
                tokio::select! {
                    () = closing => {}
                    () = accept(listener, relay, lobby) => {}
                }
            });
        }
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted relay gets its port back while old connections fade out.
    socket.set_reuseaddr(true)?;
    if addr.is_ipv6() {
        // Each family has a socket of its own, on every system.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, relay: Arc<Relay>, lobby: Arc<Lobby>) {
    let mut pause = Duration::from_millis(10);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                pause = Duration::from_millis(10);
                // One who finds no place is not answered: it costs a flood more than us.
                let Some(place) = lobby.enter(Source::of(peer.ip())) else { continue };
                let _ = stream.set_nodelay(true);
                // Its end is in its own hands until it is bound, and in the hands of who ends sessions from then on.
                relay.group.spawn_bare(serve(stream, place, relay.clone()));
            }
            Err(error) => {
                tracing::warn!(target: telemetry::RELAY, kind = %error.kind(), "a worker could not be accepted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// Keeps the place until who came is greeted.
async fn serve(stream: TcpStream, _place: Place, relay: Arc<Relay>) {
    let aborted = relay.group.aborted();
    tokio::select! {
        () = aborted => {}
        _ = tokio::time::timeout(GREETING, welcome(stream, &relay)) => {}
    }
}

/// Greets a worker, over TLS if that is what it begins with. Who is bound gets a task of its own, so that what it takes to
/// greet is given back before the long wait begins.
async fn welcome(stream: TcpStream, relay: &Arc<Relay>) -> Option<()> {
    let from = stream.peer_addr().ok()?.ip();
    let mut first = [0];
    stream.peek(&mut first).await.ok()?;
    if first == [TLS_HANDSHAKE] {
        let stream = TlsAcceptor::from(relay.tls.clone()).accept(stream).await.ok()?;
        let (stream, session) = greet(stream, from, relay).await?;
        relay.group.spawn_bare(drive(stream, session, relay.clone()));
    } else if relay.limits.tls_required {
        relay.counts.refused(Refusal::TlsRequired);
        turn_away(stream).await;
    } else {
        let (stream, session) = greet(stream, from, relay).await?;
        relay.group.spawn_bare(drive(stream, session, relay.clone()));
    }
    Some(())
}

/// Says why before a worker shows its ticket in plain text.
async fn turn_away(mut stream: TcpStream) -> Option<()> {
    read_frame(&mut stream, Kind::Init).await?;
    let _ = tokio::time::timeout(FAREWELL, refuse(stream, "", Refusal::TlsRequired)).await;
    None
}

async fn drive<Io: AsyncRead + AsyncWrite + Unpin>(stream: Io, session: Arc<Session>, relay: Arc<Relay>) {
    let ended = Driver::new(stream, relay.clone(), session.clone()).await;
    tracing::debug!(target: telemetry::RELAY, worker_id = %session.worker_id, ?ended, "a worker's session ended");
    relay.end(&session);
}

/// Greets a worker and binds it. Who does not speak the protocol gets no answer.
async fn greet<Io: AsyncRead + AsyncWrite + Unpin>(
    mut io: Io,
    from: IpAddr,
    relay: &Arc<Relay>,
) -> Option<(Io, Arc<Session>)> {
    let hello = Hello::read(Kind::Init, &read_frame(&mut io, Kind::Init).await?);
    io.write_all(&hello.write(Kind::Ack)).await.ok()?;
    let payload = read_frame(&mut io, Kind::RELAY_BIND).await?;
    let bind = RelayBind::read(&payload).ok()?;
    if !is_worker_id(bind.worker_id) {
        return None;
    }
    let way = if hello.ours { Way::Ours } else { Way::Published };
    let models = bind.models.iter().map(|model| (*model).to_owned()).collect();
    let http_port = Some(u64::from(relay.http_port));
    let verdict = RelayAck { ok: true, worker_id: Some(bind.worker_id), reason: None, http_port };
    let greeting = Bytes::from(write_verdict(&verdict));
    let arrival = Arrival { worker_id: bind.worker_id, ticket: bind.ticket, source: Source::of(from) };
    match relay.admit(arrival, models, way, Some(greeting)).await {
        Ok(session) => {
            tracing::debug!(target: telemetry::RELAY, worker_id = bind.worker_id, "a worker is bound");
            if hello.punches {
                let _ = session.punches.set(from);
            }
            Some((io, session))
        }
        Err(refusal) => {
            tracing::debug!(target: telemetry::RELAY, worker_id = bind.worker_id, ?refusal, "a worker is not bound");
            let _ = tokio::time::timeout(FAREWELL, refuse(io, bind.worker_id, refusal)).await;
            None
        }
    }
}

async fn refuse<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io, worker_id: &str, refusal: Refusal) -> Option<()> {
    let reason = Some(refusal.reason());
    let verdict = RelayAck { ok: false, worker_id: Some(worker_id), reason, http_port: None };
    io.write_all(&write_verdict(&verdict)).await.ok()?;
    io.shutdown().await.ok()?;
    // Closing on what it has sent meanwhile would take the reason away from it.
    let mut rest = [0; 512];
    while io.read(&mut rest).await.ok()? > 0 {}
    Some(())
}

/// Reads the one frame that is due; none if something else comes.
async fn read_frame<Io: AsyncRead + Unpin>(io: &mut Io, due: Kind) -> Option<Vec<u8>> {
    let mut head = [0; HEADER_BYTES];
    io.read_exact(&mut head).await.ok()?;
    let header = Header::read(&head).ok()?;
    let length = usize::try_from(header.length).ok().filter(|length| *length <= MOST_GREETING)?;
    if header.judge(CustomKinds::default()).ok()? != due {
        return None;
    }
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await.ok()?;
    Some(payload)
}

/// Who is not bound yet.
#[derive(Default)]
struct Lobby(Mutex<Strangers>);

#[derive(Default)]
struct Strangers {
    count: usize,
    sources: HashMap<Source, usize>,
}

impl Lobby {
    fn enter(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from_here = strangers.sources.get(&source).copied().unwrap_or_default();
        if strangers.count >= MOST_STRANGERS || from_here >= MOST_STRANGERS_PER_SOURCE {
            return None;
        }
        strangers.count += 1;
        strangers.sources.insert(source, from_here + 1);
        Some(Place { lobby: self.clone(), source })
    }
}

/// A place in the lobby.
struct Place {
    lobby: Arc<Lobby>,
    source: Source,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut strangers = self.lobby.0.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.count -= 1;
        if let Some(count) = strangers.sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                strangers.sources.remove(&self.source);
            }
        }
    }
}
