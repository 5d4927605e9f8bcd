//! The built command, as people and scripts use it: in a pipe, at a terminal, under a supervisor.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod configuration;
mod mesh;
mod packaging;
mod pipes;
mod serving;
mod stopping;
mod support;
mod terminal;
mod tls;
