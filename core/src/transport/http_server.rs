//! The accept loop: HTTP/1.1 with a bound on everything a peer can make it hold. The first bytes of a connection say whether
//! it is HTTP, native or TLS, and once more what comes through TLS.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::answer_body::AnswerBody;
use super::begun::{Begins, Begun};
use super::conn::{Conn, ConnTable, Deadlines, Entry, Phase, Stream, Watched};
use super::native_server::{self, Native};
use super::server_tls::ServerTls;
use crate::error::{Code, Error, Result};
use crate::runtime::TaskGroup;
use crate::telemetry;

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most bytes that are read at once. Below 16 KiB, so that hyper does not go beyond that with its room for reading: a
/// connection has it as long as its task is served.
const MOST_AT_ONCE: usize = (16 << 10) - 1;
/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// Descriptors that are left for everything but inbound connections.
const RESERVED_DESCRIPTORS: u64 = 48;

pub(crate) type Answer = Response<AnswerBody>;
pub(crate) type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What is behind the socket. Dropping the future means that the caller went away.
pub(crate) trait Service: Send + Sync + 'static {
    fn call(self: Arc<Self>, request: Request<Incoming>, conn: Arc<Conn>) -> AnswerFuture;
}

/// Who takes the connections of a server, by what they begin with.
pub(crate) struct Behind<S> {
    pub(crate) http: Arc<S>,
    pub(crate) native: Option<Arc<Native>>,
    /// There if the server speaks TLS; both others are reached through it too.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

impl<S> Clone for Behind<S> {
    fn clone(&self) -> Self {
        Behind { http: self.http.clone(), native: self.native.clone(), tls: self.tls.clone() }
    }
}

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    pub(crate) deadlines: Deadlines,
    pub(crate) max_connections: usize,
}

/// As many connections as the descriptor limit allows, at most `most`.
pub(crate) fn affordable_connections(most: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let affordable = limit.map_or(u64::MAX, |limit| limit.saturating_sub(RESERVED_DESCRIPTORS).max(limit / 2).max(1));
    usize::try_from(affordable).unwrap_or(most).min(most)
}

/// A bound address, not yet served.
pub(crate) struct HttpServer {
    listener: TcpListener,
    pub(crate) addr: SocketAddr,
    pub(crate) table: Arc<ConnTable>,
    limits: ServerLimits,
}

impl HttpServer {
    /// Binds the address.
    ///
    /// # Errors
    /// `BIND` names the address and the system's reason.
    pub(crate) async fn bind(host: &str, port: u16, limits: ServerLimits) -> Result<Self> {
        let bind_error = |e: std::io::Error| {
            Error::new(Code::Bind, format!("{host}:{port} cannot be bound: {}; choose another host or port", e.kind()))
                .with_source(e)
        };
        let listener = listen(host, port).await.map_err(bind_error)?;
        let addr = listener.local_addr().map_err(bind_error)?;
        Ok(HttpServer { listener, addr, table: ConnTable::new(limits.deadlines), limits })
    }

    /// Serves until the group closes; then lets running requests finish until the group's grace is over.
    pub(crate) fn serve<S: Service>(self, behind: Behind<S>, group: &TaskGroup) {
        self.table.watch_over(group);
        let closing = group.closing();
        let accepting = group.clone();
        group.spawn("accept", async move {
            tokio::select! {
                () = closing => {}
                () = self.accept(behind, accepting) => {}
            }
        });
    }

    async fn accept<S: Service>(self, behind: Behind<S>, group: TaskGroup) {
        let mut pause = Duration::from_millis(10);
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    pause = Duration::from_millis(10);
                    self.admit(stream, peer, &behind, &group);
                }
                // Out of descriptors: make one free instead of spinning on the error.
                Err(error) => {
                    tracing::warn!(target: telemetry::TRANSPORT, kind = %error.kind(), "a connection could not be accepted");
                    self.table.make_room();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    fn admit<S: Service>(&self, stream: TcpStream, peer: SocketAddr, behind: &Behind<S>, group: &TaskGroup) {
        if self.table.len() >= self.limits.max_connections && !self.table.make_room() {
            return shed(stream, group);
        }
        // Small answers must not wait for more to come; a socket that cannot do it works all the same.
        let _ = stream.set_nodelay(true);
        let entry = self.table.enter(peer);
        let conn = entry.conn.clone();
        let task = group.spawn_bare(serve_conn(stream, entry, behind.clone(), group.closing()));
        Entry::conn_task(&conn, task.abort_handle());
    }
}

/// Bytes of an answer that the system holds for a peer that does not read. Small, so that a slow peer costs little and its
/// pace can be seen; the system doubles it, and a fast peer is served from it at memory speed.
const SEND_BUFFER: u32 = 256 << 10;
/// Connections that the system holds until they are accepted.
const BACKLOG: u32 = 1024;

async fn listen(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for addr in tokio::net::lookup_host((host, port)).await? {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restarted node gets its port back while old connections fade out.
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        match socket.bind(addr).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Tells a peer to come back later, without holding on to it.
fn shed(mut stream: TcpStream, group: &TaskGroup) {
    group.spawn("shed", async move {
        let body = crate::wire::failure::write("overloaded", "too many connections; come back in a second", &[]);
        let head = format!(
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = [head.into_bytes(), body].concat();
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&answer)).await;
    });
}

async fn serve_conn<S: Service>(
    stream: TcpStream,
    entry: Entry,
    behind: Behind<S>,
    closing: impl Future<Output = ()> + Send,
) {
    let conn = &entry.conn;
    let mut closing = std::pin::pin!(closing);
    let mut stream = Begun::new(Watched::new(stream, conn.clone()));
    match begins(&mut stream, closing.as_mut()).await {
        Some(Begins::Tls) => {
            // Boxed, so that a connection of another kind is not as large.
            let Some(tls) = behind.tls.clone() else { return };
            Box::pin(serve_tls(&tls, stream, conn, behind, closing)).await;
        }
        Some(begins) => serve_begun(begins, stream, conn, behind, closing).await,
        None => {}
    }
}

/// What the connection begins with; none if it ends before that. Who has said nothing yet has nothing to lose.
async fn begins(stream: &mut Begun<impl Stream>, closing: impl Future<Output = ()>) -> Option<Begins> {
    tokio::select! {
        begins = stream.begins() => begins,
        () = closing => None,
    }
}

/// Agrees on TLS, and looks at what comes through it.
async fn serve_tls<S: Service>(
    tls: &ServerTls,
    stream: Begun<Watched>,
    conn: &Arc<Conn>,
    behind: Behind<S>,
    mut closing: Pin<&mut (impl Future<Output = ()> + Send)>,
) {
    conn.enter(Phase::Handshake);
    let accepted = tokio::select! {
        accepted = TlsAcceptor::from(tls.config()).accept(stream) => accepted,
        () = closing.as_mut() => return,
    };
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(target: telemetry::TRANSPORT, peer = %conn.peer, %error, "no TLS was agreed on");
            return;
        }
    };
    conn.is_sealed_now();
    let mut stream = Begun::new(stream);
    if let Some(begins) = begins(&mut stream, closing.as_mut()).await {
        serve_begun(begins, stream, conn, behind, closing).await;
    }
}

async fn serve_begun<S: Service>(
    begins: Begins,
    stream: Begun<impl Stream>,
    conn: &Arc<Conn>,
    behind: Behind<S>,
    closing: Pin<&mut (impl Future<Output = ()> + Send)>,
) {
    match (begins, behind.native) {
        (Begins::Http, _) => serve_http(stream, conn, behind.http, closing).await,
        (Begins::Native, Some(native)) => Box::pin(native_server::serve(native, stream, conn, closing)).await,
        // Of a kind that nobody serves here; TLS inside TLS is one.
        (Begins::Native, None) | (Begins::Tls, _) => {}
    }
}

/// Serves requests until the peer goes. One of many connections holds no buffers between two requests: hyper keeps 16 KiB
/// for each, so it is let go, and made anew when there is something to read.
async fn serve_http<S: Service>(
    mut stream: Begun<impl Stream>,
    conn: &Arc<Conn>,
    service: Arc<S>,
    mut closing: Pin<&mut (impl Future<Output = ()> + Send)>,
) {
    stream.read_at_most(MOST_AT_ONCE);
    // Boxed, so that a connection that rests has not even the room for it.
    while let Some(rested) = Box::pin(serve_requests(stream, conn, &service, closing.as_mut())).await {
        stream = rested;
        tokio::select! {
            () = stream.readable() => {}
            () = closing.as_mut() => {
                let _ = stream.shutdown().await;
                return;
            }
        }
    }
}

/// Serves requests until the connection is to rest, and gives it back; none if it is over.
async fn serve_requests<S: Service, Io: Stream>(
    stream: Begun<Io>,
    conn: &Arc<Conn>,
    service: &Arc<S>,
    mut closing: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Option<Begun<Io>> {
    // Who has read only a piece of the next request, or nothing at all, goes on reading.
    let asked = AtomicBool::new(false);
    let handle = service_fn(|request: Request<Incoming>| {
        conn.enter(Phase::Handling);
        conn.body_is_left(!request.body().is_end_stream());
        asked.store(true, Relaxed);
        let answer = service.clone().call(request, conn.clone());
        async move {
            let mut answer = answer.await;
            answer.body_mut().goes_to(conn);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // Deadlines are the table's; hyper's own header timeout would also cut idle connections.
    http.header_read_timeout(None).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD_BYTES);
    let mut serving = http.serve_connection(TokioIo::new(stream), handle);
    // Errors here are the peer's (reset, malformed head): hyper has answered what can be answered.
    let rests = poll_fn(|cx| match Pin::new(&mut serving).poll(cx) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if asked.load(Relaxed) && conn.should_rest() => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    });
    tokio::select! {
        rests = rests => if !rests { return None },
        () = closing.as_mut() => {
            Pin::new(&mut serving).graceful_shutdown();
            let _ = serving.await;
            return None;
        }
    }
    let parts = serving.into_parts();
    let mut stream = parts.io.into_inner();
    stream.put_back(&parts.read_buf);
    Some(stream)
}

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyFailure {
    TooLarge,
    /// Too much arrives at the same time.
    Busy,
    Broken,
}

/// Most bytes of a refused body that are read and thrown away, so that the peer gets to read the refusal: closing on
/// unread data would reset the connection under it.
const MOST_DISCARDED: usize = 64 << 20;

/// A body of up to so many bytes gets its room in one piece.
const WHOLE_ROOM: usize = 128 << 10;

/// Reads a body of at most `most` bytes. Memory grows with what arrives, not with what is declared, and no further than
/// there is room for the bodies of all connections together.
pub(crate) async fn read_body(body: Incoming, most: usize, conn: &Conn) -> Result<Bytes, BodyFailure> {
    conn.enter(Phase::Body);
    let mut held = conn.share();
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut refused = (declared > most).then_some(BodyFailure::TooLarge);
    if declared > MOST_DISCARDED.max(most) {
        return Err(BodyFailure::TooLarge);
    }
    let mut body = body;
    // One frame is the rule and is passed on without a copy.
    let (mut whole, mut grown, mut arrived) = (Bytes::new(), Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyFailure::Broken)?.into_data() else { continue };
        arrived += data.len();
        if arrived > most {
            refused = Some(BodyFailure::TooLarge);
        } else if refused.is_none() && held.note(arrived).is_err() {
            refused = Some(BodyFailure::Busy);
        }
        if refused.is_some() {
            (whole, grown) = (Bytes::new(), Vec::new());
            let _ = held.note(0);
            if arrived > MOST_DISCARDED.max(most) {
                break;
            }
        } else if whole.is_empty() && grown.is_empty() {
            whole = data;
        } else {
            if grown.capacity() < arrived {
                // At most twice what has arrived, and in the end just as much as was declared. What is small is had in one
                // piece: growing it leaves holes in the heap, and pages that nothing was written to cost nothing.
                let room = (arrived * 2).max(WHOLE_ROOM);
                let room = if declared >= arrived { declared.min(room) } else { arrived * 2 };
                grown.reserve_exact(room - grown.len());
            }
            grown.extend_from_slice(&std::mem::take(&mut whole));
            grown.extend_from_slice(&data);
        }
    }
    conn.body_is_left(arrived > MOST_DISCARDED.max(most));
    conn.enter(Phase::Handling);
    match refused {
        Some(failure) => Err(failure),
        None if grown.is_empty() => Ok(whole),
        None => Ok(grown.into()),
    }
}
