//! The consuming half, on loopback: asks the mesh of the example `node`.
//!
//! ```sh
//! cargo run --release --example client -- "Hello, mesh."
//! cargo run --release --example client -- "Hello, mesh." http://127.0.0.1:9480
//! ```

#![allow(clippy::print_stdout)]

use iicp_core::options::{Chat, ClientOptions};
use iicp_core::{Client, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let text = args.next().unwrap_or_else(|| "Hello, mesh.".into());
    let mut options = ClientOptions::default();
    if let Some(directory) = args.next() {
        options.directory = directory;
    }
    let client = Client::new(options)?;
    let reply = client.chat(Chat::user(text).max_tokens(200)).await?;
    println!("{}", reply.text());
    let task = &reply.task;
    println!("-- node {}, {} attempt(s), {:?}", reply.node_id, task.attempts, task.timings.total);
    Ok(())
}
