//! The rates of the public directory, for those who want to develop against them.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::answer::Refusal;

/// Addresses that are told apart at the same time.
const MOST_ADDRESSES: usize = 4_096;
/// Active nodes of one address; one more is refused.
pub(super) const MOST_NODES_PER_ADDRESS: usize = 20;
/// Most registrations that an address can be given back.
const MOST_GIVEN_BACK: u32 = 60;

/// What is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Route {
    Register,
    Discover,
    Ticket,
    DirectoryKey,
    Registry,
    Node,
    Bootstrap,
    AuditReport,
}

/// The rates of one directory.
pub(super) struct Limits {
    by_address: Keyed<(Route, IpAddr)>,
    probes: Keyed<IpAddr>,
    heartbeats: Keyed<Arc<str>>,
    consumer_tokens: Keyed<Arc<str>>,
    relay_tickets: Keyed<Arc<str>>,
    /// Registrations that were taken back in order, by address: each is worth another one.
    given_back: Mutex<HashMap<IpAddr, u32>>,
}

impl Limits {
    pub(super) fn new(max_nodes: usize) -> Self {
        // Some of the nodes may have come in the place of others since idle ones were last forgotten.
        let most_nodes = 2 * max_nodes;
        Limits {
            by_address: Keyed::per_minute(60, MOST_ADDRESSES),
            probes: Keyed::per_minute(10, MOST_ADDRESSES),
            heartbeats: Keyed::per_minute(60, most_nodes),
            consumer_tokens: Keyed::per_minute(20, most_nodes),
            relay_tickets: Keyed::per_minute(20, most_nodes),
            given_back: Mutex::default(),
        }
    }

    /// Counts a request from an address.
    pub(super) fn request(&self, route: Route, from: IpAddr) -> Result<(), Refusal> {
        match self.by_address.check(&(route, from)) {
            Err(_) if route == Route::Register && self.take_back(from) => Ok(()),
            Err(wait_s) if route == Route::Register => Err(Refusal::too_many_registrations(wait_s)),
            counted => counted.map_err(Refusal::too_many),
        }
    }

    /// Gives an address a registration back, for a node that has left in order.
    pub(super) fn give_back(&self, from: IpAddr) {
        let mut given = self.given_back.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() < MOST_ADDRESSES || given.contains_key(&from) {
            let count = given.entry(from).or_default();
            *count = (*count + 1).min(MOST_GIVEN_BACK);
        }
    }

    fn take_back(&self, from: IpAddr) -> bool {
        let mut given = self.given_back.lock().unwrap_or_else(PoisonError::into_inner);
        let left = given.get_mut(&from).and_then(|count| count.checked_sub(1).map(|left| (count, left)));
        left.is_some_and(|(count, left)| {
            *count = left;
            true
        })
    }

    /// Counts a question whether something can be reached.
    pub(super) fn probe(&self, from: IpAddr) -> Result<(), Refusal> {
        self.probes.check(&from).map_err(Refusal::too_many)
    }

    /// Counts a heartbeat of a node that has shown its token.
    pub(super) fn heartbeat(&self, node_id: &Arc<str>) -> Result<(), Refusal> {
        self.heartbeats.check(node_id).map_err(Refusal::too_many)
    }

    /// Counts a request for a consumer token by a node that has shown its own.
    pub(super) fn consumer_token(&self, node_id: &Arc<str>) -> Result<(), Refusal> {
        self.consumer_tokens.check(node_id).map_err(Refusal::too_many)
    }

    /// Counts a request for a relay ticket by a node that has shown its token.
    pub(super) fn relay_ticket(&self, node_id: &Arc<str>) -> Result<(), Refusal> {
        self.relay_tickets.check(node_id).map_err(Refusal::too_many)
    }

    /// Forgets callers whose allowance is whole again.
    pub(super) fn forget_idle(&self) {
        self.by_address.forget_idle();
        self.probes.forget_idle();
        self.heartbeats.forget_idle();
        self.consumer_tokens.forget_idle();
        self.relay_tickets.forget_idle();
        // Called once a minute, in which the allowance that they add to has grown back.
        self.given_back.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A rate for each key, in bounded memory.
struct Keyed<K: Hash + Eq + Clone> {
    /// The key `None` stands for everyone for whom there is no place of their own.
    limiter: DefaultKeyedRateLimiter<Option<K>>,
    clock: DefaultClock,
    most_keys: usize,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    fn per_minute(count: u32, most_keys: usize) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        Keyed { limiter: RateLimiter::keyed(quota), clock: DefaultClock::default(), most_keys }
    }

    /// Counts one; if it is too many, says in how many seconds it would not be.
    fn check(&self, key: &K) -> Result<(), u64> {
        let key = Some(key.clone()).filter(|_| self.limiter.len() < self.most_keys);
        self.limiter.check_key(&key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
        })
    }

    fn forget_idle(&self) {
        self.limiter.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_route_and_each_address_is_counted_by_itself() {
        let limits = Limits::new(100);
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        for n in 0..60 {
            assert!(limits.request(Route::Register, here).is_ok(), "{n}");
        }
        let refusal = limits.request(Route::Register, here).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.code), (429, "IICP-E034"));
        assert_eq!(refusal.answer().headers()["retry-after"], "1");
        assert!(limits.request(Route::Discover, here).is_ok() && limits.request(Route::Register, there).is_ok());
        for n in 1..60 {
            assert!(limits.request(Route::Discover, here).is_ok(), "{n}");
        }
        let refusal = limits.request(Route::Discover, here).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.code), (429, "rate_limited"));
    }

    #[test]
    fn who_leaves_in_order_may_register_once_more() {
        let (limits, here) = (Limits::new(100), IpAddr::from([127, 0, 0, 1]));
        while limits.request(Route::Register, here).is_ok() {}
        limits.give_back(here);
        assert!(limits.request(Route::Register, here).is_ok());
        assert!(limits.request(Route::Register, here).is_err(), "and no more often than that");
        for n in 0..20_000_u32 {
            limits.give_back(IpAddr::V4(Ipv4Addr::from_bits(n)));
        }
        assert_eq!(limits.given_back.lock().unwrap().len(), MOST_ADDRESSES);
    }

    #[test]
    fn a_consumer_gets_twenty_tokens_a_minute() {
        let (limits, node) = (Limits::new(100), Arc::from("n"));
        assert!((0..20).all(|_| limits.consumer_token(&node).is_ok()));
        assert!(limits.consumer_token(&node).is_err() && limits.heartbeat(&node).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_stays_in_bounded_memory_and_is_counted_as_one() {
        let limits = Limits::new(100);
        let mut refused = 0;
        for n in 0..20_000_u32 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0000 + n));
            refused += u32::from(limits.request(Route::Discover, from).is_err());
        }
        // One more for those who share a place.
        assert_eq!(limits.by_address.limiter.len(), MOST_ADDRESSES + 1);
        assert!((15_000..16_000).contains(&refused), "{refused}");
    }
}
