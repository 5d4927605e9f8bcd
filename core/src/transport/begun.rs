//! What a connection begins with, which decides who takes it. Inside TLS it is asked once more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
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
    unread: Bytes,
    most_at_once: usize,
}

impl<Io: Stream> Begun<Io> {
    pub(super) fn new(io: Io) -> Self {
        Begun { io, unread: Bytes::new(), most_at_once: usize::MAX }
    }

    /// No read brings more than this. Readers make as much room as the last read has filled, and keep it while they do
    /// something else.
    pub(super) fn read_at_most(&mut self, bytes: usize) {
        self.most_at_once = bytes;
    }

    /// Takes back what was read and not used; it is read again before anything else.
    pub(super) fn put_back(&mut self, unused: &[u8]) {
        if !unused.is_empty() {
            self.unread = [unused, &self.unread].concat().into();
        }
    }

    /// Looks at what the peer begins with: one byte tells, unless it could be the first of the native magic. None if the
    /// peer goes before that.
    pub(super) async fn begins(&mut self) -> Option<Begins> {
        let (mut first, mut n) = ([0; MAGIC.len()], 0);
        while n < MAGIC.len() {
            match self.io.read(&mut first[n..]).await {
                Ok(0) | Err(_) => return None,
                Ok(more) => n += more,
            }
            if first[..n] != MAGIC[..n] {
                break;
            }
        }
        let begins = match first[0] {
            TLS_HANDSHAKE => Begins::Tls,
            _ if n == MAGIC.len() && first == MAGIC => Begins::Native,
            _ => Begins::Http,
        };
        self.put_back(&first[..n]);
        Some(begins)
    }
}

impl<Io: AsyncRead + Unpin> Begun<Io> {
    /// What the connection brings next, not more than may come at once.
    fn read_on(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() <= self.most_at_once {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let mut some = ReadBuf::new(buf.initialize_unfilled_to(self.most_at_once));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut some))?;
        let n = some.filled().len();
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<Io: Stream> Stream for Begun<Io> {
    async fn readable(&self) {
        if self.unread.is_empty() {
            self.io.readable().await;
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Begun<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return self.read_on(cx, buf);
        }
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(n));
        // With all that is there: after a short read, a reader makes room for as much again. A connection that is broken is so
        // at the next read as well.
        if self.unread.is_empty() && buf.remaining() > 0 {
            let _ = self.read_on(cx, buf);
        }
        Poll::Ready(Ok(()))
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
