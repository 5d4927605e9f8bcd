//! Watching connections: in which phase each one is, since when, and when it has to go.
//!
//! A connection carries no timer of its own. It notes its phase in a few atomics; one sweeper per server looks at all
//! of them four times a second. That costs a request some stores instead of five timer registrations, and an idle
//! connection no memory beyond the note.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::arriving::{Arriving, Share};
use crate::runtime::TaskGroup;

/// How often the sweeper looks; every deadline is met to within this.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// Least rate of a body or an answer, over every stretch as long as its grace.
const LEAST_BYTES_PER_S: u64 = 1024;

/// Longest time from the first byte of a frame to its last (specification: 9.6).
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections of a server that may keep their buffers while they are idle. Those of a busy server are few and made ready
/// for the next request; thousands that wait are to cost no more than they have to.
const MOST_READY: usize = 256;

/// What a connection is doing, which decides what it may take how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Connected, nothing read yet.
    Silent,
    /// TLS is being agreed on.
    Handshake,
    /// Between two requests.
    Idle,
    /// Reading a request's head.
    Head,
    /// Reading a request's body.
    Body,
    /// The request is being handled; its own deadline applies.
    Handling,
    /// The peer does not take the answer as fast as it is written.
    Answering,
    /// The answer is made while it is sent, and the peer has taken all that was made; the task's deadline applies.
    Streaming,
    /// Native: the peer has yet to introduce itself.
    Greeting,
    /// Native: a frame has begun and is not whole.
    Frame,
}

impl Phase {
    pub(crate) const ALL: [Phase; 10] = [
        Phase::Silent,
        Phase::Handshake,
        Phase::Idle,
        Phase::Head,
        Phase::Body,
        Phase::Handling,
        Phase::Answering,
        Phase::Streaming,
        Phase::Greeting,
        Phase::Frame,
    ];

    fn from_u8(value: u8) -> Phase {
        Phase::ALL[usize::from(value).min(Phase::ALL.len() - 1)]
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Phase::Silent => "silent",
            Phase::Handshake => "handshake",
            Phase::Idle => "idle",
            Phase::Head => "head",
            Phase::Body => "body",
            Phase::Handling => "handling",
            Phase::Answering => "answering",
            Phase::Streaming => "streaming",
            Phase::Greeting => "greeting",
            Phase::Frame => "frame",
        }
    }
}

/// How long a connection may stay in which phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) transfer_grace: Duration,
}

/// Time in milliseconds, read by every request and moved on by the sweeper: a load instead of a system call.
#[derive(Debug)]
struct CoarseClock {
    start: Instant,
    now_ms: AtomicU64,
}

impl CoarseClock {
    fn tick(&self) -> u64 {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.now_ms.store(now, Relaxed);
        now
    }
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) peer: SocketAddr,
    clock: Arc<CoarseClock>,
    arriving: Arriving,
    open: Arc<AtomicUsize>,
    phase: AtomicU8,
    since_ms: AtomicU64,
    moved: AtomicU64,
    /// More of the answer is being made.
    streams: AtomicBool,
    /// Something of the request's body may still have to come.
    body_left: AtomicBool,
    refused: AtomicBool,
    secure: AtomicBool,
    cut: OnceLock<AbortHandle>,
    /// Whether the connection says goodbye when its time is over; it is cut if it has not gone a sweep later.
    polite: AtomicBool,
    overdue: Notify,
}

impl Conn {
    pub(crate) fn enter(&self, phase: Phase) {
        self.since_ms.store(self.clock.now_ms.load(Relaxed), Relaxed);
        self.moved.store(0, Relaxed);
        self.phase.store(phase as u8, Relaxed);
    }

    /// An answer begins that is made while it is sent.
    pub(super) fn begin_stream(&self) {
        self.streams.store(true, Relaxed);
        self.enter(Phase::Streaming);
    }

    /// All of it was made; what is left is to send it.
    pub(super) fn end_stream(&self) {
        self.streams.store(false, Relaxed);
        self.enter(Phase::Answering);
    }

    /// What passes from now on is for the two ends alone. Inside, the peer has yet to begin.
    pub(crate) fn is_sealed_now(&self) {
        self.secure.store(true, Relaxed);
        self.enter(Phase::Silent);
    }

    /// Whether it runs over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure.load(Relaxed)
    }

    /// Whether the peer is on this machine.
    pub(crate) fn is_from_here(&self) -> bool {
        self.peer.ip().to_canonical().is_loopback()
    }

    /// From now on the connection is told when it is overdue, before it is cut.
    pub(crate) fn will_say_goodbye(&self) {
        self.polite.store(true, Relaxed);
    }

    /// Resolves when the connection's time is over; see [`Conn::will_say_goodbye`].
    pub(crate) async fn told(&self) {
        self.overdue.notified().await;
    }

    /// Milliseconds since the server began, by its coarse clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms.load(Relaxed)
    }

    /// What this connection has of all that arrives at the server.
    pub(crate) fn share(&self) -> Share {
        self.arriving.share()
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Relaxed))
    }

    /// Whether a body belongs to the request of which not all was read: it is not the beginning of the next one.
    pub(super) fn body_is_left(&self, left: bool) {
        self.body_left.store(left, Relaxed);
    }

    /// Whether it is between two requests, at a server that has too many connections for all to keep their buffers.
    pub(super) fn should_rest(&self) -> bool {
        self.phase() == Phase::Idle && self.open.load(Relaxed) > MOST_READY && !self.body_left.load(Relaxed)
    }

    fn overdue(&self, now_ms: u64, deadlines: &Deadlines) -> bool {
        let elapsed = now_ms.saturating_sub(self.since_ms.load(Relaxed));
        let over = |limit: Duration| u128::from(elapsed) > limit.as_millis();
        match self.phase() {
            Phase::Silent | Phase::Handshake | Phase::Head | Phase::Greeting => over(deadlines.head),
            Phase::Frame => over(FRAME_TIMEOUT),
            Phase::Idle => over(deadlines.idle),
            Phase::Body | Phase::Answering if !over(deadlines.transfer_grace) => false,
            // Each stretch is judged by itself: megabytes at the start buy no hours of silence after them.
            Phase::Body | Phase::Answering => {
                self.since_ms.store(now_ms, Relaxed);
                self.moved.swap(0, Relaxed) < elapsed * LEAST_BYTES_PER_S / 1000
            }
            Phase::Handling | Phase::Streaming => false,
        }
    }

    fn cut(&self) {
        if let Some(task) = self.cut.get() {
            task.abort();
        }
    }
}

/// Every open connection of a server.
#[derive(Debug)]
pub(crate) struct ConnTable {
    clock: Arc<CoarseClock>,
    arriving: Arriving,
    deadlines: Deadlines,
    slots: Mutex<Slots>,
    /// Connections that are open now.
    open: Arc<AtomicUsize>,
    /// Connections that have come in until now.
    arrived: AtomicU64,
    cut_by_phase: [AtomicU64; Phase::ALL.len()],
}

#[derive(Debug, Default)]
struct Slots {
    conns: Vec<Option<Arc<Conn>>>,
    free: Vec<usize>,
    /// Idle connections found by the last search for one to give way, longest idle last.
    give_way: Vec<(usize, Arc<Conn>)>,
}

/// Keeps a connection in the table; leaves it when dropped, however the connection's task ends.
#[derive(Debug)]
pub(crate) struct Entry {
    table: Arc<ConnTable>,
    slot: usize,
    pub(crate) conn: Arc<Conn>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut slots = self.table.lock();
        slots.conns[self.slot] = None;
        slots.free.push(self.slot);
        self.table.open.fetch_sub(1, Relaxed);
    }
}

impl Entry {
    /// Says which task to abort when the connection has to go.
    pub(crate) fn conn_task(conn: &Conn, task: AbortHandle) {
        let _ = conn.cut.set(task);
    }
}

impl ConnTable {
    /// Cuts what is overdue for as long as the group lives, and all that is left when it is aborted.
    pub(crate) fn watch_over(self: &Arc<Self>, group: &TaskGroup) {
        let (table, aborted) = (self.clone(), group.aborted());
        group.spawn_watcher(async move {
            let mut tick = tokio::time::interval(SWEEP_EVERY);
            let mut aborted = std::pin::pin!(aborted);
            loop {
                tokio::select! {
                    () = &mut aborted => break,
                    _ = tick.tick() => table.sweep(),
                }
            }
            table.cut_all();
        });
    }

    pub(crate) fn new(deadlines: Deadlines) -> Arc<Self> {
        let clock = Arc::new(CoarseClock { start: Instant::now(), now_ms: AtomicU64::new(0) });
        Arc::new(ConnTable {
            clock,
            arriving: Arriving::default(),
            deadlines,
            slots: Mutex::default(),
            open: Arc::default(),
            arrived: AtomicU64::new(0),
            cut_by_phase: Default::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        // A panic while the lock is held leaves the slots whole: every change is a single assignment.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(self: &Arc<Self>, peer: SocketAddr) -> Entry {
        let conn = Arc::new(Conn {
            peer,
            clock: self.clock.clone(),
            arriving: self.arriving.clone(),
            open: self.open.clone(),
            phase: AtomicU8::new(Phase::Silent as u8),
            since_ms: AtomicU64::new(self.clock.now_ms.load(Relaxed)),
            moved: AtomicU64::new(0),
            streams: AtomicBool::new(false),
            body_left: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            secure: AtomicBool::new(false),
            cut: OnceLock::new(),
            polite: AtomicBool::new(false),
            overdue: Notify::new(),
        });
        self.arrived.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        let mut slots = self.lock();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.conns.push(None);
            slots.conns.len() - 1
        });
        slots.conns[slot] = Some(conn.clone());
        Entry { table: self.clone(), slot, conn }
    }

    /// Connections that have come in until now.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    /// Connections that are open now.
    pub(crate) fn len(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Connections cut so far because the peer was too slow in this phase.
    pub(crate) fn cut_count(&self, phase: Phase) -> u64 {
        self.cut_by_phase[phase as usize].load(Relaxed)
    }

    /// Moves the clock on and cuts what is overdue.
    pub(crate) fn sweep(&self) {
        let now = self.clock.tick();
        let overdue: Vec<Arc<Conn>> = {
            let slots = self.lock();
            slots.conns.iter().flatten().filter(|conn| conn.overdue(now, &self.deadlines)).cloned().collect()
        };
        for conn in overdue {
            if !conn.refused.swap(true, Relaxed) {
                self.cut_by_phase[conn.phase() as usize].fetch_add(1, Relaxed);
                if conn.polite.load(Relaxed) {
                    conn.overdue.notify_one();
                    continue;
                }
            }
            conn.cut();
        }
    }

    /// Cuts the connection that has been without a request for longest. False if every one is at work.
    pub(crate) fn make_room(&self) -> bool {
        let mut slots = self.lock();
        let waits = |conn: &Conn| {
            let phase = conn.phase();
            matches!(phase, Phase::Silent | Phase::Handshake | Phase::Idle | Phase::Head | Phase::Greeting)
        };
        for fresh in [false, true] {
            if fresh {
                let mut found: Vec<(usize, Arc<Conn>)> = (slots.conns.iter().enumerate())
                    .filter_map(|(slot, conn)| {
                        conn.as_ref().filter(|conn| waits(conn)).map(|conn| (slot, conn.clone()))
                    })
                    .collect();
                found.sort_by_key(|(_, conn)| std::cmp::Reverse(conn.since_ms.load(Relaxed)));
                slots.give_way = found;
            }
            while let Some((slot, conn)) = slots.give_way.pop() {
                let still_there = slots.conns[slot].as_ref().is_some_and(|there| Arc::ptr_eq(there, &conn));
                if still_there && waits(&conn) && !conn.refused.swap(true, Relaxed) {
                    conn.cut();
                    return true;
                }
            }
        }
        false
    }

    /// Cuts every connection.
    pub(crate) fn cut_all(&self) {
        let all: Vec<Arc<Conn>> = self.lock().conns.iter().flatten().cloned().collect();
        for conn in all {
            conn.cut();
        }
    }
}

/// A stream that can say that something is there to be read, before anybody makes room for it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    /// Resolves when there may be something to read, or the stream is over. One that cannot tell resolves at once.
    fn readable(&self) -> impl Future<Output = ()> + Send;
}

impl Stream for TcpStream {
    async fn readable(&self) {
        // What is wrong with the socket, reading tells.
        let _ = TcpStream::readable(self).await;
    }
}

/// A stream that tells its [`Conn`] what passes.
#[derive(Debug)]
pub(crate) struct Watched<S = TcpStream> {
    stream: S,
    conn: Arc<Conn>,
    /// The peer has once not taken at once what was written of this answer.
    stalled: bool,
}

impl<S: Stream> Watched<S> {
    pub(crate) fn new(stream: S, conn: Arc<Conn>) -> Self {
        Watched { stream, conn, stalled: false }
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            // From here on the peer's own pace is counted, not what went into the system's buffers.
            Poll::Pending if !self.stalled && self.conn.phase() != Phase::Handshake => {
                self.stalled = true;
                self.conn.enter(Phase::Answering);
            }
            Poll::Ready(Ok(n)) => {
                self.conn.moved.fetch_add(*n as u64, Relaxed);
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl<S: Stream> Stream for Watched<S> {
    fn readable(&self) -> impl Future<Output = ()> + Send {
        self.stream.readable()
    }
}

impl<S: Stream> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let (n, conn) = (buf.filled().len() - before, &self.conn);
        match conn.phase() {
            Phase::Silent | Phase::Idle if n > 0 => conn.enter(Phase::Head),
            Phase::Body => {
                conn.moved.fetch_add(n as u64, Relaxed);
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // The server flushes when all it had to write is written: the answer is out of its hands.
        if matches!(result, Poll::Ready(Ok(()))) && self.conn.phase() == Phase::Answering {
            self.stalled = false;
            let goes_on = self.conn.streams.load(Relaxed);
            self.conn.enter(if goes_on { Phase::Streaming } else { Phase::Idle });
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Arc<ConnTable> {
        let second = Duration::from_secs(1);
        ConnTable::new(Deadlines { head: second, idle: 10 * second, transfer_grace: second })
    }

    fn entry(table: &Arc<ConnTable>) -> Entry {
        table.enter(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    #[test]
    fn each_phase_has_its_own_deadline() {
        let table = table();
        let entry = entry(&table);
        let overdue = |ms| entry.conn.overdue(ms, &table.deadlines);
        assert!(!overdue(1000) && overdue(1001), "silent");
        entry.conn.enter(Phase::Head);
        assert!(!overdue(1000) && overdue(1001), "head");
        entry.conn.enter(Phase::Idle);
        assert!(!overdue(10_000) && overdue(10_001), "idle");
        entry.conn.enter(Phase::Handling);
        assert!(!overdue(1_000_000), "a handler has its own deadline");
    }

    #[test]
    fn a_body_must_keep_its_least_rate_in_every_stretch() {
        let table = table();
        let entry = entry(&table);
        entry.conn.enter(Phase::Body);
        entry.conn.moved.store(1 << 20, Relaxed);
        assert!(!entry.conn.overdue(1000, &table.deadlines), "within its grace");
        assert!(!entry.conn.overdue(1001, &table.deadlines), "a good stretch");
        entry.conn.moved.store(1024, Relaxed);
        assert!(!entry.conn.overdue(2001, &table.deadlines), "a stretch is not judged before its end");
        assert!(entry.conn.overdue(2252, &table.deadlines), "what came before it does not count");
    }

    #[test]
    fn an_entry_leaves_the_table_when_dropped_and_its_slot_is_used_again() {
        let table = table();
        let (first, second) = (entry(&table), entry(&table));
        assert_eq!(table.len(), 2);
        drop(first);
        let third = entry(&table);
        assert_eq!((table.len(), third.slot), (2, 0));
        drop((second, third));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn room_is_made_by_the_longest_idle_and_never_by_a_working_connection() {
        let table = table();
        let entries: Vec<Entry> = (0..3).map(|_| entry(&table)).collect();
        entries[0].conn.enter(Phase::Handling);
        entries[1].conn.since_ms.store(5, Relaxed);
        entries[2].conn.since_ms.store(3, Relaxed);
        assert!(table.make_room());
        assert!(entries[2].conn.refused.load(Relaxed), "the longest idle goes first");
        assert!(table.make_room() && entries[1].conn.refused.load(Relaxed));
        assert!(!table.make_room() && !entries[0].conn.refused.load(Relaxed));
    }
}
