//! A node reads a consumer token.

#![no_main]

iicp_fuzz::target!("consumer_token");
