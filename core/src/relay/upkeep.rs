//! What a relay does for its sessions from time to time: it asks who was silent, has old ones renewed, and lets go of who is
//! gone.

use std::sync::Arc;

use super::Relay;
use super::session::Session;
use crate::protocol::relay::liveness::Look;
use crate::protocol::relay::term::Due;
use crate::telemetry;
use crate::wire::frame::Kind;
use crate::wire::relay as words;

/// Sessions of one worker that end what is under way.
const MOST_RETIRED: usize = 4;

impl Relay {
    fn retire(&self, old: Arc<Session>) {
        let mut retired = self.retired();
        let of_same = |held: &&Arc<Session>| held.worker_id == old.worker_id;
        let excess =
            (retired.iter().filter(of_same).count() >= MOST_RETIRED).then(|| retired.iter().find(of_same).cloned());
        retired.push(old);
        drop(retired);
        if let Some(oldest) = excess.flatten() {
            self.dismiss(&oldest);
        }
    }

    /// Is the worker still there?
    pub(super) fn doubt(&self, session: &Session) {
        if session.liveness.ask(self.now_ms()) {
            session.control(words::write_echo(Kind::Ping, &[]));
        }
    }

    /// Tells a worker that its session is over.
    pub(super) fn dismiss(&self, session: &Arc<Session>) {
        session.control(words::write_close());
        self.end(session);
    }

    /// Ends a session: its calls fail at once, and its id is free.
    pub(super) fn end(&self, session: &Arc<Session>) {
        session.close();
        self.desk().release(&session.worker_id, session.number);
        self.retired().retain(|held| !Arc::ptr_eq(held, session));
        if session.is_poll() {
            self.polls().retain(|_, held| !Arc::ptr_eq(held, session));
        }
    }

    /// The owner of an id is bound anew. The session of one that was asked to do that is left to end what is under way; who
    /// was just about to call by it still can.
    pub(super) fn displace(&self, old: Arc<Session>) {
        if old.renews && old.term.was_asked() {
            // It may be a lost one after all.
            self.doubt(&old);
            self.retire(old);
        } else {
            let worker_id = &*old.worker_id;
            tracing::info!(target: telemetry::RELAY, worker_id, "a worker's owner displaced an older session");
            self.dismiss(&old);
        }
    }

    /// Asks who was silent, has old sessions renewed, lets go of who is gone and, while the relay stops, of who has nothing
    /// more to do.
    pub(super) fn look_after(&self, stopping: bool) {
        let now = self.now_ms();
        let mut found = Vec::new();
        let mut look = |session: &Arc<Session>| {
            if session.is_pulling() || session.is_paused() {
                session.liveness.heard(now);
            }
            let look = session.liveness.look(now, &self.limits.patience);
            let due = if stopping { Due::Nothing } else { session.term.look(now, &self.limits.session) };
            if look != Look::Fine || due != Due::Nothing || stopping || session.is_paused() {
                found.push((session.clone(), look, due));
            }
        };
        self.desk().sessions().for_each(&mut look);
        self.retired().iter().for_each(&mut look);
        for (session, look, due) in found {
            let is_over = stopping && session.drain_if_idle() || self.renew(&session, due);
            match look {
                Look::Gone => {
                    tracing::info!(target: telemetry::RELAY, worker_id = %session.worker_id, "a worker is gone");
                    self.end(&session);
                }
                _ if is_over => self.dismiss(&session),
                Look::Ask => session.control(words::write_echo(Kind::Ping, &[])),
                Look::Fine => session.wake(),
            }
        }
    }

    /// Asks a worker whose term is over to bind anew. True if its session is to end now: if it has done so, or is not asked,
    /// when nothing is under way, and in any case in the end.
    fn renew(&self, session: &Session, due: Due) -> bool {
        match due {
            Due::Nothing => return false,
            Due::End => return true,
            Due::Drain => session.drain(),
            Due::Ask | Due::Wait => {}
        }
        // Who was bound anew, and never heard of it, holds the id no more: nobody does.
        let holder = self.desk().get(&session.worker_id).map(|held| held.number);
        if due == Due::Ask && session.renews && holder.is_none_or(|holder| holder == session.number) {
            session.control(words::write_renew());
        }
        let waits = session.renews && holder == Some(session.number) && due != Due::Drain;
        !waits && session.drain_if_idle()
    }

    /// Sends every worker away that can be told where to go; what is under way may end.
    pub(super) fn drain(&self) {
        for session in self.sessions() {
            session.drain();
            if session.ours {
                session.control(words::write_drain());
            }
        }
    }
}
