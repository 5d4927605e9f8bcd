//! The server's side of a native connection: one task that reads, writes and owns the calls that run. When the peer is
//! gone, or the task is dropped, they stop.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::arriving::{Share, TooMuch};
use super::conn::{Conn, Phase, Stream};
use super::native_call::{Answering, Ended, MOST_PIECES, Piece, add_credit, credit};
use crate::protocol::admission::{Admission, Outcome, Refusal};
use crate::protocol::session::{Asked, Session, Step, Ticket};
use crate::telemetry;
use crate::wire::frame::{HEADER_BYTES, Kind, Reason};
use crate::wire::inbound::Fault;
use crate::wire::message::write_close;

/// Bytes that are made room for before any of them has come; what comes makes room for as much again.
const FIRST_ROOM: usize = 4 << 10;
const MOST_ROOM: usize = 256 << 10;
/// From this many bytes on, what is to be written is written before another answer is added.
const WRITE_AT: usize = 64 << 10;
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// From where frames are taken without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plaintext {
    Nowhere,
    ThisMachine,
    Everywhere,
}

/// What is behind native connections.
pub(crate) struct Native {
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) node_id: String,
    /// From where frames are taken in plain text.
    pub(crate) plaintext: Plaintext,
    pub(crate) max_body_bytes: usize,
}

/// How a connection ends.
enum End {
    /// The peer is gone, or speaks another protocol: nothing more is said.
    Silent,
    Close(Reason, Option<&'static str>),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Silent
    }
}

/// A call that runs.
struct Running {
    stop: AbortHandle,
    /// Bytes of parts that its caller has room for.
    credit: Arc<Semaphore>,
}

/// One connection.
struct Connection<'a, S> {
    native: &'a Native,
    conn: &'a Conn,
    stream: S,
    session: Session<Running>,
    arrived: BytesMut,
    held: Share,
    out: Vec<u8>,
    calls: JoinSet<(Ticket, Ended)>,
    /// Parts of answers, on their way from the calls.
    pieces: (mpsc::Sender<Piece>, mpsc::Receiver<Piece>),
    /// Whether a whole message has come since the phase was noted.
    progressed: bool,
    /// What the peer wants, once it has said goodbye: none, or to hear ours.
    leaving: Option<bool>,
}

/// Serves a connection that began with the magic, until one side is done with it. In plain text it is told why not unless the
/// node takes that from there.
pub(crate) async fn serve(native: Arc<Native>, stream: impl Stream, conn: &Conn, closing: impl Future<Output = ()>) {
    let may = match native.plaintext {
        _ if conn.is_secure() => true,
        Plaintext::Nowhere => false,
        Plaintext::ThisMachine => conn.is_from_here(),
        Plaintext::Everywhere => true,
    };
    run(native, stream, conn, closing, may).await;
}

async fn run(native: Arc<Native>, stream: impl Stream, conn: &Conn, closing: impl Future<Output = ()>, may: bool) {
    let mut connection = Connection {
        native: &native,
        conn,
        stream,
        session: Session::new(),
        arrived: BytesMut::new(),
        held: conn.share(),
        out: Vec::new(),
        calls: JoinSet::new(),
        pieces: mpsc::channel(MOST_PIECES),
        progressed: false,
        leaving: None,
    };
    conn.enter(Phase::Greeting);
    conn.will_say_goodbye();
    let end = if may {
        connection.run(closing).await
    } else {
        End::Close(Reason::AuthFailed, Some("this node takes native frames over TLS only"))
    };
    connection.calls.abort_all();
    if let End::Close(reason, message) = end {
        connection.say_goodbye(reason, message).await;
    }
}

impl<S: Stream> Connection<'_, S> {
    async fn run(&mut self, closing: impl Future<Output = ()>) -> End {
        let mut closing = std::pin::pin!(closing.fuse());
        let mut stopping = false;
        loop {
            if let Err(end) = self.write().await {
                return end;
            }
            self.note_phase();
            if self.session.is_idle() {
                match self.leaving {
                    Some(true) => return End::Close(Reason::Graceful, None),
                    Some(false) => return End::Silent,
                    None if stopping => return End::Close(Reason::Graceful, Some("the node is stopping")),
                    None => {}
                }
            }
            let missing = self.session.inbound.missing(&self.arrived);
            let step = tokio::select! {
                Some(done) = self.calls.join_next(), if !self.calls.is_empty() => self.finish(done),
                Some(piece) = self.pieces.1.recv() => self.add_parts(Some(piece)),
                () = &mut closing, if !stopping => {
                    stopping = true;
                    Ok(())
                }
                () = self.conn.told() => Err(self.overdue()),
                read = read(&mut self.stream, &mut self.arrived, missing) => match read {
                    Ok(0) | Err(_) => Err(End::Silent),
                    Ok(_) => self.take(),
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// What the connection waits for now, so that it may be given its time.
    fn note_phase(&mut self) {
        let begun = !self.arrived.is_empty() || self.session.inbound.held() > 0;
        // Who has not said who it is gets no longer for a header than for its greeting.
        let phase = if begun && (self.session.is_known() || self.arrived.len() >= HEADER_BYTES) {
            Phase::Frame
        } else if !self.session.is_known() {
            Phase::Greeting
        } else if self.session.is_idle() {
            Phase::Idle
        } else {
            Phase::Handling
        };
        let stays = match phase {
            Phase::Greeting => true,
            Phase::Frame => !self.progressed,
            _ => false,
        };
        if !stays || self.conn.phase() != phase {
            self.conn.enter(phase);
        }
        self.progressed = false;
    }

    fn overdue(&self) -> End {
        End::Close(
            match self.conn.phase() {
                Phase::Idle => Reason::IdleTimeout,
                Phase::Greeting | Phase::Silent | Phase::Head => Reason::InitTimeout,
                _ if self.session.inbound.check_time(self.conn.now_ms()).is_err() => Reason::FragmentTimeout,
                _ => Reason::ReadTimeout,
            },
            None,
        )
    }

    /// Takes every message that has arrived whole.
    fn take(&mut self) -> Result<(), End> {
        let now_ms = self.conn.now_ms();
        loop {
            let next = self.session.inbound.check_time(now_ms).map_err(Fault::Close);
            let message = match next.and_then(|()| self.session.inbound.next(&mut self.arrived, now_ms)) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(Fault::NotIicp) => return Err(End::Silent),
                Err(Fault::Close(reason)) => return Err(self.fault(reason)),
            };
            self.progressed = true;
            if self.leaving.is_some() {
                continue;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            match self.session.take(message, &self.native.node_id, now, &mut self.out) {
                Ok(Step::Nothing) => {}
                Ok(Step::Run(ticket, asked)) => self.begin(ticket, asked),
                Ok(Step::Cancel(call_id)) => {
                    if let Some(call) = self.session.ended(&call_id) {
                        call.stop.abort();
                    }
                }
                Ok(Step::Credit(call_id, bytes)) => {
                    if let Some(call) = self.session.running(&call_id) {
                        add_credit(&call.credit, bytes);
                    }
                }
                Ok(Step::Leave { answered }) => self.leaving = Some(answered),
                Err(reason) => return Err(self.fault(reason)),
            }
        }
        if self.arrived.is_empty() {
            // An idle connection holds no buffer.
            self.arrived = BytesMut::new();
        }
        let held = self.arrived.len() + self.session.inbound.held();
        self.held.note(held).map_err(|TooMuch| self.fault(Reason::ReassemblyLimitExceeded))
    }

    fn fault(&self, reason: Reason) -> End {
        tracing::warn!(target: telemetry::TRANSPORT, peer = %self.conn.peer, %reason, "a native peer sent what it may not");
        End::Close(
            reason,
            match reason {
                Reason::VersionMismatch => Some("server_max=1"),
                Reason::VersionTooOld => Some("server_min=1"),
                _ => None,
            },
        )
    }

    fn begin(&mut self, ticket: Ticket, asked: Box<Asked>) {
        let most = self.native.max_body_bytes;
        if asked.len() > most {
            let why = Refusal::new(413, "request_too_large", format!("the task is larger than {most} bytes"));
            return self.session.answer(&ticket, Outcome::Refused(why), &mut self.out);
        }
        let (admission, peer, call_id) = (self.native.admission.clone(), self.conn.peer, ticket.call_id.clone());
        let (credit, sizes) = (credit(), self.session.sizes(&ticket));
        let answering = Answering { ticket, pieces: self.pieces.0.clone(), credit: credit.clone(), sizes };
        let stop = self.calls.spawn(answering.run(admission, asked, peer));
        self.session.began(call_id, Running { stop, credit });
    }

    /// Writes parts that have been made. Those of a call that was cancelled are nobody's.
    fn add_parts(&mut self, mut next: Option<Piece>) -> Result<(), End> {
        while let Some(Piece { call_id, kind, frame }) = next.take() {
            if self.session.running(&call_id).is_some() {
                let begun = self.out.len();
                self.out.extend_from_slice(&frame);
                if kind == Kind::Response {
                    self.session.pack(begun, &mut self.out).map_err(|reason| End::Close(reason, None))?;
                }
            }
            if self.out.len() < WRITE_AT {
                next = self.pieces.1.try_recv().ok();
            }
        }
        Ok(())
    }

    /// Writes the answer to a call that is over, and to all others that are. A call that was cancelled has none.
    fn finish(&mut self, done: Result<(Ticket, Ended), tokio::task::JoinError>) -> Result<(), End> {
        let mut next = Some(done);
        while let Some(done) = next.take() {
            // Its parts come before its end; they are among so many.
            for _ in 0..MOST_PIECES {
                let Ok(piece) = self.pieces.1.try_recv() else { break };
                self.add_parts(Some(piece))?;
            }
            if let Ok((ticket, ended)) = done
                && self.session.ended(&ticket.call_id).is_some()
            {
                match ended {
                    Ended::Whole(outcome) => self.session.answer(&ticket, outcome, &mut self.out),
                    Ended::Parts => ticket.end_of_parts(&mut self.out),
                    Ended::Nothing => {}
                }
            }
            if self.out.len() < WRITE_AT {
                next = self.calls.try_join_next();
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        tokio::select! {
            written = write_all(&mut self.stream, &self.out) => written?,
            // A peer that does not read what is written gets no last words either.
            () = self.conn.told() => return Err(End::Silent),
        }
        self.out.clear();
        if self.out.capacity() > WRITE_AT || self.session.is_idle() {
            self.out = Vec::new();
        }
        Ok(())
    }

    async fn say_goodbye(&mut self, reason: Reason, message: Option<&str>) {
        let mut last = std::mem::take(&mut self.out);
        if write_close(&mut last, reason, message).is_err() {
            return;
        }
        let farewell = async {
            write_all(&mut self.stream, &last).await?;
            self.stream.shutdown().await?;
            // Closing on unread data would reset the connection, and take our last words with it.
            let mut rest = [0; 1024];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

async fn write_all(stream: &mut impl Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Reads what has come. Room grows with what is there, so that a frame that only says it is large costs nothing.
async fn read(stream: &mut impl Stream, arrived: &mut BytesMut, missing: usize) -> io::Result<usize> {
    if arrived.is_empty() {
        stream.readable().await;
    }
    arrived.reserve(missing.min(arrived.len()).clamp(FIRST_ROOM, MOST_ROOM));
    stream.read_buf(arrived).await
}
