//! The events of a task as they stand in an answer: server-sent events, and signs of life in between.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Interval, MissedTickBehavior};

use crate::protocol::admission::Events;
use crate::wire::events::{STILL_THERE, write_event};

/// Events that are ready together go out together, up to about this many bytes.
const ENOUGH: usize = 16 << 10;
/// How often a caller who waits for the next part is told that the node is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// Events as bytes, each made when it is asked for.
pub(crate) struct EventBytes {
    events: Events,
    out: Vec<u8>,
    ended: bool,
    sign_of_life: Interval,
}

impl EventBytes {
    pub(crate) fn new(events: Events) -> Self {
        let mut sign_of_life = tokio::time::interval(SIGN_OF_LIFE);
        sign_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sign_of_life.reset();
        EventBytes { events, out: Vec::new(), ended: false, sign_of_life }
    }

    /// Waits for room, or whatever else has to come before the next bytes. A task whose time is over meanwhile ends, and gives
    /// back what it holds: that nobody takes its parts makes it no longer.
    pub(crate) async fn wait<T>(&mut self, room: impl Future<Output = T>) -> T {
        let mut room = std::pin::pin!(room);
        tokio::select! {
            biased;
            room = &mut room => return room,
            () = tokio::time::sleep_until(self.events.deadline.into()) => {}
        }
        while !self.ended {
            let event = tokio::select! {
                biased;
                room = &mut room => return room,
                event = self.events.events.next() => event,
            };
            match event {
                Some(event) => write_event(&mut self.out, &self.events.task_id, &event),
                None => self.ended = true,
            }
        }
        room.await
    }
}

impl Stream for EventBytes {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        while !this.ended && this.out.len() < ENOUGH {
            match this.events.events.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => this.ended = true,
                Poll::Ready(Some(event)) => write_event(&mut this.out, &this.events.task_id, &event),
            }
        }
        if !this.out.is_empty() {
            this.sign_of_life.reset();
            return Poll::Ready(Some(std::mem::take(&mut this.out).into()));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        this.sign_of_life.poll_tick(cx).map(|_| Some(Bytes::from_static(STILL_THERE)))
    }
}
