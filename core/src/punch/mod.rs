//! A path past the NATs of two peers, in the place of a relay: found by UDP from both sides at once, spoken over as QUIC.
//!
//! The relay is observer (it says as what each is seen from outside) and carries one question and one answer, sealed from
//! end to end. Then both send to each other, so that either's gateway takes what comes for an answer. Over the path go
//! native frames, to the same gate as ever. The caller's side is [`Direct`], the worker's [`Host`].

mod caller;
mod host;
mod near;
mod port;
mod search;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{RecvStream, SendStream, TransportConfig, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use caller::{Direct, Way};
pub(crate) use host::Host;

use crate::transport::conn::Stream;
use crate::transport::guard::{self, Reach};

/// What both ends say that they speak.
const ALPN: &[u8] = b"iicp-core-punch/1";
/// How often it is shown that the path is alive, which also keeps the gateways from closing it; and after how long a
/// silence it is given up.
const KEEP_ALIVE: Duration = Duration::from_millis(1_500);
const SILENCE: Duration = Duration::from_secs(5);
/// Longest wait for a connection over a path that was found.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Bytes on the way that nobody has read yet.
const WINDOW: u32 = 1 << 20;

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(SILENCE.try_into().ok())
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW));
    Arc::new(config)
}

/// How far a peer may be that the other one names: no farther in than the relay is that both have reached. Neighbours are
/// the exception, see [`near`].
fn reach_beside(relay: IpAddr) -> Reach {
    match relay.to_canonical() {
        ip if ip.is_loopback() => Reach::Loopback,
        ip if guard::judge_ip(ip, Reach::Public).is_ok() => Reach::Public,
        _ => Reach::Private,
    }
}

/// Both directions of a stream.
struct Both {
    send: SendStream,
    recv: RecvStream,
}

impl AsyncRead for Both {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl AsyncWrite for Both {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

impl Stream for Both {
    async fn readable(&self) {}
}
