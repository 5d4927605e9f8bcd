//! The framed transport by hand: sends exactly the bytes that a test wants to send, and reads frames with another CBOR
//! reader than the engine's.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use ciborium::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Type bytes.
pub mod kind {
    #![allow(missing_docs)]
    pub const INIT: u8 = 1;
    pub const ACK: u8 = 2;
    pub const DISCOVER: u8 = 3;
    pub const CALL: u8 = 5;
    pub const RESPONSE: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
    pub const CANCEL: u8 = 0xf0;
    pub const PART: u8 = 0xf2;
    pub const CREDIT: u8 = 0xf3;
}

/// What peers of our kind agree on.
pub const CALLS: &str = "urn:iicp:custom:core:call:v1";

/// A frame of version 1.
#[must_use]
pub fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    raw(1, kind, flags, u32::try_from(payload.len()).unwrap_or(u32::MAX), payload)
}

/// A frame that says what it wants about its version and length.
#[must_use]
pub fn raw(version: u8, kind: u8, flags: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = b"IICP".to_vec();
    out.extend_from_slice(&[version, kind, flags, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A map with integer keys as CBOR.
#[must_use]
pub fn map(entries: &[(u64, Value)]) -> Vec<u8> {
    let entries = entries.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect();
    let mut out = Vec::new();
    let _ = ciborium::into_writer(&Value::Map(entries), &mut out);
    out
}

/// The greeting of a peer of our kind.
#[must_use]
pub fn hello() -> Vec<u8> {
    let capabilities = Value::Array(vec![CALLS.into()]);
    frame(kind::INIT, 0, &map(&[(1, 1.into()), (2, 1.into()), (5, capabilities)]))
}

/// A call as a peer of our kind makes it.
#[must_use]
pub fn call(call_id: &str, task: &serde_json::Value) -> Vec<u8> {
    call_with(call_id, task.to_string().into_bytes())
}

/// The same with any bytes for the task.
#[must_use]
pub fn call_with(call_id: &str, task: Vec<u8>) -> Vec<u8> {
    let body = Value::Bytes(task);
    frame(kind::CALL, 0, &map(&[(1, 1.into()), (2, "s-1".into()), (5, body), (15, call_id.into())]))
}

/// A gzip member that becomes 258 zeros for each of so many runs, for every 13 bits that it takes.
#[must_use]
pub fn gzip_of_zeros(runs: usize) -> Vec<u8> {
    let mut bits = Bits { bytes: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff], used: 8 };
    // The last block, with the code that is fixed: a zero, runs of the longest length at distance 1, the end.
    bits.put(0b110, 3);
    bits.put(0x30, 8);
    for _ in 0..runs {
        bits.put(0b1100_0101, 8);
        bits.put(0, 5);
    }
    bits.put(0, 7);
    bits.bytes.extend([0; 8]);
    bits.bytes
}

/// Bytes that are filled from their lowest bit on.
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// Puts a code of this length, its highest bit first.
    fn put(&mut self, code: u32, length: u32) {
        for at in (0..length).rev() {
            if self.used == 8 {
                self.bytes.push(0);
                self.used = 0;
            }
            let bit = u8::from(code >> at & 1 == 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= bit << self.used;
            }
            self.used += 1;
        }
    }
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The type byte.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// What stands under a key of the payload's map; null if nothing does.
    #[must_use]
    pub fn get(&self, key: u64) -> Value {
        let map: Value = ciborium::from_reader(&self.payload[..]).unwrap_or(Value::Null);
        let entries = map.into_map().unwrap_or_default();
        let found = entries.into_iter().find(|(known, _)| *known == Value::from(key));
        found.map_or(Value::Null, |(_, value)| value)
    }

    /// The text under a key; empty if there is none.
    #[must_use]
    pub fn text(&self, key: u64) -> String {
        self.get(key).into_text().unwrap_or_default()
    }

    /// The JSON inside the bytes under key 5.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.get(5).into_bytes().unwrap_or_default()).unwrap_or_default()
    }
}

/// A native connection.
#[derive(Debug)]
pub struct Native<Io = TcpStream>(pub Io);

impl Native {
    /// Connects, and says nothing yet.
    ///
    /// # Errors
    /// The system's.
    pub async fn open(addr: SocketAddr) -> io::Result<Native> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Native(stream))
    }

    /// Connects and greets as a peer of our kind.
    ///
    /// # Errors
    /// The system's, and an answer that is no ACK.
    pub async fn greet(addr: SocketAddr) -> io::Result<Native> {
        Native::open(addr).await?.greeted().await
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Native<Io> {
    /// Greets as a peer of our kind.
    ///
    /// # Errors
    /// The system's, and an answer that is no ACK.
    pub async fn greeted(mut self) -> io::Result<Self> {
        self.send(&hello()).await?;
        match self.next().await? {
            Some(frame) if frame.kind == kind::ACK => Ok(self),
            other => Err(io::Error::new(ErrorKind::InvalidData, format!("no ACK but {other:?}"))),
        }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The system's.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Reads the next frame; none at the end of the connection.
    ///
    /// # Errors
    /// The system's, and what is no whole frame.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut header = [0; 12];
        let mut have = 0;
        while have < header.len() {
            match self.0.read(&mut header[have..]).await? {
                0 if have == 0 => return Ok(None),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => have += n,
            }
        }
        let [b'I', b'I', b'C', b'P', 1, kind, flags, 0, length @ ..] = header else {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("no header: {header:?}")));
        };
        let mut payload = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut payload).await?;
        Ok(Some(Frame { kind, flags, payload }))
    }

    /// Reads up to the end of the connection; an end by reset is an end too.
    pub async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}
