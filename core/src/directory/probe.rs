//! Asking a node's health, as the public directory does before it takes a registration.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answer::Refusal;
use crate::error::Result;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::transport::http_client::{Call, HttpClient};

const DEADLINE: Duration = Duration::from_secs(5);
const MOST_AT_ONCE: usize = 16;
const MOST_BYTES: usize = 64 << 10;

pub(super) struct Probe {
    http: HttpClient,
    places: Semaphore,
}

impl Probe {
    pub(super) fn new() -> Result<Self> {
        Ok(Probe { http: HttpClient::new()?, places: Semaphore::new(MOST_AT_ONCE) })
    }

    /// Whether a node answers at this endpoint, within five seconds. Nothing off this machine is ever asked.
    pub(super) async fn is_alive(&self, endpoint: &str) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let Ok(endpoint) = Endpoint::parse("a node", endpoint) else { return false };
        let Ok(url) = endpoint.join("/iicp/health") else { return false };
        if !endpoint.is_loopback() {
            return false;
        }
        let Ok(Ok(_place)) = tokio::time::timeout_at(deadline, self.places.acquire()).await else { return false };
        let call = Call::new(Method::GET, url, Reach::Loopback, deadline, MOST_BYTES);
        self.http.call(call).await.is_ok_and(|reply| (200..300).contains(&reply.status))
    }
}

/// The registration of a node that does not answer.
pub(super) fn not_alive() -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "IICP-E036",
        "no healthy answer from the endpoint's /iicp/health within 5 s; open the listener before registering",
    )
}
