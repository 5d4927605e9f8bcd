//! Somebody reads a stream of events.

#![no_main]

iicp_fuzz::target!("events");
