//! State machines without sockets: they take bytes and time, and give back decisions and deadlines.

pub(crate) mod admission;
pub(crate) mod breaker;
pub(crate) mod capability;
pub(crate) mod consensus;
pub(crate) mod heartbeat;
pub(crate) mod identity;
pub(crate) mod policy;
pub(crate) mod profiles;
pub(crate) mod projection;
pub(crate) mod ranker;
pub(crate) mod replay;
pub(crate) mod retry;
pub(crate) mod risk;
pub(crate) mod sealed;
pub(crate) mod selection;
pub(crate) mod ticket_admission;
