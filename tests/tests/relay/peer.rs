//! A worker as it is published, spoken by hand: every byte is the test's own.

use std::net::SocketAddr;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One frame with a head of its own.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = b"IICP\x01".to_vec();
    out.extend([kind, 0, 0]);
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(payload);
    out
}

fn head(major: u8, length: usize) -> Vec<u8> {
    match length {
        0..24 => vec![major | u8::try_from(length).unwrap()],
        24..256 => vec![major | 24, u8::try_from(length).unwrap()],
        _ => [&[major | 26][..], &u32::try_from(length).unwrap().to_be_bytes()].concat(),
    }
}

fn text(text: &str) -> Vec<u8> {
    [head(0x60, text.len()), text.as_bytes().to_vec()].concat()
}

pub(crate) fn bytes(bytes: &[u8]) -> Vec<u8> {
    [head(0x40, bytes.len()), bytes.to_vec()].concat()
}

pub(crate) const INIT: &[u8] = b"IICP\x01\x01\0\0\0\0\0\x03\xa1\x01\x01";
pub(crate) const ACK: &[u8] = b"IICP\x01\x02\0\0\0\0\0\x03\xa1\x01\x01";
pub(crate) const PING: &[u8] = b"IICP\x01\x09\0\0\0\0\0\x03\xa1\x01\x40";
pub(crate) const PONG: &[u8] = b"IICP\x01\x0a\0\0\0\0\0\x03\xa1\x01\x40";

/// RELAY_BIND, with the keys in the published order.
pub(crate) fn bind(worker_id: &str, ticket: Option<&str>) -> Vec<u8> {
    let mut map = vec![if ticket.is_some() { 0xa4 } else { 0xa3 }, 1];
    map.extend(text(worker_id));
    map.push(2);
    map.extend(text("urn:iicp:intent:llm:chat:v1"));
    map.extend([3, 0x81]);
    map.extend(text("m"));
    if let Some(ticket) = ticket {
        map.push(4);
        map.extend(text(ticket));
    }
    frame(0x0b, &map)
}

/// A call as a worker reads it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) task: Vec<u8>,
}

pub(crate) struct Worker(pub(crate) TcpStream);

impl Worker {
    pub(crate) async fn connect(addr: SocketAddr) -> Worker {
        Worker(TcpStream::connect(addr).await.unwrap())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next frame: its type and payload; none if the connection ended.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 12];
        self.0.read_exact(&mut head).await.ok()?;
        assert_eq!((&head[..5], &head[6..8]), (&b"IICP\x01"[..], &[0, 0][..]));
        let mut payload = vec![0; u32::from_be_bytes(head[8..].try_into().unwrap()) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[5], payload))
    }

    /// Greets and asks to be bound; the payload of the relay's answer, none if it hung up.
    pub(crate) async fn ask(addr: SocketAddr, worker_id: &str, ticket: Option<&str>) -> (Worker, Option<Vec<u8>>) {
        let mut worker = Worker::connect(addr).await;
        let verdict = worker.greet(worker_id, ticket).await;
        (worker, verdict)
    }

    /// The same on a connection that there is.
    pub(crate) async fn greet(&mut self, worker_id: &str, ticket: Option<&str>) -> Option<Vec<u8>> {
        self.write(INIT).await;
        assert_eq!(self.frame().await, Some((2, ACK[12..].to_vec())));
        self.write(&bind(worker_id, ticket)).await;
        self.frame().await.map(|(kind, payload)| {
            assert_eq!(kind, 0x0c);
            payload
        })
    }

    /// Is bound, and told the relay's HTTP port.
    pub(crate) async fn bound(addr: SocketAddr, worker_id: &str, ticket: Option<&str>, http_port: u16) -> Worker {
        let (worker, verdict) = Worker::ask(addr, worker_id, ticket).await;
        let mut wanted = vec![0xa3, 1, 0x62, b'o', b'k', 2];
        wanted.extend(text(worker_id));
        wanted.extend([4, 0x19]);
        wanted.extend(http_port.to_be_bytes());
        assert_eq!(verdict, Some(wanted));
        worker
    }

    /// Is refused for this reason, and hung up on.
    pub(crate) async fn refused(addr: SocketAddr, worker_id: &str, ticket: Option<&str>, reason: &str) {
        let (mut worker, verdict) = Worker::ask(addr, worker_id, ticket).await;
        let mut wanted = vec![0xa3, 1, 0x65];
        wanted.extend(b"error\x02");
        wanted.extend(text(worker_id));
        wanted.push(3);
        wanted.extend(text(reason));
        assert_eq!(verdict, Some(wanted), "{reason}");
        assert_eq!(worker.frame().await, None);
    }

    /// The next call; pings of the relay are passed over, as published workers do.
    pub(crate) async fn call(&mut self) -> Option<Call> {
        loop {
            let (kind, payload) = self.frame().await?;
            match kind {
                5 => return Some(read_call(&payload)),
                9 => {}
                other => panic!("a frame of type {other:#x}"),
            }
        }
    }

    pub(crate) async fn answer(&mut self, call: &Call, body: &Value) {
        self.answer_bytes(&call.id, body.to_string().as_bytes()).await;
    }

    /// RESPONSE in the published Rust worker's order: 15, then 5.
    pub(crate) async fn answer_bytes(&mut self, id: &str, body: &[u8]) {
        let map = [vec![0xa2, 15], text(id), vec![5], bytes(body)].concat();
        self.write(&frame(6, &map)).await;
    }
}

/// `{5: bytes, 15: text}`, canonical.
fn read_call(payload: &[u8]) -> Call {
    assert_eq!(payload[..2], [0xa2, 5], "two keys, 5 first");
    let (length, at) = match payload[2] {
        0x58 => (usize::from(payload[3]), 4),
        0x59 => (usize::from(u16::from_be_bytes([payload[3], payload[4]])), 5),
        0x5a => (u32::from_be_bytes(payload[3..7].try_into().unwrap()) as usize, 7),
        small => (usize::from(small - 0x40), 3),
    };
    let (task, rest) = payload[at..].split_at(length);
    assert_eq!((rest[0], &rest[1..3], rest.len()), (15, &[0x78, 36][..], 39));
    Call { id: String::from_utf8(rest[3..].to_vec()).unwrap(), task: task.to_vec() }
}

/// A directory's key, to sign tickets with.
pub(crate) struct Issuer(Ed25519KeyPair);

impl Issuer {
    pub(crate) fn new(seed: u8) -> Issuer {
        Issuer(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    pub(crate) fn public_key(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    pub(crate) fn ticket(&self, worker_id: &str, jti: u32) -> String {
        self.sign(&json!({
            "v": 1, "typ": "relay-bind-ticket", "jti": format!("{jti:032x}"), "iss": "http://d", "sub": worker_id,
            "aud": "*", "iat": 1_700_000_000, "exp": 4_000_000_000_u32,
        }))
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
        let signature = self.0.sign(format!("iicp:relay-bind-ticket:v1\n{text}").as_bytes());
        format!("{text}.{}", hex(signature.as_ref()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
