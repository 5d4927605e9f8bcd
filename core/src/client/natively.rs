//! Tasks that go natively: over a path past NATs, a connection that calls share, or in the published form.

use std::sync::Arc;

use bytes::Bytes;

use super::submit::Submit;
use crate::discovery::routes::Route;
#[cfg(feature = "punch")]
use crate::punch::Way;
use crate::transport::http_client::{Call, NoReply, Reply};
use crate::transport::native_client::Open;
use crate::transport::native_link::{Link, NativeCall};
use crate::transport::native_parts::{Begun, Parts};
use crate::transport::native_published::{Followed, Heard, Lane, PlainCall};

/// What a node answered natively.
pub(super) enum Natively {
    Whole(Reply),
    /// In parts, from a node of our kind; none where the result is taken whole.
    Parts(Parts),
    /// Event by event, from a published one.
    Events(Followed),
}

impl Submit<'_> {
    /// Sends the task natively; none if it cannot have begun to run there, or may be sent again, so that HTTP may have it. Also
    /// tells whether it went over a direct path. `plain` is the payload, if it goes out unsealed and the published form can say
    /// all that the task is.
    pub(super) async fn natively(
        &self,
        route: &Route,
        call: &Call<'_>,
        plain: Option<&Bytes>,
    ) -> Option<(Result<Natively, NoReply>, bool)> {
        // Frames have no place for a trace's state.
        let body = call.body.clone().filter(|_| call.tracestate.is_none())?;
        if let Some(link) = self.direct(route).filter(|link| link.takes(body.len())) {
            let answer = self.over(&link, route, call, body).await;
            return (!self.goes_on(true, answer.as_ref().err())).then_some((answer, true));
        }
        let plain_for = plain.map(|_| route.node.node_id.as_str());
        let answer = match (self.client.native.open(route.native.as_ref()?, plain_for).await?, plain) {
            (Open::Shared(link), _) if link.takes(body.len()) => self.over(&link, route, call, body).await,
            (Open::Published(lane), Some(payload)) => {
                let heard = lane.call(self.published(route, call, payload)).await;
                heard.map(|heard| match heard {
                    Heard::Whole(reply) => Natively::Whole(reply),
                    Heard::Events(followed) => Natively::Events(followed),
                })
            }
            _ => return None,
        };
        (!self.goes_on(false, answer.as_ref().err())).then_some((answer, false))
    }

    /// Sends the task to a node of our kind.
    async fn over(&self, link: &Arc<Link>, route: &Route, call: &Call<'_>, body: Bytes) -> Result<Natively, NoReply> {
        let takes_events = self.takes_events(route);
        let begun = link.open(NativeCall {
            task_id: &self.task_id,
            intent: &self.options.intent,
            body,
            consumer_token: call.consumer_token,
            traceparent: &self.trace,
            deadline: call.deadline,
            idle: call.idle,
            most_bytes: call.most_bytes,
            takes_events,
        });
        Ok(match begun.await? {
            Begun::Whole(reply) => Natively::Whole(reply),
            Begun::Parts(parts) if takes_events => Natively::Parts(parts),
            Begun::Parts(parts) => Natively::Whole(parts.read().await?),
        })
    }

    /// A path past the NATs to a node behind a relay, if there is one by now.
    #[cfg(feature = "punch")]
    fn direct(&self, route: &Route) -> Option<Arc<Link>> {
        let direct = self.client.direct.as_ref().filter(|_| route.is_relayed())?;
        let (key, node_id) = (route.key.as_ref()?.as_ref().ok()?, route.node.node_id.as_str());
        direct.link(&Way { node_id, key, task_url: &route.task_url, reach: route.reach })
    }

    #[cfg(not(feature = "punch"))]
    fn direct(&self, _: &Route) -> Option<Arc<Link>> {
        None
    }

    /// Whether the task goes another way to the same node. If a direct path has died under it, the node may be well: it gives the
    /// answer that it has by now, or runs the task again.
    fn goes_on(&self, is_direct: bool, why: Option<&NoReply>) -> bool {
        match why {
            Some(NoReply::Connect) => true,
            Some(NoReply::Lost) => is_direct && self.options.idempotent,
            _ => false,
        }
    }

    /// Whether the published form can say all that this task is: it has no word for a seal, a credential, a model beside the
    /// payload or who asks, and takes no payload but an object.
    pub(super) fn fits_published(&self, call: &Call<'_>, payload: &Bytes) -> bool {
        #[derive(serde::Deserialize)]
        struct Named<'a> {
            #[serde(borrow, default)]
            model: Option<std::borrow::Cow<'a, str>>,
        }
        let options = &self.options;
        let is_object = payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let names_model = || {
            options.model.is_none()
                || serde_json::from_slice::<Named<'_>>(payload)
                    .is_ok_and(|named| named.model.as_deref() == options.model.as_deref())
        };
        call.consumer_token.is_none()
            && options.source_node_id.is_none()
            && is_object
            && Lane::takes(payload.len())
            && names_model()
    }

    fn published<'c>(&'c self, route: &Route, call: &Call<'c>, payload: &'c Bytes) -> PlainCall<'c> {
        PlainCall {
            task_id: &self.task_id,
            intent: &self.options.intent,
            payload,
            deadline: call.deadline,
            idle: call.idle,
            most_bytes: call.most_bytes,
            follows: self.takes_events(route),
        }
    }
}
