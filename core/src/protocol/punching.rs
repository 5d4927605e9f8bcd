//! Direct paths between two peers whose gateways let nobody in: who answers those who look for one.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;

use crate::types::RungReport;

/// A status as HTTP has it, and a body.
pub(crate) type Answer = (u16, Bytes);

/// A worker who may be found.
pub(crate) trait Rendezvous: Send + Sync {
    /// Answers a caller whose words came through the relay at these addresses, and begins to look for him.
    fn answer<'a>(&'a self, relay: &'a [IpAddr], asked: Bytes) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

    /// What became of such paths until now.
    fn report(&self) -> RungReport;
}
