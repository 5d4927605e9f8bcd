//! State machines without sockets: they take bytes and time, and give back decisions and deadlines.

pub(crate) mod admission;
pub(crate) mod assemble;
pub(crate) mod availability;
pub(crate) mod breaker;
#[allow(dead_code)] // pre-normative and off: the published fixtures run it, and who asks for it will
pub(crate) mod capability;
#[allow(dead_code)] // pre-normative and off, as above
pub(crate) mod compatibility;
pub(crate) mod consensus;
pub(crate) mod declaration;
pub(crate) mod fingerprints;
pub(crate) mod gate;
pub(crate) mod heartbeat;
pub(crate) mod identity;
pub(crate) mod lease;
pub(crate) mod lifecycle;
pub(crate) mod nonces;
pub(crate) mod policy;
pub(crate) mod profiles;
pub(crate) mod projection;
pub(crate) mod published;
pub(crate) mod punching;
pub(crate) mod ranker;
pub(crate) mod rate;
pub(crate) mod receipt;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod retry;
pub(crate) mod risk;
pub(crate) mod sealed;
pub(crate) mod selection;
pub(crate) mod session;
#[allow(dead_code)] // pre-normative and off, as above
pub(crate) mod ticket_admission;
