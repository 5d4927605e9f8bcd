//! What runs on the machines of the lab: a directory, nodes, a consumer. Each takes its options as JSON, then commands as lines
//! of JSON, and answers every line with one; the end of its input is its end.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions, Punch, from_json};
use iicp_core::{Client, Code, Directory, Error, Inbound, LiveNode, Node, Reply, Task};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};
use tokio::net::TcpListener;

use crate::front::{self, Registered};
use crate::ledger::{self, Ran};
use crate::{Outcome, say};

/// Where the directory is reached.
pub(crate) const DIRECTORY_PORT: u16 = 9_480;
pub(crate) const INTENT: &str = "urn:iicp:intent:lab:echo:v1";
/// Longest that a node waits for its tasks when it stops.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a program of the lab until its input ends.
pub(crate) fn run(role: &str, options: &str) -> Outcome {
    if std::env::var_os("NETLAB_LOG").is_some() {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let shown = |error: Error| format!("{role}: {error}");
    runtime.map_err(|e| e.to_string())?.block_on(async {
        let lines = BufReader::new(tokio::io::stdin()).lines();
        match role {
            "directory" => directory(from_json(options).map_err(shown)?, lines).await,
            "node" => node(from_json(options).map_err(shown)?, lines).await,
            "edge" => return crate::tunnel::edge(&serde_json::from_str(options).unwrap_or_default()).await,
            "consumer" => consumer(from_json(options).map_err(shown)?, lines).await,
            _ => return Err(format!("there is no role {role}")),
        }
        .map_err(shown)
    })
}

/// The program of a tunnel, until it is killed.
pub(crate) fn cloudflared(told: &[String]) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(crate::tunnel::connector(told))
}

fn tell(line: &Value) {
    say(&line.to_string());
}

async fn next(lines: &mut Lines<BufReader<Stdin>>) -> Option<Value> {
    let line = lines.next_line().await.ok().flatten()?;
    Some(serde_json::from_str(&line).unwrap_or_default())
}

/// A directory and the proxy before it; answers every line with what was registered until now.
async fn directory(options: DirectoryOptions, mut lines: Lines<BufReader<Stdin>>) -> Result<(), Error> {
    let directory = Directory::bind(options).await?;
    let shown = |error: std::io::Error| Error::new(Code::Bind, format!("the proxy: {error}"));
    let outside = TcpListener::bind(("::", DIRECTORY_PORT)).await.map_err(shown)?;
    let registered = Registered::default();
    let proxy = tokio::spawn(front::serve(outside, directory.addr(), registered.clone()));
    tell(&json!({ "ready": directory.url() }));
    while next(&mut lines).await.is_some() {
        let registered = registered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tell(&json!({ "registered": registered }));
    }
    proxy.abort();
    directory.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// A node that answers with what it was sent, after the time that it was told to take.
async fn node(options: NodeOptions, mut lines: Lines<BufReader<Stdin>>) -> Result<(), Error> {
    let begun = Instant::now();
    let ran = Arc::new(Ran::default());
    let noted = ran.clone();
    let handler = move |task: Inbound| {
        noted.note(&task.task_id);
        async move {
            let payload: Value = task.json()?;
            tokio::time::sleep(Duration::from_millis(payload["take_ms"].as_u64().unwrap_or(0))).await;
            Ok(Reply::from(task.payload))
        }
    };
    let node = Node::bind(options).await?.serve(handler).await?;
    tell(&json!({ "ready": node.url(), "took_ms": millis(begun) }));
    while let Some(command) = next(&mut lines).await {
        tell(&if command["ran"] == true { ran.told() } else { status(&node) });
    }
    let begun = Instant::now();
    let finished = node.shutdown(GRACE).await;
    tell(&json!({ "finished": finished, "took_ms": millis(begun) }));
    Ok(())
}

fn status(node: &LiveNode) -> Value {
    let report = node.nat_report();
    json!({
        "url": node.url(), "registered": node.is_registered(), "relay_workers": node.relay_workers(),
        "rung": report.reached_by.map(|rung| rung.as_str()), "active": node.active_jobs(),
        "report": report.to_string(), "climb_ms": report.took_ms,
    })
}

/// Submits what it is told, one task after the other, each with a client that knows nothing of the last.
async fn consumer(options: ClientOptions, mut lines: Lines<BufReader<Stdin>>) -> Result<(), Error> {
    tell(&json!({ "ready": options.directory }));
    let mut held = Client::new(options.clone())?;
    while let Some(command) = next(&mut lines).await {
        if command["fresh"] == true {
            let mut options = options.clone();
            if command["punch"] == "off" {
                options.punch = Punch::Off;
            }
            held = Client::new(options)?;
        }
        if let Some(within) = command["steadily_ms"].as_u64() {
            let within = Duration::from_millis(within);
            tell(&ledger::steadily(&held, within, next(&mut lines)).await);
            continue;
        }
        if let Some(count) = command["count"].as_u64() {
            tell(&many(&held, count, Duration::from_millis(command["every_ms"].as_u64().unwrap_or(0))).await);
            continue;
        }
        let begun = Instant::now();
        let timeout = Duration::from_millis(command["timeout_ms"].as_u64().unwrap_or(5_000));
        let task = Task::new(INTENT, command["payload"].clone()).timeout(timeout);
        let answer = match held.submit(task).await {
            Ok(done) => json!({ "ok": done.result.json::<Value>()?, "node": done.node_id }),
            Err(error) => json!({ "error": error.code().name(), "message": error.message() }),
        };
        let mut answer = answer;
        answer["took_ms"] = millis(begun).into();
        tell(&answer);
    }
    Ok(())
}

/// Submits so many tasks that may be sent again: one after the other, or one whenever so much time has passed, whatever became of
/// those before. How long each took, in microseconds, and why some failed.
async fn many(client: &Client, count: u64, every: Duration) -> Value {
    let submit = async |n: u64| {
        let begun = Instant::now();
        let task = Task::new(INTENT, json!({ "n": n })).timeout(Duration::from_secs(20)).idempotent(true);
        let answer = client.submit(task).await;
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match answer {
            Ok(done) if done.result.json::<Value>().is_ok_and(|result| result["n"] == n) => Ok(took),
            Ok(_) => Err("the answer to something else".to_owned()),
            Err(error) => Err(format!("{}: {}", error.code().name(), error.message())),
        }
    };
    let outcomes = if every.is_zero() {
        let mut outcomes = Vec::new();
        for n in 0..count {
            outcomes.push(submit(n).await);
        }
        outcomes
    } else {
        let later = async |n: u64| {
            tokio::time::sleep(every * u32::try_from(n).unwrap_or(u32::MAX)).await;
            submit(n).await
        };
        futures_util::future::join_all((0..count).map(later)).await
    };
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    let took: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    json!({ "took_us": took, "failed": failed })
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
