//! A node opens a sealed task.

#![no_main]

iicp_fuzz::target!("sealed_task");
