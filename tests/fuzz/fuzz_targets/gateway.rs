//! A node reads what gateways say to it, or whoever passes for one.

#![no_main]

iicp_fuzz::target!("gateway");
