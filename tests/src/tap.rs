//! Somebody who listens on the wire.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Passes bytes on between callers and a node, and writes them all down.
pub struct Tap {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl Tap {
    /// Listens on a port of loopback, any if it is 0, for a node on another.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(port: u16, node: u16) -> io::Result<Tap> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let addr = listener.local_addr()?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (all, mut tasks) = (heard.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                let Ok(node) = TcpStream::connect(("127.0.0.1", node)).await else { continue };
                let ((from_caller, to_caller), (from_node, to_node)) = (caller.into_split(), node.into_split());
                conns.spawn(pass(from_caller, to_node, all.clone()));
                conns.spawn(pass(from_node, to_caller, all.clone()));
            }
        });
        Ok(Tap { addr, heard, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Everything so far; the next look begins anew.
    #[must_use]
    pub fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *lock(&self.heard))).into_owned()
    }
}

fn lock(heard: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, heard: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        lock(&heard).extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
