//! Keys, signatures and digests. No network, no clock: the time comes in as an argument.

pub(crate) mod certificate;
pub(crate) mod cx;
pub(crate) mod digest;
pub(crate) mod pinned;
pub(crate) mod ticket;
pub(crate) mod token;
