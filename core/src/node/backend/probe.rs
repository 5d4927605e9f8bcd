//! Finding out what a backend is, which models it has and how it is: before the node serves, and ever again.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::super::State;
use super::upstream::Upstream;
use super::{Backend, Seen, models};
use crate::crypto::digest::jitter;
use crate::options::{BackendKind, Engine};
use crate::telemetry;
use crate::transport::http_client::{NoReply, Reply};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of one: a list of thousands of models.
const MOST_BYTES: usize = 2 << 20;
/// First pause after the backend was found to take no tasks.
const SOON: Duration = Duration::from_millis(500);

fn engine_of(kind: BackendKind) -> Option<Engine> {
    match kind {
        BackendKind::OpenaiCompat => None,
        BackendKind::Vllm => Some(Engine::Vllm),
        BackendKind::Llamacpp => Some(Engine::Llamacpp),
        BackendKind::Ollama => Some(Engine::Ollama),
        BackendKind::Anthropic => Some(Engine::Anthropic),
    }
}

/// What a server says of itself.
fn named_by(headers: &HeaderMap) -> Engine {
    let says = |name: &str, words: &[&str]| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        words.iter().any(|word| value.contains(word))
    };
    match () {
        () if says("server", &["llama.cpp"]) => Engine::Llamacpp,
        () if says("server", &["vllm", "uvicorn"]) => Engine::Vllm,
        () if says("x-powered-by", &["express"]) => Engine::Lmstudio,
        () => Engine::Custom,
    }
}

/// How the backend is, apart from its circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Good,
    /// The model has to be loaded first: slow, but it works.
    Cold,
    /// It works on being ready.
    Loading,
    /// It says itself that it does not work.
    Failing,
    /// Nobody answers.
    Away,
    /// It answers, but what was asked cannot be learnt.
    Unclear,
}

impl Condition {
    fn of_status(status: u16) -> Condition {
        match status {
            // A server need not list its models.
            200..=299 | 404 | 405 => Condition::Good,
            503 => Condition::Loading,
            500.. => Condition::Failing,
            _ => Condition::Unclear,
        }
    }
}

/// Looks once.
pub(super) async fn look(upstream: &Upstream, kind: BackendKind, before: &Seen) -> Seen {
    let mut engine = engine_of(kind).or(before.engine);
    let mut listed = None;
    if engine.is_none_or(|engine| engine == Engine::Ollama) {
        // Asking only Ollama has what this asks for.
        if let Ok((_, reply)) = upstream.ask_root("/api/tags", PATIENCE, MOST_BYTES).await {
            listed = good(&reply).then(|| models::names(&reply.body)).flatten();
            if listed.is_some() {
                engine = Some(Engine::Ollama);
            }
        }
    }
    let mut condition = Condition::Good;
    if listed.is_none() {
        let path = if kind == BackendKind::Anthropic { "/models?limit=100" } else { "/models" };
        match upstream.ask(path, PATIENCE, MOST_BYTES).await {
            Ok((headers, reply)) => {
                engine = engine.or(Some(named_by(&headers)));
                condition = Condition::of_status(reply.status);
                listed = good(&reply).then(|| models::names(&reply.body)).flatten();
                if listed.is_none() && good(&reply) {
                    condition = Condition::Unclear;
                }
            }
            Err(NoReply::TooLarge | NoReply::Malformed) => condition = Condition::Unclear,
            Err(_) => condition = Condition::Away,
        }
    }
    let models = listed.map_or_else(|| before.models.clone(), |names| Arc::new(before.models.listed(names)));
    if condition == Condition::Good {
        let default = models.default_for(crate::types::CHAT).map(str::to_owned);
        condition = signals(upstream, engine, default.as_deref()).await;
    }
    Seen { engine, models, condition }
}

fn good(reply: &Reply) -> bool {
    (200..300).contains(&reply.status)
}

/// What an engine tells beside its list. That it does not tell it is no sign of anything.
async fn signals(upstream: &Upstream, engine: Option<Engine>, model: Option<&str>) -> Condition {
    match engine {
        Some(Engine::Vllm | Engine::Llamacpp) => match upstream.ask_root("/health", PATIENCE, MOST_BYTES).await {
            Ok((_, reply)) if reply.status == 503 && engine == Some(Engine::Llamacpp) => Condition::Loading,
            Ok((_, reply)) if reply.status >= 500 => Condition::Failing,
            _ => Condition::Good,
        },
        Some(Engine::Lmstudio) => {
            // Its own list tells the state of each model beside the name.
            let Ok((_, reply)) = upstream.ask_root("/api/v1/models", PATIENCE, MOST_BYTES).await else {
                return Condition::Good;
            };
            match good(&reply).then(|| models::state_of(&reply.body, model)).flatten().as_deref() {
                Some("loading") => Condition::Loading,
                Some("error") => Condition::Failing,
                _ => Condition::Good,
            }
        }
        Some(Engine::Ollama) => {
            let Some(model) = model else { return Condition::Good };
            let Ok((_, reply)) = upstream.ask_root("/api/ps", PATIENCE, MOST_BYTES).await else {
                return Condition::Good;
            };
            let loaded = good(&reply).then(|| models::names(&reply.body)).flatten();
            let is_it = |name: &String| name == model || name.strip_suffix(":latest") == Some(model);
            match loaded {
                Some(loaded) if !loaded.iter().any(is_it) => Condition::Cold,
                _ => Condition::Good,
            }
        }
        _ => Condition::Good,
    }
}

/// Looks again and again, at uneven times, until the node closes. Soon again while it takes no tasks.
pub(super) async fn watch(backend: Backend, state: Arc<State>, interval: Duration) {
    let mut closing = std::pin::pin!(state.group.closing());
    let mut away = 0_u32;
    loop {
        let pause = match away {
            0 => interval,
            n => interval.min(SOON.saturating_mul(1 << n.min(16))),
        };
        tokio::select! {
            () = &mut closing => return,
            () = tokio::time::sleep(pause.mul_f64(0.75 + jitter() / 2.0)) => {}
            () = backend.0.look_now.notified(), if away == 0 => {
                away = 1;
                continue;
            }
        }
        tokio::select! {
            () = &mut closing => return,
            condition = backend.look(&state) => match condition {
                Condition::Away | Condition::Loading | Condition::Failing => away = away.saturating_add(1),
                Condition::Good | Condition::Cold | Condition::Unclear => away = 0,
            }
        }
    }
}

/// Tells the operator what has changed.
pub(super) fn report(before: &Seen, now: &Seen) {
    if before.condition != now.condition {
        let (was, is) = (before.condition, now.condition);
        match is {
            Condition::Good | Condition::Cold => tracing::info!(target: telemetry::NODE, ?was, ?is, "the backend"),
            _ => tracing::warn!(target: telemetry::NODE, ?was, ?is, "the backend"),
        }
    }
    if before.models != now.models {
        tracing::info!(target: telemetry::NODE, models = now.models.names.len(), "the backend has other models");
    }
}
