//! Asking whether something can be reached: a node's health, as the public directory does before it takes a registration,
//! and an address that somebody wants to register.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use http::{Method, StatusCode, Uri};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use url::Host;

use super::answer::{Outcome, Refusal, ok};
use super::desk::{Caller, Desk};
use super::form::Form;
use crate::error::Result;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::{Reach, judge_host};
use crate::transport::http_client::{Call, HttpClient, NoReply};
use crate::transport::resolve::{Names, SystemLookup};
use crate::transport::trust::Trust;

const DEADLINE: Duration = Duration::from_secs(5);
const MOST_AT_ONCE: usize = 16;
const MOST_BYTES: usize = 64 << 10;

pub(super) struct Probe {
    http: HttpClient,
    names: Names,
    places: Semaphore,
}

/// What a node says when it is asked for its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Alive,
    Dead,
    /// It is not on this machine, so it was not asked.
    Elsewhere,
}

/// Whether an address answers.
#[derive(Default, Serialize)]
struct Reached {
    reachable: bool,
    latency_ms: Option<u64>,
    error: Option<&'static str>,
}

impl Probe {
    /// With the authorities that are trusted beside the system's.
    pub(super) fn trusting(trusted_ca: Option<&str>) -> Result<Self> {
        let names = Names::new(Arc::new(SystemLookup));
        Ok(Probe { http: HttpClient::trusting(Trust::with(trusted_ca)?)?, names, places: Semaphore::new(MOST_AT_ONCE) })
    }

    /// Whether a node answers at this endpoint, within five seconds. Nothing off this machine is ever asked.
    pub(super) async fn health(&self, endpoint: &str) -> Health {
        let deadline = Instant::now() + DEADLINE;
        let Ok(endpoint) = Endpoint::parse("a node", endpoint) else { return Health::Dead };
        let Ok(url) = endpoint.join("/iicp/health") else { return Health::Dead };
        if !endpoint.is_loopback() {
            return Health::Elsewhere;
        }
        let Ok(Ok(_place)) = timeout_at(deadline, self.places.acquire()).await else { return Health::Dead };
        let call = Call::new(Method::GET, url, Reach::Loopback, deadline, MOST_BYTES);
        match self.http.call(call).await {
            Ok(reply) if (200..300).contains(&reply.status) => Health::Alive,
            Ok(_) | Err(_) => Health::Dead,
        }
    }

    /// Whether anything accepts connections there.
    ///
    /// # Errors
    /// `Refused` if the host leads to an address that is not globally routable.
    async fn reach(&self, host: &Host<String>, port: u16) -> Result<Reached, NoReply> {
        let (begun, failed) = (Instant::now(), |why| Reached { error: Some(why), ..Reached::default() });
        let deadline = begun + DEADLINE;
        let Ok(Ok(_place)) = timeout_at(deadline, self.places.acquire()).await else { return Ok(failed("busy")) };
        let addresses = match host {
            Host::Ipv4(ip) => vec![SocketAddr::new(IpAddr::V4(*ip), port)],
            Host::Ipv6(ip) => vec![SocketAddr::new(IpAddr::V6(*ip), port)],
            Host::Domain(name) => match timeout_at(deadline, self.names.resolve(name, Reach::Public)).await {
                Ok(Ok(found)) => found.into_iter().map(|found| SocketAddr::new(found.ip(), port)).collect(),
                Ok(Err(NoReply::Refused)) => return Err(NoReply::Refused),
                Ok(Err(_)) | Err(_) => return Ok(failed("the name does not resolve")),
            },
        };
        for address in addresses {
            let connecting = Instant::now();
            match timeout_at(deadline, TcpStream::connect(address)).await {
                Ok(Ok(_)) => {
                    let latency_ms = Some(crate::options::millis(connecting.elapsed()));
                    return Ok(Reached { reachable: true, latency_ms, error: None });
                }
                Ok(Err(_)) => {}
                Err(_) => return Ok(failed("no connection in time")),
            }
        }
        Ok(failed("no connection"))
    }
}

/// `GET probe`: whether an address on the open network can be reached from here. An address of this machine or of its
/// network never: whoever asks could use the directory to look around where he cannot go himself.
pub(super) async fn probe(State(desk): Desk, caller: Caller, uri: Uri) -> Outcome {
    desk.limits.as_ref().map_or(Ok(()), |limits| limits.probe(caller.ip))?;
    let mut form = Form::query(uri.query().unwrap_or_default());
    let (host, port) = (form.text("host", 253), form.count("port", 1_024..=65_535));
    form.require("port", port);
    let host = form.require("host", host).and_then(|text| {
        let host = text.parse().map(Host::Ipv6).ok().or_else(|| Host::parse(&text).ok());
        if host.is_none() {
            form.fault("host", "must be a name or an address");
        }
        host
    });
    form.finish()?;
    let port = port.and_then(|port| u16::try_from(port).ok());
    let (Some(host), Some(port)) = (host, port) else { return Err(Refusal::unreadable("no host and port")) };
    let private = || {
        let message = "the host is not globally routable, and is not looked at from here";
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "private_address", message)
    };
    let judged = match &host {
        Host::Ipv4(ip) => Host::Ipv4(*ip),
        Host::Ipv6(ip) => Host::Ipv6(*ip),
        Host::Domain(name) => Host::Domain(name.as_str()),
    };
    judge_host(&judged, Reach::Public).map_err(|_| private())?;
    let probe = desk
        .probe
        .as_ref()
        .ok_or_else(|| Refusal::not_configured("this directory looks at nothing; switch its option probe on"))?;
    ok(&probe.reach(&host, port).await.map_err(|_| private())?)
}

/// The registration of a node that does not answer.
pub(super) fn not_alive() -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "IICP-E036",
        "no healthy answer from the endpoint's /iicp/health within 5 s; open the listener before registering",
    )
}
