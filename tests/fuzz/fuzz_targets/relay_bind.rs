//! A relay reads what workers and consumers say to it.

#![no_main]

iicp_fuzz::target!("relay_bind");
