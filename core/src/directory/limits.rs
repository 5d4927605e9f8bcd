//! The rates of the public directory, for those who want to develop against them.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::answer::Refusal;

/// Addresses that are told apart at the same time.
const MOST_ADDRESSES: usize = 4_096;

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
}

/// The rates of one directory.
pub(super) struct Limits {
    by_address: Keyed<(Route, IpAddr)>,
    heartbeats: Keyed<Arc<str>>,
    consumer_tokens: Keyed<Arc<str>>,
}

impl Limits {
    pub(super) fn new(max_nodes: usize) -> Self {
        // Some of the nodes may have come in the place of others since idle ones were last forgotten.
        let most_nodes = 2 * max_nodes;
        Limits {
            by_address: Keyed::per_minute(60, MOST_ADDRESSES),
            heartbeats: Keyed::per_minute(60, most_nodes),
            consumer_tokens: Keyed::per_minute(20, most_nodes),
        }
    }

    /// Counts a request from an address.
    pub(super) fn request(&self, route: Route, from: IpAddr) -> Result<(), Refusal> {
        self.by_address.check(&(route, from))
    }

    /// Counts a heartbeat of a node that has shown its token.
    pub(super) fn heartbeat(&self, node_id: &Arc<str>) -> Result<(), Refusal> {
        self.heartbeats.check(node_id)
    }

    /// Counts a request for a consumer token by a node that has shown its own.
    pub(super) fn consumer_token(&self, node_id: &Arc<str>) -> Result<(), Refusal> {
        self.consumer_tokens.check(node_id)
    }

    /// Forgets callers whose allowance is whole again.
    pub(super) fn forget_idle(&self) {
        self.by_address.forget_idle();
        self.heartbeats.forget_idle();
        self.consumer_tokens.forget_idle();
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

    fn check(&self, key: &K) -> Result<(), Refusal> {
        let key = Some(key.clone()).filter(|_| self.limiter.len() < self.most_keys);
        self.limiter.check_key(&key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            Refusal::too_many(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
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
        assert_eq!((refusal.status.as_u16(), refusal.code), (429, "rate_limited"));
        let answer = refusal.answer();
        assert_eq!(answer.headers()["retry-after"], "1");
        assert!(limits.request(Route::Discover, here).is_ok() && limits.request(Route::Register, there).is_ok());
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
