//! The published Rust crate as a program, client and node: does what it is told, one JSON object per line each way, as
//! `tests/interop/lines.py` has it. What it says is judged by the tests.

mod client;
mod node;

use std::io::{BufRead as _, Write as _};

use serde_json::{Value, json};
use tokio::sync::mpsc;

/// An answer, or the fields of an error.
type Told = Result<Value, Value>;

fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A text of the command, which must be there.
fn text(command: &Value, name: &str) -> String {
    command[name].as_str().unwrap_or_else(|| panic!("the command has no {name}")).to_owned()
}

/// A port of the command, which must be there.
fn port(command: &Value, name: &str) -> u16 {
    command[name].as_u64().and_then(|port| port.try_into().ok()).unwrap_or_else(|| panic!("the command has no {name}"))
}

async fn answer(peer: &'static node::Peer, command: Value) -> Told {
    match &*text(&command, "do") {
        "discover" => client::discover(&command).await,
        "submit" => client::submit(&command).await,
        "chat" => client::chat(&command).await,
        "native" => client::native(&command).await,
        "serve" => peer.serve(&command).await,
        "serve_native" => peer.serve_native(&command).await,
        "seen" => Ok(peer.seen()),
        "let_go" => Ok(peer.let_go()),
        "deregister" => peer.deregister().await,
        other => panic!("nobody knows '{other}'"),
    }
}

/// The end of the input ends the program, so a test that dies takes its peers along.
#[tokio::main]
async fn main() {
    let (sender, mut lines) = mpsc::unbounded_channel::<Value>();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(command) = serde_json::from_str(&line) else { return };
            let _ = sender.send(command);
        }
    });
    let peer: &'static node::Peer = Box::leak(Box::default());
    // The crate does not say its version; Cargo.toml pins it.
    say(&json!({ "ready": { "version": "0.7.109" } }));
    while let Some(command) = lines.recv().await {
        tokio::spawn(async move {
            let id = command["id"].clone();
            say(&match answer(peer, command).await {
                Ok(ok) => json!({ "id": id, "ok": ok }),
                Err(error) => json!({ "id": id, "error": error }),
            });
        });
    }
}
