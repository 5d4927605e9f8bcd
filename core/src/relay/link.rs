//! A worker's connection to its relay: INIT, ACK, RELAY_BIND, RELAY_ACK, and then calls and answers, many at a time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use url::Host;

use super::frames::{Arrived, Frames};
use crate::crypto::pinned::Pin;
use crate::error::{Code, Error, Result};
use crate::protocol::admission::{Admission, Body, Done, Outcome, Received};
use crate::protocol::punching::Rendezvous;
use crate::protocol::relay::liveness::{Liveness, Look, Patience};
use crate::runtime::TaskGroup;
use crate::transport::event_bytes::EventBytes;
use crate::transport::http_client::NoReply;
use crate::transport::pinned;
use crate::wire::frame::Kind;
use crate::wire::message::{self, RelayAck, RelayBind};
use crate::wire::relay::{self as words, Beginning, CANCEL, CREDIT, DRAIN, Hello, MOST_PART, RENEW, WINDOW};

/// Longest wait for a connection, and for each answer of a relay that is not bound to yet.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the session is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Calls that run at the same time; the node's gate has its own word before that.
const MOST_CALLS: usize = 1_024;
/// Answers that wait for the relay to take them.
const MOST_ANSWERS: usize = 64;
/// How long the relay may leave an answer untaken.
const STALL: Duration = Duration::from_secs(20);
/// How long the last word may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Largest answer that goes out in one piece to a relay that knows parts.
const WHOLE: usize = 64 << 10;

/// Where a relay accepts workers.
pub(super) struct Door<'a> {
    pub(super) addrs: &'a [SocketAddr],
    pub(super) port: u16,
    /// What its TLS is proven with; plain text if there is none.
    pub(super) pin: Option<Pin>,
}

/// Both halves of a connection, plain or over TLS.
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// How a node binds.
pub(super) struct Terms<'a> {
    pub(super) worker_id: &'a str,
    pub(super) intent: &'a str,
    pub(super) models: &'a [String],
    pub(super) ask_after: Duration,
    pub(super) answer_within: Duration,
    pub(super) most_body: usize,
    /// Whether who looks for a direct path to this node is answered.
    pub(super) punches: bool,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The node stops.
    Closing,
    /// The relay stops, and said so.
    Draining,
    /// It does not end yet: the relay wants this node to bind anew.
    Renewing,
    /// The connection is gone, or the relay ended it.
    Lost,
}

/// The error of a relay that was not reached.
pub(super) fn unreachable(no_reply: NoReply, host: &Host) -> Error {
    let (code, why) = match no_reply {
        NoReply::Refused => (Code::EndpointRefused, "is at an address that may not be called"),
        _ => (Code::RelayUnreachable, "cannot be reached"),
    };
    Error::new(code, format!("the relay {host} {why}"))
}

/// A bound session that nobody serves yet.
pub(super) struct Bound {
    pub(super) http_port: Option<u16>,
    peer: SocketAddr,
    /// The relay's addresses: that one, and one of the other family if it has any.
    relay: Vec<IpAddr>,
    frames: Frames<Reader>,
    writer: Writer,
    most_body: usize,
    patience: Patience,
}

/// Connects and binds. `ticket` is asked for once the relay has said whether it is one of ours.
pub(super) async fn bind(
    door: Door<'_>,
    terms: &Terms<'_>,
    ticket: impl AsyncFnOnce(bool) -> Result<Option<String>>,
) -> Result<Bound> {
    let stream = connect(door.addrs, door.port).await?;
    let peer = stream.peer_addr().map_err(|_| lost())?;
    let other = |addr: &&SocketAddr| addr.ip().to_canonical().is_ipv6() != peer.ip().to_canonical().is_ipv6();
    let relay = [peer].iter().chain(door.addrs.iter().find(other)).map(|addr| addr.ip().to_canonical()).collect();
    let _ = stream.set_nodelay(true);
    let (reader, mut writer) = match door.pin {
        None => {
            let (reader, writer) = stream.into_split();
            (Box::new(reader) as Reader, Box::new(writer) as Writer)
        }
        Some(pin) => secured(stream, pin).await?,
    };
    let mut frames = Frames::new(reader, terms.most_body);
    send(&mut writer, &Hello { ours: true, punches: terms.punches }.write(Kind::Init)).await?;
    let (kind, payload) = answer(&mut frames).await?;
    match kind {
        Kind::Ack => {}
        Kind::RELAY_ACK => return Err(refused(&RelayAck::read(&payload).map_err(|_| strange())?)),
        _ => return Err(strange()),
    }
    let hello = Hello::read(Kind::Ack, &payload);
    frames.hello = hello;
    let ticket = ticket(hello.ours).await?;
    let bind = RelayBind {
        worker_id: terms.worker_id,
        intent: Some(terms.intent),
        models: terms.models.iter().map(String::as_str).collect(),
        ticket: ticket.as_deref(),
    };
    send(&mut writer, &words::write_bind(&bind).map_err(|_| strange())?).await?;
    let (kind, payload) = answer(&mut frames).await?;
    if kind != Kind::RELAY_ACK {
        return Err(strange());
    }
    let verdict = RelayAck::read(&payload).map_err(|_| strange())?;
    if !verdict.ok {
        return Err(refused(&verdict));
    }
    let patience = Patience {
        ask_after: terms.ask_after,
        answer_within: terms.answer_within,
        silence: terms.ask_after + terms.answer_within * 2,
        look_every: LOOK_EVERY,
    };
    let http_port = verdict.http_port.and_then(|port| u16::try_from(port).ok());
    Ok(Bound { http_port, peer, relay, frames, writer, most_body: terms.most_body, patience })
}

async fn connect(addrs: &[SocketAddr], port: u16) -> Result<TcpStream> {
    let attempts = async {
        for addr in addrs {
            if let Ok(stream) = TcpStream::connect(SocketAddr::new(addr.ip(), port)).await {
                return Ok(stream);
            }
        }
        Err(lost())
    };
    tokio::time::timeout(PATIENCE, attempts).await.unwrap_or_else(|_| Err(lost()))
}

/// TLS with the one key that is expected.
async fn secured(stream: TcpStream, pin: Pin) -> Result<(Reader, Writer)> {
    let handshake = TlsConnector::from(pinned::client(pin)?).connect(pinned::name()?, stream);
    let stream = tokio::time::timeout(PATIENCE, handshake).await.map_err(|_| lost())?.map_err(|error| {
        let what = "the relay does not prove the key that it is known by; nothing was sent";
        Error::new(Code::RelayUnreachable, what).with_source(error)
    })?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Box::new(reader), Box::new(writer)))
}

async fn send(writer: &mut Writer, frame: &[u8]) -> Result<()> {
    let sent = async {
        writer.write_all(frame).await?;
        writer.flush().await
    };
    tokio::time::timeout(PATIENCE, sent).await.ok().and_then(std::io::Result::ok).ok_or_else(lost)
}

async fn answer(frames: &mut Frames<Reader>) -> Result<(Kind, Bytes)> {
    match tokio::time::timeout(PATIENCE, frames.next()).await {
        Ok(Some(Arrived::Frame(kind, payload))) => Ok((kind, payload)),
        Ok(Some(Arrived::TooLarge(_))) => Err(strange()),
        Ok(None) | Err(_) => Err(lost()),
    }
}

fn lost() -> Error {
    Error::new(Code::RelayUnreachable, "the relay cannot be reached, or hung up before this node was bound")
}

fn refused(verdict: &RelayAck<'_>) -> Error {
    let reason = crate::wire::failure::clean(verdict.reason.unwrap_or("no reason given"));
    Error::new(Code::RelayRefused, format!("the relay does not bind this node: {reason}"))
}

fn strange() -> Error {
    Error::new(Code::RelayUnreachable, "what answers in the relay's place does not speak its protocol")
}

impl Bound {
    /// Begins to serve.
    pub(super) fn begin(self, tasks: Arc<dyn Admission>, rendezvous: Option<Arc<dyn Rendezvous>>) -> Live {
        let Bound { peer, relay, frames, writer, most_body, patience, .. } = self;
        let (answers, queue) = mpsc::channel(MOST_ANSWERS);
        let mut writing = JoinSet::new();
        writing.spawn(write(writer, queue));
        let ours = frames.hello.ours;
        let session = Session {
            tasks,
            rendezvous,
            peer,
            relay: relay.into(),
            answers,
            ours,
            most_body,
            running: JoinSet::new(),
            calls: HashMap::new(),
        };
        Live { frames, writing, session, patience, liveness: Liveness::new(true, 0), begun: Instant::now() }
    }
}

/// A session that is served. Whoever drops it stops everything that came over it.
pub(super) struct Live {
    frames: Frames<Reader>,
    writing: JoinSet<()>,
    session: Session,
    patience: Patience,
    liveness: Liveness,
    begun: Instant,
}

impl Live {
    /// Serves calls until the relay says that it stops, the node closes or the session is lost.
    pub(super) async fn serve(&mut self, group: &TaskGroup) -> Ended {
        let mut closing = std::pin::pin!(group.closing());
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let said = tokio::select! {
                () = &mut closing => return Ended::Closing,
                said = self.step(&mut look) => said,
            };
            match said {
                Said::Nothing => {}
                Said::Drain => return Ended::Draining,
                Said::Renew => return Ended::Renewing,
                Said::End => return Ended::Lost,
            }
        }
    }

    /// Lets what is under way end, and says good-bye.
    pub(super) async fn finish(mut self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        while !self.session.running.is_empty() {
            if matches!(self.step(&mut look).await, Said::End) {
                return;
            }
        }
        let _ = self.session.answers.send(Piece::Last(words::write_close().into())).await;
        let _ = tokio::time::timeout(FAREWELL, self.writing.join_next()).await;
    }

    /// Serves on until the relay ends the session, when what came over it has ended: another has taken its place.
    pub(super) async fn retire(mut self, group: TaskGroup) {
        let mut closing = std::pin::pin!(group.closing());
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = &mut closing => return self.finish().await,
                said = self.step(&mut look) => if matches!(said, Said::End) { return },
            }
        }
    }

    /// What comes next of all that may come.
    async fn step(&mut self, look: &mut tokio::time::Interval) -> Said {
        let now = || crate::options::millis(self.begun.elapsed());
        tokio::select! {
            frame = self.frames.next() => {
                let Some(arrived) = frame else { return Said::End };
                self.liveness.heard(now());
                return match arrived {
                    Arrived::Frame(kind, payload) => self.session.take(kind, payload),
                    Arrived::TooLarge(call) => {
                        self.session.refuse_large(&call);
                        Said::Nothing
                    }
                };
            }
            Some(done) = self.session.running.join_next_with_id(), if !self.session.running.is_empty() => {
                self.session.ended(&done);
            }
            _ = self.writing.join_next() => return Said::End,
            _ = look.tick() => match self.liveness.look(now(), &self.patience) {
                Look::Fine => {}
                // A relay that takes nothing more will not answer either.
                Look::Ask => drop(self.session.answers.try_send(Piece::One(words::write_echo(Kind::Ping, &[]).into()))),
                Look::Gone => return Said::End,
            },
        }
        Said::Nothing
    }
}

/// What is to be written.
enum Piece {
    One(Bytes),
    Answer([Bytes; 3]),
    /// Nothing comes after it.
    Last(Bytes),
}

/// Writes until nobody has anything more to say, or the relay takes nothing.
async fn write(mut writer: Writer, mut queue: mpsc::Receiver<Piece>) {
    while let Some(piece) = queue.recv().await {
        let (frames, last) = match piece {
            Piece::One(frame) => ([frame, Bytes::new(), Bytes::new()], false),
            Piece::Answer(frames) => (frames, false),
            Piece::Last(frame) => ([frame, Bytes::new(), Bytes::new()], true),
        };
        let [a, b, c] = frames;
        let mut whole = a.chain(b).chain(c);
        while whole.has_remaining() {
            match tokio::time::timeout(STALL, writer.write_buf(&mut whole)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return,
            }
        }
        if !matches!(tokio::time::timeout(STALL, writer.flush()).await, Ok(Ok(()))) {
            return;
        }
        if last {
            let _ = writer.shutdown().await;
            return;
        }
    }
}

/// What a frame of the relay comes to.
enum Said {
    Nothing,
    Drain,
    Renew,
    End,
}

struct Session {
    tasks: Arc<dyn Admission>,
    rendezvous: Option<Arc<dyn Rendezvous>>,
    peer: SocketAddr,
    /// See [`Bound`].
    relay: Arc<[IpAddr]>,
    answers: mpsc::Sender<Piece>,
    /// Whether the relay is one of ours.
    ours: bool,
    /// Largest task.
    most_body: usize,
    running: JoinSet<()>,
    /// What runs, by the relay's name for it.
    calls: HashMap<String, Running>,
}

/// A call that runs.
struct Running {
    handle: AbortHandle,
    /// Bytes of its answer that the relay takes before it says so again.
    credit: Arc<Semaphore>,
}

impl Session {
    fn take(&mut self, kind: Kind, payload: Bytes) -> Said {
        match kind {
            Kind::Call => match words::Call::read(&payload) {
                Ok(call) => self.begin(&payload, &call),
                Err(_) => return Said::End,
            },
            Kind::Ping => {
                let Ok(echo) = message::read_echo(&payload) else { return Said::End };
                let pong = words::write_echo(Kind::Pong, echo.unwrap_or_default());
                // If there is no room, more than a pong is on its way to prove that we live.
                let _ = self.answers.try_send(Piece::One(pong.into()));
            }
            Kind::Close => return Said::End,
            DRAIN => return Said::Drain,
            RENEW => return Said::Renew,
            CANCEL => {
                if let Some(running) =
                    words::read_cancel(&payload).and_then(|call| self.calls.remove(&call.to_string()))
                {
                    running.handle.abort();
                }
            }
            CREDIT => {
                let running =
                    words::read_credit(&payload).and_then(|(call, bytes)| Some((self.calls.get(call)?, bytes)));
                if let Some((running, bytes)) = running {
                    // More than the whole window is never owed.
                    let most = WINDOW.saturating_sub(running.credit.available_permits());
                    running.credit.add_permits(bytes.min(most));
                }
            }
            // Relays of other kinds may say more than we know.
            _ => {}
        }
        Said::Nothing
    }

    fn refuse_large(&self, call: &str) {
        let message = format!("the task is larger than {} bytes", self.most_body);
        self.refuse(call, 413, "request_too_large", &message, ("max_bytes", self.most_body.into()));
    }

    fn refuse(&self, call: &str, status: u16, code: &str, message: &str, more: (&str, Value)) {
        let body = crate::wire::failure::write(code, message, &[more]);
        drop(self.answers.try_send(Piece::Answer(words::write_response(call, &body.into(), status))));
    }

    fn begin(&mut self, payload: &Bytes, call: &words::Call<'_>) {
        if self.calls.contains_key(call.call) {
            return;
        }
        if self.running.len() >= MOST_CALLS {
            let message = "this node has too many calls under way";
            return self.refuse(call.call, 503, "capacity_exceeded", message, ("retry_after_ms", 1_000.into()));
        }
        let (tasks, peer) = (self.tasks.clone(), self.peer);
        let (id, body) = (call.call.to_owned(), payload.slice_ref(call.body));
        let facts = call.facts.clone();
        let credit = Arc::new(Semaphore::new(WINDOW));
        let way = Way { call: id.clone(), answers: self.answers.clone(), credit: self.ours.then(|| credit.clone()) };
        let (rendezvous, relay) = (self.rendezvous.clone(), self.relay.clone());
        let handle = self.running.spawn(async move {
            if facts.punches {
                let (status, answer) = match rendezvous {
                    Some(rendezvous) => rendezvous.answer(&relay, body).await,
                    None => (404, crate::wire::failure::write("not_found", "no direct paths here", &[]).into()),
                };
                let _ = way.last(answer, status).await;
                return;
            }
            let received = Received {
                origin: facts.origin.as_deref().map(str::as_bytes),
                consumer_token: facts.consumer_token.as_deref(),
                traceparent: facts.traceparent.as_deref(),
                tracestate: facts.tracestate.as_deref(),
                takes_events: facts.takes_events && way.credit.is_some(),
                ..Received::new(peer, Body::Json(body))
            };
            // A relay that takes nothing more hears nothing more.
            let _ = way.answer(tasks.admit(received).await).await;
        });
        self.calls.insert(id, Running { handle, credit });
    }

    fn ended(&mut self, done: &Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.calls.retain(|_, running| running.handle.id() != id);
    }
}

/// The way of one call's answer.
struct Way {
    call: String,
    answers: mpsc::Sender<Piece>,
    /// None with a relay that knows no parts.
    credit: Option<Arc<Semaphore>>,
}

/// The session is over.
struct Gone;

impl Way {
    async fn answer(&self, outcome: Outcome) -> Result<(), Gone> {
        match outcome {
            Outcome::Done(Done { reply, .. }) => match &self.credit {
                Some(credit) if reply.len() > WHOLE => {
                    let first = Beginning { length: Some(reply.len()), events: false };
                    let mut first = Some(first);
                    for part in reply.chunks(MOST_PART) {
                        room(credit, part).await?;
                        self.part(reply.slice_ref(part), &mut first).await?;
                    }
                    self.last(Bytes::new(), 200).await
                }
                _ => self.last(reply, 200).await,
            },
            Outcome::Refused(refusal) => self.last(refusal.body().into(), refusal.status).await,
            Outcome::Events(events) => match &self.credit {
                Some(credit) => {
                    let mut first = Some(Beginning { length: None, events: true });
                    let mut events = EventBytes::new(events);
                    while let Some(bytes) = events.next().await {
                        for part in bytes.chunks(MOST_PART) {
                            events.wait(room(credit, part)).await?;
                            self.part(bytes.slice_ref(part), &mut first).await?;
                        }
                    }
                    self.last(Bytes::new(), 200).await
                }
                // They come to none but those who say that they take them.
                None => {
                    let message = "the result came in parts, which nobody asked for";
                    self.last(crate::wire::failure::write("internal_error", message, &[]).into(), 500).await
                }
            },
        }
    }

    /// Sends a part for which there is room. `first` is what the first one says of them all.
    async fn part(&self, part: Bytes, first: &mut Option<Beginning>) -> Result<(), Gone> {
        self.send(words::write_part(&self.call, &part, first.take().as_ref())).await
    }

    async fn last(&self, body: Bytes, status: u16) -> Result<(), Gone> {
        self.send(words::write_response(&self.call, &body, status)).await
    }

    async fn send(&self, frames: [Bytes; 3]) -> Result<(), Gone> {
        self.answers.send(Piece::Answer(frames)).await.map_err(|_| Gone)
    }
}

/// Waits until the relay has room for a part.
async fn room(credit: &Semaphore, part: &[u8]) -> Result<(), Gone> {
    let room = u32::try_from(part.len()).map_err(|_| Gone)?;
    credit.acquire_many(room).await.map_err(|_| Gone)?.forget();
    Ok(())
}
