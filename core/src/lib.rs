//! One engine for the IICP mesh: client, serving node and embedded directory.
//!
//! IICP routes AI tasks by *intent* (such as [`CHAT`]) over a mesh of provider nodes: discover, select, submit. A
//! directory knows who serves what and never sees a prompt; the task goes straight from consumer to provider.

pub mod error;
pub mod types;
pub mod options;
pub mod telemetry;
mod wire;
mod crypto;
mod protocol;
pub mod runtime;
mod transport;

pub use error::{Code, Error, Result};
pub use types::CHAT;
