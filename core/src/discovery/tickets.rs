//! Dispatch tickets: asking for them within the directory's rate, and believing only what verifies.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use super::directory_client::{DirectoryClient, TicketAnswer};
use super::directory_key::DirectoryKey;
use crate::crypto::ticket::{self, ConsumerClaims, Expected, ExpectedCaller, TicketClaims, TicketFault};
use crate::error::{Code, Error, Result};
use crate::options::Discover;
use crate::types::{NodeInfo, Traceparent};
use crate::wire::directory::Ticketed;

/// How long it is remembered that a directory has no tickets.
const NO_TICKETS_FOR: Duration = Duration::from_secs(300);
/// Ids of tickets that are remembered, so that none counts twice.
const MOST_SEEN: usize = 4_096;
/// Grace for the end of a consumer token (specification: consumer tokens).
const TOKEN_GRACE_S: u64 = 10;

/// Who waits for a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A submit.
    Submit,
    /// Nobody: it is for later.
    Nobody,
}

/// A verified route.
pub(super) struct Disclosed {
    pub(super) node: NodeInfo,
    pub(super) id_prefix: String,
    /// How long the ticket is good, from now on.
    pub(super) lasts: Duration,
}

/// Asks for tickets and verifies them.
pub(super) struct Tickets {
    directory: DirectoryClient,
    key: DirectoryKey,
    /// Ids of tickets that were taken, and until when they are good.
    seen: Mutex<HashMap<String, Instant>>,
    none_until: Mutex<Option<Instant>>,
    paused_until: Mutex<Option<Instant>>,
    /// The public directory gives 60 tickets a minute. Both together stay below that in every minute.
    for_submits: DefaultDirectRateLimiter,
    for_later: DefaultDirectRateLimiter,
}

fn rate(burst: u32, per_minute: u32) -> DefaultDirectRateLimiter {
    let nonzero = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    RateLimiter::direct(Quota::per_minute(nonzero(per_minute)).allow_burst(nonzero(burst)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error where a directory has no tickets to give.
pub(super) fn unavailable() -> Error {
    Error::new(Code::TicketsUnavailable, "the directory gives no dispatch tickets; allow discovery")
        .with_wire_code("IICP-DISPATCH-TICKET-UNAVAILABLE")
}

impl Tickets {
    pub(super) fn new(directory: DirectoryClient) -> Self {
        Tickets {
            key: DirectoryKey::new(directory.clone()),
            directory,
            seen: Mutex::default(),
            none_until: Mutex::default(),
            paused_until: Mutex::default(),
            for_submits: rate(24, 18),
            for_later: rate(4, 12),
        }
    }

    /// Whether the directory has said that it has no tickets, not long ago.
    pub(super) fn are_unavailable(&self) -> bool {
        lock(&self.none_until).is_some_and(|until| until > Instant::now())
    }

    /// Asks for one route and verifies its ticket; none if there is no route left.
    ///
    /// # Errors
    /// `TICKETS_UNAVAILABLE` if the directory has none to give; `TICKET_REFUSED` for one that does not verify; other 3xxx.
    pub(super) async fn ask(
        &self,
        query: &Discover,
        exclude: &[&str],
        waiting: Waiting,
        trace: Option<&Traceparent>,
        deadline: Instant,
    ) -> Result<Option<Disclosed>> {
        self.allowance(waiting, deadline).await?;
        match self.directory.ticket(query, exclude, trace, deadline).await {
            Ok(TicketAnswer::Route(ticketed)) => self.verify(*ticketed, query, deadline).await.map(Some),
            Ok(TicketAnswer::NoRoute) => Ok(None),
            Ok(TicketAnswer::NoTickets) => {
                *lock(&self.none_until) = Some(Instant::now() + NO_TICKETS_FOR);
                Err(unavailable())
            }
            Err(error) => {
                if let (Code::DirectoryRateLimited, Some(pause)) = (error.code(), error.retry_after()) {
                    *lock(&self.paused_until) = Some(Instant::now() + pause);
                }
                Err(error)
            }
        }
    }

    /// Waits for a turn within the directory's rate; what is only for later does not wait.
    async fn allowance(&self, waiting: Waiting, deadline: Instant) -> Result<()> {
        let slow = |pause: Duration| {
            Error::new(
                Code::DirectoryRateLimited,
                "too many different routes are asked for in one minute; ask again later",
            )
            .with_retry_after(pause)
        };
        if let Some(until) = *lock(&self.paused_until) {
            let pause = until.saturating_duration_since(Instant::now());
            if !pause.is_zero() {
                return Err(slow(pause));
            }
        }
        if waiting == Waiting::Nobody {
            return self.for_later.check().map_err(|_| slow(Duration::from_secs(5)));
        }
        tokio::time::timeout_at(deadline, self.for_submits.until_ready())
            .await
            .map_err(|_| slow(Duration::from_secs(4)))
    }

    async fn verify(&self, ticketed: Ticketed, query: &Discover, deadline: Instant) -> Result<Disclosed> {
        let Ticketed { ticket, node } = ticketed;
        let check = |key: &[u8; 32], now_unix_s| {
            let expected =
                Expected { issuer: self.directory.issuer(), node_id: &node.node_id, intent: &query.intent, now_unix_s };
            ticket::verify_ticket(&ticket, key, expected)
        };
        let claims = self.key.check(check, deadline).await?.map_err(TicketFault::error)?;
        ticket::check_manifest(&claims, node.node_policy_manifest.as_ref())?;
        let now = self.directory.now_unix_s();
        let lasts = Duration::from_secs(claims.exp.saturating_sub(now).min(3_600));
        self.take(&claims, lasts)?;
        Ok(Disclosed { node, id_prefix: claims.jti.get(..12).unwrap_or_default().to_owned(), lasts })
    }

    /// Notes a ticket, so that it is not taken a second time.
    fn take(&self, claims: &TicketClaims, lasts: Duration) -> Result<()> {
        let now = Instant::now();
        let mut seen = lock(&self.seen);
        // Looked for before room is made, which forgets.
        if seen.get(&claims.jti).is_some_and(|until| *until > now) {
            let why = "the directory gave the same dispatch ticket twice; no task was sent";
            return Err(Error::new(Code::TicketRefused, why).with_wire_code("IICP-DISPATCH-TICKET-UNVERIFIED"));
        }
        if seen.len() >= MOST_SEEN {
            seen.retain(|_, until| *until > now);
        }
        if seen.len() >= MOST_SEEN {
            seen.clear();
        }
        seen.insert(claims.jti.clone(), now + lasts);
        Ok(())
    }

    /// Checks a consumer token for what it was asked for.
    pub(super) async fn verify_consumer_token(
        &self,
        token: &str,
        caller: Option<&str>,
        target: &str,
        intent: &str,
        deadline: Instant,
    ) -> Result<Result<ConsumerClaims, TicketFault>> {
        let check = |key: &[u8; 32], now_unix_s| {
            let issuer = Some(self.directory.issuer());
            let expected = ExpectedCaller { issuer, caller, target, intent, now_unix_s, grace_s: TOKEN_GRACE_S };
            ticket::verify_consumer_token(token, key, expected)
        };
        self.key.check(check, deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::http_client::HttpClient;

    fn claims(number: usize) -> TicketClaims {
        TicketClaims { jti: format!("{number:024x}"), exp: 100, iat: None, policy_manifest_sha256: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_taken_once_for_as_long_as_it_is_good_and_few_are_remembered() {
        let tickets = Tickets::new(DirectoryClient::new(HttpClient::new().unwrap(), "http://127.0.0.1:1").unwrap());
        let minute = Duration::from_secs(60);
        tickets.take(&claims(0), minute).unwrap();
        assert_eq!(tickets.take(&claims(0), minute).unwrap_err().code(), Code::TicketRefused);
        tokio::time::advance(minute * 2).await;
        tickets.take(&claims(0), minute).unwrap();
        for number in 1..3 * MOST_SEEN {
            tickets.take(&claims(number), minute).unwrap();
        }
        assert!(lock(&tickets.seen).len() <= MOST_SEEN);
        assert!(tickets.take(&claims(3 * MOST_SEEN - 1), minute).is_err(), "the last one is remembered");
    }
}
