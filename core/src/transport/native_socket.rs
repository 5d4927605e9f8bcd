//! The socket of a native connection: plain, where the calls may write to it themselves, or secured in some way.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::native_link::Link;

/// Room for what arrives: see the server's side.
const FIRST_ROOM: usize = 8 << 10;
const MOST_ROOM: usize = 256 << 10;

/// Both halves of a connection that is no plain socket.
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// What a connection runs over.
pub(crate) enum Socket {
    Plain(Arc<TcpStream>),
    Secured(Reader, Writer),
}

impl Socket {
    pub(crate) fn secured(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Socket::Secured(Box::new(reader), Box::new(writer))
    }

    /// Both sides of it.
    pub(super) fn halves(self) -> (Half, Pen) {
        match self {
            Socket::Plain(stream) => (Half::Plain(stream.clone()), Pen::Plain(stream)),
            Socket::Secured(reader, writer) => (Half::Secured(reader), Pen::Secured(writer)),
        }
    }
}

/// The reading side of a socket.
pub(super) enum Half {
    Plain(Arc<TcpStream>),
    Secured(Reader),
}

impl Half {
    /// Reads what has come. An idle plain connection waits without a buffer.
    pub(super) async fn read(&mut self, arrived: &mut BytesMut, missing: usize) -> io::Result<usize> {
        let room = missing.min(arrived.len()).clamp(FIRST_ROOM, MOST_ROOM);
        match self {
            Half::Secured(half) => {
                arrived.reserve(room);
                half.read_buf(arrived).await
            }
            Half::Plain(stream) => loop {
                stream.readable().await?;
                arrived.reserve(room);
                match stream.try_read_buf(arrived) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            },
        }
    }
}

/// The writing side of a socket; a plain one is shared with the calls.
pub(super) enum Pen {
    Plain(Arc<TcpStream>),
    Secured(Writer),
}

impl Pen {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Pen::Secured(half) => {
                half.write_all(bytes).await?;
                half.flush().await
            }
            Pen::Plain(stream) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    stream.writable().await?;
                    match stream.try_write(rest) {
                        Ok(n) => rest = &rest[n..],
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes what waits, whenever something does.
    pub(super) async fn write_queued(&mut self, link: &Link) -> io::Result<()> {
        loop {
            link.queued.notified().await;
            match self {
                Pen::Plain(stream) => {
                    while link.write_some(stream)? {
                        stream.writable().await?;
                    }
                }
                Pen::Secured(half) => {
                    while let Some(bytes) = link.take_queued() {
                        half.write_all(&bytes).await?;
                        half.flush().await?;
                    }
                }
            }
        }
    }
}
