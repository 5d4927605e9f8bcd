//! What a node's backend is: the inference server that runs its models.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MAX_TIMEOUT_MS, Validate, check_names, in_range};
use crate::error::{Code, Error, Result};
use crate::types::{Secret, base_url};

/// Which interface a backend has, and which signals of its health are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// OpenAI's interface, whoever has it; what it is, is found out where possible.
    #[default]
    OpenaiCompat,
    /// vLLM.
    Vllm,
    /// The server of llama.cpp.
    Llamacpp,
    /// Ollama, by its OpenAI interface.
    Ollama,
    /// Anthropic's interface; serves chats.
    Anthropic,
}

/// An inference server that a node hands its tasks to. The operator wrote its URL himself, so it may be on this machine or
/// in a private network; no proxy of the environment is used and no redirect is followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BackendOptions {
    /// Which interface it has.
    pub kind: BackendKind,
    /// Its base URL, with or without `/v1` at the end; by default the usual port of `vllm`, `llamacpp` or `ollama` on this
    /// machine, or `https://api.anthropic.com`. `openai_compat` has none.
    pub url: Option<String>,
    /// The key that it wants; goes nowhere else and is never shown.
    pub api_key: Option<Secret>,
    /// Model of the tasks that name none. If it is given, and the node's `models` are not, it is also the only one that is
    /// offered; without both, what the backend lists is offered, and the first of that is the default.
    pub model: Option<String>,
    /// Longest time for one task in milliseconds, whatever the task allows; at most 120,000.
    pub timeout_ms: u64,
    /// Longest silence between two parts of an answer that comes in parts, in milliseconds.
    pub idle_timeout_ms: u64,
    /// The largest answer that is read from it, in bytes.
    pub max_response_bytes: usize,
    /// How often it is asked for its models and its health, in milliseconds.
    pub probe_interval_ms: u64,
    /// Failures in a row after which it is left alone for a while.
    pub breaker_failures: u32,
    /// How long it is left alone before one task tries it again, in milliseconds.
    pub breaker_open_ms: u64,
}

impl Default for BackendOptions {
    fn default() -> Self {
        BackendOptions {
            kind: BackendKind::default(),
            url: None,
            api_key: None,
            model: None,
            timeout_ms: MAX_TIMEOUT_MS,
            idle_timeout_ms: 30_000,
            max_response_bytes: 32 << 20,
            probe_interval_ms: 30_000,
            breaker_failures: 5,
            breaker_open_ms: 10_000,
        }
    }
}

impl BackendOptions {
    /// The URL of the server: the one that is given, or the usual one of its kind.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if none is given and the kind has no usual one.
    pub fn base_url(&self) -> Result<&str> {
        let usual = match self.kind {
            BackendKind::Vllm => "http://127.0.0.1:8000",
            BackendKind::Llamacpp => "http://127.0.0.1:8080",
            BackendKind::Ollama => "http://127.0.0.1:11434",
            BackendKind::Anthropic => "https://api.anthropic.com",
            BackendKind::OpenaiCompat => "",
        };
        match self.url.as_deref().unwrap_or(usual) {
            "" => Err(Error::of_options(
                Code::ConfigInvalid,
                "option `url` of a backend is missing; give its base URL, such as http://127.0.0.1:8000/v1",
            )),
            url => Ok(url),
        }
    }
}

impl Validate for BackendOptions {
    const WHAT: &'static str = "a backend";

    fn validate(&self) -> Result<()> {
        base_url("the backend", self.base_url()?)?;
        if let Some(key) = &self.api_key
            && !key.is_header_text()
        {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `api_key` of a backend must be 1 to 4096 visible ASCII characters",
            ));
        }
        if let Some(model) = &self.model {
            check_names(Self::WHAT, "model", std::slice::from_ref(model), 255)?;
        }
        in_range(Self::WHAT, "timeout_ms", self.timeout_ms, 1, MAX_TIMEOUT_MS)?;
        in_range(Self::WHAT, "idle_timeout_ms", self.idle_timeout_ms, 1, MAX_TIMEOUT_MS)?;
        in_range(Self::WHAT, "max_response_bytes", self.max_response_bytes, 1 << 10, 1 << 30)?;
        in_range(Self::WHAT, "probe_interval_ms", self.probe_interval_ms, 50, 3_600_000)?;
        in_range(Self::WHAT, "breaker_failures", self.breaker_failures, 1, 1000)?;
        in_range(Self::WHAT, "breaker_open_ms", self.breaker_open_ms, 50, 3_600_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::from_json;

    #[test]
    fn every_kind_but_the_general_one_knows_where_it_usually_is() {
        let read = |json: &str| from_json::<BackendOptions>(json);
        for kind in ["vllm", "llamacpp", "ollama", "anthropic"] {
            assert!(
                read(&format!(r#"{{"kind":"{kind}"}}"#)).unwrap().base_url().unwrap().starts_with("http"),
                "{kind}"
            );
        }
        for bad in ["", "{}", r#"{"url":""}"#] {
            let error = read(bad).and_then(|options| options.validate()).unwrap_err();
            assert!(error.code() == Code::ConfigInvalid && error.message().contains("url"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let options: BackendOptions = from_json(r#"{"kind":"vllm","api_key":"sk-canary"}"#).unwrap();
        assert_eq!(options.api_key.as_ref().map(Secret::expose), Some("sk-canary"));
        let shown = format!("{options:?} {}", serde_json::to_string(&options).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
        let error = from_json::<BackendOptions>(r#"{"kind":"vllm","api_key":"sk canary"}"#).unwrap_err();
        assert!(error.message().contains("api_key") && !error.message().contains("canary"), "{error}");
    }
}
