//! Every option of the library, once: the Rust structs, their JSON form for the other languages, their limits.
//!
//! `cargo gen` writes the tables and types of every language from the JSON Schema of these structs, so a doc comment
//! here is a docstring there. Unknown names are refused; a missing name means the default.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

mod backend;
mod calls;
mod client;
mod directory;
mod inference;
mod listing;
mod nat;
mod native;
mod node;
mod policy;
mod punch;
mod relay;
mod statements;
mod tls;

pub use backend::{BackendKind, BackendOptions};
pub use calls::{Discover, TaskOptions};
pub use client::ClientOptions;
pub use directory::DirectoryOptions;
pub use inference::{
    Chat, ChatMessage, Completion, Content, ContentPart, Embedding, ImageUrl, InputAudio, Moderation, Speech,
    Transcription,
};
pub use listing::{
    AvailabilityWindow, Engine, ExposureMode, Modality, NatType, NodeCapability, NodePolicy, NodePricing, PricingModel,
    PublicListing, ReceiptProfile, TransportMethod,
};
pub use nat::{NatMode, NatOptions, NatTunnel};
pub use native::NativeTransport;
pub use node::{NodeOptions, TaskAuth};
pub use policy::{
    Consensus, ConsumerAuth, IdentityLevel, PolicyProfile, ProfileRequest, RouteConstraints, RouteDiscovery,
    RoutingPolicy, RoutingStrategy, RuntimeIdentity,
};
pub use punch::Punch;
pub(crate) use relay::{RELAY_PORT, relay_place};
pub use relay::{RelayServerOptions, RelayWorkerOptions};
pub use tls::TlsOptions;
pub(crate) use tls::{MOST_PEM_BYTES, is_pem};

/// The longest time a task may ask for, in milliseconds (specification: SDK-04).
pub const MAX_TIMEOUT_MS: u64 = 120_000;

/// Reads options from JSON text and checks them; empty text means "all defaults".
///
/// # Errors
/// `CONFIG_INVALID` names the option and what it should be; other codes as [`Validate::validate`] of the struct says.
pub fn from_json<T: DeserializeOwned + Default + Validate>(json: &str) -> Result<T> {
    let refused = |why: &str| Error::of_options(Code::ConfigInvalid, format!("options of {}: {why}", T::WHAT));
    let options: T = match json.trim_start().chars().next() {
        None => T::default(),
        // Else a list would be taken for the values without their names.
        Some('[') => return Err(refused("a list, and not an object of names and values")),
        Some(_) => serde_json::from_str(json).map_err(|e| refused(&reason::<T>(json, &e)))?,
    };
    options.validate()?;
    Ok(options)
}

/// What is wrong with options, without a value that was given: messages of a chat are options too.
fn reason<T: DeserializeOwned>(json: &str, error: &serde_json::Error) -> String {
    let said = error.to_string();
    // serde writes: what was there, then what was expected. Names of fields are no values.
    let Some((found, expected)) = said.rsplit_once(", expected ") else { return said };
    // Where it stands in a text that the caller never saw tells nothing.
    let expected = expected.split(" at line ").next().unwrap_or(expected);
    if let Some(given) = found.strip_prefix("unknown field ") {
        // The caller's word, whatever it may look like; the others are ours.
        return format!("unknown option {:?}; expected {expected}", given.trim_matches('`'));
    }
    // Words that may be given are no names.
    let expected = in_words(expected).replace('`', "\"");
    match misfit::<T>(json) {
        Some(name) => format!("`{name}`: expected {expected}"),
        None => format!("expected {expected}"),
    }
}

/// What serde calls by Rust's names, as everybody calls it.
fn in_words(expected: &str) -> String {
    let most = match expected {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "u64" | "usize" => return "a whole number, 0 or more".into(),
        "f32" | "f64" => return "a number".into(),
        "a sequence" => return "a list".into(),
        "a map" => return "an object of names and values".into(),
        text if text.starts_with("struct ") => return "an object of names and values".into(),
        text => return text.into(),
    };
    format!("a whole number, 0 to {most}")
}

/// The name of the option whose value does not fit. Asked only when it is known that one does not.
fn misfit<T: DeserializeOwned>(json: &str) -> Option<String> {
    let options: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
    let alone = |(name, value): (String, serde_json::Value)| {
        let option = serde_json::Value::Object([(name.clone(), value)].into_iter().collect());
        T::deserialize(option).is_err().then_some(name)
    };
    options.into_iter().find_map(alone)
}

/// The checks that a type cannot express, made before any network is touched.
pub trait Validate {
    /// What the options belong to, for error messages.
    const WHAT: &'static str;

    /// Checks every value.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, or a more precise 2xxx code, with the option's name and its limits.
    fn validate(&self) -> Result<()>;
}

fn in_range<T: PartialOrd + fmt::Display>(what: &str, name: &str, value: T, least: T, most: T) -> Result<()> {
    if value >= least && value <= most {
        return Ok(());
    }
    // A time is said with its unit, which is not the same in every language.
    let (mark, unit) = if name.ends_with("_ms") { ("`", " ms`") } else { ("", "") };
    let message = format!("option `{name}` of {what} is {mark}{value}{unit}; it must be {mark}{least} to {most}{unit}");
    Err(Error::of_options(Code::ConfigInvalid, message))
}

fn check_timeout(timeout_ms: u64) -> Result<()> {
    if timeout_ms > MAX_TIMEOUT_MS {
        return Err(Error::of_options(
            Code::TimeoutTooLarge,
            format!("option `timeout_ms` is `{timeout_ms} ms`; the protocol allows at most `{MAX_TIMEOUT_MS} ms`"),
        ));
    }
    in_range("a task", "timeout_ms", timeout_ms, 1, MAX_TIMEOUT_MS)
}

/// How the process-wide runtime of a language layer is set up. Rust programs use their own tokio runtime instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// Threads that drive the network. One is enough for most programs and costs the least per task.
    pub worker_threads: usize,
    /// The prefix of the threads' names, as debuggers show them.
    pub thread_name: String,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions { worker_threads: 1, thread_name: "iicp".into() }
    }
}

impl Validate for RuntimeOptions {
    const WHAT: &'static str = "the runtime";

    fn validate(&self) -> Result<()> {
        in_range(Self::WHAT, "worker_threads", self.worker_threads, 1, 256)?;
        if self.thread_name.is_empty() || self.thread_name.len() > 10 || !self.thread_name.is_ascii() {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `thread_name` of the runtime must be 1 to 10 ASCII letters",
            ));
        }
        Ok(())
    }
}

/// The bounds of one event queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct QueueOptions {
    /// How many events may wait, the reserved last event of every running operation included.
    pub max_events: usize,
    /// How many bytes of bodies may wait before chunks and inbound tasks have to.
    pub max_bytes: usize,
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions { max_events: 65_536, max_bytes: 16 << 20 }
    }
}

impl Validate for QueueOptions {
    const WHAT: &'static str = "a queue";

    fn validate(&self) -> Result<()> {
        in_range(Self::WHAT, "max_events", self.max_events, 2, 1 << 24)?;
        in_range(Self::WHAT, "max_bytes", self.max_bytes, 1 << 10, 1 << 40)
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn check_routing(what: &str, region: Option<&str>, model: Option<&str>, min_reputation: Option<f64>) -> Result<()> {
    if let Some(region) = region {
        check_region(what, region)?;
    }
    if let Some(model) = model {
        check_names(what, "model", std::slice::from_ref(&model), 128)?;
    }
    if let Some(least) = min_reputation {
        in_range(what, "min_reputation", least, 0.0, 1.0)?;
    }
    Ok(())
}

fn check_names<S: AsRef<str>>(what: &str, option: &str, names: &[S], most: usize) -> Result<()> {
    for name in names.iter().map(AsRef::as_ref) {
        if name.is_empty() || name.len() > most || name.chars().any(char::is_control) {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                format!("option `{option}` of {what}: a name must be 1 to {most} bytes without control characters"),
            ));
        }
    }
    Ok(())
}

fn check_region(what: &str, region: &str) -> Result<()> {
    let mut bytes = region.bytes();
    let good = region.len() <= 64
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if good {
        return Ok(());
    }
    Err(Error::of_options(
        Code::ConfigInvalid,
        format!("option `region` of {what} must be a letter, then up to 63 letters, digits, '-' or '_'"),
    ))
}

/// Whether `id` may name a node: at most 36 characters, first a letter or digit, then also `.`, `_`, `:` and `-`.
pub(crate) fn is_node_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    id.len() <= 36
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

fn check_node_id(id: &str) -> Result<()> {
    if is_node_id(id) {
        return Ok(());
    }
    Err(Error::new(
        Code::ConfigInvalid,
        "a node id must be a letter or digit, then up to 35 letters, digits, '.', '_', ':' or '-'",
    ))
}

/// Whether `id` may name a task: visible ASCII without `|` (which separates fields when a task is sealed).
pub(crate) fn is_task_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic() && b != b'|')
}

fn check_task_id(id: &str) -> Result<()> {
    if is_task_id(id) {
        return Ok(());
    }
    Err(Error::new(Code::ConfigInvalid, "a task id must be 1 to 128 visible ASCII characters without '|'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_an_object_of_names_and_values_or_nothing() {
        for nothing in ["", " \n", "{}", " {}"] {
            assert_eq!(from_json::<RuntimeOptions>(nothing).unwrap(), RuntimeOptions::default());
        }
        for other in ["[]", " [2, \"iicp\"]", "2", "\"iicp\"", "null", "{", "{\"worker_threads\": 2, \"more\": 1}"] {
            let refused = from_json::<RuntimeOptions>(other).unwrap_err();
            assert_eq!(refused.code(), Code::ConfigInvalid, "{other}");
            assert!(refused.message().starts_with("options of the runtime: "), "{refused}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_in_words_and_without_its_value() {
        for (json, told) in [
            (r#"{"timeout_ms": "s3cret"}"#, "timeout_ms: expected a whole number, 0 or more"),
            (r#"{"timeout_ms": -1}"#, "timeout_ms: expected a whole number, 0 or more"),
            (r#"{"port": 70000}"#, "port: expected a whole number, 0 to 65535"),
            (r#"{"intents": "s3cret"}"#, "intents: expected a list"),
            (r#"{"intents": [7]}"#, "intents: expected a string"),
            (r#"{"relay_server": "s3cret"}"#, "relay_server: expected an object of names and values"),
            (r#"{"auth": "s3cret"}"#, "auth: expected one of \"open\", \"token\", \"required\""),
        ] {
            let refused = match json {
                json if json.contains("timeout_ms") => from_json::<ClientOptions>(json).unwrap_err(),
                json => from_json::<NodeOptions>(json).unwrap_err(),
            };
            assert!(refused.message().ends_with(told), "{json}: {refused}");
            assert!(!refused.to_string().contains("s3cret") && !refused.to_string().contains("70000"), "{refused}");
        }
    }
}
