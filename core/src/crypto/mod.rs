//! Keys, signatures and digests. No network, no clock: the time comes in as an argument.

pub(crate) mod cx;
pub(crate) mod digest;
#[allow(dead_code)] // the client is not built on it yet
pub(crate) mod ticket;
pub(crate) mod token;
