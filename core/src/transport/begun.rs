//! What a connection begins with, which decides who takes it. Inside TLS it is asked once more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::conn::{Stream, Watched};
use crate::wire::frame::MAGIC;

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    Http,
    Tls,
    Native,
}

impl Stream for TlsStream<Begun<Watched>> {
    async fn readable(&self) {
        let (io, session) = self.get_ref();
        // It wants nothing while something is left of what it has opened.
        if session.wants_read() {
            io.readable().await;
        }
    }
}

/// A connection whose first bytes were looked at; they are read again by whoever takes it.
#[derive(Debug)]
pub(super) struct Begun<Io> {
    io: Io,
    first: [u8; MAGIC.len()],
    unread: u8,
}

impl<Io: Stream> Begun<Io> {
    pub(super) fn new(io: Io) -> Self {
        Begun { io, first: [0; MAGIC.len()], unread: 0 }
    }

    /// Looks at what the peer begins with: one byte tells, unless it could be the first of the native magic. None if the
    /// peer goes before that.
    pub(super) async fn begins(&mut self) -> Option<Begins> {
        let mut n = 0;
        while n < MAGIC.len() {
            match self.io.read(&mut self.first[n..]).await {
                Ok(0) | Err(_) => return None,
                Ok(more) => n += more,
            }
            if self.first[..n] != MAGIC[..n] {
                break;
            }
        }
        let begins = match self.first[0] {
            TLS_HANDSHAKE => Begins::Tls,
            _ if n == MAGIC.len() && self.first == MAGIC => Begins::Native,
            _ => Begins::Http,
        };
        // They become the last ones of the array, so that their number says where they begin.
        self.first.copy_within(..n, MAGIC.len() - n);
        self.unread = u8::try_from(n).unwrap_or_default();
        Some(begins)
    }
}

impl<Io: Stream> Stream for Begun<Io> {
    async fn readable(&self) {
        if self.unread == 0 {
            self.io.readable().await;
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Begun<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread > 0 && buf.remaining() > 0 {
            let begin = self.first.len() - usize::from(self.unread);
            let n = usize::from(self.unread).min(buf.remaining());
            buf.put_slice(&self.first[begin..begin + n]);
            self.unread -= u8::try_from(n).unwrap_or(self.unread);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Begun<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
