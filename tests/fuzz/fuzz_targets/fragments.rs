//! A peer puts messages together that came in parts.

#![no_main]

iicp_fuzz::target!("fragments");
