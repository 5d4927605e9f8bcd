//! A node reads a task.

#![no_main]

iicp_fuzz::target!("task");
