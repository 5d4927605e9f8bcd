//! A directory reads what is asked of it.

#![no_main]

iicp_fuzz::target!("discover");
