//! State machines without sockets: they take bytes and time, and give back decisions and deadlines.

pub(crate) mod admission;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod breaker;
#[allow(dead_code)] // pre-normative and off: the published fixtures run it, and who asks for it will
pub(crate) mod capability;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod consensus;
pub(crate) mod heartbeat;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod identity;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod policy;
#[allow(dead_code)] // pre-normative and off: the published fixtures run it, and who asks for it will
pub(crate) mod profiles;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod projection;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod ranker;
pub(crate) mod replay;
pub(crate) mod retry;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod risk;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod selection;
#[allow(dead_code)] // pre-normative and off: the published fixtures run it, and who asks for it will
pub(crate) mod ticket_admission;
