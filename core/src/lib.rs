//! One engine for the IICP mesh: client, serving node and embedded directory.
//!
//! IICP routes AI tasks by *intent* (such as [`CHAT`]) over a mesh of provider nodes: discover, select, submit. A
//! directory knows who serves what and never sees a prompt; the task goes straight from consumer to provider.

mod crypto;
pub mod error;
pub mod options;
mod protocol;
pub mod runtime;
pub mod telemetry;
mod transport;
pub mod types;
mod wire;

pub use error::{Code, Error, Result};
pub use types::CHAT;
