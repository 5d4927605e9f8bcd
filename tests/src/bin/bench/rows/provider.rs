//! What it costs a node to be careful whom it serves.

use std::time::Duration;

use iicp_tests::http::{Conn, addr};
use serde_json::json;

use super::{Figure, Rounds, Row, Target};
use crate::Result;
use crate::child::Child;
use crate::load::Load;
use crate::roles::NODE_ID;

pub(super) const ROWS: &[Row] = &[Row {
    name: "provider_vs_a1",
    unit: "×",
    target: Target::AtLeast(0.9),
    what: "tasks per CPU-second of a node that counts origins and addresses, checks consumer tokens and nonces, over those \
           of the same node with all of it off (64 connections, the same request to both but for the nonce: 1 KB chat, token, origin)",
    measure: vs_open,
}];

const CONNECTIONS: usize = 64;

fn vs_open() -> Result<Figure> {
    const SLICE: Duration = Duration::from_millis(300);
    let directory = Child::role("directory", &[])?;
    let at = directory.said("url")?;
    let (mut careful, mut open) = (Child::role("careful-node", &[at])?, Child::role("open-node", &[at])?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let token = runtime.block_on(consumer_token(at))?;
    let headers = format!("origin: https://page.example\r\nx-iicp-consumer-token: {token}\r\n");
    let mut on_careful = Load::with(&careful, CONNECTIONS, &headers, true)?;
    let mut on_open = Load::with(&open, CONNECTIONS, &headers, false)?;
    let rounds = Rounds::take(
        30,
        || Ok(on_careful.watch(&mut careful, SLICE)?.into()),
        || Ok(on_open.watch(&mut open, SLICE)?.into()),
    )?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a task takes the careful node", "the open one") })
}

/// A token for the careful node, as a consumer that is known to the directory gets it.
async fn consumer_token(directory: &str) -> Result<String> {
    let mut conn = Conn::open(addr(directory)).await?;
    let consumer = json!({
        "node_id": "consumer", "endpoint": "http://127.0.0.1:9", "region": "eu",
        "capabilities": [{ "intent": "urn:iicp:intent:lab:nothing:v1", "models": [], "max_tokens": 1 }],
        "limits": { "max_concurrent": 1, "tokens_per_min": 1 },
    });
    let registered = conn.post("/v1/register", &consumer).await?.json();
    let credential = registered["node_token"].as_str().ok_or("the consumer was not registered")?;
    let wanted = json!({ "target_node_id": NODE_ID, "intent": iicp_core::CHAT }).to_string();
    let request = iicp_tests::http::post(
        "/v1/consumer-token",
        &format!("authorization: Bearer {credential}\r\n"),
        wanted.as_bytes(),
    );
    conn.write(&request).await?;
    let answer = conn.answer().await?;
    Ok(answer.json()["token"].as_str().ok_or_else(|| format!("no consumer token: {answer:?}"))?.to_owned())
}
