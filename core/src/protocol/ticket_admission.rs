//! Admission of dispatch tickets at a provider (`urn:iicp:profile:dispatch-admission:v2`, pre-normative): a ticket opens
//! the door once. Nothing uses it unless an operator asks for it.
//!
//! Whoever cannot prove that a ticket was not used before refuses it: a store that is full, or that was damaged, refuses
//! all.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::crypto::digest::{same, sha256_hex};

/// What a verified ticket claims.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Claim {
    pub(crate) jti: String,
    pub(crate) provider_id: String,
    pub(crate) intent: String,
    pub(crate) not_before: u64,
    pub(crate) expires_at: u64,
}

/// What a claim is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door<'a> {
    pub(crate) provider_id: &'a str,
    pub(crate) intent: &'a str,
    pub(crate) now_unix_s: u64,
    pub(crate) clock_skew_s: u64,
    /// Whether the ticket's signature was verified with a trusted key.
    pub(crate) trust_verified: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Accepted,
    IssuerKey,
    InvalidId,
    ProviderBinding,
    IntentBinding,
    NotYetValid,
    Expired,
    Replay,
    Terminal,
    StoreUnavailable,
}

impl Decision {
    /// The spelling of the specification.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Decision::Accepted => "accepted",
            Decision::IssuerKey => "reject_issuer_key",
            Decision::InvalidId => "reject_invalid_jti",
            Decision::ProviderBinding => "reject_provider_binding",
            Decision::IntentBinding => "reject_intent_binding",
            Decision::NotYetValid => "reject_not_yet_valid",
            Decision::Expired => "reject_expired",
            Decision::Replay => "reject_replay",
            Decision::Terminal => "reject_terminal",
            Decision::StoreUnavailable => "reject_store_unavailable",
        }
    }
}

/// What a store knew of a ticket's id when it was to note it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Nothing; it is noted now.
    New,
    /// It was let in and its task has not ended.
    Used,
    /// It was let in and its task has ended.
    Ended,
}

/// A store that cannot say whether an id was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// Ids of tickets that were let in, each until its ticket is over for good.
pub(crate) trait Store {
    /// Looks an id up and notes it if it is new, as one step.
    fn note(&mut self, jti: &str, expires_at: u64, now_unix_s: u64) -> Result<Noted, Unavailable>;

    /// Notes that the task of an id has ended: it ran, failed or was cancelled.
    fn end(&mut self, jti: &str) -> Result<(), Unavailable>;
}

/// Decides about a claim, and uses it up if it is accepted.
pub(crate) fn admit(store: &mut impl Store, claim: &Claim, door: Door<'_>) -> Decision {
    let visible = |b: u8| b.is_ascii_graphic();
    if !door.trust_verified {
        return Decision::IssuerKey;
    }
    if !(16..=128).contains(&claim.jti.len()) || !claim.jti.bytes().all(visible) {
        return Decision::InvalidId;
    }
    if claim.provider_id != door.provider_id {
        return Decision::ProviderBinding;
    }
    if claim.intent != door.intent {
        return Decision::IntentBinding;
    }
    if door.now_unix_s.saturating_add(door.clock_skew_s) < claim.not_before {
        return Decision::NotYetValid;
    }
    let over = claim.expires_at.saturating_add(door.clock_skew_s);
    if door.now_unix_s >= over {
        return Decision::Expired;
    }
    // Until the skew is over too: the id must be known as long as the ticket would be accepted.
    match store.note(&claim.jti, over, door.now_unix_s) {
        Ok(Noted::New) => Decision::Accepted,
        Ok(Noted::Used) => Decision::Replay,
        Ok(Noted::Ended) => Decision::Terminal,
        Err(Unavailable) => Decision::StoreUnavailable,
    }
}

/// A bounded store in memory, with a form in bytes that outlives the process.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    /// None after a load that failed.
    entries: Option<HashMap<String, Entry>>,
    /// The same ids by the second from which on they may be forgotten.
    by_end: BTreeSet<(u64, String)>,
    most: usize,
    retention_s: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    expires_at: u64,
    ended: bool,
}

const SAVED: &[u8] = b"iicp-dispatch-admissions-1 ";
/// What one saved id takes, at most.
const MOST_SAVED_BYTES_EACH: usize = 256;

impl MemoryStore {
    /// Holds at most so many ids; each stays `retention_s` longer than its ticket is good.
    pub(crate) fn new(most: usize, retention_s: u64) -> Self {
        MemoryStore { entries: Some(HashMap::new()), by_end: BTreeSet::new(), most, retention_s }
    }

    /// Reads what [`MemoryStore::save`] wrote. Of anything else comes a store that knows nothing and refuses all.
    pub(crate) fn load(saved: &[u8], most: usize, retention_s: u64) -> Self {
        let entries = read_saved(saved, most);
        let by_end = entries.iter().flatten().map(|(jti, entry)| (entry.expires_at, jti.clone())).collect();
        MemoryStore { entries, by_end, most, retention_s }
    }

    /// The store in bytes, or none of a store that knows nothing: it must not write over what may be mended.
    pub(crate) fn save(&self) -> Option<Vec<u8>> {
        let sorted: std::collections::BTreeMap<_, _> = self.entries.as_ref()?.iter().collect();
        let json = serde_json::to_vec(&sorted).ok()?;
        let digest = sha256_hex(&[&json]);
        Some([SAVED, digest.as_bytes(), b" ", &json].concat())
    }

    /// Forgets what is over. A ticket that is still good is never forgotten.
    fn forget_the_over(&mut self, now_unix_s: u64) {
        let Some(entries) = &mut self.entries else { return };
        while self.by_end.first().is_some_and(|(end, _)| end.saturating_add(self.retention_s) < now_unix_s) {
            if let Some((_, jti)) = self.by_end.pop_first() {
                entries.remove(&jti);
            }
        }
    }
}

impl Store for MemoryStore {
    fn note(&mut self, jti: &str, expires_at: u64, now_unix_s: u64) -> Result<Noted, Unavailable> {
        self.forget_the_over(now_unix_s);
        let entries = self.entries.as_mut().ok_or(Unavailable)?;
        match entries.get(jti) {
            Some(Entry { ended: true, .. }) => Ok(Noted::Ended),
            Some(_) => Ok(Noted::Used),
            None if entries.len() >= self.most => Err(Unavailable),
            None => {
                entries.insert(jti.to_owned(), Entry { expires_at, ended: false });
                self.by_end.insert((expires_at, jti.to_owned()));
                Ok(Noted::New)
            }
        }
    }

    fn end(&mut self, jti: &str) -> Result<(), Unavailable> {
        if let Some(entry) = self.entries.as_mut().ok_or(Unavailable)?.get_mut(jti) {
            entry.ended = true;
        }
        Ok(())
    }
}

fn read_saved(saved: &[u8], most: usize) -> Option<HashMap<String, Entry>> {
    if saved.len() > most.saturating_mul(MOST_SAVED_BYTES_EACH).saturating_add(128) {
        return None;
    }
    let rest = saved.strip_prefix(SAVED)?;
    let (digest, rest) = rest.split_at_checked(64)?;
    let json = rest.strip_prefix(b" ")?;
    if !same(digest, sha256_hex(&[json]).as_bytes()) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(jti: &str) -> Claim {
        Claim {
            jti: format!("{jti:0>16}"),
            provider_id: "p".into(),
            intent: "i".into(),
            not_before: 100,
            expires_at: 200,
        }
    }

    fn door(now_unix_s: u64) -> Door<'static> {
        Door { provider_id: "p", intent: "i", now_unix_s, clock_skew_s: 30, trust_verified: true }
    }

    #[test]
    fn a_ticket_opens_once_within_its_time_and_the_skew_of_clocks() {
        let mut store = MemoryStore::new(10, 0);
        assert_eq!(admit(&mut store, &claim("1"), door(69)), Decision::NotYetValid);
        assert_eq!(admit(&mut store, &claim("1"), door(70)), Decision::Accepted);
        assert_eq!(admit(&mut store, &claim("1"), door(229)), Decision::Replay, "known as long as it would be good");
        assert_eq!(admit(&mut store, &claim("1"), door(230)), Decision::Expired);
        assert_eq!(admit(&mut store, &claim("2"), door(229)), Decision::Accepted);
        store.end(&claim("2").jti).unwrap();
        assert_eq!(admit(&mut store, &claim("2"), door(229)), Decision::Terminal);
        for bad in ["", "short", "with a blank in it", &"x".repeat(129)] {
            let claim = Claim { jti: bad.into(), ..claim("") };
            assert_eq!(admit(&mut store, &claim, door(150)), Decision::InvalidId, "{bad}");
        }
    }

    #[test]
    fn a_full_store_refuses_and_forgets_only_what_is_over() {
        let mut store = MemoryStore::new(2, 20);
        for jti in ["1", "2"] {
            assert_eq!(admit(&mut store, &claim(jti), door(150)), Decision::Accepted);
        }
        assert_eq!(admit(&mut store, &claim("3"), door(150)), Decision::StoreUnavailable);
        assert_eq!(admit(&mut store, &claim("1"), door(150)), Decision::Replay);
        let later = Claim { expires_at: 900, ..claim("3") };
        assert_eq!(admit(&mut store, &later, door(250)), Decision::StoreUnavailable, "kept 20 s longer");
        assert_eq!(admit(&mut store, &later, door(251)), Decision::Accepted);
        assert_eq!(store.by_end.len(), 1);
    }

    #[test]
    fn what_was_noted_is_known_after_it_was_saved_and_loaded() {
        let mut store = MemoryStore::new(10, 0);
        admit(&mut store, &claim("1"), door(150));
        admit(&mut store, &claim("2"), door(150));
        store.end(&claim("2").jti).unwrap();
        let mut again = MemoryStore::load(&store.save().unwrap(), 10, 0);
        assert_eq!(admit(&mut again, &claim("1"), door(150)), Decision::Replay);
        assert_eq!(admit(&mut again, &claim("2"), door(150)), Decision::Terminal);
        assert_eq!(admit(&mut again, &claim("3"), door(150)), Decision::Accepted);
        let mut later = MemoryStore::load(&store.save().unwrap(), 10, 0);
        assert_eq!(later.note("x", 900, 500), Ok(Noted::New));
        assert_eq!(later.entries.unwrap().len(), 1, "what is over goes after a load too");
    }

    #[test]
    fn damage_of_any_kind_refuses_and_never_lets_in() {
        let mut store = MemoryStore::new(10, 0);
        admit(&mut store, &claim("1"), door(150));
        let saved = store.save().unwrap();
        for cut in 0..saved.len() {
            let mut damaged = MemoryStore::load(&saved[..cut], 10, 0);
            assert_eq!(admit(&mut damaged, &claim("9"), door(150)), Decision::StoreUnavailable, "cut at {cut}");
            let mut changed = saved.clone();
            changed[cut] ^= 1;
            let mut damaged = MemoryStore::load(&changed, 10, 0);
            assert_eq!(admit(&mut damaged, &claim("9"), door(150)), Decision::StoreUnavailable, "changed at {cut}");
            assert_eq!(damaged.save(), None);
            assert_eq!(damaged.end("x"), Err(Unavailable));
        }
        let huge = [&saved[..], &[b' '; 4096]].concat();
        assert_eq!(MemoryStore::load(&huge, 10, 0).note("x", 1, 0), Err(Unavailable));
    }
}
