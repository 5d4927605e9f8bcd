//! The C interface of the engine: `include/iicp.h` is its manual, and is made from the comments in these files.
//!
//! One file per C object. Nothing is decided here: arguments are checked to be what C cannot promise (pointers, lengths,
//! UTF-8), and handed to [`iicp_core::bridge`]. Every body runs inside [`guard`], so that no panic gets into C.

pub mod client;
pub mod directory;
pub mod error;
pub mod event;
mod guard;
pub mod node;
pub mod queue;
pub mod runtime;
mod signals;
#[cfg(feature = "testing")]
pub mod testing;
pub mod version;
pub mod view;
pub mod wait;
