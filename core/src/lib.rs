//! One engine for the IICP mesh: client, serving node, relay and embedded directory.
//!
//! IICP routes AI tasks by *intent* (such as [`CHAT`]) over a mesh of provider nodes: discover, select, submit. A
//! directory knows who serves what and never sees a prompt; the task goes straight from consumer to provider.
//!
//! A module may use only modules that stand above it in this list; a test holds it to that.

pub mod error;
pub mod types;
pub mod options;
pub mod telemetry;
mod wire;
mod crypto;
mod protocol;
pub mod runtime;
mod state;
mod transport;
#[cfg(feature = "punch")]
mod punch;
mod discovery;
mod relay;
mod nat;
mod client;
mod node;
mod directory;
pub mod bridge;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod fixtures;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod measured;

pub use client::{
    CandidateEvidence, CandidateRanker, Client, RankChoice, RankMode, RankRequest, Streamed, Task, TaskStream,
};
pub use directory::Directory;
pub use error::{Code, Error, Result};
pub use node::{Backend, Caller, Handler, Inbound, LiveNode, Node, NodeStatus, Reply};
pub use types::{CHAT, COMPLETION, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION};
