//! Which routes may serve a task, and in which order they are asked.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::Inner;
use super::ranker::{CandidateRanker, RankRequest};
use crate::crypto::digest::jitter;
use crate::discovery::routes::Route;
use crate::error::{Code, Error, Result};
use crate::options::RoutingStrategy;
use crate::protocol::breaker::{Admission, Breakers};
use crate::protocol::policy::{self, Reason, Resolved};
use crate::protocol::ranker::{self, CandidateEvidence};
use crate::protocol::selection::{self, Candidate, Strategy};
use crate::types::RoutingReceipt;

/// Routes that passed every rule, and why others did not.
#[derive(Default)]
pub(super) struct Eligible {
    pub(super) routes: Vec<Arc<Route>>,
    refused: Vec<Reason>,
    /// Until when the nodes whose circuit is open are left alone, counted from the client's start.
    open_until: Option<Duration>,
}

/// The candidates in their order, and what chose it.
pub(super) struct Chosen {
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) eligible: usize,
    first_by: String,
    rest_by: String,
}

impl Inner {
    pub(super) fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sorts out the routes that the policy refuses and the nodes whose circuit is open.
    pub(super) fn eligible(&self, routes: &[Arc<Route>], policy: &Resolved, into: &mut Eligible) {
        let (now, date) = (self.started.elapsed(), self.routes.directory().now_unix_s());
        let breakers = self.breakers();
        for route in routes {
            let key_ready = matches!(&route.key, Some(Ok(key)) if !key.has_expired(date));
            if let Some(reason) = policy::refusal(policy, &route.node, key_ready) {
                into.refused.push(reason);
            } else if let Admission::Open { until } = breakers.look(route.at(), now) {
                into.open_until = Some(into.open_until.map_or(until, |earliest| earliest.min(until)));
            } else {
                into.routes.push(route.clone());
            }
        }
    }

    /// Whether the node has failed too often at this place.
    pub(super) fn is_left_alone(&self, route: &Route) -> bool {
        matches!(self.breakers().look(route.at(), self.started.elapsed()), Admission::Open { .. })
    }

    /// Why nobody is eligible.
    pub(super) fn nobody(&self, eligible: &Eligible, intent: &str) -> Error {
        if let Some(until) = eligible.open_until {
            let pause = until.saturating_sub(self.started.elapsed());
            return Error::new(
                Code::NoNodes,
                format!(
                    "the nodes that serve {intent} failed too often and are left alone for {} s",
                    pause.as_secs() + 1
                ),
            )
            .with_retry_after(pause);
        }
        policy::refused(&eligible.refused)
    }

    /// Orders the candidates by the client's strategy.
    pub(super) fn order(&self, routes: Vec<Arc<Route>>) -> Chosen {
        let options = &self.options;
        let candidates: Vec<Candidate> = routes
            .iter()
            .map(|route| Candidate { score: route.node.score, load: route.node.load.unwrap_or_default() })
            .collect();
        let order = selection::order(&Strategy::of(options), &candidates, &mut jitter);
        let ticketed = routes.iter().any(|route| route.ticket.is_some());
        let profile = profile(options.routing_strategy, ticketed);
        Chosen {
            eligible: routes.len(),
            routes: order.into_iter().map(|at| routes[at].clone()).collect(),
            first_by: profile.clone(),
            rest_by: profile,
        }
    }
}

/// What a receipt calls the selection: the published clients name the ticket, not the strategy within.
fn profile(strategy: RoutingStrategy, ticketed: bool) -> String {
    if ticketed { "directory_ticket_v1".into() } else { strategy.as_str().into() }
}

/// The ranker's own error, unless it is one about its answer already.
fn refused_by_ranker(error: Error) -> Error {
    if error.code() == Code::RankerRefused && error.wire_code().is_some() {
        error
    } else {
        ranker::refused(error.message())
    }
}

impl Chosen {
    /// Takes in further ones, after those that are there.
    pub(super) fn add(&mut self, mut further: Eligible) {
        self.eligible += further.routes.len();
        self.routes.append(&mut further.routes);
    }

    /// Asks the application, which may put one of the candidates first.
    ///
    /// # Errors
    /// `RANKER_REFUSED`.
    pub(super) async fn rank(&mut self, asked: &dyn CandidateRanker, task_id: &str, intent: &str) -> Result<()> {
        let candidates: Vec<CandidateEvidence> =
            self.routes.iter().map(|route| CandidateEvidence::of(&route.node)).collect();
        let refs: Vec<String> = candidates.iter().map(|candidate| candidate.candidate_ref.clone()).collect();
        let request = RankRequest { request_ref: ranker::request_ref(task_id), intent: intent.to_owned(), candidates };
        let choice = asked.rank(request).await.map_err(refused_by_ranker)?;
        if let Some(choice) = choice {
            let order: Vec<usize> = (0..refs.len()).collect();
            let ranked = ranker::apply_choice(&order, &refs, &choice)?;
            self.routes = ranked.order.iter().map(|at| self.routes[*at].clone()).collect();
            (self.first_by, self.rest_by) = (ranked.receipt_primary, ranked.receipt_fallback);
        }
        Ok(())
    }

    /// The receipt for a task that the candidate at this place served.
    pub(super) fn receipt(&self, at: usize, route: &Route, negotiated: Option<&str>) -> RoutingReceipt {
        RoutingReceipt {
            receipt_version: "iicp-routing-receipt-v1".into(),
            selection_profile: if at == 0 { self.first_by.clone() } else { self.rest_by.clone() },
            eligible_candidate_count: self.eligible,
            selected_node_id_prefix: route.node.node_id.chars().take(8).collect(),
            dispatch_ticket_id_prefix: route.ticket.clone(),
            profile_negotiation: negotiated.map(str::to_owned),
            redaction: "prompt_response_endpoint_token_excluded".into(),
        }
    }
}
