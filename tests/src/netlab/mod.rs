//! The network lab: machines, gateways and a street of open network between them, made of namespaces of this machine.
//!
//! Addresses of the street are outside of every reserved range: gateways refuse to map ports for others, and so do nodes.
//! They are real addresses of strangers, which nothing in a namespace can reach.

pub mod gateway;
pub mod igd;
pub mod place;
pub mod street;
