//! A client reads a node's reply, sealed or not.

#![no_main]

iicp_fuzz::target!("sealed_reply");
