//! Workers that cannot hold a connection, such as browsers: they bind, pull calls and bring results over HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::session::{Session, Way};
use super::{Arrival, Relay};
use crate::crypto::digest::{hex, random, token_hash};
use crate::protocol::relay::bind::Refusal;
use crate::protocol::relay::source::Source;

/// How long a pull waits for a call.
pub(crate) const PULL: Duration = Duration::from_secs(25);

/// What a pull brought.
pub(crate) enum Pulled {
    Call {
        call: Uuid,
        body: Bytes,
    },
    /// Nothing came in time, or another pull took this one's place.
    Nothing,
    /// The token names no session.
    Unknown,
}

impl Relay {
    /// Binds a worker that pulls, and gives its token: 32 hex digits; whoever has it is the worker.
    pub(crate) async fn bind_poll(
        &self,
        worker_id: &str,
        ticket: Option<&str>,
        models: Vec<String>,
        source: Source,
    ) -> Result<String, Refusal> {
        // The system's randomness has nothing to do with the worker, but without it nobody can be let in.
        let token = hex(&random::<16>().map_err(|_| Refusal::AtCapacity)?);
        let session = self.admit(Arrival { worker_id, ticket, source }, models, Way::Poll, None).await?;
        self.polls().insert(token_hash(&token), session.clone());
        if session.is_closed() {
            // It was displaced meanwhile.
            self.end(&session);
        }
        Ok(token)
    }

    fn poll_session(&self, token: &str) -> Option<Arc<Session>> {
        self.polls().get(&token_hash(token)).filter(|session| !session.is_closed()).cloned()
    }

    /// Whether the token is that of a bound worker.
    pub(crate) fn knows(&self, token: &str) -> bool {
        self.poll_session(token).is_some()
    }

    /// Waits for the next call of a worker.
    pub(crate) async fn pull(&self, token: &str) -> Pulled {
        let Some(session) = self.poll_session(token) else { return Pulled::Unknown };
        let pull = session.begin_pull(self.now_ms());
        let next = tokio::time::timeout_at(Instant::now() + PULL, pull.next()).await;
        pull.end(self.now_ms());
        match next {
            Ok(Some((call, body))) => Pulled::Call { call, body },
            Ok(None) if session.is_closed() => Pulled::Unknown,
            Ok(None) | Err(_) => Pulled::Nothing,
        }
    }

    /// Brings an answer. False if the token names no session; a call that nobody waits for is fine.
    pub(crate) fn bring(&self, token: &str, call: Option<Uuid>, body: Bytes) -> bool {
        let Some(session) = self.poll_session(token) else { return false };
        session.liveness.heard(self.now_ms());
        if let Some(call) = call {
            session.settle(call, body, None);
        }
        true
    }

    /// Ends a session at its worker's wish. False if the token names none.
    pub(crate) fn unbind(&self, token: &str) -> bool {
        let Some(session) = self.poll_session(token) else { return false };
        self.end(&session);
        true
    }
}
