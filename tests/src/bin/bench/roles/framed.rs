//! Nodes and clients that use the native transport, and that stream.

use std::time::{Duration, Instant};

use futures_util::stream;
use iicp_core::options::{ClientOptions, NativeTransport, NodeOptions};
use iicp_core::types::{Chunk, Payload};
use iicp_core::{CHAT, Client, Error, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::http::{Conn, addr};
use serde::Deserialize;
use serde_json::json;

use super::{Operation, operation};
use crate::{Result, load};

/// How many parts a task wants.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    parts: u64,
}

/// A node that echoes, or answers in parts of 64 bytes. The directory knows both of its ways and no key of it: sealing has
/// rows of its own.
pub(super) async fn node(directory: &str) -> Result<(String, LiveNode)> {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.max_concurrent = 256;
    let part = Payload::from_json(format!("\"{}\"", "x".repeat(62)))?;
    let serve = move |task: Inbound| {
        let part = part.clone();
        async move {
            let Wanted { parts } = task.json()?;
            if parts == 0 {
                return Ok(Reply::from(task.payload));
            }
            Ok(Reply::stream(stream::iter((0..parts).map(move |_| Ok::<_, Error>(Chunk::from(part.clone()))))))
        }
    };
    let node = Node::bind(options).await?.serve(serve).await?;
    let known = json!({
        "node_id": "framed", "endpoint": node.url(), "transport_endpoint": node.url().replace("http:", "iicp:"),
        "region": "eu",
        "limits": { "max_concurrent": 256, "tokens_per_min": 1_000_000 },
        "capabilities": [{
            "intent": CHAT, "models": ["echo-1"], "max_tokens": 4096,
            "supported_profiles": ["urn:iicp:profile:service-lifecycle:v1"],
        }],
    });
    let answer = Conn::open(addr(directory)).await?.post("/v1/register", &known).await?;
    if answer.status >= 300 {
        return Err(format!("the node was not registered: {answer:?}").into());
    }
    Ok((node.url(), node))
}

fn client_of(directory: &str, native: NativeTransport) -> Result<Client> {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    options.routing_policy.require_encryption = Some(false);
    options.route_ttl_ms = 3_600_000;
    options.native = native;
    Ok(Client::new(options)?)
}

/// A client that takes one way and no other.
pub(super) fn client(directory: &str, native: NativeTransport) -> Result<impl Operation> {
    let (client, payload) = (client_of(directory, native)?, Payload::from_json(load::payload())?);
    Ok(operation(move || {
        let (client, task) = (client.clone(), Task::new(CHAT, payload.clone()));
        async move {
            client.submit(task).await?;
            Ok(())
        }
    }))
}

fn in_parts(parts: u64) -> Task {
    Task::new(CHAT, json!({ "parts": parts })).timeout(Duration::from_secs(120))
}

/// A client that takes answers of so many parts.
pub(super) fn streams(directory: &str, native: NativeTransport) -> Result<impl AsyncFn(u64) -> Result<()>> {
    let client = client_of(directory, native)?;
    Ok(async move |count| {
        let mut parts = client.stream(in_parts(count)).await?;
        let mut seen = 0;
        while let Some(part) = parts.next().await {
            part?;
            seen += 1;
        }
        if seen == count { Ok(()) } else { Err(format!("{seen} parts came of {count}").into()) }
    })
}

/// The time until the one part of an answer is there, or the whole answer that is made of it.
pub(super) fn first_part(
    directory: &str,
    native: NativeTransport,
    whole: bool,
) -> Result<impl AsyncFn() -> Result<Duration>> {
    let client = client_of(directory, native)?;
    Ok(async move || {
        let begun = Instant::now();
        if whole {
            client.submit(in_parts(1)).await?;
            return Ok(begun.elapsed());
        }
        let mut parts = client.stream(in_parts(1)).await?;
        parts.next().await.ok_or("there was no part")??;
        let took = begun.elapsed();
        // The connection is free for the next one when the end was read.
        while parts.next().await.is_some() {}
        Ok(took)
    })
}
