//! Seeing oneself from outside: the directory is asked to connect to a place, and what arrives here is counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::discovery::directory_client::DirectoryClient;

/// Longest wait for the directory; it gives up by itself after five seconds, which is what most of its attempts to get
/// through a closed gateway would take.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// How long a connection that was seen outside may take to be seen here.
const ARRIVAL: Duration = Duration::from_millis(500);

/// How many connections have come in until now.
pub(crate) type Arrivals = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The directory came in.
    Seen,
    /// It did not, and why.
    NotSeen(String),
    /// Nobody looked, and why.
    Nobody(String),
}

/// Whoever can look.
#[derive(Clone)]
pub(crate) struct Witness {
    pub(crate) directory: Option<DirectoryClient>,
    /// None if nobody counts.
    pub(crate) arrivals: Option<Arrivals>,
}

impl Witness {
    /// Has the directory connect to a place.
    pub(crate) async fn look(&self, place: SocketAddr, deadline: Instant) -> Sight {
        let Some(directory) = &self.directory else { return Sight::Nobody("there is no directory to look".into()) };
        let before = self.arrived();
        let deadline = deadline.min(Instant::now() + PATIENCE);
        let seen = tokio::time::timeout_at(deadline, directory.probe(place, deadline + ARRIVAL)).await;
        match seen {
            // It would have said if it could not look.
            Err(_) => Sight::NotSeen("the directory, which was asked to connect, did not get through in time".into()),
            Ok(Err(error)) => Sight::Nobody(format!("the directory did not look: {}", error.message())),
            Ok(Ok(seen)) if !seen.reachable => {
                let why = seen.error.unwrap_or_else(|| "no connection".into());
                Sight::NotSeen(format!("the directory did not get through: {}", crate::wire::upnp::shown(&why)))
            }
            Ok(Ok(_)) if self.has_come(before).await => Sight::Seen,
            Ok(Ok(_)) => Sight::NotSeen("the directory reached somebody there, and it was not this node".into()),
        }
    }

    fn arrived(&self) -> Option<u64> {
        self.arrivals.as_ref().map(|arrivals| arrivals())
    }

    /// Whether somebody came in since. Who does not count believes it.
    async fn has_come(&self, before: Option<u64>) -> bool {
        let until = Instant::now() + ARRIVAL;
        loop {
            if before.is_none() || self.arrived() != before {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}
