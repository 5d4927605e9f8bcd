//! What of a task goes to the directory and what to the provider. Region, reputation, profile and whatever else is asked
//! of the route never reach a provider.

use crate::options::{ClientOptions, Discover, TaskOptions};
use crate::types::Qos;

/// One task, parted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Projection {
    /// What the directory is asked.
    pub(crate) discover: Discover,
    /// What the provider is told.
    pub(crate) execution: Execution,
}

/// The constraints that travel with a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    /// Time for the whole submit; a provider is told what is left of it.
    pub(crate) timeout_ms: u64,
    pub(crate) qos: Option<Qos>,
    pub(crate) model: Option<String>,
}

/// Parts a task. For the route the route constraints count first, then the task, then the client, then the protocol's
/// defaults; what is asked of the route changes nothing of what is asked of the provider.
pub(crate) fn project(task: &TaskOptions, client: &ClientOptions) -> Projection {
    let route = task.route.clone().unwrap_or_default();
    let defaults = Discover::intent(task.intent.as_str());
    Projection {
        discover: Discover {
            region: route.region.or_else(|| task.region.clone()).or_else(|| client.region.clone()),
            qos: route.qos.or(task.qos),
            model: route.model.or_else(|| task.model.clone()),
            min_reputation: route.min_reputation.or(task.min_reputation),
            limit: route.limit.unwrap_or(defaults.limit),
            browser_usable_only: route.browser_usable_only,
            profile_request: route.profile_request.or_else(|| client.profile_request.clone()),
            ..defaults
        },
        execution: Execution {
            timeout_ms: task.timeout_ms.unwrap_or(client.timeout_ms),
            qos: task.qos,
            model: task.model.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::RouteConstraints;
    use crate::types::CHAT;

    #[test]
    fn the_most_specific_word_counts_and_the_provider_hears_only_the_tasks() {
        let client = ClientOptions { region: Some("client".into()), timeout_ms: 7000, ..ClientOptions::default() };
        let task = |route| TaskOptions { intent: CHAT.into(), route, ..TaskOptions::default() };
        let plain = project(&task(None), &client);
        assert_eq!(plain.discover, Discover { region: Some("client".into()), ..Discover::intent(CHAT) });
        assert_eq!(plain.execution, Execution { timeout_ms: 7000, qos: None, model: None });
        let route = RouteConstraints { model: Some("route".into()), limit: Some(3), ..RouteConstraints::default() };
        let task = TaskOptions {
            model: Some("task".into()),
            region: Some("task".into()),
            min_reputation: Some(0.5),
            ..task(Some(route))
        };
        let both = project(&task, &client);
        assert_eq!(both.discover.model.as_deref(), Some("route"));
        assert_eq!(both.discover.region.as_deref(), Some("task"));
        assert_eq!((both.discover.limit, both.discover.min_reputation), (3, Some(0.5)));
        assert_eq!(both.execution.model.as_deref(), Some("task"));
    }
}
