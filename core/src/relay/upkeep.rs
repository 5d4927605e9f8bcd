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

impl Relay {
    /// Somebody else wants the id: is who holds it still there?
    pub(super) fn doubt(&self, worker_id: &str) {
        let Some(session) = self.desk().get(worker_id).cloned() else { return };
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
            self.retired().push(old);
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
            let is_over = stopping && session.calls() == 0 || self.renew(&session, due);
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
    /// when nothing is under way, and in any case after the grace.
    fn renew(&self, session: &Session, due: Due) -> bool {
        match due {
            Due::Nothing => return false,
            Due::End => return true,
            Due::Ask | Due::Wait => {}
        }
        if !session.renews || !self.holds(session) {
            return session.calls() == 0;
        }
        if due == Due::Ask {
            session.control(words::write_renew());
        }
        false
    }

    /// Whether this session is the one that new calls go to.
    fn holds(&self, session: &Session) -> bool {
        self.desk().get(&session.worker_id).is_some_and(|held| held.number == session.number)
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
