//! What a name resolves to, judged.
//!
//! A name is asked for when a connection to it is opened, and only what was judged is connected to: an answer that changes
//! between two questions cannot slip in between.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::guard::{self, Reach};
use super::http_client::NoReply;

/// Longest wait for a name, the wait for a place included.
const DEADLINE: Duration = Duration::from_secs(5);
/// Names that are asked for at once, for each reach: names that a directory invented cannot take the places of those
/// that the caller wrote.
const MOST_AT_ONCE: usize = 16;
/// Addresses that are tried, for each family. They share the time that a connection has, so that each gets enough of it.
const MOST_TRIED: usize = 4;

/// The addresses of a name, or why there are none.
pub(crate) type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Who is asked for names.
pub(crate) trait Lookup: Send + Sync {
    /// Asks for a name. The place is kept until the question is answered, also when nobody waits any more.
    fn lookup(&self, name: &str, place: OwnedSemaphorePermit) -> Answer;
}

/// The system's resolver.
pub(crate) struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str, place: OwnedSemaphorePermit) -> Answer {
        let name = name.to_owned();
        Box::pin(async move {
            // The system's call cannot be stopped: it runs on a thread for such calls, and holds its place to its end.
            let asked = tokio::task::spawn_blocking(move || {
                let found = (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|addr| addr.ip()).collect());
                drop(place);
                found
            });
            asked.await.map_err(io::Error::other)?
        })
    }
}

/// Asks for names and judges the answers.
#[derive(Clone)]
pub(crate) struct Names {
    lookup: Arc<dyn Lookup>,
    places: [Arc<Semaphore>; 3],
}

impl Names {
    pub(crate) fn new(lookup: Arc<dyn Lookup>) -> Self {
        Names { lookup, places: [(); 3].map(|()| Arc::new(Semaphore::new(MOST_AT_ONCE))) }
    }

    /// The addresses to connect to, best first as the resolver has them. The port is left open.
    ///
    /// # Errors
    /// `Refused` if one of all addresses may not be called, `Connect` if there is none, or none in time.
    pub(crate) async fn resolve(&self, name: &str, reach: Reach) -> Result<Vec<SocketAddr>, NoReply> {
        let ips = if guard::is_localhost(name) {
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        } else {
            self.ask(name, reach).await?
        };
        if ips.iter().any(|ip| guard::judge_ip(*ip, reach).is_err()) {
            return Err(NoReply::Refused);
        }
        let mut tried = [0; 2];
        let mut addresses = Vec::new();
        for ip in ips {
            let tried = &mut tried[usize::from(ip.is_ipv6())];
            if *tried < MOST_TRIED {
                *tried += 1;
                addresses.push(SocketAddr::new(ip, 0));
            }
        }
        if addresses.is_empty() { Err(NoReply::Connect) } else { Ok(addresses) }
    }

    async fn ask(&self, name: &str, reach: Reach) -> Result<Vec<IpAddr>, NoReply> {
        let places = self.places[reach as usize].clone();
        let asked = async {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            self.lookup.lookup(name, place).await
        };
        match tokio::time::timeout(DEADLINE, asked).await {
            Ok(Ok(ips)) => Ok(ips),
            Ok(Err(_)) | Err(_) => Err(NoReply::Connect),
        }
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}
