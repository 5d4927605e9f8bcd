//! The directory as seen by clients and nodes, and the routes that a client holds.

pub(crate) mod consumer_tokens;
pub(crate) mod directory_client;
pub(crate) mod directory_key;
mod held;
pub(crate) mod routes;
mod tickets;
