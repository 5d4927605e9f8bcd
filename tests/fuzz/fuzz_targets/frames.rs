//! A peer reads the frames of a connection.

#![no_main]

iicp_fuzz::target!("frames");
