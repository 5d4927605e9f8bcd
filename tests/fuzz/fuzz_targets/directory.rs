//! A client reads what a directory answers: a list of nodes, or a route with its ticket.

#![no_main]

iicp_fuzz::target!("directory");
