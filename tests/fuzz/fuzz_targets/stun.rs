//! A port reads what comes to it by UDP and is no QUIC.

#![no_main]

iicp_fuzz::target!("stun");
