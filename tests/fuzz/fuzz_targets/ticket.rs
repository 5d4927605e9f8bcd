//! A client reads a dispatch ticket.

#![no_main]

iicp_fuzz::target!("ticket");
