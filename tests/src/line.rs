//! The line between callers and a server: cut while it is used, or silent for a while, one way or both.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Which ways nothing passes. What was sent stays on its way until it may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// From callers to the server.
    pub to_server: bool,
    /// From the server to callers.
    pub to_callers: bool,
}

/// The line. Dropping it cuts all connections, and nobody listens any more.
#[derive(Debug)]
pub struct Line {
    addr: SocketAddr,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    silence: watch::Sender<Silence>,
    _tasks: JoinSet<()>,
}

impl Line {
    /// Listens on a port of loopback for a server.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(server: SocketAddr) -> io::Result<Line> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (open, silence) = (Arc::new(Mutex::new(Vec::new())), watch::Sender::default());
        let (all, heard, mut tasks) = (open.clone(), silence.subscribe(), JoinSet::new());
        tasks.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                while conns.try_join_next().is_some() {}
                let cut = conns.spawn(connect(caller, server, heard.clone()));
                let mut all = lock(&all);
                all.retain(|one: &AbortHandle| !one.is_finished());
                all.push(cut);
            }
        });
        Ok(Line { addr, open, silence, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Keeps silent from now on, or no longer.
    pub fn set_silence(&self, silence: Silence) {
        self.silence.send_replace(silence);
    }

    /// Cuts one connection, chosen by any number, with a reset for both ends. False if there is none.
    pub fn cut(&self, any: usize) -> bool {
        let mut all = lock(&self.open);
        all.retain(|one| !one.is_finished());
        let Some(at) = any.checked_rem(all.len()) else { return false };
        all.swap_remove(at).abort();
        true
    }
}

fn lock(open: &Mutex<Vec<AbortHandle>>) -> MutexGuard<'_, Vec<AbortHandle>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connect(caller: TcpStream, server: SocketAddr, silence: watch::Receiver<Silence>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Whoever is cut off hears of it by a reset.
    for stream in [&caller, &server] {
        let _ = (stream.set_nodelay(true), stream.set_zero_linger());
    }
    let ((from_caller, to_caller), (from_server, to_server)) = (caller.into_split(), server.into_split());
    tokio::join!(
        pass(from_caller, to_server, silence.clone(), |silence| silence.to_server),
        pass(from_server, to_caller, silence, |silence| silence.to_callers),
    );
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut silence: watch::Receiver<Silence>,
    is_silent: fn(&Silence) -> bool,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if silence.wait_for(|silence| !is_silent(silence)).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
    // An end is news as well, and does not get through a silence either.
    if silence.wait_for(|silence| !is_silent(silence)).await.is_ok() {
        let _ = to.shutdown().await;
    }
}
