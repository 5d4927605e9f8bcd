//! Which nodes a client may have, which of them first, and what finished tasks do to a node's reputation.

use super::answer::Refusal;
use super::form::Form;
use super::node::{Node, Now, Outcomes, State};
use crate::protocol::risk;
use crate::types::Qos;

/// A node with a lower score is not worth a call.
pub(super) const LEAST: f64 = 0.1;
/// Tasks that a node must have finished for interactive and realtime tasks, where the directory asks for a record.
const INTERACTIVE_TASKS: u64 = 100;
const REALTIME_TASKS: u64 = 1_000;
const REALTIME_REPUTATION: f64 = 0.8;
/// The oldest release of the published SDK that is not scored down.
const SDK_BASELINE: [u32; 3] = [0, 7, 68];
const HOUR_MS: u64 = 3_600_000;

/// What a client asks for.
#[derive(Default)]
pub(super) struct Wish {
    pub(super) intent: String,
    pub(super) qos: Option<Qos>,
    pub(super) region: Option<String>,
    pub(super) model: Option<String>,
    pub(super) min_reputation: f64,
    pub(super) limit: usize,
    pub(super) cip_capable: bool,
    pub(super) relay_capable: bool,
    pub(super) modality: Option<String>,
    /// No node that costs more times the usual price.
    pub(super) max_multiplier: Option<f64>,
    /// No node with a lower score.
    pub(super) min_quality_score: f64,
    /// Only the node of this id.
    pub(super) node_id: Option<String>,
    /// Only nodes whose id begins like this.
    pub(super) node_id_prefix: Option<String>,
    /// No node whose id begins like one of these.
    pub(super) exclude: Vec<String>,
}

impl Wish {
    /// Reads what discovery and tickets have in common; faults are noted in the form.
    pub(super) fn read(form: &mut Form<'_>) -> Wish {
        let intent = form.text("intent", 255);
        let qos = form.text("qos", 32);
        let parsed = qos.as_deref().and_then(Qos::parse);
        if qos.is_some() && parsed.is_none() {
            form.fault("qos", "must be realtime, interactive, batch or best-effort");
        }
        // A directory never takes in what a task is about.
        for name in ["prompt", "messages", "payload", "input", "chat", "content", "response"] {
            if form.has(name) {
                form.fault(name, "must not be sent to a directory");
            }
        }
        Wish {
            intent: form.require("intent", intent).unwrap_or_default(),
            qos: parsed,
            region: form.text("region", 64),
            model: form.text("model", 255),
            min_reputation: form.number("min_reputation", 0.0..=1.0).unwrap_or_default(),
            limit: form.count("limit", 0..=u32::MAX).map_or(10, |limit| limit.clamp(1, 50) as usize),
            cip_capable: form.flag("cip_capable").unwrap_or_default(),
            relay_capable: form.flag("relay_capable").unwrap_or_default(),
            modality: form.text("modality", 64),
            max_multiplier: form.number("max_multiplier", 0.0..=1000.0),
            min_quality_score: form.number("min_quality_score", 0.0..=1.0).unwrap_or_default(),
            node_id: None,
            node_id_prefix: None,
            exclude: Vec::new(),
        }
    }

    /// Refuses an intent that the table of risks names.
    pub(super) fn check_risk(&self) -> Result<(), Refusal> {
        risk::refusal(&self.intent).map_or(Ok(()), |why| Err(Refusal::policy(why)))
    }

    fn names(&self, id: &str) -> bool {
        self.node_id.as_deref().is_none_or(|wanted| wanted == id)
            && self.node_id_prefix.as_deref().is_none_or(|prefix| id.starts_with(prefix))
            && !self.exclude.iter().any(|prefix| id.starts_with(prefix.as_str()))
    }
}

/// Whether an active node may be given to a client.
pub(super) fn is_eligible(node: &Node, wish: &Wish, qos_gating: bool) -> bool {
    let (record, state) = (&node.record, &node.state);
    let serving = |modality: Option<&str>| {
        let mut serving = record.serving(Some(&wish.intent));
        serving.any(|capability| modality.is_none_or(|wanted| capability.input_modalities.contains(&wanted)))
    };
    state.available
        && !state.draining
        && wish.names(&node.id)
        && serving(wish.modality.as_deref())
        && state.live_models.as_ref().is_none_or(|models| !models.is_empty())
        && wish.model.as_deref().is_none_or(|model| serves_model(node, &wish.intent, model))
        && (!wish.cip_capable || record.policy.allow_remote_inference)
        && (!wish.relay_capable || record.relay_capable)
        && wish.max_multiplier.is_none_or(|most| state.pricing.credit_cost_multiplier <= most)
        && state.reputation >= wish.min_reputation
        && (!qos_gating || has_record_for(state, wish.qos))
}

fn serves_model(node: &Node, intent: &str, model: &str) -> bool {
    match &node.state.live_models {
        Some(live) => live.iter().any(|live| live == model),
        None => {
            node.record.serving(Some(intent)).any(|capability| capability.models.iter().any(|known| known == model))
        }
    }
}

fn has_record_for(state: &State, qos: Option<Qos>) -> bool {
    match qos {
        Some(Qos::Realtime) => state.completed >= REALTIME_TASKS && state.reputation >= REALTIME_REPUTATION,
        Some(Qos::Interactive) => state.completed >= INTERACTIVE_TASKS,
        Some(Qos::Batch | Qos::BestEffort) | None => true,
    }
}

/// How well a node fits, 0 to 1, to four places.
pub(super) fn score(node: &Node, wish: &Wish, now: Now) -> f64 {
    let (record, state) = (&node.record, &node.state);
    let available = availability(node, now);
    let idle = 1.0 - state.load.clamp(0.0, 1.0);
    let capacity = (1.0 - f64::from(state.active_jobs) / f64::from(record.max_concurrent)).max(0.0);
    let region = wish.region.as_deref().map_or(0.5, |region| if region == record.region { 1.0 } else { 0.0 });
    let sum = if wish.model.is_some() {
        let price = record.policy.pricing_credits_per_1000.map_or(0.5, |price| (1.0 - price / 10.0).max(0.0));
        // Nodes without the model were left out, so the model's own share is always earned.
        0.25 * available + 0.20 * idle + 0.15 * capacity + 0.10 * (region + state.reputation + price + 1.0)
    } else {
        0.35 * available + 0.28 * idle + 0.18 * capacity + 0.09 * region + 0.10 * state.reputation
    };
    let old = if is_current(record.software.sdk_version.as_deref()) { 0.0 } else { 0.08 };
    let unsealed = if record.cx_public_key.is_some() { 0.0 } else { 0.07 };
    (sum * (1.0_f64 - old - unsealed).max(0.75) * 10_000.0).round() / 10_000.0
}

/// The share of itself that the node gives now.
fn availability(node: &Node, now: Now) -> f64 {
    let windows = &node.record.windows;
    let minute = u32::try_from(now.unix_s / 60 % 1440).unwrap_or_default();
    let open = windows.iter().find(|window| (window.from..window.to).contains(&minute));
    match open {
        Some(window) => window.share,
        None if windows.is_empty() => 1.0,
        None => 0.5,
    }
}

fn is_current(version: Option<&str>) -> bool {
    let Some(version) = version else { return false };
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or_default());
    [(); 3].map(|()| numbers.next().unwrap_or_default()) >= SDK_BASELINE
}

/// Counts finished tasks. One report may raise the reputation by 0.1, an hour by 0.2; `gained` says by how much it rose
/// since when, and is returned as it then stands.
pub(super) fn apply(state: &mut State, outcomes: Outcomes, gained: (f64, u64), now: Now) -> (f64, u64) {
    let (mut gain, mut since_ms) = gained;
    if now.ms.saturating_sub(since_ms) >= HOUR_MS {
        (gain, since_ms) = (0.0, now.ms);
    }
    state.completed = state.completed.saturating_add(outcomes.success.into());
    state.latency_ms = outcomes.latency_ms.or(state.latency_ms);
    let change = 0.01 * f64::from(outcomes.success) - 0.05 * f64::from(outcomes.failed);
    let change = change.min(0.10).min((0.20 - gain).max(0.0));
    gain += change.max(0.0);
    state.reputation = ((state.reputation + change).clamp(0.0, 1.0) * 10_000.0).round() / 10_000.0;
    (gain, since_ms)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::directory::node::Report;
    use crate::directory::store::tests::{START, after, candidate, store};
    use crate::types::CHAT;

    impl Wish {
        pub(in crate::directory) fn intent(intent: &str) -> Wish {
            Wish { intent: intent.into(), limit: 50, ..Wish::default() }
        }
    }

    fn node(more: Value) -> Node {
        let mut store = store(1);
        store.register("node-1", candidate("t", None, more), START).unwrap();
        store.get("node-1").unwrap()
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    fn finished(success: u32, failed: u32) -> Outcomes {
        Outcomes { success, failed, latency_ms: None }
    }

    #[test]
    fn a_score_is_the_sum_of_its_shares() {
        let cx = json!({ "algorithm": "X25519", "encoding": "base64url", "key": "k", "key_id": "i" });
        let mut node = node(json!({ "sdk_version": "0.7.109", "cx_public_key": cx }));
        let mut wish = Wish::intent(CHAT);
        assert!(close(score(&node, &wish, START), 0.905), "{}", score(&node, &wish, START));
        wish.region = Some("eu".into());
        assert!(close(score(&node, &wish, START), 0.95));
        wish.region = Some("us".into());
        assert!(close(score(&node, &wish, START), 0.86));
        (node.state.load, node.state.active_jobs) = (0.5, 2);
        assert!(close(score(&node, &wish, START), 0.86 - 0.14 - 0.09));
        wish.model = Some("m-1".into());
        assert!(close(score(&node, &wish, START), 0.25 + 0.10 + 0.075 + 0.0 + 0.05 + 0.05 + 0.10));
    }

    #[test]
    fn an_old_sdk_and_a_missing_key_cost_at_most_a_quarter() {
        let wish = Wish::intent(CHAT);
        assert!(close(score(&node(json!({})), &wish, START), 0.7693), "0.905 * 0.85");
        assert!(close(score(&node(json!({ "sdk_version": "0.7.68" })), &wish, START), 0.8417), "0.905 * 0.93");
        assert!(is_current(Some("1.0")) && is_current(Some("0.8.0-rc.1")));
        assert!(!is_current(Some("0.7.67")) && !is_current(Some("next")) && !is_current(None));
    }

    #[test]
    fn a_node_gives_its_share_inside_its_window_and_half_outside() {
        let window = json!({ "availability": [{ "start": "08:00", "end": "10:00", "share": 0.75 }] });
        let node = node(window);
        let at = |minute: u64| Now { ms: 0, unix_s: minute * 60 };
        assert!(close(availability(&node, at(480)), 0.75) && close(availability(&node, at(1440 + 599)), 0.75));
        assert!(close(availability(&node, at(479)), 0.5) && close(availability(&node, at(600)), 0.5));
    }

    #[test]
    fn the_intent_matches_exactly_and_filters_filter() {
        let good = node(json!({ "policy": { "allow_remote_inference": true } }));
        let eligible = |change: &dyn Fn(&mut Wish)| {
            let mut wish = Wish::intent(CHAT);
            change(&mut wish);
            is_eligible(&good, &wish, false)
        };
        assert!(eligible(&|_| {}));
        assert!(eligible(&|w| w.model = Some("m-2".into())) && !eligible(&|w| w.model = Some("m-3".into())));
        assert!(eligible(&|w| w.cip_capable = true) && !eligible(&|w| w.relay_capable = true));
        assert!(eligible(&|w| w.min_reputation = 0.5) && !eligible(&|w| w.min_reputation = 0.51));
        assert!(eligible(&|w| w.modality = Some("text".into())) && !eligible(&|w| w.modality = Some("audio".into())));
        assert!(
            eligible(&|w| w.node_id_prefix = Some("node".into())) && !eligible(&|w| w.node_id = Some("node".into()))
        );
        assert!(
            !eligible(&|w| w.exclude = vec!["x".into(), "node-1".into()])
                && eligible(&|w| w.exclude = vec!["o".into()])
        );
        assert!(!eligible(&|w| w.intent.push('0')) && !eligible(&|w| w.intent = CHAT.to_uppercase()));
        assert!(eligible(&|w| w.qos = Some(Qos::Realtime)), "nothing is gated");
    }

    #[test]
    fn what_the_backend_has_loaded_decides_over_what_was_registered() {
        let mut store = store(1);
        store.register("n", candidate("t", None, json!({})), START).unwrap();
        let mut found = |live: Option<Vec<&str>>, draining: bool, model: Option<&str>| {
            let live_models = live.map(|live| live.into_iter().map(str::to_owned).collect());
            let report = Report { available: true, draining: Some(draining), live_models, ..Report::default() };
            store.heartbeat("n", report, "c".into(), START).unwrap();
            let wish = Wish { model: model.map(Into::into), ..Wish::intent(CHAT) };
            store.select(&wish, START).len()
        };
        assert_eq!(found(None, false, Some("m-1")), 1);
        assert_eq!(found(None, true, Some("m-1")), 0, "draining");
        assert_eq!(found(Some(vec!["m-2"]), false, Some("m-1")), 0);
        assert_eq!(found(None, false, Some("m-2")), 1, "no report leaves the last one standing");
        assert_eq!(found(Some(vec![]), false, None), 0, "nothing is loaded");
    }

    #[test]
    fn a_record_of_finished_tasks_opens_the_stricter_classes() {
        let mut node = node(json!({}));
        let gated = |node: &Node, qos| is_eligible(node, &Wish { qos, ..Wish::intent(CHAT) }, true);
        assert!(gated(&node, None) && gated(&node, Some(Qos::Batch)) && gated(&node, Some(Qos::BestEffort)));
        node.state.completed = 99;
        assert!(!gated(&node, Some(Qos::Interactive)));
        node.state.completed = 100;
        assert!(gated(&node, Some(Qos::Interactive)) && !gated(&node, Some(Qos::Realtime)));
        node.state.completed = 1_000;
        assert!(!gated(&node, Some(Qos::Realtime)), "its reputation is only 0.5");
        node.state.reputation = 0.8;
        assert!(gated(&node, Some(Qos::Realtime)));
    }

    #[test]
    fn reputation_rises_slowly_and_falls_fast() {
        let mut node = node(json!({}));
        let mut gained = (0.0, 0);
        let mut report = |success, failed, now| {
            gained = apply(&mut node.state, finished(success, failed), gained, now);
            node.state.reputation
        };
        assert!(close(report(1, 0, START), 0.51));
        assert!(close(report(1_000, 0, START), 0.61), "0.1 at most by one report");
        assert!(close(report(1_000, 0, START), 0.70), "0.2 at most in an hour");
        assert!(close(report(5, 0, START), 0.70));
        assert!(close(report(0, 4, START), 0.50));
        assert!(close(report(5, 0, after(HOUR_MS - 1)), 0.50), "what was lost is not regained in the same hour");
        assert!(close(report(5, 0, after(HOUR_MS)), 0.55));
        assert!(close(report(0, 1_000, after(HOUR_MS)), 0.0));
        assert_eq!(node.state.completed, 1 + 1_000 + 1_000 + 5 + 5 + 5);
    }

    #[test]
    fn the_best_comes_first_and_equals_stand_in_the_order_of_their_ids() {
        let mut store = store(10);
        for (id, region) in [("c", "eu"), ("a", "eu"), ("b", "us")] {
            store.register(id, candidate(id, None, json!({ "region": region })), START).unwrap();
        }
        let wish = Wish { region: Some("us".into()), limit: 2, ..Wish::intent(CHAT) };
        let ids: Vec<String> = store.select(&wish, START).into_iter().map(|(_, node)| node.id.to_string()).collect();
        assert_eq!(ids, ["b", "a"], "a preference, not a filter");
    }

    #[test]
    fn a_prompt_is_not_taken_in() {
        for name in ["prompt", "messages", "payload", "input", "chat", "content", "response"] {
            let body = json!({ "intent": CHAT, name: "x" }).to_string();
            let mut form = Form::json(body.as_bytes()).unwrap();
            Wish::read(&mut form);
            assert!(form.finish().is_err(), "{name}");
        }
        let mut form = Form::query("qos=soon");
        Wish::read(&mut form);
        let text = format!("{:?}", form.finish().unwrap_err());
        assert!(text.contains("intent") && text.contains("qos"), "{text}");
    }
}
