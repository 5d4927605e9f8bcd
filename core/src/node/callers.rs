//! Who calls: what a caller can prove, and whether it has to.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::crypto::digest::{same, token_hash};
use crate::crypto::ticket::{ConsumerClaims, ExpectedCaller, TicketFault, verify_consumer_token};
use crate::discovery::directory_client::DirectoryClient;
use crate::discovery::directory_key::DirectoryKey;
use crate::options::{NodeOptions, TaskAuth};
use crate::protocol::admission::Refusal;
use crate::protocol::fingerprints::ByFingerprint;
use crate::telemetry;

/// Grace for the beginning and the end of a consumer token, in seconds (specification: consumer tokens).
const GRACE_S: u64 = 10;
/// Longest wait for the directory's key, which one task in many has.
const PATIENCE: Duration = Duration::from_secs(2);
/// A directory that does not give its key is not asked again sooner.
const KEY_PAUSE: Duration = Duration::from_secs(10);
/// Tokens that were verified are known for this long at most: then a directory's new key counts for them too.
const KNOWN_FOR: Duration = Duration::from_secs(300);
/// As many of them.
const MOST_KNOWN: usize = 4_096;

/// What a caller proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proven {
    /// It has a token that this node or its directory gave it.
    pub(super) verified: bool,
    /// The node that it is, by the directory's word.
    pub(super) node_id: Option<Arc<str>>,
}

/// What a task shows of its caller.
pub(super) struct Shown<'a> {
    pub(super) consumer_token: Option<&'a str>,
    pub(super) node_token: Option<&'a str>,
    pub(super) intent: &'a str,
}

/// A token that was verified. It is found by a number that nobody outside can compute, so that comparing it tells nothing of
/// the others, and known by all of it.
struct Known {
    token: Box<str>,
    intent: Box<str>,
    caller: Arc<str>,
    until: Instant,
}

/// Judges callers.
pub(super) struct Callers {
    auth: TaskAuth,
    node_id: String,
    key: Option<DirectoryKey>,
    /// Hashes of what the operator gave out, and of what the directory gave the node.
    access_token: Option<[u8; 32]>,
    own_token: RwLock<Option<[u8; 32]>>,
    names: RandomState,
    known: Mutex<ByFingerprint<u64, Known>>,
}

impl Callers {
    pub(super) fn new(options: &NodeOptions, node_id: &str, directory: Option<&DirectoryClient>) -> Self {
        Callers {
            auth: options.auth,
            node_id: node_id.to_owned(),
            key: directory.map(|directory| DirectoryKey::patient(directory.clone(), KEY_PAUSE)),
            access_token: options.access_token.as_ref().map(|token| token_hash(token.expose())),
            own_token: RwLock::new(None),
            names: RandomState::new(),
            known: Mutex::default(),
        }
    }

    /// The directory gave the node this token; whoever shows it was given it by the operator.
    pub(super) fn set_own_token(&self, token: &str) {
        *self.own_token.write().unwrap_or_else(PoisonError::into_inner) = Some(token_hash(token));
    }

    /// What the caller of a task proves (specification: a consumer token, else the node's own token).
    ///
    /// # Errors
    /// 401 for a consumer token that is not good, and for a caller that proves nothing where that is required.
    pub(super) async fn prove(&self, shown: Shown<'_>, now: Instant) -> Result<Proven, Refusal> {
        if self.auth == TaskAuth::Open {
            return Ok(Proven::default());
        }
        let mut fault = None;
        if let Some(token) = shown.consumer_token.filter(|token| !token.is_empty()) {
            match self.verify(token, shown.intent, now).await {
                Some(Ok(caller)) => return Ok(Proven { verified: true, node_id: Some(caller) }),
                Some(Err(why)) => fault = Some(why),
                None => {}
            }
        }
        if shown.node_token.is_some_and(|token| self.is_own(token)) {
            return Ok(Proven { verified: true, node_id: None });
        }
        match fault {
            Some(fault) => {
                tracing::debug!(target: telemetry::NODE, node_id = %self.node_id, ?fault, "a consumer token was refused");
                let message = format!("the consumer token is not good: {}; get a new one", fault.text());
                Err(Refusal::new(401, "unauthorized", message))
            }
            None if self.auth == TaskAuth::Required => {
                let message = "this node serves only callers that prove themselves; send a consumer token of its \
                               directory, or the token that its operator gave you as auth.node_token";
                Err(Refusal::new(401, "unauthorized", message))
            }
            None => Ok(Proven::default()),
        }
    }

    /// The caller that a consumer token names; none while the directory's key is not to be had.
    async fn verify(&self, token: &str, intent: &str, now: Instant) -> Option<Result<Arc<str>, TicketFault>> {
        let key = self.key.as_ref()?;
        if let Some(caller) = self.known_caller(token, intent, now) {
            return Some(Ok(caller));
        }
        let expected = |now_unix_s| ExpectedCaller {
            // The signature says which directory it is; it may be known to the caller under another URL.
            issuer: None,
            caller: None,
            target: &self.node_id,
            intent,
            now_unix_s,
            grace_s: GRACE_S,
        };
        // Boxed: every task would have the room for it, and only a token that comes for the first time needs it.
        let check = key.check(|key, at| verify_consumer_token(token, key, expected(at)), now + PATIENCE);
        let checked = Box::pin(check).await;
        match checked {
            Ok(verified) => {
                let now_unix_s = key.directory().now_unix_s();
                Some(verified.map(|claims| self.remember(token, intent, claims, now, now_unix_s)))
            }
            Err(error) => {
                tracing::debug!(target: telemetry::NODE, node_id = %self.node_id, code = %error.code(), "no directory key");
                None
            }
        }
    }

    fn known_caller(&self, token: &str, intent: &str, now: Instant) -> Option<Arc<str>> {
        let name = self.names.hash_one((token, intent));
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&name).filter(|known| known.until > now)?;
        (*known.token == *token && *known.intent == *intent).then(|| known.caller.clone())
    }

    fn remember(&self, token: &str, intent: &str, claims: ConsumerClaims, now: Instant, now_unix_s: u64) -> Arc<str> {
        let caller: Arc<str> = claims.caller.into();
        let lasts = Duration::from_secs(claims.exp.saturating_add(GRACE_S).saturating_sub(now_unix_s));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.retain(|_, known| known.until > now);
        }
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        let until = now + lasts.min(KNOWN_FOR);
        let verified = Known { token: token.into(), intent: intent.into(), caller: caller.clone(), until };
        known.insert(self.names.hash_one((token, intent)), verified);
        caller
    }

    /// Compares hashes, in a time that tells nothing of the tokens.
    fn is_own(&self, token: &str) -> bool {
        let shown = token_hash(token);
        let own = *self.own_token.read().unwrap_or_else(PoisonError::into_inner);
        let is = |own: Option<[u8; 32]>| own.is_some_and(|own| same(&own, &shown));
        !token.is_empty() && (is(self.access_token) | is(own))
    }
}
