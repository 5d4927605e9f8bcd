//! By the thousand: connections, workers, tasks. Each test has a small form, and the whole one that `tests/run --with soak`
//! takes; what the whole one may cost in memory is looked at there only, where the code is optimized.

#![allow(clippy::unwrap_used)]

mod connections;
mod in_flight;
mod relayed;

use std::process::Stdio;
use std::time::Duration;

use iicp_tests::cgroup::Cgroup;
use iicp_tests::http::addr;
use iicp_tests::process::{Process, many_descriptors};
use iicp_tests::stage_process::StageProcess;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// So many bytes for each of so many.
fn each(bytes: u64, count: usize) -> u64 {
    bytes / u64::try_from(count).unwrap()
}

/// A node in a process of its own.
struct Remote {
    stage: StageProcess,
    process: Process,
    addr: std::net::SocketAddr,
}

impl Remote {
    async fn new(handler: Value, options: Value) -> Remote {
        Remote::within(None, handler, options).await
    }

    /// The same in a group.
    async fn within(group: Option<&Cgroup>, handler: Value, options: Value) -> Remote {
        many_descriptors();
        let mut stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
        let process = Process(stage.id().unwrap());
        if let Some(group) = group {
            group.take(process).unwrap();
        }
        let node = json!({ "handler": handler, "options": options });
        let scene = stage.call(&json!({ "setup": { "nodes": [node] } })).await.unwrap();
        let addr = addr(scene["nodes"][0]["url"].as_str().unwrap());
        Remote { stage, process, addr }
    }

    /// What the node noted.
    async fn ledger(&mut self) -> Value {
        self.stage.call(&json!({ "ledger": {} })).await.unwrap()["nodes"][0].take()
    }
}

/// A role of the bench in a process of its own, which ends with this.
struct Role {
    _child: Child,
    process: Process,
    said: Value,
}

impl Role {
    async fn start(role: &str, args: &[&str]) -> Role {
        many_descriptors();
        let mut child = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(["--role", role])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let process = Process(child.id().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(Duration::from_secs(120), lines.next_line()).await.expect("it is silent");
        let said = serde_json::from_str(&line.unwrap().expect("it has ended")).unwrap();
        Role { _child: child, process, said }
    }

    fn said(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap()
    }
}
