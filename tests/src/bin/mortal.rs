//! A part of a mesh that may be killed at any moment: a directory, a relay, workers, or a consumer. What happened is noted in
//! files, line by line, so that it outlives the process; `tests/tests/killed` compares them.

#![allow(clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions, RelayServerOptions, RelayWorkerOptions};
use iicp_core::{Client, Code, Directory, EMBEDDING, Inbound, LiveNode, Node, Reply, Task};
use serde_json::{Value, json};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Failure> = std::result::Result<T, E>;

/// Time that a task of the consumer has, in milliseconds.
const DEADLINE_MS: u64 = 3_000;
/// Tasks of the consumer at the same time.
const LANES: u64 = 8;

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["directory", port, path] => {
            let mut options = DirectoryOptions::loopback();
            (options.port, options.path) = (port.parse()?, Some((*path).to_owned()));
            let directory = Directory::bind(options).await?;
            until_told(&directory).await;
        }
        ["relay", port, accept, directory, state] => {
            let mut relay = RelayServerOptions::default();
            (relay.port, relay.binds_per_minute, relay.max_workers_per_source) = (accept.parse()?, 0, 1 << 14);
            let mut options = node(directory, "relay-1", state);
            options.port = port.parse()?;
            options.intents = vec![iicp_core::CHAT.into()];
            options.relay_server = Some(relay);
            let relay = serve(options, None).await?;
            until_told(&relay).await;
        }
        ["workers", relay, first, count, directory, state, ledger] => {
            let ledger = Arc::new(append(ledger)?);
            let mut nodes = Vec::new();
            for n in first.parse::<u32>()?..first.parse::<u32>()? + count.parse::<u32>()? {
                let mut options = node(directory, &format!("w-{n}"), &format!("{state}/w-{n}"));
                if *relay != "none" {
                    let mut worker = RelayWorkerOptions::default();
                    worker.relay = Some((*relay).to_owned());
                    options.relay_worker = Some(worker);
                }
                nodes.push(serve(options, Some(ledger.clone())).await?);
            }
            until_told(&nodes).await;
        }
        ["consumer", name, directory, ledger] => consume(name, directory, append(ledger)?).await?,
        other => return Err(format!("there is no part {other:?}").into()),
    }
    Ok(())
}

fn node(directory: &str, node_id: &str, state: &str) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.directory = directory.into();
    options.node_id = Some(node_id.into());
    options.state_dir = Some(state.into());
    options.max_concurrent = 64;
    options
}

/// Serves, and notes every task before anything else is done with it.
async fn serve(options: NodeOptions, ledger: Option<Arc<File>>) -> Result<LiveNode> {
    let node_id = options.node_id.clone().unwrap_or_default();
    let handler = move |task: Inbound| {
        let (ledger, node_id) = (ledger.clone(), node_id.clone());
        async move {
            if let Some(ledger) = ledger {
                note(&ledger, &json!({ "ran": task.task_id, "by": node_id }));
            }
            let payload: Value = task.json()?;
            tokio::time::sleep(Duration::from_millis(payload["n"].as_u64().unwrap_or_default() % 40)).await;
            Ok(Reply::from(task.payload))
        }
    };
    loop {
        match Node::bind(options.clone()).await {
            // Who was killed a moment ago may still be on its way out.
            Err(error) if matches!(error.code(), Code::NodeLocked | Code::Bind) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            node => return Ok(node?.serve(handler).await?),
        }
    }
}

/// Says that it is ready, and stays until the input ends.
async fn until_told<T>(_part: &T) {
    println!("ready");
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

/// Submits one task after the other in each lane until the input ends; then those under way come to their end.
async fn consume(name: &str, directory: &str, ledger: File) -> Result<()> {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    (options.timeout_ms, options.route_ttl_ms, options.breaker_open_ms) = (DEADLINE_MS, 500, 500);
    let client = Client::new(options)?;
    let (ledger, next, told) = (Arc::new(ledger), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        let (client, ledger, next, told) = (client.clone(), ledger.clone(), next.clone(), told.clone());
        let name = name.to_owned();
        lanes.spawn(async move {
            while told.load(Relaxed) == 0 {
                let n = next.fetch_add(1, Relaxed);
                let (id, idempotent) = (format!("{name}-{n}"), n % 2 == 0);
                note(&ledger, &json!({ "begun": id, "idempotent": idempotent }));
                let task = Task::new(EMBEDDING, json!({ "n": n, "id": id })).task_id(&*id).idempotent(idempotent);
                let begun = Instant::now();
                let ended = match client.submit(task).await {
                    Ok(done) => match done.result.json::<Value>() {
                        Ok(result) if result["id"] == *id => "result".to_owned(),
                        other => format!("the result of another task: {other:?}"),
                    },
                    Err(error) => error.code().to_string(),
                };
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                note(&ledger, &json!({ "ended": id, "as": ended, "ms": took }));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    until_told(&client).await;
    told.store(1, Relaxed);
    lanes.join_all().await;
    Ok(())
}

fn append(path: &str) -> Result<File> {
    Ok(OpenOptions::new().create(true).append(true).open(path)?)
}

/// One write, so that a kill leaves a whole line or none.
fn note(mut ledger: &File, line: &Value) {
    if let Err(error) = ledger.write_all(format!("{line}\n").as_bytes()) {
        println!("the ledger cannot be written: {error}");
        std::process::exit(1);
    }
}
