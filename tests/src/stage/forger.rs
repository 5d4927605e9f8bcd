//! Stands before the real directory and signs in its place: properly, or with one fault, as a case says.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ledger::Page;
use super::peer::note;
use super::request::{Request, read_request};
use crate::http::{Answer, Conn};

/// What is wrong with a signed text.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    None,
    /// Its time was over an hour ago.
    Expired,
    /// Signed with another key than the one that is published.
    Resigned,
    /// From this one on, everything is signed with a new key, and that is published too.
    NewKey,
    /// The last characters are missing.
    Truncated,
    /// Of another directory.
    Issuer,
    /// For another audience, or another provider.
    Audience,
    /// For another node than the route.
    Node,
    Intent,
    Version,
    Type,
    /// The same text as the one before.
    Replayed,
    /// Bound to a policy manifest that the route does not show.
    Manifest,
    /// An answer of 429 without a text.
    Limited,
}

/// The faults of the first, second, … ticket and consumer token; the last one stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Faults {
    tickets: Vec<Fault>,
    tokens: Vec<Fault>,
}

struct Forger {
    faults: Faults,
    directory: SocketAddr,
    page: Page,
    keys: [Ed25519KeyPair; 2],
    /// Which key is published.
    key: AtomicUsize,
    tickets: AtomicUsize,
    tokens: AtomicUsize,
    last: Mutex<Value>,
}

/// Accepts connections until it is dropped.
pub(super) async fn serve(listener: TcpListener, directory: SocketAddr, faults: Faults, page: Page) {
    let key = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).map_err(|_| io::ErrorKind::InvalidInput);
    let (Ok(first), Ok(second)) = (key(1), key(2)) else { return };
    let forger = std::sync::Arc::new(Forger {
        faults,
        directory,
        page,
        keys: [first, second],
        key: AtomicUsize::new(0),
        tickets: AtomicUsize::new(0),
        tokens: AtomicUsize::new(0),
        last: Mutex::default(),
    });
    let mut conns = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while conns.try_join_next().is_some() {}
        let forger = forger.clone();
        forger.page.note(|counts| counts.connections += 1);
        conns.spawn(async move {
            let _ = forger.converse(client).await;
        });
    }
}

impl Forger {
    async fn converse(&self, client: TcpStream) -> io::Result<()> {
        let mut client = BufReader::new(client);
        let mut directory = Conn::open(self.directory).await?;
        while let Some(request) = read_request(&mut client).await? {
            note(&self.page, &request);
            directory.write(&[&request.head[..], &request.body].concat()).await?;
            let answer = directory.answer().await?;
            let (status, body) = self.forge(&request, answer);
            let head = format!(
                "HTTP/1.1 {status} Forged\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            client.get_mut().write_all(&[head.as_bytes(), &body].concat()).await?;
        }
        Ok(())
    }

    fn forge(&self, request: &Request, answer: Answer) -> (u16, Vec<u8>) {
        let next = |faults: &[Fault], counter: &AtomicUsize| {
            let number = counter.fetch_add(1, Relaxed);
            faults.get(number).or(faults.last()).copied().unwrap_or(Fault::None)
        };
        let mut json = answer.json();
        if request.path.ends_with("/directory-key") {
            let key = self.keys[self.key.load(Relaxed)].public_key();
            json["public_key"] = hex(key.as_ref()).into();
            return (answer.status, json.to_string().into_bytes());
        }
        let (field, domain, fault) = match &request.path {
            path if path.ends_with("/dispatch/ticket") && answer.status == 201 => {
                ("ticket", "iicp:dispatch-route-ticket:v1\n", next(&self.faults.tickets, &self.tickets))
            }
            path if path.ends_with("/consumer-token") && answer.status == 201 => {
                ("token", "iicp:consumer-token:v1\n", next(&self.faults.tokens, &self.tokens))
            }
            _ => return (answer.status, answer.body),
        };
        if matches!(fault, Fault::Limited) {
            let body = json!({ "error": { "code": "rate_limited", "message": "slow down", "retry_after_seconds": 1 } });
            return (429, body.to_string().into_bytes());
        }
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if matches!(fault, Fault::Replayed) && !last.is_null() {
            return (201, last.to_string().into_bytes());
        }
        if let Some(text) = json[field].as_str() {
            json[field] = self.sign(text, domain, fault).into();
        }
        *last = json.clone();
        (201, json.to_string().into_bytes())
    }

    /// Signs the claims of a text anew, with the fault.
    fn sign(&self, text: &str, domain: &str, fault: Fault) -> String {
        let claims = text.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).unwrap_or_default();
        let mut claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
        let published = self.key.load(Relaxed);
        let key = match fault {
            Fault::Resigned => 1 - published,
            Fault::NewKey => {
                self.key.store(1, Relaxed);
                1
            }
            _ => published,
        };
        match fault {
            Fault::Expired => claims["exp"] = (claims["iat"].as_u64().unwrap_or_default().saturating_sub(3_600)).into(),
            Fault::Issuer => claims["iss"] = "https://directory.example".into(),
            Fault::Audience => claims["aud"] = "somebody-else".into(),
            Fault::Node => claims["node_id"] = "somebody-else".into(),
            Fault::Intent => claims["intent"] = "urn:iicp:intent:llm:embedding:v1".into(),
            Fault::Version => claims["v"] = 2.into(),
            Fault::Type => claims["typ"] = "relay-bind-ticket".into(),
            Fault::Manifest => claims["policy_manifest_sha256"] = "0".repeat(64).into(),
            _ => {}
        }
        let text = URL_SAFE_NO_PAD.encode(claims.to_string());
        let signature = self.keys[key].sign(format!("{domain}{text}").as_bytes());
        let mut signed = format!("{text}.{}", hex(signature.as_ref()));
        if matches!(fault, Fault::Truncated) {
            signed.truncate(signed.len() - 2);
        }
        signed
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
