//! Which relay a worker turns to, out of those that a directory names.

use crate::crypto::digest::sha256_hex;
use crate::wire::directory::ListedRelay;

/// Puts the candidates in order, best first: least load, then the hash of both ids, which spreads workers over relays of
/// equal load and gives each the same order every time. A worker is never its own relay.
pub(crate) fn elect(own_id: &str, mut candidates: Vec<ListedRelay>) -> Vec<ListedRelay> {
    candidates.retain(|relay| relay.node_id != own_id && !relay.node_id.is_empty() && !relay.endpoint.is_empty());
    candidates.sort_by_cached_key(|relay| {
        // One that says none is taken for half full: silence must not win.
        let load = relay.load.filter(|load| load.is_finite()).unwrap_or(0.5).clamp(0.0, 1.0);
        // Hundredths: less than that is noise, and would send everyone to the same relay.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let load = (load * 100.0).round() as u32;
        (load, sha256_hex(&[own_id.as_bytes(), b":", relay.node_id.as_bytes()]))
    });
    candidates.dedup_by(|a, b| a.node_id == b.node_id);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(node_id: &str, load: Option<f64>) -> ListedRelay {
        ListedRelay { load, ..ListedRelay::new(node_id, &format!("http://{node_id}.example")) }
    }

    fn order(own_id: &str, candidates: Vec<ListedRelay>) -> Vec<String> {
        elect(own_id, candidates).into_iter().map(|relay| relay.node_id).collect()
    }

    #[test]
    fn the_least_loaded_is_first_and_silence_does_not_win() {
        let candidates = vec![relay("silent", None), relay("full", Some(0.9)), relay("free", Some(0.1))];
        assert_eq!(order("w", candidates), ["free", "silent", "full"]);
        let strange = vec![relay("nan", Some(f64::NAN)), relay("under", Some(-7.0)), relay("over", Some(7.0))];
        assert_eq!(order("w", strange), ["under", "nan", "over"]);
    }

    #[test]
    fn equals_are_ordered_by_the_hash_of_both_ids() {
        // sha256("w-1:r-1") and so on, as the published nodes order them.
        let mut wanted = vec!["r-1", "r-2", "r-3", "r-4"];
        wanted.sort_by_key(|id| sha256_hex(&[format!("w-1:{id}").as_bytes()]));
        let candidates = |ids: [&str; 4]| ids.map(|id| relay(id, Some(0.0))).to_vec();
        assert_eq!(order("w-1", candidates(["r-1", "r-2", "r-3", "r-4"])), wanted);
        assert_eq!(order("w-1", candidates(["r-4", "r-3", "r-2", "r-1"])), wanted, "whatever the list's order");
        let firsts: std::collections::HashSet<String> =
            (0..64).map(|n| order(&format!("w-{n}"), candidates(["r-1", "r-2", "r-3", "r-4"])).remove(0)).collect();
        assert_eq!(firsts.len(), 4, "workers spread over the relays");
    }

    #[test]
    fn nobody_elects_himself_or_a_relay_twice() {
        let candidates = vec![relay("own", Some(0.0)), relay("r", Some(0.5)), relay("r", Some(0.5))];
        assert_eq!(order("own", candidates), ["r"]);
        assert!(elect("own", vec![ListedRelay { endpoint: String::new(), ..relay("r", None) }]).is_empty());
    }
}
