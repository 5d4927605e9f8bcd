//! One worker's connection: writes what its session has for it, reads what it says.
//!
//! Thousands of these wait for nothing most of the time, so one that waits holds a header's worth of bytes and no buffer:
//! what is read goes through the stack of whoever polls, and memory is taken for a frame when its bytes arrive.

use std::future::Future;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use std::collections::VecDeque;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{Closed, Next, Overrun, Session};
use super::{HeldAnswer, Relay};
use crate::wire::frame::{CustomKinds, HEADER_BYTES, Header, Kind};
use crate::wire::message;
use crate::wire::relay::{self as words, MOST_PART, PART, Part, Response};

/// Read in one go.
const SCRATCH: usize = 16 << 10;
/// Reads in a row before others get their turn.
const MOST_READS: usize = 16;
/// Gathered before it is written.
const BATCH: usize = 64 << 10;
/// Pieces that are written in one go.
const MOST_PIECES: usize = 64;
/// Largest frame of a worker that was asked nothing.
const MOST_UNASKED: usize = 64 << 10;
/// Largest frame that carries no answer.
const MOST_SMALL: usize = 1 << 10;

/// The one word of our own that a worker says.
const PARTS: CustomKinds = CustomKinds(1 << (PART.byte() - 0xf0));

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The relay ended the session.
    Dismissed,
    /// The worker said good-bye.
    Left,
    /// The connection broke or was closed.
    Lost,
    /// The worker said what it must not.
    Broken,
}

/// What was read of the frame that is arriving.
enum Arriving {
    Head { bytes: [u8; HEADER_BYTES], have: usize },
    Body { kind: Kind, need: usize, bytes: BytesMut, held: Option<HeldAnswer> },
}

impl Arriving {
    const NOTHING: Arriving = Arriving::Head { bytes: [0; HEADER_BYTES], have: 0 };
}

pub(super) struct Driver<Io> {
    io: Io,
    relay: Arc<Relay>,
    session: Arc<Session>,
    arriving: Arriving,
    leaving: VecDeque<Bytes>,
    /// What waits to be written has waited for others to join it.
    gathered: bool,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    pub(super) fn new(io: Io, relay: Arc<Relay>, session: Arc<Session>) -> Self {
        Driver { io, relay, session, arriving: Arriving::NOTHING, leaving: VecDeque::new(), gathered: false }
    }

    /// Writes until nothing is left, or the worker takes no more.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            let over = self.gather().is_err();
            if self.leaving.is_empty() {
                self.leaving = VecDeque::new();
                return self.flush(cx, over);
            }
            let mut pieces = [IoSlice::new(&[]); MOST_PIECES];
            let mut count = 0;
            for (piece, bytes) in pieces.iter_mut().zip(&self.leaving) {
                *piece = IoSlice::new(bytes);
                count += 1;
            }
            match Pin::new(&mut self.io).poll_write_vectored(cx, &pieces[..count]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.session.liveness.took();
                    self.wrote(n);
                }
                Poll::Ready(_) => return Err(Ended::Lost),
                // A last word is said once; nobody waits until it is heard.
                Poll::Pending if over => return Err(Ended::Dismissed),
                Poll::Pending => {
                    self.session.liveness.stuck(self.relay.now_ms());
                    return Ok(());
                }
            }
        }
    }

    /// TLS may hold back what it has taken.
    fn flush(&mut self, cx: &mut Context<'_>, over: bool) -> Result<(), Ended> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            _ if over => return Err(Ended::Dismissed),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Ended::Lost),
            Poll::Pending => self.session.liveness.stuck(self.relay.now_ms()),
        }
        Ok(())
    }

    fn gather(&mut self) -> Result<(), Closed> {
        let mut bytes: usize = self.leaving.iter().map(Bytes::len).sum();
        while bytes < BATCH {
            match self.session.next()? {
                None => break,
                Some(Next::Control(frame)) => {
                    bytes += frame.len();
                    self.leaving.push_back(frame);
                }
                Some(Next::Call { call, body, facts }) => {
                    bytes += body.len();
                    self.leaving
                        .extend(words::write_call(call, &body, &facts).into_iter().filter(|piece| !piece.is_empty()));
                }
            }
        }
        Ok(())
    }

    fn wrote(&mut self, mut n: usize) {
        while let Some(front) = self.leaving.front_mut() {
            if n < front.len() {
                front.advance(n);
                return;
            }
            n -= front.len();
            self.leaving.pop_front();
        }
    }

    /// Reads until nothing more has come.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        for _ in 0..MOST_READS {
            if self.is_held_up() {
                return Ok(());
            }
            let mut scratch = [MaybeUninit::uninit(); SCRATCH];
            let mut buffer = ReadBuf::uninit(&mut scratch[..self.wanted()]);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.session.liveness.heard(self.relay.now_ms());
                    self.take(buffer.filled())?;
                }
                Poll::Ready(_) => return Err(Ended::Lost),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// How much is read in one go: a frame that has to wait for room is not read beyond.
    fn wanted(&self) -> usize {
        match &self.arriving {
            Arriving::Body { need, bytes, .. } => (need - bytes.len()).clamp(HEADER_BYTES, SCRATCH),
            Arriving::Head { .. } => SCRATCH,
        }
    }

    /// Whether there is no room for the answer that has begun to arrive.
    fn is_held_up(&mut self) -> bool {
        let Arriving::Body { kind: Kind::Response | PART, need, held: held @ None, .. } = &mut self.arriving else {
            return false;
        };
        *held = self.relay.hold_answer(*need);
        self.session.pause(held.is_none());
        held.is_none()
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), Ended> {
        while !data.is_empty() {
            match &mut self.arriving {
                Arriving::Head { bytes, have } => {
                    let n = data.len().min(HEADER_BYTES - *have);
                    bytes[*have..*have + n].copy_from_slice(&data[..n]);
                    data = &data[n..];
                    *have += n;
                    if *have == HEADER_BYTES {
                        let header = Header::read(bytes).map_err(|_| Ended::Broken)?;
                        let (kind, need) = self.judge(header)?;
                        self.arriving = Arriving::Body { kind, need, bytes: BytesMut::new(), held: None };
                        if need == 0 {
                            self.whole()?;
                        }
                    }
                }
                Arriving::Body { need, bytes, .. } => {
                    let n = data.len().min(*need - bytes.len());
                    bytes.extend_from_slice(&data[..n]);
                    data = &data[n..];
                    if bytes.len() == *need {
                        self.whole()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What a bound worker may say, and how much of it.
    fn judge(&self, header: Header) -> Result<(Kind, usize), Ended> {
        let words = if self.session.ours { PARTS } else { CustomKinds::default() };
        let kind = header.judge(words).map_err(|_| Ended::Broken)?;
        let need = usize::try_from(header.length).map_err(|_| Ended::Broken)?;
        let most = match kind {
            Kind::Response if self.session.is_asked() => usize::MAX,
            Kind::Response => MOST_UNASKED,
            PART => MOST_PART + MOST_SMALL,
            Kind::Ping | Kind::Pong | Kind::Close => MOST_SMALL,
            _ => return Err(Ended::Broken),
        };
        if need <= most { Ok((kind, need)) } else { Err(Ended::Broken) }
    }

    /// A frame is there.
    fn whole(&mut self) -> Result<(), Ended> {
        let Arriving::Body { kind, bytes, held, .. } = std::mem::replace(&mut self.arriving, Arriving::NOTHING) else {
            return Ok(());
        };
        match kind {
            Kind::Ping => {
                let echo = message::read_echo(&bytes).map_err(|_| Ended::Broken)?;
                self.session.control(words::write_echo(Kind::Pong, echo.unwrap_or_default()));
                Ok(())
            }
            PART => {
                let bytes = self.held(bytes, held);
                let Some(Part { call, body, beginning }) = Part::read(&bytes).map_err(|_| Ended::Broken)? else {
                    return Ok(());
                };
                self.session.part(call, body, beginning).map_err(|Overrun| Ended::Broken)
            }
            Kind::Response => {
                let bytes = self.held(bytes, held);
                // An answer that nobody waits for is nothing to anybody.
                match Response::read(&bytes) {
                    Ok(Some(Response { call, body, status })) => drop(self.session.settle(call, body, status)),
                    Ok(None) => {}
                    Err(_) => return Err(Ended::Broken),
                }
                Ok(())
            }
            Kind::Close => Err(Ended::Left),
            _ => Ok(()),
        }
    }

    /// What has arrived of an answer, which holds its room from now on.
    fn held(&self, bytes: BytesMut, held: Option<HeldAnswer>) -> Bytes {
        let held = held.or_else(|| self.relay.hold_answer(bytes.len()));
        let bytes = bytes.freeze();
        match held {
            Some(held) => held.with(bytes),
            None => bytes,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        self.session.register(cx);
        // The callers that are about to run may have calls for this worker as well. What they add goes out with the first:
        // a write costs several times what is written.
        self.gathered = !self.gathered && self.session.has_calls();
        if self.gathered {
            cx.waker().wake_by_ref();
        } else {
            self.write(cx)?;
        }
        self.read(cx)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Future for Driver<Io> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        match self.get_mut().turn(cx) {
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(ended),
        }
    }
}
