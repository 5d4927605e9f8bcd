//! Bytes between machines: which endpoints may be called, the HTTP client, and the HTTP server's accept loop.

pub(crate) mod answer_body;
pub(crate) mod arriving;
mod begun;
pub(crate) mod conn;
pub(crate) mod endpoint;
pub(crate) mod event_bytes;
pub(crate) mod guard;
pub(crate) mod http_client;
pub(crate) mod http_server;
pub(crate) mod native_answers;
mod native_call;
pub(crate) mod native_client;
pub(crate) mod native_link;
pub(crate) mod native_parts;
pub(crate) mod native_published;
pub(crate) mod native_server;
pub(crate) mod native_socket;
pub(crate) mod pinned;
mod pool;
mod redirect;
pub(crate) mod resolve;
pub(crate) mod server_tls;
pub(crate) mod trust;
