//! A peer reads one message of the framed transport.

#![no_main]

iicp_fuzz::target!("message");
