//! A mesh in one process: a directory, a node and a client, and a chat that travels discover → select → submit → reply.
//!
//! ```sh
//! cargo run --release --example quickstart
//! ```

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, DirectoryOptions, Discover, NodeOptions};
use iicp_core::{CHAT, Client, Directory, Inbound, Node, Reply, Result};

/// The "model": says how many words it was asked.
async fn count_words(task: Inbound) -> Result<Reply> {
    let payload: serde_json::Value = task.json()?;
    // What the user says comes last; before it a chat tells the model that it is called through the mesh.
    let question = payload["messages"].as_array().and_then(|all| all.last()?["content"].as_str()).unwrap_or_default();
    let words = question.split_whitespace().count();
    Ok(Reply::chat(format!("You sent {words} words; this node serves {}.", task.intent)))
}

#[tokio::main]
async fn main() -> Result<()> {
    let step = Instant::now();
    let directory = Directory::bind(DirectoryOptions::loopback()).await?;
    done("directory", step, &directory.url());

    let step = Instant::now();
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.models = vec!["word-counter".into()];
    options.directory = directory.url();
    let node = Node::bind(options).await?.serve(count_words).await?;
    done("node", step, &format!("{} at {}", node.node_id(), node.url()));

    let mut options = ClientOptions::default();
    options.directory = directory.url();
    let client = Client::new(options)?;

    let step = Instant::now();
    let nodes = client.discover(Discover::intent(CHAT).limit(5)).await?;
    done("discover", step, &format!("{} node(s), best score {:.2}", nodes.len(), nodes[0].score));

    for name in ["first chat", "next chat"] {
        let step = Instant::now();
        let reply = client.chat("Hello, mesh: is anybody there?").await?;
        done(name, step, reply.text());
        let (task, receipt) = (&reply.task, &reply.task.receipt);
        let ticket = receipt.dispatch_ticket_id_prefix.as_deref().unwrap_or("none");
        println!(
            "{:>27}sealed: {}, ticket {ticket}…, waited {:?} for the node, own work {:?}",
            "", task.sealed, task.timings.first_byte, task.timings.overhead
        );
    }

    let step = Instant::now();
    node.shutdown(Duration::from_secs(5)).await;
    directory.shutdown(Duration::from_secs(5)).await;
    done("shutdown", step, "node left the directory");
    Ok(())
}

fn done(name: &str, since: Instant, what: &str) {
    println!("{name:<12}{:>9.3} ms  {what}", since.elapsed().as_secs_f64() * 1e3);
}
