//! TLS of a node and of those who call it: what the one port takes, whom a client trusts, and what becomes of those who do
//! not speak it as they should.

#![allow(clippy::unwrap_used)]

mod client;
mod node;
mod relay;

use std::path::PathBuf;
use std::time::Duration;

use iicp_core::options::{NodeOptions, TlsOptions};
use iicp_core::{CHAT, Inbound, LiveNode, Node, Reply};
use iicp_tests::tls::{Authority, Pair};
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What a node on this machine is called by.
pub(crate) const HERE: &[&str] = &["127.0.0.1", "localhost"];

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

pub(crate) fn tls(pair: &Pair) -> TlsOptions {
    let mut tls = TlsOptions::default();
    tls.certificate.clone_from(&pair.certificate);
    tls.key = pair.key.as_str().into();
    tls
}

/// A node with this certificate that returns the payload, or as many parts as it asks for.
pub(crate) async fn node(pair: &Pair, change: impl FnOnce(&mut NodeOptions)) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.tls = Some(tls(pair));
    change(&mut options);
    Node::bind(options).await.unwrap().serve(echo).await.unwrap()
}

async fn echo(task: Inbound) -> iicp_core::Result<Reply> {
    let Some(parts) = task.json::<Value>()?["parts"].as_u64() else { return Ok(Reply::from(task.payload)) };
    let parts = (0..parts).map(|n| Ok(json!({ "n": n, "filling": "x".repeat(50_000) })));
    Ok(Reply::stream(futures_util::stream::iter(parts)))
}

/// A folder for the files of one test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        Folder(std::env::temp_dir().join(format!("iicp-tls-{}-{name}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn here() -> (Authority, Pair) {
    let authority = Authority::new().unwrap();
    let pair = authority.issue(HERE).unwrap();
    (authority, pair)
}
