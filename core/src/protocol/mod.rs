//! State machines without sockets: they take bytes and time, and give back decisions and deadlines.

pub(crate) mod admission;
pub(crate) mod heartbeat;
pub(crate) mod replay;
pub(crate) mod retry;
pub(crate) mod sealed;
