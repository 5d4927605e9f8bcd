//! A native connection's own task: it reads the answers, writes what the calls could not, and says goodbye.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::native_link::Link;
use super::native_socket::{Half, Pen, Socket};
use crate::protocol::session::{AGREED, CALLS};
use crate::telemetry;
use crate::wire::frame::{HEADER_BYTES, Kind, MAX_PAYLOAD, Reason, VERSION};
use crate::wire::inbound::{Fault, Inbound, Message};
use crate::wire::message::{Ack, Init, write_close};

/// How long a goodbye may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The longest answer to a greeting.
const MAX_ACK: usize = 64 << 10;

/// How a peer takes calls, as its answer to the greeting shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// As HTTP has them, in payloads of at most so many bytes.
    Ours { max_payload: usize },
    /// As published nodes do; and the node that it says it is.
    Published { node_id: Box<str> },
}

impl Spoken {
    /// Published nodes say their version and who they are, and nothing else. Who does not say who it is may be the port on
    /// which a published relay takes workers, where a call would be lost; who says more speaks the specification's way,
    /// which nobody is known to serve.
    fn of(ack: &Ack<'_>) -> Result<Spoken, &'static str> {
        let said_more = ack.compression.is_some() || ack.max_frame_size.is_some() || ack.server_time.is_some();
        match (ack.version == Some(u64::from(VERSION)), &ack.capabilities, ack.node_id) {
            (false, ..) => Err("it answered with another version"),
            (true, Some(known), _) if known.contains(&CALLS) => {
                let max = ack.max_frame_size.map_or(MAX_PAYLOAD, |max| usize::try_from(max).unwrap_or(MAX_PAYLOAD));
                Ok(Spoken::Ours { max_payload: max })
            }
            (true, None, Some(node_id)) if !said_more => Ok(Spoken::Published { node_id: node_id.into() }),
            (true, None, None) if !said_more => Err("it does not say which node it is"),
            _ => Err("it takes calls in no form that is known here"),
        }
    }
}

#[cfg(feature = "punch")]
impl Link {
    /// Greets a peer of our kind. The connection is closed when nothing was asked for `idle`.
    pub(crate) async fn greet(socket: Socket, idle: Duration) -> Result<(Arc<Link>, Answers), &'static str> {
        match Answers::greet(socket).await? {
            (answers, Spoken::Ours { max_payload }) => Ok((Link::new(answers.direct(), max_payload, idle), answers)),
            (_, Spoken::Published { .. }) => Err("it does not know calls as HTTP has them"),
        }
    }
}

/// The connection's own side of it: reads answers, and writes what the calls could not.
pub(crate) struct Answers {
    pub(super) half: Half,
    pub(super) pen: Pen,
    pub(super) inbound: Inbound,
    pub(super) arrived: BytesMut,
}

impl Answers {
    fn over(socket: Socket) -> Self {
        let (half, pen) = socket.halves();
        let mut inbound = Inbound::default();
        // Nobody was told that what comes may be compressed.
        inbound.uncompressed = true;
        Answers { half, pen, inbound, arrived: BytesMut::new() }
    }

    /// Greets a peer, and finds out how it takes calls.
    ///
    /// # Errors
    /// Why it is left to HTTP.
    pub(super) async fn greet(socket: Socket) -> Result<(Answers, Spoken), &'static str> {
        let mut hello = Vec::new();
        let init = Init {
            version: Some(u64::from(VERSION)),
            min_version: Some(u64::from(VERSION)),
            capabilities: vec![CALLS],
            max_frame_size: Some(MAX_PAYLOAD as u64),
            ..Init::default()
        };
        init.write(&mut hello).map_err(|_| "the greeting could not be written")?;
        let mut answers = Answers::over(socket);
        answers.pen.write(&hello).await.map_err(|_| "the connection broke")?;
        let message =
            answers.next_within(MAX_ACK).await.map_err(|_| "it hung up on the greeting, or speaks something else")?;
        let ack = (message.kind == Kind::Ack).then(|| Ack::read(&message.payload).ok()).flatten();
        let spoken = Spoken::of(&ack.ok_or("it did not answer the greeting")?)?;
        if let Spoken::Ours { .. } = spoken {
            (answers.inbound.parts, answers.inbound.agreed) = (true, AGREED);
        }
        Ok((answers, spoken))
    }

    /// The socket, if others may write to it.
    pub(super) fn direct(&self) -> Option<Arc<TcpStream>> {
        match &self.half {
            Half::Plain(stream) => Some(stream.clone()),
            Half::Secured(_) => None,
        }
    }

    /// The next message, if its frame is no longer than this: of a longer one no more is read than says so.
    pub(super) async fn next_within(&mut self, most: usize) -> Result<Message, Fault> {
        loop {
            if let Some(message) = self.inbound.next(&mut self.arrived, 0)? {
                return Ok(message);
            }
            if self.arrived.is_empty() {
                // An idle connection holds no buffer.
                self.arrived = BytesMut::new();
            }
            let missing = self.inbound.missing(&self.arrived);
            if self.arrived.len() + missing > HEADER_BYTES.saturating_add(most) {
                return Err(Fault::Close(Reason::PayloadTooLarge));
            }
            if self.half.read(&mut self.arrived, missing).await.unwrap_or(0) == 0 {
                return Err(Fault::NotIicp);
            }
        }
    }

    /// Serves the connection until one side is done with it.
    pub(crate) async fn serve(mut self, link: &Link, closing: impl Future<Output = ()>) {
        let _closes = CloseOnDrop(link);
        let Answers { half, pen, inbound, arrived } = &mut self;
        let reading = async {
            loop {
                let now_ms = crate::options::millis(link.since.elapsed());
                let taken = inbound.check_time(now_ms).map_err(Fault::Close);
                match taken.and_then(|()| inbound.next(arrived, now_ms)) {
                    Ok(Some(message)) => match link.take(&message) {
                        Ok(()) => continue,
                        Err(reason) => return Some(reason),
                    },
                    Ok(None) => {}
                    Err(Fault::Close(reason)) => return Some(reason),
                    Err(Fault::NotIicp) => return None,
                }
                if arrived.is_empty() {
                    // An idle connection holds no buffer.
                    *arrived = BytesMut::new();
                }
                let missing = inbound.missing(arrived);
                if half.read(arrived, missing).await.unwrap_or(0) == 0 {
                    return None;
                }
                link.heard();
            }
        };
        let reason = tokio::select! {
            reason = reading => reason,
            _ = pen.write_queued(link) => None,
            reason = link.watch() => reason,
            () = closing => Some(Reason::Graceful),
        };
        if let Some(reason) = reason {
            if reason != Reason::Graceful {
                tracing::warn!(target: telemetry::TRANSPORT, %reason, "a node sent native frames that it may not");
            }
            link.close();
            let mut last = Vec::new();
            if write_close(&mut last, reason, None).is_ok() {
                let _ = tokio::time::timeout(FAREWELL, self.pen.write(&last)).await;
            }
        }
    }
}

struct CloseOnDrop<'a>(&'a Link);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
