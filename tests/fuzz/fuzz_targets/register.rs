//! A directory reads a registration.

#![no_main]

iicp_fuzz::target!("register");
