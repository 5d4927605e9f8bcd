//! The serving half, on loopback: a directory, and a node that answers chats by repeating them.
//!
//! ```sh
//! cargo run --release --example node                                  # starts a directory and prints its URL
//! cargo run --release --example node -- http://127.0.0.1:9480         # joins a directory
//! ```

#![allow(clippy::print_stdout)]

use std::time::Duration;

use iicp_core::options::{DirectoryOptions, NodeOptions};
use iicp_core::{CHAT, Directory, Error, Inbound, Node, Reply, Result};

async fn repeat(task: Inbound) -> Result<Reply> {
    let payload: serde_json::Value = task.json()?;
    let last = payload["messages"].as_array().and_then(|messages| messages.last());
    let content = last.and_then(|message| message["content"].as_str());
    // What the caller did wrong, the caller is told; other errors of a handler stay here.
    let content = content.ok_or_else(|| Error::rejected("the chat has no message with text"))?;
    Ok(Reply::chat(format!("You said: {content}")))
}

#[tokio::main]
async fn main() -> Result<()> {
    let directory = match std::env::args().nth(1) {
        Some(_) => None,
        None => {
            let mut options = DirectoryOptions::loopback();
            options.port = 9480;
            Some(Directory::bind(options).await?)
        }
    };
    let url = directory.as_ref().map(Directory::url).or_else(|| std::env::args().nth(1)).unwrap_or_default();

    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.models = vec!["parrot".into()];
    options.directory = url.clone();
    let node = Node::bind(options).await?.serve(repeat).await?;
    println!("node {} serves {CHAT} at {}", node.node_id(), node.url());
    println!("directory: {url} (registered: {})", node.is_registered());
    println!("Ctrl-C drains and leaves.");

    // A system without signals is stopped by other means.
    let _ = tokio::signal::ctrl_c().await;
    let finished = node.shutdown(Duration::from_secs(10)).await;
    println!("left the directory; every task finished: {finished}");
    if let Some(directory) = directory {
        directory.shutdown(Duration::from_secs(1)).await;
    }
    Ok(())
}
