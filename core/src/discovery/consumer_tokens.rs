//! Consumer tokens: what names the caller to one provider, in place of its own credential.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::routes::Routes;
use crate::error::{Code, Error, Result};
use crate::options::{ClientOptions, ConsumerAuth};
use crate::telemetry;
use crate::types::Secret;

/// Longest wait for the directory, within the submit's own deadline.
const PATIENCE: Duration = Duration::from_secs(5);
/// A token is not used in its last seconds: it must still be good when the provider looks at it.
const SPARE_S: u64 = 30;
/// How long it is remembered that there is no token to be had.
const NONE_FOR: Duration = Duration::from_secs(30);
/// Providers and intents that are told apart.
const MOST_HELD: usize = 1_024;

/// What is held for one provider and intent.
#[derive(Clone)]
struct Held {
    token: Option<Arc<Secret>>,
    until: Instant,
}

#[derive(Default)]
struct Slot {
    held: Mutex<Option<Held>>,
    asking: tokio::sync::Mutex<()>,
}

impl Slot {
    fn held(&self) -> Option<Held> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.filter(|held| held.until > Instant::now())
    }
}

/// The tokens of one client.
pub(crate) struct ConsumerTokens {
    mode: ConsumerAuth,
    credential: Option<Secret>,
    own_id: Option<String>,
    slots: Mutex<HashMap<(String, String), Arc<Slot>>>,
}

impl ConsumerTokens {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        ConsumerTokens {
            mode: options.consumer_auth,
            credential: options.node_token.clone(),
            own_id: options.node_id.clone(),
            slots: Mutex::default(),
        }
    }

    /// The token for a provider and intent, held or asked for by one caller at a time.
    ///
    /// # Errors
    /// `CONSUMER_AUTH_REQUIRED` if the client wants one and there is none.
    pub(crate) async fn get(
        &self,
        routes: &Routes,
        target: &str,
        intent: &str,
        deadline: Instant,
    ) -> Result<Option<Arc<Secret>>> {
        let Some(credential) = self.credential.as_ref().filter(|_| self.mode != ConsumerAuth::Disabled) else {
            return Ok(None);
        };
        let slot = self.slot(target, intent);
        if let Some(held) = slot.held() {
            return self.settle(held.token, target);
        }
        // A task that could go without a token must not lose its time to a directory that is away.
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let share = if self.mode == ConsumerAuth::Required { left } else { left / 4 };
        let deadline = now + PATIENCE.min(share);
        let Ok(_turn) = tokio::time::timeout_at(deadline, slot.asking.lock()).await else {
            return self.settle(None, target);
        };
        if let Some(held) = slot.held() {
            return self.settle(held.token, target);
        }
        let held = match self.ask(routes, credential, target, intent, deadline).await {
            Ok((token, lasts)) => Held { token: Some(Arc::new(token)), until: Instant::now() + lasts },
            Err(error) => {
                tracing::debug!(target: telemetry::CLIENT, node_id = %target, code = %error.code(), "no consumer token");
                Held { token: None, until: Instant::now() + error.retry_after().unwrap_or(NONE_FOR).min(NONE_FOR) }
            }
        };
        *slot.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.clone());
        self.settle(held.token, target)
    }

    async fn ask(
        &self,
        routes: &Routes,
        credential: &Secret,
        target: &str,
        intent: &str,
        deadline: Instant,
    ) -> Result<(Secret, Duration)> {
        let directory = routes.directory();
        let token = directory.consumer_token(credential, self.own_id.as_deref(), target, intent, deadline).await?.token;
        let claims =
            routes.verify_consumer_token(token.expose(), self.own_id.as_deref(), target, intent, deadline).await?;
        let lasts = claims.exp.saturating_sub(directory.now_unix_s()).saturating_sub(SPARE_S).min(3_600);
        Ok((token, Duration::from_secs(lasts)))
    }

    fn settle(&self, token: Option<Arc<Secret>>, target: &str) -> Result<Option<Arc<Secret>>> {
        if token.is_none() && self.mode == ConsumerAuth::Required {
            return Err(Error::of_options(
                Code::ConsumerAuthRequired,
                format!("the directory gave no consumer token for node {target}; check `node_token` and `node_id`"),
            )
            .with_wire_code("IICP-CONSUMER-AUTH-REQUIRED"));
        }
        Ok(token)
    }

    fn slot(&self, target: &str, intent: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.to_owned(), intent.to_owned());
        if slots.len() >= MOST_HELD && !slots.contains_key(&key) {
            slots.clear();
        }
        slots.entry(key).or_default().clone()
    }
}
