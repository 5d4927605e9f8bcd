//! Who is bound at a relay, and who may be.
//!
//! The order is that of the published relays: ticket, live session, rate, capacity, and only then is a ticket used up, so
//! that a refused worker can come again with the same one. What they do not do: a worker that proves its id with a ticket
//! displaces whoever holds it, since that can only be its own lost session or an impostor. Nobody else ever does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::pacing::Rates;
use super::source::Source;
use crate::crypto::digest::fingerprint;
use crate::crypto::ticket::BindClaims;

/// Tickets of one source that may fail to verify in a minute, before its others are no longer looked at: a signature costs
/// more than everything else about a bind.
const BAD_TICKETS_PER_MINUTE: u32 = 60;
/// Used tickets that are remembered for each worker there is room for.
const SPENT_PER_WORKER: usize = 4;

/// Why a worker is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    TicketInvalid,
    TicketRequired,
    AlreadyBound,
    RateLimited,
    AtCapacity,
    TicketReplayed,
    TlsRequired,
}

impl Refusal {
    pub(crate) const ALL: [Refusal; 7] = [
        Refusal::TicketInvalid,
        Refusal::TicketRequired,
        Refusal::AlreadyBound,
        Refusal::RateLimited,
        Refusal::AtCapacity,
        Refusal::TicketReplayed,
        Refusal::TlsRequired,
    ];

    /// The name it is counted under.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Refusal::TicketInvalid => "ticket_invalid",
            Refusal::TicketRequired => "ticket_required",
            Refusal::AlreadyBound => "already_bound",
            Refusal::RateLimited => "rate_limited",
            Refusal::AtCapacity => "at_capacity",
            Refusal::TicketReplayed => "ticket_replayed",
            Refusal::TlsRequired => "tls_required",
        }
    }

    /// The reason as published relays and workers spell it; they know no TLS here.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Refusal::TicketInvalid => "relay bind ticket invalid",
            Refusal::TicketRequired => "relay bind ticket required",
            Refusal::AlreadyBound => "worker_id already bound to an alive session",
            Refusal::RateLimited => "relay_bind_rate_limited",
            Refusal::AtCapacity => "relay at session capacity",
            Refusal::TicketReplayed => "relay bind ticket replayed",
            Refusal::TlsRequired => "relay takes workers over TLS only",
        }
    }

    /// Status and code for a worker that binds over HTTP.
    pub(crate) const fn http(self) -> (u16, &'static str) {
        match self {
            Refusal::TicketInvalid | Refusal::TicketRequired => (401, "IICP-E040"),
            Refusal::AlreadyBound => (409, "IICP-E038"),
            Refusal::RateLimited => (429, "IICP-E039"),
            Refusal::AtCapacity => (503, "IICP-E039"),
            Refusal::TicketReplayed => (409, "IICP-E040"),
            Refusal::TlsRequired => (426, "IICP-E040"),
        }
    }
}

/// The bounds of a relay's desk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeskLimits {
    pub(crate) workers: usize,
    pub(crate) workers_per_source: usize,
    /// Binds without a ticket of one source, and binds with one of one worker; 0: no limit.
    pub(crate) binds_per_minute: u32,
    /// Whether nobody is bound without a ticket.
    pub(crate) ticket_required: bool,
}

/// A worker that wants to be bound.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) worker_id: &'a str,
    /// What the directory says of it, if it came with a ticket that was verified.
    pub(crate) proof: Option<BindClaims>,
    pub(crate) source: Source,
}

/// One who holds an id.
#[derive(Debug)]
struct Seat<S> {
    session: S,
    source: Source,
    /// Tells this binding from an earlier or a later one of the same id.
    number: u64,
}

/// The desk of a relay. `S` is what it takes to reach a worker.
#[derive(Debug)]
pub(crate) struct Desk<S> {
    limits: DeskLimits,
    seats: HashMap<Arc<str>, Seat<S>>,
    sources: HashMap<Source, usize>,
    unproven: Rates<Source>,
    proven: Rates<u128>,
    bad_tickets: Rates<Source>,
    spent: SpentTickets,
    next: u64,
}

impl<S: Clone> Desk<S> {
    pub(crate) fn new(limits: DeskLimits) -> Self {
        Desk {
            limits,
            seats: HashMap::new(),
            sources: HashMap::new(),
            unproven: Rates::new(limits.binds_per_minute),
            proven: Rates::new(limits.binds_per_minute),
            bad_tickets: Rates::new(BAD_TICKETS_PER_MINUTE),
            spent: SpentTickets::new(limits.workers.saturating_mul(SPENT_PER_WORKER)),
            next: 0,
        }
    }

    /// What can be said before a ticket is verified, which is the costly part.
    pub(crate) fn precheck(&self, has_ticket: bool, source: Source, now: Duration) -> Result<(), Refusal> {
        match has_ticket {
            false if self.limits.ticket_required => Err(Refusal::TicketRequired),
            true if self.bad_tickets.is_spent(source, now) => Err(Refusal::RateLimited),
            _ => Ok(()),
        }
    }

    /// Notes that a ticket did not verify.
    pub(crate) fn bad_ticket(&mut self, source: Source, now: Duration) {
        self.bad_tickets.take(source, now);
    }

    /// Binds a worker, and gives back whom it displaced. `session` is made only if nothing stands against it, and is to be
    /// found from this moment on: what it must have said first has to be queued in it. It is given its number.
    pub(crate) fn bind(
        &mut self,
        applicant: &Applicant<'_>,
        now: Duration,
        unix_s: u64,
        session: impl FnOnce(u64) -> S,
    ) -> Result<Option<S>, Refusal> {
        self.judge(applicant, now, unix_s)?;
        self.next += 1;
        let number = self.next;
        let displaced = self.remove(applicant.worker_id);
        let seat = Seat { session: session(number), source: applicant.source, number };
        self.seats.insert(applicant.worker_id.into(), seat);
        *self.sources.entry(applicant.source).or_default() += 1;
        Ok(displaced)
    }

    fn judge(&mut self, applicant: &Applicant<'_>, now: Duration, unix_s: u64) -> Result<(), Refusal> {
        let Applicant { worker_id, proof, source } = applicant;
        let held = self.seats.get(*worker_id);
        if proof.is_none() && self.limits.ticket_required {
            return Err(Refusal::TicketRequired);
        }
        if held.is_some() && proof.is_none() {
            return Err(Refusal::AlreadyBound);
        }
        let in_time = match proof {
            Some(_) => self.proven.take(fingerprint(&[worker_id.as_bytes()]), now),
            None => self.unproven.take(*source, now),
        };
        if !in_time {
            return Err(Refusal::RateLimited);
        }
        // Who only takes his own place again needs no other.
        let (new, new_here) = (held.is_none(), held.is_none_or(|seat| seat.source != *source));
        let from_here = self.sources.get(source).copied().unwrap_or_default();
        if new && self.seats.len() >= self.limits.workers || new_here && from_here >= self.limits.workers_per_source {
            return Err(Refusal::AtCapacity);
        }
        proof.map_or(Ok(()), |claims| self.spent.spend(&claims, unix_s))
    }

    pub(crate) fn get(&self, worker_id: &str) -> Option<&S> {
        self.seats.get(worker_id).map(|seat| &seat.session)
    }

    /// Lets a worker go, unless its id is held by another binding by now.
    pub(crate) fn release(&mut self, worker_id: &str, number: u64) -> Option<S> {
        self.seats.get(worker_id).filter(|seat| seat.number == number)?;
        self.remove(worker_id)
    }

    fn remove(&mut self, worker_id: &str) -> Option<S> {
        let seat = self.seats.remove(worker_id)?;
        if let Some(count) = self.sources.get_mut(&seat.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&seat.source);
            }
        }
        Some(seat.session)
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &S> {
        self.seats.values().map(|seat| &seat.session)
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }
}

/// Tickets that were used, each until its own end. Bounded, and full means no: a ticket that is not remembered could be
/// used again.
#[derive(Debug)]
struct SpentTickets {
    most: usize,
    held: HashMap<[u8; 16], u64>,
    /// Nothing ends before this.
    next_end: u64,
}

impl SpentTickets {
    fn new(most: usize) -> Self {
        SpentTickets { most, held: HashMap::new(), next_end: 0 }
    }

    fn spend(&mut self, claims: &BindClaims, unix_s: u64) -> Result<(), Refusal> {
        if self.held.len() >= self.most && unix_s >= self.next_end {
            self.held.retain(|_, end| *end > unix_s);
            self.next_end = self.held.values().copied().min().unwrap_or_default();
        }
        if self.held.contains_key(&claims.jti) {
            return Err(Refusal::TicketReplayed);
        }
        if self.held.len() >= self.most {
            return Err(Refusal::AtCapacity);
        }
        self.held.insert(claims.jti, claims.exp);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DeskLimits =
        DeskLimits { workers: 3, workers_per_source: 2, binds_per_minute: 4, ticket_required: false };
    const NOW: Duration = Duration::from_secs(5);

    fn source(n: u8) -> Source {
        Source::of([127, 0, 0, n].into())
    }

    fn bind(desk: &mut Desk<u64>, id: &str, jti: Option<u8>, from: u8) -> Result<Option<u64>, Refusal> {
        let proof = jti.map(|n| BindClaims { jti: [n; 16], exp: 100 });
        desk.bind(&Applicant { worker_id: id, proof, source: source(from) }, NOW, 50, |number| number)
    }

    #[test]
    fn only_who_proves_the_id_displaces_a_live_session() {
        let mut desk = Desk::new(LIMITS);
        assert_eq!(bind(&mut desk, "w", None, 1), Ok(None));
        assert_eq!(bind(&mut desk, "w", None, 1), Err(Refusal::AlreadyBound), "not even from the same place");
        assert_eq!(bind(&mut desk, "w", Some(1), 2), Ok(Some(1)), "the owner, from elsewhere");
        assert_eq!(bind(&mut desk, "w", None, 1), Err(Refusal::AlreadyBound));
        assert_eq!(bind(&mut desk, "w", Some(2), 2), Ok(Some(2)), "and again");
        assert_eq!(desk.get("w"), Some(&3));
        assert_eq!(desk.release("w", 2), None, "the end of an old session is not the end of the new one");
        assert_eq!(desk.release("w", 3), Some(3));
        assert_eq!((desk.len(), desk.sources.len()), (0, 0));
    }

    #[test]
    fn a_strict_desk_binds_nobody_without_a_ticket() {
        let mut desk = Desk::new(DeskLimits { ticket_required: true, ..LIMITS });
        assert_eq!(desk.precheck(false, source(1), NOW), Err(Refusal::TicketRequired));
        assert_eq!(bind(&mut desk, "w", None, 1), Err(Refusal::TicketRequired));
        assert_eq!(desk.precheck(true, source(1), NOW), Ok(()));
        assert_eq!(bind(&mut desk, "w", Some(1), 1), Ok(None));
    }

    #[test]
    fn a_ticket_is_used_up_by_a_bind_and_by_nothing_before_it() {
        let mut desk = Desk::new(DeskLimits { workers: 1, ..LIMITS });
        assert_eq!(bind(&mut desk, "a", Some(1), 1), Ok(None));
        assert_eq!(bind(&mut desk, "b", Some(2), 2), Err(Refusal::AtCapacity));
        assert_eq!(desk.release("a", 1), Some(1));
        assert_eq!(bind(&mut desk, "b", Some(2), 2), Ok(None), "the refused ticket is still good");
        assert_eq!(bind(&mut desk, "b", Some(2), 2), Err(Refusal::TicketReplayed));
        assert_eq!(bind(&mut desk, "b", Some(1), 2), Err(Refusal::TicketReplayed));
        assert_eq!(desk.get("b"), Some(&2), "a replay displaces nobody");
    }

    #[test]
    fn each_check_stands_before_the_next() {
        let mut desk = Desk::new(LIMITS);
        for id in ["a", "b"] {
            assert_eq!(bind(&mut desk, id, None, 1), Ok(None));
        }
        assert_eq!(bind(&mut desk, "c", None, 1), Err(Refusal::AtCapacity), "the source is full");
        assert_eq!(bind(&mut desk, "c", None, 2), Ok(None));
        assert_eq!(bind(&mut desk, "d", None, 3), Err(Refusal::AtCapacity), "the relay is full");
        assert_eq!(bind(&mut desk, "d", None, 1), Err(Refusal::AtCapacity), "the fourth try of the source");
        assert_eq!(bind(&mut desk, "d", None, 1), Err(Refusal::RateLimited), "rate before capacity");
        assert_eq!(bind(&mut desk, "a", None, 1), Err(Refusal::AlreadyBound), "live session before rate");
        assert_eq!(bind(&mut desk, "a", Some(9), 1), Ok(Some(1)), "a full relay takes back its own");
    }

    #[test]
    fn a_source_of_bad_tickets_is_no_longer_looked_at_and_others_are() {
        let mut desk: Desk<u64> = Desk::new(LIMITS);
        for _ in 0..BAD_TICKETS_PER_MINUTE {
            assert_eq!(desk.precheck(true, source(1), NOW), Ok(()));
            desk.bad_ticket(source(1), NOW);
        }
        assert_eq!(desk.precheck(true, source(1), NOW), Err(Refusal::RateLimited));
        assert_eq!(desk.precheck(true, source(2), NOW), Ok(()));
        assert_eq!(desk.precheck(true, source(1), NOW + Duration::from_secs(2)), Ok(()));
    }

    #[test]
    fn used_tickets_are_bounded_and_forgotten_only_at_their_end() {
        let mut spent = SpentTickets::new(2);
        let claims = |n: u8, exp| BindClaims { jti: [n; 16], exp };
        assert_eq!(spent.spend(&claims(1, 100), 50), Ok(()));
        assert_eq!(spent.spend(&claims(2, 60), 50), Ok(()));
        assert_eq!(spent.spend(&claims(3, 100), 50), Err(Refusal::AtCapacity));
        assert_eq!(spent.spend(&claims(1, 100), 50), Err(Refusal::TicketReplayed), "known also when full");
        assert_eq!(spent.spend(&claims(3, 100), 60), Ok(()), "the second is over");
        assert_eq!(spent.spend(&claims(1, 100), 99), Err(Refusal::TicketReplayed));
    }

    #[test]
    fn of_a_thousand_who_race_for_an_id_only_its_owner_gets_it() {
        let mut desk = Desk::new(DeskLimits { ticket_required: true, binds_per_minute: 0, ..LIMITS });
        for n in 0..1000 {
            assert!(bind(&mut desk, "w", None, (n % 250) as u8).is_err());
        }
        assert_eq!(bind(&mut desk, "w", Some(1), 1), Ok(None));
        for n in 0..1000 {
            assert!(bind(&mut desk, "w", None, (n % 250) as u8).is_err());
        }
        assert_eq!(desk.get("w"), Some(&1));
    }
}
