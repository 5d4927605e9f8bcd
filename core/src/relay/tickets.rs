//! Verifying bind tickets: with the key that the operator gave, or with the directory's own.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::crypto::ticket::{BindClaims, TicketFault, verify_bind_ticket};
use crate::discovery::directory_client::DirectoryClient;
use crate::telemetry;

/// Longest wait for the directory's key.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the directory is not asked again, whatever is signed with another key: strangers must not make us ask.
const FRESH: Duration = Duration::from_secs(5);

/// Who says which workers own their ids.
pub(crate) struct TicketJudge {
    relay_id: String,
    source: Source,
}

enum Source {
    /// Nobody: no ticket can be verified.
    Nobody,
    Fixed([u8; 32]),
    Directory {
        client: DirectoryClient,
        held: Mutex<Held>,
        /// One question at a time.
        asking: tokio::sync::Mutex<()>,
    },
}

#[derive(Clone, Copy, Default)]
struct Held {
    key: Option<[u8; 32]>,
    /// When the directory was asked last, whatever it said.
    asked: Option<Instant>,
}

/// Why a ticket is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It is not good.
    Fault(TicketFault),
    /// Nobody can say: the directory's key could not be had.
    NoKey,
}

impl TicketJudge {
    pub(crate) fn new(relay_id: String, key: Option<[u8; 32]>, directory: Option<DirectoryClient>) -> Self {
        let source = match (key, directory) {
            (Some(key), _) => Source::Fixed(key),
            (None, Some(client)) => {
                Source::Directory { client, held: Mutex::default(), asking: tokio::sync::Mutex::default() }
            }
            (None, None) => Source::Nobody,
        };
        TicketJudge { relay_id, source }
    }

    /// Whether tickets mean anything here.
    pub(crate) fn can_verify(&self) -> bool {
        !matches!(self.source, Source::Nobody)
    }

    /// Verifies a ticket. A signature that does not fit the key that is held may be that of a new one, and a date that does not fit
    /// that of a clock that was set.
    pub(crate) async fn verify(&self, ticket: &str, worker_id: &str) -> Result<BindClaims, Doubt> {
        let check = |key: Option<[u8; 32]>| {
            let key = key.ok_or(Doubt::NoKey)?;
            verify_bind_ticket(ticket, &key, worker_id, &self.relay_id, self.now_unix_s()).map_err(Doubt::Fault)
        };
        let (client, held, asking) = match &self.source {
            Source::Nobody => return Err(Doubt::NoKey),
            Source::Fixed(key) => return check(Some(*key)),
            Source::Directory { client, held, asking } => (client, held, asking),
        };
        let read = || *held.lock().unwrap_or_else(PoisonError::into_inner);
        let may_ask = |held: Held| held.asked.is_none_or(|asked| asked.elapsed() >= FRESH);
        let verdict = check(read().key);
        let is_settled = match &verdict {
            Ok(_) => true,
            Err(Doubt::NoKey) => false,
            Err(Doubt::Fault(fault)) => !fault.may_be_the_judges(),
        };
        if is_settled || !may_ask(read()) {
            return verdict;
        }
        let _turn = asking.lock().await;
        // Somebody else may have asked while we waited for our turn.
        if may_ask(read()) {
            let answer = client.key(Instant::now() + PATIENCE).await;
            if let Err(error) = &answer {
                tracing::warn!(target: telemetry::RELAY, code = %error.code(), "the directory gave no key for tickets");
            }
            let key = answer.ok().or(read().key);
            *held.lock().unwrap_or_else(PoisonError::into_inner) = Held { key, asked: Some(Instant::now()) };
        }
        check(read().key)
    }

    /// The time by the clock of whoever dates the tickets.
    pub(crate) fn now_unix_s(&self) -> u64 {
        match &self.source {
            Source::Directory { client, .. } => client.now_unix_s(),
            Source::Nobody | Source::Fixed(_) => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
            }
        }
    }
}
