//! A relay tells who asks by UDP as what it sees him: so two peers learn whether a path past their NATs can be found. Two
//! ports, because one that is seen differently by each of them cannot be named to a third.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::{Fault, Relay};
use crate::protocol::rate::Rates;
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::wire::punch::Observers;
use crate::wire::stun::{Message, write_answer};

/// Questions of one source in a minute, over all ports: enough for an attempt every second.
const MOST_A_MINUTE: u32 = 600;
/// Times that callers of one source may look for workers in a minute. What it costs the worker is bounded by the worker.
const MOST_ASKED_A_MINUTE: u32 = 240;
/// No question is longer.
const MOST_BYTES: usize = 512;

/// The ports of an observer, not yet served.
pub(crate) struct Observer {
    sockets: Vec<UdpSocket>,
    ports: Vec<u16>,
}

impl Observer {
    /// Takes the relay's own port, and one more: the next one, or one that the system chooses. Fewer than two are of no use,
    /// and so none are kept; a relay is one without that.
    pub(crate) fn bind(addrs: &[SocketAddr]) -> Observer {
        let mut observer = Observer { sockets: Vec::new(), ports: Vec::new() };
        let Some(first) = addrs.first().map(SocketAddr::port) else { return observer };
        for wanted in [Some(first), first.checked_add(1)] {
            let port = wanted.filter(|port| observer.take(addrs, *port)).or_else(|| {
                let free = std::net::UdpSocket::bind((addrs[0].ip(), 0)).ok()?.local_addr().ok()?.port();
                observer.take(addrs, free).then_some(free)
            });
            observer.ports.extend(port);
        }
        if observer.ports.len() < 2 {
            tracing::info!(target: telemetry::RELAY, "two UDP ports cannot be had: no direct paths past NATs");
            return Observer { sockets: Vec::new(), ports: Vec::new() };
        }
        observer
    }

    /// Takes a port at all addresses, or at none.
    fn take(&mut self, addrs: &[SocketAddr], port: u16) -> bool {
        let taken: std::io::Result<Vec<UdpSocket>> = addrs.iter().map(|addr| listen(addr.ip(), port)).collect();
        taken.map(|taken| self.sockets.extend(taken)).is_ok()
    }

    /// Answers until the group closes.
    fn serve(self, group: &TaskGroup) {
        let rates = Arc::new(Rates::new(MOST_A_MINUTE));
        for socket in self.sockets {
            let (rates, closing) = (rates.clone(), group.closing());
            group.spawn("observer", async move {
                tokio::select! {
                    () = closing => {}
                    () = observe(&socket, rates.as_ref().as_ref()) => {}
                }
            });
        }
    }
}

/// What a relay that observes knows.
pub(super) struct Observing {
    ports: Vec<u16>,
    /// Who looks for workers.
    asked: Option<Rates>,
}

impl Relay {
    /// Begins to tell peers as what they are seen.
    pub(crate) fn observe(&self, observer: Observer) {
        let observing = Observing { ports: observer.ports.clone(), asked: Rates::new(MOST_ASKED_A_MINUTE) };
        if self.observing.set(observing).is_ok() {
            observer.serve(&self.group);
        }
    }

    /// What a caller is told who looks for a direct path to this worker, if one may be looked for: the ports on which peers
    /// learn as what they are seen, and whether the worker came from the very address that he came from.
    pub(crate) fn observers(&self, worker_id: &str, caller: IpAddr) -> Option<Observers> {
        let session = self.desk().get(worker_id)?.clone();
        let worker = session.punches.get().filter(|_| !session.is_closed())?;
        let ports = &self.observing.get()?.ports;
        let beside = worker.to_canonical() == caller.to_canonical();
        (!ports.is_empty()).then(|| Observers { observers: ports.clone(), beside })
    }

    /// Counts one who looks for a worker.
    ///
    /// # Errors
    /// One too many from this source.
    pub(crate) fn count_asked(&self, caller: IpAddr) -> Result<(), Fault> {
        let asked = self.observing.get().and_then(|observing| observing.asked.as_ref());
        let counted = asked.map_or(Ok(()), |asked| asked.count_address(caller, self.now().as_secs()));
        counted.map_err(|_| Fault::Busy)
    }
}

fn listen(ip: IpAddr, port: u16) -> std::io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let addr = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

async fn observe(socket: &UdpSocket, rates: Option<&Rates>) {
    let (mut buffer, begun) = ([0; MOST_BYTES], tokio::time::Instant::now());
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // What a peer's machine said to an answer of ours; nothing is wrong with the socket.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(Message::Request { id, .. }) = Message::read(&buffer[..length]) else { continue };
        if rates.is_some_and(|rates| rates.count_address(from.ip(), begun.elapsed().as_secs()).is_err()) {
            continue;
        }
        if let Some(answer) = write_answer(&id, from, length) {
            // An answer that finds no room is lost, as on the way.
            let _ = socket.try_send_to(&answer, from);
        }
    }
}
