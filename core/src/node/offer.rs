//! What the node offers now and how its backend is: told by whoever knows, read by health and by the registration.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::backend::Backend;
use crate::options::{Engine, NodeCapability, NodeOptions};
use crate::wire::directory::{BackendStability, BackendState};

/// What is offered. A change is told to the directory, and shown in health once the directory has taken it.
pub(crate) struct Offer {
    intents: Vec<String>,
    /// Whether the operator said exactly what is to be listed, so that what a backend finds changes nothing.
    fixed: bool,
    /// Nobody is told, so what is offered is shown at once.
    alone: bool,
    /// Who knows how it is.
    backend: Option<Backend>,
    said: Mutex<Said>,
    changed: Notify,
}

struct Said {
    offered: Arc<Vec<NodeCapability>>,
    /// What the directory has taken.
    listed: Arc<Vec<NodeCapability>>,
    /// The models that the backend has now; none: nobody looked.
    live: Option<Arc<[String]>>,
}

impl Offer {
    /// What the options say.
    pub(crate) fn new(options: &NodeOptions, backend: Option<Backend>) -> Self {
        let offered = Arc::new(options.served());
        Offer {
            intents: options.intents.clone(),
            fixed: !options.capabilities.is_empty(),
            alone: options.directory.is_empty(),
            backend,
            said: Mutex::new(Said { listed: offered.clone(), offered, live: None }),
            changed: Notify::new(),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backend has these models now, which serve like this. An empty list is only noted; what differs from what is
    /// offered is offered instead, and the node registers again.
    pub(crate) fn found(&self, live: Vec<String>, mut capabilities: Vec<NodeCapability>) {
        capabilities.retain(|capability| self.intents.contains(&capability.intent));
        let mut said = self.said();
        said.live = Some(live.into());
        let empty = capabilities.iter().all(|capability| capability.models.is_empty());
        if self.fixed || empty || *said.offered == capabilities {
            return;
        }
        said.offered = Arc::new(capabilities);
        if self.alone {
            said.listed = said.offered.clone();
        }
        drop(said);
        self.register_again();
    }

    /// Has the node register with what is offered now, without waiting for the next heartbeat.
    pub(crate) fn register_again(&self) {
        self.changed.notify_one();
    }

    /// Resolves when the node shall register again.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What a registration says.
    pub(super) fn offered(&self) -> Arc<Vec<NodeCapability>> {
        self.said().offered.clone()
    }

    /// The directory has taken this.
    pub(super) fn listed(&self, taken: Arc<Vec<NodeCapability>>) {
        self.said().listed = taken;
    }

    /// The models that the directory knows, which is what auditors compare with health.
    pub(super) fn models(&self) -> Vec<String> {
        models_of(&self.said().listed)
    }

    /// The models that a heartbeat reports. Directories refuse a report with a name that is longer than this.
    pub(super) fn live_models(&self) -> Option<Vec<String>> {
        const LONGEST: usize = 128;
        let said = self.said();
        let live = said.live.as_ref().map_or_else(|| models_of(&said.offered), |live| live.to_vec());
        // A node of a handler without models says nothing: an empty list would mean that it can serve nobody.
        let nothing_to_say = said.live.is_none() && live.is_empty();
        (!nothing_to_say && live.len() <= 64 && live.iter().all(|model| model.len() <= LONGEST)).then_some(live)
    }

    /// How the backend is; a handler of which nothing is known is as well as its node.
    pub(super) fn stability(&self) -> BackendStability {
        self.backend.as_ref().map(Backend::stability).unwrap_or_default()
    }

    /// What runs the models, once that is known.
    pub(super) fn engine(&self) -> Option<Engine> {
        self.backend.as_ref().and_then(Backend::engine)
    }

    /// Whether the backend takes no tasks for now.
    pub(super) fn is_draining(&self) -> bool {
        self.stability().backend_state == BackendState::Draining
    }
}

/// Every model once, in the order in which they were named.
fn models_of(capabilities: &[NodeCapability]) -> Vec<String> {
    let mut models: Vec<String> = Vec::new();
    for model in capabilities.iter().flat_map(|capability| &capability.models) {
        if !models.contains(model) {
            models.push(model.clone());
        }
    }
    models
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::types::{CHAT, EMBEDDING};

    fn offer(set: impl FnOnce(&mut NodeOptions)) -> Offer {
        let mut options = NodeOptions {
            intents: vec![CHAT.into()],
            directory: "http://d".into(),
            models: vec!["a".into(), "b".into()],
            ..NodeOptions::default()
        };
        set(&mut options);
        Offer::new(&options, None)
    }

    fn capability(intent: &str, models: &[&str]) -> NodeCapability {
        NodeCapability {
            intent: intent.into(),
            models: models.iter().map(ToString::to_string).collect(),
            ..NodeCapability::default()
        }
    }

    #[test]
    fn other_models_are_offered_at_once_and_shown_when_they_are_taken() {
        let offer = offer(|_| {});
        offer.found(vec!["c".into()], vec![capability(CHAT, &["c"]), capability(EMBEDDING, &["e"])]);
        assert!(offer.changed().now_or_never().is_some());
        assert_eq!(offer.models(), ["a", "b"], "not taken yet");
        let offered = offer.offered();
        assert_eq!(offered.len(), 1, "only what is served");
        offer.listed(offered);
        assert_eq!((offer.models(), offer.live_models()), (vec!["c".into()], Some(vec!["c".into()])));
        offer.found(vec!["c".into()], vec![capability(CHAT, &["c"])]);
        assert!(offer.changed().now_or_never().is_none(), "nothing is different");
        offer.found(Vec::new(), Vec::new());
        assert!(offer.changed().now_or_never().is_none(), "nothing found is no reason");
        assert_eq!(offer.live_models(), Some(Vec::new()));
    }

    #[test]
    fn what_the_operator_listed_himself_stays() {
        let offer = offer(|options| options.capabilities = vec![capability(CHAT, &["a"])]);
        offer.found(vec!["z".into()], vec![capability(CHAT, &["z"])]);
        assert!(offer.changed().now_or_never().is_none());
        assert_eq!(offer.offered()[0].models, ["a"]);
        assert_eq!(offer.live_models(), Some(vec!["z".into()]));
    }

    #[test]
    fn a_report_that_would_be_refused_is_not_made() {
        assert_eq!(offer(|options| options.models = Vec::new()).live_models(), None);
        assert_eq!(offer(|options| options.models = vec!["m".repeat(129)]).live_models(), None);
    }
}
