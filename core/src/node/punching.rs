//! Direct paths past NATs: a worker lets itself be found, a relay brings both sides together.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::State;
use super::answer::{json, preflight, refuse, wrong_method};
use super::relaying;
#[cfg(feature = "punch")]
use crate::options::NativeTransport;
use crate::options::{NodeOptions, Punch};
use crate::protocol::punching::Rendezvous;
use crate::relay::{Forwarded, Listeners, Observer, Relay};
use crate::transport::conn::Conn;
use crate::transport::http_server::{Answer, read_body};
use crate::types::RungReport;
use crate::wire::punch::{Asked, MOST_BYTES, Observers};
use crate::wire::relay::Facts;

/// How long a worker may take to say as what it is seen.
const PATIENCE: Duration = Duration::from_secs(6);

#[cfg(feature = "punch")]
fn is_wanted(options: &NodeOptions) -> bool {
    options.punch == Punch::Auto && options.native != NativeTransport::Off
}

/// Has a relay tell peers as what it sees them.
pub(super) fn observe(relay: &Relay, listeners: &Listeners, options: &NodeOptions) {
    if options.punch == Punch::Auto {
        relay.observe(Observer::bind(&listeners.addrs()));
    }
}

/// Who answers callers that look for this node. It lives as long as the node's group.
#[cfg(feature = "punch")]
pub(super) fn host(state: &Arc<State>) -> Option<Arc<dyn Rendezvous>> {
    use crate::transport::native_server::{Native, Plaintext};

    if !is_wanted(&state.options) {
        return None;
    }
    if let Some(host) = state.rendezvous.get().and_then(Weak::upgrade) {
        return Some(host);
    }
    let native = Native {
        admission: state.clone(),
        node_id: state.node_id.clone(),
        plaintext: Plaintext::Nowhere,
        max_body_bytes: state.options.max_body_bytes,
    };
    let host = crate::punch::Host::new(state.key.clone(), Arc::new(native), state.group.clone());
    let host: Arc<dyn Rendezvous> = Arc::new(host.ok()?);
    // The state must not hold what holds the state.
    let weak = Arc::downgrade(&host);
    if state.rendezvous.set(weak).is_err() {
        return state.rendezvous.get().and_then(Weak::upgrade);
    }
    let (kept, aborted) = (host.clone(), state.group.aborted());
    state.group.spawn_watcher(async move {
        aborted.await;
        drop(kept);
    });
    Some(host)
}

/// Without the feature nobody is found.
#[cfg(not(feature = "punch"))]
pub(super) fn host(_: &Arc<State>) -> Option<Arc<dyn Rendezvous>> {
    None
}

/// What became of the callers who looked for this node; none if it is not one that is looked for.
pub(super) fn report(state: &State) -> Option<RungReport> {
    state.rendezvous.get().and_then(Weak::upgrade).map(|host| host.report())
}

/// A relay's answer to who looks for a worker: on which ports he is told as what he is seen, then what the worker says.
pub(super) async fn answer(
    state: &Arc<State>,
    relay: &Arc<Relay>,
    worker_id: &str,
    request: Request<Incoming>,
    conn: &Conn,
) -> Answer {
    if request.method() == Method::OPTIONS {
        return preflight();
    }
    let Some(observers) = relay.observers(worker_id, conn.peer.ip()) else {
        let message = "this worker is not bound here, or knows no direct paths";
        return refuse(StatusCode::NOT_FOUND, "not_found", message, &[]);
    };
    match *request.method() {
        Method::GET => json(StatusCode::OK, serde_json::to_vec(&observers).unwrap_or_default()),
        Method::POST => {
            if let Err(answer) = relaying::count(state, request.headers(), conn) {
                return *answer;
            }
            match read_body(request.into_body(), MOST_BYTES, conn).await {
                Ok(body) => ask(relay, worker_id, &body, observers, conn).await,
                Err(_) => unread(),
            }
        }
        _ => wrong_method("GET, POST, OPTIONS"),
    }
}

fn unread() -> Answer {
    let message = format!("the body is no question for a path: id and iicp_conf, {MOST_BYTES} bytes at most");
    refuse(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", &message, &[])
}

async fn ask(relay: &Arc<Relay>, worker_id: &str, body: &Bytes, said: Observers, conn: &Conn) -> Answer {
    let Some(asked) = Asked::read(body) else { return unread() };
    if let Err(fault) = relay.count_asked(conn.peer.ip()) {
        return relaying::fault_answer(fault, "");
    }
    let question = Asked { observers: said.observers, beside: said.beside, ..asked }.write();
    let facts = Facts { punches: true, ..Facts::default() };
    match relay.forward(worker_id, conn.peer.ip(), question, facts, Some(PATIENCE)).await {
        Ok(Forwarded::Whole { body, status }) => {
            json(status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK), body)
        }
        Ok(Forwarded::Parts { .. }) => {
            refuse(StatusCode::BAD_GATEWAY, "IICP-E031", "the worker's answer is no answer to that", &[])
        }
        Err(fault) => relaying::fault_answer(fault, ""),
    }
}
