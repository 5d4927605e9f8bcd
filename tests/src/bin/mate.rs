//! One half of every pair: a node and a client of this language, told by lines what to do. The driver
//! `pairs` tells them; what it may tell stands in `tests/cases/README.md`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::stream::{StreamExt as _, iter, once};
use iicp_core::options::{ClientOptions, NodeOptions, from_json};
use iicp_core::types::Chunk;
use iicp_core::{Client, Code, Error, Inbound, Node, Reply, Result, Task};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout};
use tokio::sync::Notify;

/// What the handler saw.
#[derive(Default)]
struct Seen {
    begun: AtomicU64,
    cancelled: AtomicU64,
}

impl Seen {
    async fn serve(self: Arc<Self>, task: Inbound) -> Result<Reply> {
        self.begun.fetch_add(1, Relaxed);
        let payload: Value = task.json()?;
        match payload["do"].as_str() {
            Some("echo") => Reply::json(&json!({ "echo": payload["value"] })),
            Some("fail") => Err(Error::rejected("the piano is out of tune")),
            #[allow(clippy::panic)]
            Some("throw") => panic!("as told"),
            Some("slow") => {
                self.sleep(Duration::from_millis(payload["ms"].as_u64().unwrap_or_default())).await;
                Reply::json(&json!({ "slept": payload["ms"] }))
            }
            Some("wait") => {
                self.sleep(Duration::from_secs(60)).await;
                Err(Error::rejected("nobody cancelled"))
            }
            Some("count") => {
                let numbers = 0..payload["to"].as_u64().unwrap_or_default();
                Ok(Reply::stream(iter(numbers.map(|number| Ok(Chunk::from(json!(number)))))))
            }
            Some("drip") => {
                let rest = once(async move {
                    self.sleep(Duration::from_secs(60)).await;
                    Err(Error::rejected("nobody cancelled"))
                });
                Ok(Reply::stream(iter([Ok(Chunk::from(json!(0)))]).chain(rest)))
            }
            _ => Err(Error::rejected("nobody told what to do")),
        }
    }

    async fn sleep(self: &Arc<Self>, time: Duration) {
        // A cancelled handler is dropped where it waits.
        struct Waits(Arc<Seen>);
        impl Drop for Waits {
            fn drop(&mut self) {
                self.0.cancelled.fetch_add(1, Relaxed);
            }
        }
        let waits = Waits(self.clone());
        tokio::time::sleep(time).await;
        self.cancelled.fetch_sub(1, Relaxed);
        drop(waits);
    }
}

async fn say(line: Value) {
    let mut out = stdout();
    // Whoever no longer listens has closed our input as well.
    let _ = out.write_all(format!("{line}\n").as_bytes()).await;
    let _ = out.flush().await;
}

async fn parts(client: &Client, task: Task, take: u64) -> Result<Value> {
    let (mut stream, mut taken) = (client.stream(task).await?, Vec::new());
    while (taken.len() as u64) < take
        && let Some(chunk) = stream.next().await
    {
        taken.push(chunk?.result.json::<Value>()?);
    }
    Ok(taken.into())
}

async fn submit(client: Client, command: Value, cancel: Arc<Notify>) {
    let intent = command["intent"].as_str().unwrap_or_default();
    let timeout = Duration::from_millis(command["timeout_ms"].as_u64().unwrap_or(5_000));
    let task = Task::new(intent, command["payload"].clone()).timeout(timeout);
    let asked = async {
        match command["take"].as_u64() {
            None => client.submit(task).await?.result.json::<Value>(),
            Some(take) => parts(&client, task, take).await,
        }
    };
    let done = tokio::select! {
        done = asked => done,
        () = cancel.notified() => Err(Error::new(Code::Cancelled, "as told")),
    };
    say(match done {
        Ok(payload) => json!({ "id": command["id"], "payload": payload }),
        Err(error) => json!({ "id": command["id"], "error": error.code().name(), "wire_code": error.wire_code() }),
    })
    .await;
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (directory, intent, more) = match args.as_slice() {
        [directory, intent] => (directory.clone(), intent, "{}"),
        [directory, intent, more] => (directory.clone(), intent, more.as_str()),
        _ => return Err("usage: mate DIRECTORY_URL INTENT [NODE_OPTIONS]".into()),
    };
    // Told to panic, it need not say where.
    std::panic::set_hook(Box::new(|_| {}));
    let seen = Arc::new(Seen::default());
    let mut options: Value = serde_json::from_str(more)?;
    options["directory"] = json!(directory);
    options["intents"] = json!([intent]);
    options["max_concurrent"] = 2.into();
    let options: NodeOptions = from_json(&options.to_string())?;
    let handlers = seen.clone();
    let node = Node::bind(options).await?.serve(move |task: Inbound| handlers.clone().serve(task)).await?;
    let mut options = ClientOptions::default();
    options.directory = directory;
    let client = Client::new(options)?;
    say(json!({ "ready": node.node_id() })).await;

    let mut running: HashMap<u64, Arc<Notify>> = HashMap::new();
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        if let Some(id) = command["cancel"].as_u64() {
            if let Some(cancel) = running.remove(&id) {
                Notify::notify_one(&cancel);
            }
        } else if command["status"] == true {
            let (begun, cancelled) = (seen.begun.load(Relaxed), seen.cancelled.load(Relaxed));
            say(json!({ "id": command["id"], "seen": begun, "cancelled": cancelled })).await;
        } else {
            let cancel = Arc::new(Notify::new());
            running.insert(command["id"].as_u64().ok_or("a submit has no id")?, cancel.clone());
            tokio::spawn(submit(client.clone(), command, cancel));
        }
    }
    node.shutdown(Duration::from_secs(2)).await;
    Ok(())
}
