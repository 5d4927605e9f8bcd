//! The published Python SDK as our peer, both ways, over loopback: its client against our directory and node, our
//! client against its node. What it says is judged here; how it is driven stands in `tests/interop/`. The published Rust
//! crate likewise, in `rust`.

#![allow(clippy::unwrap_used)]

mod conformance;
mod native;
mod peer;
mod relay;
mod rust;
mod sealed;
mod their_client;
mod their_node;
mod tls;

use iicp_core::Directory;
use iicp_core::options::DirectoryOptions;

/// The directory that both sides use.
async fn directory() -> Directory {
    Directory::bind(DirectoryOptions::loopback()).await.unwrap()
}
