//! The engine in its roles.

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions};
use iicp_core::types::Payload;
use iicp_core::{CHAT, Client, Directory, Inbound, LiveNode, Node, Task};

use super::{Operation, operation};
use crate::{Result, load};

/// A directory for development.
pub(super) async fn directory() -> Result<(String, Directory)> {
    let directory = Directory::bind(DirectoryOptions::loopback()).await?;
    Ok((directory.url(), directory))
}

/// An echo node, registered with a directory.
pub(super) async fn node(directory: &str) -> Result<(String, LiveNode)> {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = directory.into();
    options.max_concurrent = 256;
    let node = Node::bind(options).await?.serve(async |task: Inbound| Ok(task.payload)).await?;
    if !node.is_registered() {
        return Err("the node could not register".into());
    }
    Ok((node.url(), node))
}

/// A client that submits one task after the other along the route that it holds.
pub(super) fn client(directory: &str) -> Result<impl Operation> {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    let client = Client::new(options)?;
    let payload = Payload::from_json(load::payload())?;
    Ok(operation(move || {
        let (client, task) = (client.clone(), Task::new(CHAT, payload.clone()));
        async move {
            client.submit(task).await?;
            Ok(())
        }
    }))
}
