//! A relay, and workers at it by the thousand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iicp_core::options::{NodeOptions, RelayServerOptions};
use iicp_core::{CHAT, Inbound, LiveNode, Node, Reply};
use iicp_tests::native::{Frame, frame, kind, map};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::servers::{STUB_RESULT, task_id};
use crate::Result;

/// Says that a worker is one of ours, and answers when it is pinged.
const OURS: &str = "urn:iicp:custom:core:relay:v1";
const BIND: u8 = 0x0b;
const BIND_ACK: u8 = 0x0c;
/// Workers that bind at the same time.
const AT_ONCE: usize = 64;

/// A relay that takes as many from one source as in all.
pub(super) async fn relay() -> Result<(Value, LiveNode)> {
    const MANY: usize = 100_000;
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.max_connections = Some(MANY);
    let mut relay = RelayServerOptions::default();
    (relay.port, relay.binds_per_minute) = (0, 0);
    (relay.max_workers, relay.max_workers_per_source) = (MANY, MANY);
    options.relay_server = Some(relay);
    let node = Node::bind(options).await?.serve(async |task: Inbound| Ok(Reply::from(task.payload))).await?;
    let relay = node.relay_addr().ok_or("the node is no relay")?;
    Ok((json!({ "url": node.url(), "relay": relay.to_string() }), node))
}

/// What a worker does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Answers at once.
    Quick,
    /// Answers a tenth of a second later.
    Slow,
    /// Reads nothing more once it is bound.
    Deaf,
}

impl Manner {
    pub(super) fn named(name: &str) -> Result<Self> {
        match name {
            "quick" => Ok(Manner::Quick),
            "slow" => Ok(Manner::Slow),
            "deaf" => Ok(Manner::Deaf),
            _ => Err(format!("no worker is {name}").into()),
        }
    }
}

/// Binds workers with numbers from `first` on, over TLS if wanted, and serves until the set is dropped.
pub(super) async fn workers(
    relay: SocketAddr,
    first: usize,
    count: usize,
    manner: Manner,
    tls: bool,
) -> Result<(Value, JoinSet<Result<()>>)> {
    let connector = tls.then(any_key).transpose()?;
    let mut serving = JoinSet::new();
    for begin in (0..count).step_by(AT_ONCE) {
        let mut binding = JoinSet::new();
        for n in begin..count.min(begin + AT_ONCE) {
            let connector = connector.clone();
            binding.spawn(async move {
                let stream = TcpStream::connect(relay).await?;
                stream.set_nodelay(true)?;
                let stream: Box<dyn Wire> = match connector {
                    Some(connector) => Box::new(connector.connect("relay".try_into()?, stream).await?),
                    None => Box::new(stream),
                };
                bind(stream, first + n).await
            });
        }
        for bound in binding.join_all().await {
            serving.spawn(serve(bound?, manner));
        }
    }
    Ok((json!({ "bound": count.to_string() }), serving))
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<Io: AsyncRead + AsyncWrite + Unpin + Send> Wire for Io {}

async fn bind(mut io: Box<dyn Wire>, number: usize) -> Result<Box<dyn Wire>> {
    let capabilities = ciborium::Value::Array(vec![OURS.into()]);
    io.write_all(&frame(kind::INIT, 0, &map(&[(1, 1.into()), (5, capabilities)]))).await?;
    let models = ciborium::Value::Array(vec!["echo-1".into()]);
    let bind = map(&[(1, format!("w-{number}").into()), (2, CHAT.into()), (3, models)]);
    io.write_all(&frame(BIND, 0, &bind)).await?;
    let (ack, verdict) = (next(&mut io).await?, next(&mut io).await?);
    if (ack.kind, verdict.kind, &*verdict.text(1)) == (kind::ACK, BIND_ACK, "ok") {
        Ok(io)
    } else {
        Err(format!("worker {number} is not bound: {}", verdict.text(3)).into())
    }
}

async fn next(io: &mut (impl AsyncRead + Unpin)) -> Result<Frame> {
    let mut head = [0; 12];
    io.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await?;
    Ok(Frame { kind: head[5], flags: head[6], payload })
}

async fn serve(io: Box<dyn Wire>, manner: Manner) -> Result<()> {
    if manner == Manner::Deaf {
        std::future::pending::<()>().await;
    }
    let (mut reader, writer) = tokio::io::split(io);
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let mut late = JoinSet::new();
    // One read for all that has come, as the server behind HAProxy does it.
    let mut buf = Vec::with_capacity(8 << 10);
    while reader.read_buf(&mut buf).await? > 0 {
        while late.try_join_next().is_some() {}
        let mut read = 0;
        while let Some((kind, payload)) = whole(&buf[read..]) {
            read += 12 + payload.len();
            let due = match kind {
                kind::PING => frame(kind::PONG, 0, payload),
                kind::CALL => answer(payload).ok_or("a call that is none")?,
                kind::CLOSE => return Ok(()),
                _ => continue,
            };
            if manner == Manner::Slow && kind == kind::CALL {
                let writer = writer.clone();
                late.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    writer.lock().await.write_all(&due).await
                });
            } else {
                let mut writer = writer.lock().await;
                writer.write_all(&due).await?;
                writer.flush().await?;
            }
        }
        buf.drain(..read);
    }
    Err("the relay is gone".into())
}

/// The frame at the start of a buffer, if all of it is there.
fn whole(buf: &[u8]) -> Option<(u8, &[u8])> {
    let head = buf.first_chunk::<12>()?;
    let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
    Some((head[5], buf.get(12..12 + length)?))
}

/// RESPONSE to `{5: task, …, 15: call}`.
fn answer(call: &[u8]) -> Option<Vec<u8>> {
    let (length, at) = match *call.get(2)? {
        0x58 => (usize::from(call[3]), 4),
        0x59 => (usize::from(u16::from_be_bytes([call[3], call[4]])), 5),
        0x5A => (u32::from_be_bytes([call[3], call[4], call[5], call[6]]) as usize, 7),
        _ => return None,
    };
    let (task, rest) = call[at..].split_at_checked(length)?;
    let id = std::str::from_utf8(rest.get(3..39)?).ok()?;
    let body = format!(r#"{{"task_id":"{}",{STUB_RESULT}"#, task_id(task)?);
    let map = map(&[(5, ciborium::Value::Bytes(body.into_bytes())), (15, id.into())]);
    Some(frame(kind::RESPONSE, 0, &map))
}

/// A client's side of TLS that takes the relay's key as it is: the pin has tests of its own.
fn any_key() -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyKey(provider.clone()));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.enable_sni = false;
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct AnyKey(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
