//! The nodes that are registered, in bounded memory. No HTTP, no clock: the time comes in as an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::kept::{Changed, Kept};
use super::node::{Node, Now, Report, State, TokenHash};
use super::operator::Operator;
use super::pricing::Pricing;
use super::record::Record;
use super::score::{self, Wish};
use crate::crypto::digest::{hmac_hex, same};

/// How long a silent node is remembered, so that a heartbeat can revive it.
pub(super) const KEEP_DORMANT_MS: u64 = 24 * 3_600_000;
/// What all registrations together may cost.
const MOST_BYTES: usize = 64 << 20;
const FIRST_REPUTATION: f64 = 0.5;

/// What the operator decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) max_nodes: usize,
    pub(super) node_ttl_ms: u64,
    pub(super) qos_gating: bool,
    /// Active nodes that may come from one address.
    pub(super) most_per_address: Option<usize>,
}

/// What only the directory may see. No `Debug`.
struct Entry {
    node: Node,
    token: TokenHash,
    hmac_key: String,
    /// The address that it registered from.
    from: IpAddr,
    challenge: Option<String>,
    last_batch: Option<String>,
    /// Reputation gained since a moment, because an hour has a limit.
    gained: (f64, u64),
}

impl Entry {
    fn weight(&self) -> usize {
        let live = self.node.state.live_models.iter().flat_map(|models| models.iter());
        size_of::<Entry>() + self.node.record.weight() + live.map(|model| model.len() + 48).sum::<usize>()
    }
}

/// A registration that was read and, if the directory probes, probed.
pub(super) struct Candidate {
    pub(super) record: Record,
    pub(super) proof: Option<TokenHash>,
    pub(super) token: TokenHash,
    pub(super) hmac_key: String,
    pub(super) probed: bool,
    pub(super) pricing: Pricing,
    pub(super) from: IpAddr,
}

/// A registration that was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) recovered: bool,
    pub(super) completed: u64,
}

/// Why a registration was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It replaces the key that clients seal to, without proof of ownership.
    KeyChanged,
    /// Its manifest is signed with a key that a later one has replaced.
    Superseded,
    /// Another operator is shown under this name.
    NameTaken,
    /// Every place is held by an active node.
    Full,
    /// The address has as many active nodes as one may have.
    Crowded,
}

/// The directory's answer to a heartbeat.
#[derive(Debug, PartialEq)]
pub(super) struct Beat {
    pub(super) reputation: f64,
    /// Whether the last challenge was answered rightly; none if there was none.
    pub(super) proven: Option<bool>,
}

/// The registered nodes.
pub(super) struct Store {
    rules: Rules,
    entries: BTreeMap<Arc<str>, Entry>,
    by_token: HashMap<TokenHash, Arc<str>>,
    /// Longest silent first.
    by_age: BTreeSet<(u64, Arc<str>)>,
    bytes: usize,
    most_bytes: usize,
    /// What has to be written; none if nothing is.
    changed: Option<Changed>,
}

impl Store {
    pub(super) fn new(rules: Rules) -> Self {
        Store {
            rules,
            entries: BTreeMap::new(),
            by_token: HashMap::new(),
            by_age: BTreeSet::new(),
            bytes: 0,
            most_bytes: MOST_BYTES,
            changed: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_active(&self, node: &Node, now: Now) -> bool {
        now.ms.saturating_sub(node.state.seen_ms) <= self.rules.node_ttl_ms
    }

    fn put(&mut self, entry: Entry) {
        let id = &entry.node.id;
        if let Some(changed) = &mut self.changed {
            changed.insert(id.clone());
        }
        self.bytes += entry.weight();
        self.by_token.insert(entry.token, id.clone());
        self.by_age.insert((entry.node.state.seen_ms, id.clone()));
        self.entries.insert(id.clone(), entry);
    }

    fn take(&mut self, id: &str) -> Option<Entry> {
        let (id, entry) = self.entries.remove_entry(id)?;
        self.bytes -= entry.weight();
        self.by_token.remove(&entry.token);
        if let Some(changed) = &mut self.changed {
            changed.insert(id.clone());
        }
        self.by_age.remove(&(entry.node.state.seen_ms, id));
        Some(entry)
    }

    /// Takes nodes over that were kept, those seen last first, as many as there is room for. From now on what changes is
    /// noted; the first of it is what was not taken over.
    pub(super) fn restore(&mut self, mut nodes: Vec<Kept<Record>>, now: Now) {
        let mut left = Changed::new();
        nodes.sort_unstable_by(|a, b| b.state.seen_ms.cmp(&a.state.seen_ms).then_with(|| a.id.cmp(&b.id)));
        for Kept { id, token, hmac_key, from, record, state, last_batch, gained } in nodes {
            let node = Node { id: id.into(), record: Arc::new(record), state };
            let entry = Entry { node, token, hmac_key, from, challenge: None, last_batch, gained };
            let silent_ms = now.ms.saturating_sub(entry.node.state.seen_ms);
            let full = self.entries.len() >= self.rules.max_nodes || self.bytes + entry.weight() > self.most_bytes;
            if full || silent_ms > KEEP_DORMANT_MS {
                left.insert(entry.node.id);
            } else {
                self.put(entry);
            }
        }
        self.changed = Some(left);
    }

    /// What has changed since it was last asked.
    pub(super) fn take_changed(&mut self) -> Changed {
        self.changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes back what could not be written.
    pub(super) fn changed_again(&mut self, again: Changed) {
        if let Some(changed) = &mut self.changed {
            changed.extend(again);
        }
    }

    /// What is to be kept of a node; none if it is gone.
    pub(super) fn kept(&self, id: &str) -> Option<Kept<Arc<Record>>> {
        let Entry { node, token, hmac_key, from, last_batch, gained, .. } = self.entries.get(id)?;
        Some(Kept {
            id: node.id.to_string(),
            token: *token,
            hmac_key: hmac_key.clone(),
            from: *from,
            record: node.record.clone(),
            state: node.state.clone(),
            last_batch: last_batch.clone(),
            gained: *gained,
        })
    }

    fn is_named_like_another(&self, operator: &Operator) -> bool {
        let Some(name) = operator.folded_name() else { return false };
        let operators = self.entries.values().filter_map(|entry| entry.node.record.operator.as_ref());
        operators.filter(|other| other.key != operator.key).any(|other| other.folded_name().as_ref() == Some(&name))
    }

    /// Takes a registration, new or again; an earlier token of the node is worth nothing from now on.
    pub(super) fn register(&mut self, id: &str, candidate: Candidate, now: Now) -> Result<Taken, NotTaken> {
        let Candidate { mut record, proof, token, hmac_key, probed, pricing, from } = candidate;
        let before = self.entries.get(id);
        let proven = self.is_owner(id, proof.as_ref());
        if let Some(before) = before.filter(|_| !proven) {
            let old = &before.node.record.cx_public_key;
            match &record.cx_public_key {
                Some(new) if !old.as_ref().is_some_and(|old| same_json(old, new)) => return Err(NotTaken::KeyChanged),
                Some(_) => {}
                // Whoever is not the owner cannot take the key away either.
                None => record.cx_public_key.clone_from(old),
            }
        }
        let older = before.and_then(|before| before.node.record.manifest.as_ref());
        if older.zip(record.manifest.as_ref()).is_some_and(|(older, new)| new.is_superseded_by(older)) {
            return Err(NotTaken::Superseded);
        }
        if record.operator.as_ref().is_some_and(|operator| self.is_named_like_another(operator)) {
            return Err(NotTaken::NameTaken);
        }
        if before.is_none() && self.is_crowded(from, now) {
            return Err(NotTaken::Crowded);
        }
        let before = self.take(id);
        let recovered = before.is_some();
        let old = before.as_ref();
        let state = State {
            seen_ms: now.ms,
            available: true,
            draining: false,
            load: 0.0,
            active_jobs: 0,
            live_models: None,
            latency_ms: None,
            reputation: old.map_or(FIRST_REPUTATION, |old| old.node.state.reputation),
            completed: old.map_or(0, |old| old.node.state.completed),
            probed,
            pricing,
        };
        let completed = state.completed;
        let entry = Entry {
            node: Node { id: id.into(), record: Arc::new(record), state },
            token,
            hmac_key,
            from,
            challenge: None,
            last_batch: old.and_then(|old| old.last_batch.clone()),
            gained: old.map_or((0.0, now.ms), |old| old.gained),
        };
        if !self.make_room(entry.weight(), now) {
            if let Some(before) = before {
                self.put(before);
            }
            return Err(NotTaken::Full);
        }
        self.put(entry);
        Ok(Taken { recovered, completed })
    }

    /// Whether a token is the one of this node's last registration.
    pub(super) fn is_owner(&self, id: &str, token: Option<&TokenHash>) -> bool {
        let entry = self.entries.get(id);
        entry.is_some_and(|entry| token.is_some_and(|token| same(&entry.token, token)))
    }

    /// The node that a token was given to.
    pub(super) fn owner(&self, token: &TokenHash) -> Option<Node> {
        let id = self.by_token.get(token)?;
        self.is_owner(id, Some(token)).then(|| self.get(id))?
    }

    /// The key that a node signs with.
    pub(super) fn hmac_key(&self, id: &str) -> Option<String> {
        self.entries.get(id).map(|entry| entry.hmac_key.clone())
    }

    /// What a node's last registration is known by, for tokens that are derived from it.
    pub(super) fn token_of(&self, id: &str) -> Option<TokenHash> {
        self.entries.get(id).map(|entry| entry.token)
    }

    pub(super) fn get(&self, id: &str) -> Option<Node> {
        self.entries.get(id).map(|entry| entry.node.clone())
    }

    pub(super) fn remove(&mut self, id: &str) -> bool {
        self.take(id).is_some()
    }

    /// Notes a heartbeat and sets the next challenge. None if the node is not registered.
    pub(super) fn heartbeat(&mut self, id: &str, report: Report, challenge: String, now: Now) -> Option<Beat> {
        let mut entry = self.take(id)?;
        let state = &mut entry.node.state;
        state.seen_ms = now.ms;
        state.available = report.available;
        state.load = report.load.unwrap_or(state.load);
        state.active_jobs = report.active_jobs.unwrap_or(state.active_jobs);
        state.draining = report.draining.unwrap_or(state.draining);
        state.pricing = report.pricing.unwrap_or(state.pricing);
        if let Some(models) = report.live_models {
            state.live_models = Some(models.into());
        }
        let again = report.batch_id.is_some() && report.batch_id == entry.last_batch;
        if !again {
            entry.gained = score::apply(state, report.outcomes, entry.gained, now);
            entry.last_batch = report.batch_id.or(entry.last_batch.take());
        }
        let reputation = state.reputation;
        let proven = entry.challenge.replace(challenge).map(|asked| {
            let answer = report.challenge_response.unwrap_or_default();
            same(answer.as_bytes(), hmac_hex(&entry.hmac_key, &asked).as_bytes())
        });
        self.put(entry);
        Some(Beat { reputation, proven })
    }

    /// The nodes that a wish may have, best first, each with its score.
    pub(super) fn select(&self, wish: &Wish, now: Now) -> Vec<(f64, Node)> {
        let mut found: Vec<(f64, &Node)> = (self.entries.values())
            .map(|entry| &entry.node)
            .filter(|node| self.is_active(node, now) && score::is_eligible(node, wish, self.rules.qos_gating))
            .map(|node| (score::score(node, wish, now), node))
            .filter(|(score, _)| *score >= wish.min_quality_score.max(score::LEAST))
            .collect();
        found.sort_unstable_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| left.id.cmp(&right.id)));
        found.into_iter().take(wish.limit).map(|(score, node)| (score, node.clone())).collect()
    }

    /// A node whose id begins like this.
    pub(super) fn with_prefix(&self, prefix: &str) -> Option<Node> {
        let (_, entry) = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).next()?;
        entry.node.id.starts_with(prefix).then(|| entry.node.clone())
    }

    /// The first active nodes, in the order of their ids, and how many there are.
    pub(super) fn active(&self, most: usize, now: Now) -> (Vec<Node>, usize) {
        let active = || self.entries.values().map(|entry| &entry.node).filter(|node| self.is_active(node, now));
        (active().take(most).cloned().collect(), active().count())
    }

    /// How many active nodes serve each intent.
    pub(super) fn intents(&self, now: Now) -> BTreeMap<String, usize> {
        let mut intents = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| self.is_active(&entry.node, now)) {
            for capability in entry.node.record.serving(None) {
                *intents.entry(capability.intent.clone()).or_default() += 1;
            }
        }
        intents
    }

    /// Forgets nodes that have been silent for long.
    pub(super) fn forget_dormant(&mut self, now: Now) {
        let keep_ms = KEEP_DORMANT_MS.max(self.rules.node_ttl_ms);
        while let Some(id) = self.silent_for(keep_ms, now) {
            self.take(&id);
        }
    }

    /// Whether an address has as many active nodes as it may have. Only asked where registrations are limited, and few.
    fn is_crowded(&self, from: IpAddr, now: Now) -> bool {
        self.rules.most_per_address.is_some_and(|most| {
            let active = |entry: &&Entry| entry.from == from && self.is_active(&entry.node, now);
            self.entries.values().filter(active).count() >= most
        })
    }

    /// Makes room for one more node at the cost of dormant ones, longest silent first.
    fn make_room(&mut self, weight: usize, now: Now) -> bool {
        while self.entries.len() >= self.rules.max_nodes || self.bytes + weight > self.most_bytes {
            let Some(id) = self.silent_for(self.rules.node_ttl_ms, now) else { return false };
            self.take(&id);
        }
        true
    }

    /// The node that was silent for longest, if it was for more than so long.
    fn silent_for(&self, ms: u64, now: Now) -> Option<Arc<str>> {
        let (seen_ms, id) = self.by_age.first()?;
        (now.ms.saturating_sub(*seen_ms) > ms).then(|| id.clone())
    }
}

/// Whether two JSON texts mean the same, whatever the order of their keys.
fn same_json(left: &RawValue, right: &RawValue) -> bool {
    let read = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    left.get() == right.get() || read(left) == read(right)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::crypto::digest::token_hash;
    use crate::directory::node::Outcomes;
    use crate::directory::record::tests::registration;

    pub(in crate::directory) const START: Now = Now { ms: 0, unix_s: 1_000_000 };

    pub(in crate::directory) fn after(ms: u64) -> Now {
        Now { ms, unix_s: START.unix_s + ms / 1000 }
    }

    pub(in crate::directory) fn store(max_nodes: usize) -> Store {
        Store::new(Rules { max_nodes, node_ttl_ms: 90_000, qos_gating: false, most_per_address: None })
    }

    pub(in crate::directory) fn candidate(token: &str, proof: Option<&str>, more: Value) -> Candidate {
        Candidate {
            record: registration(more).unwrap().record,
            proof: proof.map(token_hash),
            token: token_hash(token),
            hmac_key: "key".into(),
            probed: false,
            pricing: Pricing::default(),
            from: IpAddr::from([127, 0, 0, 1]),
        }
    }

    fn beat() -> Report {
        Report { available: true, ..Report::default() }
    }

    fn key(key: &str) -> Value {
        json!({ "algorithm": "X25519", "encoding": "base64url", "key": key, "key_id": "cx-1" })
    }

    #[test]
    fn a_new_registration_makes_the_old_token_worthless() {
        let mut store = store(10);
        assert!(!store.register("n", candidate("t1", None, json!({})), START).unwrap().recovered);
        assert_eq!(&*store.owner(&token_hash("t1")).unwrap().id, "n");
        assert!(store.register("n", candidate("t2", None, json!({})), START).unwrap().recovered);
        assert!(store.owner(&token_hash("t1")).is_none());
        assert!(store.is_owner("n", Some(&token_hash("t2"))) && !store.is_owner("n", None));
        assert!(store.remove("n") && !store.remove("n"));
        assert!(store.owner(&token_hash("t2")).is_none());
        assert_eq!((store.len(), store.bytes, store.by_token.len(), store.by_age.len()), (0, 0, 0, 0));
    }

    #[test]
    fn the_key_that_clients_seal_to_changes_for_its_owner_only() {
        let mut store = store(10);
        let with = |token, proof, value: Value| candidate(token, proof, json!({ "cx_public_key": value }));
        store.register("n", candidate("t1", None, json!({})), START).unwrap();
        assert_eq!(store.register("n", with("t2", None, key("a")), START), Err(NotTaken::KeyChanged), "adding");
        store.register("n", with("t2", Some("t1"), key("a")), START).unwrap();
        assert_eq!(store.register("n", with("t3", Some("t1"), key("b")), START), Err(NotTaken::KeyChanged), "stale");
        assert!(store.is_owner("n", Some(&token_hash("t2"))), "a refused registration changes nothing");
        store.register("n", with("t3", None, key("a")), START).unwrap();
        store.register("n", candidate("t4", None, json!({})), START).unwrap();
        let kept = |store: &Store| store.get("n").unwrap().record.cx_public_key.clone();
        assert!(kept(&store).is_some(), "a stranger cannot take the key away");
        store.register("n", candidate("t5", Some("t4"), json!({})), START).unwrap();
        assert!(kept(&store).is_none(), "its owner can");
    }

    #[test]
    fn the_order_of_a_keys_fields_does_not_matter() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert!(same_json(&raw(r#"{"a":1,"b":[2]}"#), &raw(r#"{ "b": [2], "a": 1 }"#)));
        assert!(!same_json(&raw(r#"{"a":1}"#), &raw(r#"{"a":2}"#)));
    }

    #[test]
    fn a_silent_node_becomes_dormant_and_its_next_heartbeat_revives_it() {
        let mut store = store(10);
        store.register("n", candidate("t", None, json!({})), START).unwrap();
        let wish = Wish::intent(crate::types::CHAT);
        assert_eq!(store.select(&wish, after(90_000)).len(), 1);
        assert_eq!(store.select(&wish, after(90_001)).len(), 0);
        assert!(store.with_prefix("n").is_some(), "still known");
        store.heartbeat("n", beat(), "c".into(), after(200_000)).unwrap();
        assert_eq!(store.select(&wish, after(200_000)).len(), 1);
        store.forget_dormant(after(200_000 + KEEP_DORMANT_MS));
        assert_eq!(store.len(), 1);
        store.forget_dormant(after(200_001 + KEEP_DORMANT_MS));
        assert_eq!((store.len(), store.bytes), (0, 0));
    }

    #[test]
    fn a_full_table_gives_up_its_longest_silent_node_and_never_an_active_one() {
        let mut store = store(2);
        store.register("a", candidate("ta", None, json!({})), START).unwrap();
        store.register("b", candidate("tb", None, json!({})), after(10)).unwrap();
        assert_eq!(store.register("c", candidate("tc", None, json!({})), after(20)), Err(NotTaken::Full));
        store.register("a", candidate("ta", None, json!({})), after(20)).unwrap();
        store.register("c", candidate("tc", None, json!({})), after(90_020)).unwrap();
        assert!(store.get("a").is_some() && store.get("b").is_none(), "b was silent for longer");
    }

    #[test]
    fn an_address_has_so_many_active_nodes_and_no_more() {
        let mut store = Store::new(Rules { most_per_address: Some(2), ..store(10).rules });
        let from = |token: &str, from: [u8; 4]| Candidate { from: from.into(), ..candidate(token, None, json!({})) };
        store.register("a", from("a", [127, 0, 0, 1]), START).unwrap();
        store.register("b", from("b", [127, 0, 0, 1]), after(10)).unwrap();
        assert_eq!(store.register("c", from("c", [127, 0, 0, 1]), after(10)), Err(NotTaken::Crowded));
        store.register("a", from("a2", [127, 0, 0, 1]), after(10)).expect("it is one of the two");
        store.register("c", from("c", [127, 0, 0, 2]), after(10)).expect("another address");
        store.register("d", from("d", [127, 0, 0, 1]), after(90_011)).expect("the others are silent");
    }

    #[test]
    fn what_changes_is_noted_once_and_comes_back_as_it_was() {
        let mut first = store(10);
        assert!(first.take_changed().is_empty());
        first.restore(Vec::new(), START);
        for id in ["a", "b", "c"] {
            first.register(id, candidate(id, None, json!({ "cx_public_key": key("k") })), START).unwrap();
        }
        let outcomes = Outcomes { success: 7, failed: 0, latency_ms: Some(2.5) };
        let report = || Report { outcomes, batch_id: Some("b-1".into()), load: Some(0.5), ..beat() };
        first.heartbeat("a", report(), "c".into(), after(60_000)).unwrap();
        first.remove("b");
        let mut changed: Vec<String> = first.take_changed().iter().map(ToString::to_string).collect();
        changed.sort_unstable();
        assert_eq!(changed, ["a", "b", "c"]);
        assert!(first.take_changed().is_empty());

        // Another process, ten seconds later, whose own clock has just begun.
        let then = Now { ms: 25 * 3_600_000, unix_s: after(70_000).unix_s };
        let kept = |store: &Store, id| store.kept(id).unwrap().row(after(60_000)).unwrap();
        let rows = [kept(&first, "a"), kept(&first, "c")];
        let mut second = store(10);
        second.restore(rows.into_iter().map(|row| row.kept(then).unwrap()).collect(), then);
        let a = second.get("a").unwrap();
        assert_eq!((a.state.completed, a.state.load, a.state.latency_ms), (7, 0.5, Some(2.5)));
        assert!(second.is_owner("a", Some(&token_hash("a"))) && second.owner(&token_hash("c")).is_some());
        assert!(second.get("b").is_none());
        let (then_a, now_a) = (first.get("a").unwrap(), &a);
        assert_eq!(
            then_a.record.cx_public_key.as_ref().unwrap().get(),
            now_a.record.cx_public_key.as_ref().unwrap().get()
        );
        second.heartbeat("a", report(), "c".into(), then).unwrap();
        assert_eq!(second.get("a").unwrap().state.completed, 7, "the batch was counted before");
        assert_eq!(then.ms - second.get("c").unwrap().state.seen_ms, 70_000, "it was silent meanwhile");
    }

    #[test]
    fn more_than_there_is_room_for_is_not_taken_over_and_noted_for_removal() {
        let mut first = store(10);
        for (id, ms) in [("old", 0), ("new", 2_000), ("mid", 1_000)] {
            first.register(id, candidate(id, None, json!({})), after(ms)).unwrap();
        }
        let rows = ["old", "new", "mid"].map(|id| first.kept(id).unwrap().row(after(2_000)).unwrap());
        let then = Now { ms: 25 * 3_600_000, unix_s: after(2_000).unix_s };
        let mut second = store(2);
        second.restore(rows.into_iter().map(|row| row.kept(then).unwrap()).collect(), then);
        assert!(second.get("old").is_none() && second.get("mid").is_some() && second.get("new").is_some());
        assert_eq!(second.take_changed().into_iter().collect::<Vec<_>>(), ["old".into()]);
    }

    #[test]
    fn heavy_registrations_stay_within_the_byte_bound() {
        let mut store = store(1_000_000);
        store.most_bytes = 1 << 20;
        let models: Vec<String> = (0..64).map(|n| format!("{n:0200}")).collect();
        let more = json!({ "capabilities": [{ "intent": crate::types::CHAT, "models": models }] });
        let mut register = |n: u32, now| {
            let result = store.register(&format!("n{n}"), candidate(&format!("t{n}"), None, more.clone()), now);
            assert!(store.bytes <= store.most_bytes, "{}", store.bytes);
            result.is_ok()
        };
        let taken = (0..100).take_while(|n| register(*n, START)).count();
        assert!((50..70).contains(&taken), "{taken}");
        assert!(register(0, START), "a node that is there does not need new room");
        assert!(register(100, after(90_001)), "dormant nodes make room");
        assert!(store.len() <= taken);
    }

    #[test]
    fn a_challenge_is_answered_with_the_key_of_the_registration() {
        let mut store = store(10);
        store.register("n", candidate("t", None, json!({})), START).unwrap();
        let answer = |text: String| Report { challenge_response: Some(text), ..beat() };
        assert_eq!(store.heartbeat("n", beat(), "c1".into(), START).unwrap().proven, None);
        let right = store.heartbeat("n", answer(hmac_hex("key", "c1")), "c2".into(), START).unwrap();
        assert_eq!(right.proven, Some(true));
        let wrong = store.heartbeat("n", answer(hmac_hex("key", "c1")), "c3".into(), START).unwrap();
        assert_eq!(wrong.proven, Some(false), "an answer counts for its own challenge only");
        assert_eq!(store.heartbeat("n", beat(), "c4".into(), START).unwrap().proven, Some(false));
        assert!(store.heartbeat("m", beat(), "c".into(), START).is_none());
    }

    #[test]
    fn one_name_belongs_to_one_operator() {
        let mut store = store(9);
        let run_by = |seed, id: &str, name: &str| {
            let delegation = crate::directory::operator::tests::delegation(seed, id, 1 << 40);
            candidate(id, None, json!({ "operator_delegation": delegation, "operator_display_name": name }))
        };
        assert!(store.register("n1", run_by(1, "n1", "Ann B"), START).is_ok());
        assert!(store.register("n2", run_by(1, "n2", "Ann B"), START).is_ok(), "his second node");
        assert_eq!(store.register("n3", run_by(2, "n3", "ann  b"), START), Err(NotTaken::NameTaken));
        assert!(store.register("n3", run_by(2, "n3", "Ann C"), START).is_ok());
    }

    #[test]
    fn a_batch_counts_once() {
        let mut store = store(10);
        store.register("n", candidate("t", None, json!({})), START).unwrap();
        let batch = |id: Option<&str>| Report {
            outcomes: Outcomes { success: 3, failed: 0, latency_ms: None },
            batch_id: id.map(Into::into),
            ..beat()
        };
        for (id, completed) in [(Some("b1"), 3), (Some("b1"), 3), (Some("b2"), 6), (None, 9), (Some("b2"), 9)] {
            store.heartbeat("n", batch(id), "c".into(), START).unwrap();
            assert_eq!(store.get("n").unwrap().state.completed, completed, "{id:?}");
        }
        store.register("n", candidate("t2", None, json!({})), START).unwrap();
        store.heartbeat("n", batch(Some("b2")), "c".into(), START).unwrap();
        assert_eq!(store.get("n").unwrap().state.completed, 9, "also across a new registration");
    }
}
