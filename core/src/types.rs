//! The nouns of the protocol, named as the specification names them.

use std::fmt;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};

mod base_url;
mod calendar;
mod certificate;
mod chunk;
mod nat;
mod replies;

pub(crate) use base_url::{base_url, without_trailing_dot};
pub(crate) use calendar::{rfc3339, unix_seconds};
pub use certificate::CertificateReport;
pub use chunk::Chunk;
pub use nat::{Interface, NatReport, Rung, RungReport, RungState};
pub use replies::{
    ChatReply, CompletionReply, EmbeddingReply, Judgement, ModerationReply, RoutingReceipt, SpeechReply, TaskResult,
    Timings, TranscriptionReply, Usage,
};

/// The intent of a chat with a language model.
pub const CHAT: &str = "urn:iicp:intent:llm:chat:v1";

/// The intent of a text completion.
pub const COMPLETION: &str = "urn:iicp:intent:llm:completion:v1";

/// The intent of turning texts into vectors.
pub const EMBEDDING: &str = "urn:iicp:intent:llm:embedding:v1";

/// The intent of writing down speech.
pub const TRANSCRIPTION: &str = "urn:iicp:intent:audio:transcribe:v1";

/// The intent of speaking a text.
pub const SPEECH: &str = "urn:iicp:intent:audio:speech:v1";

/// The intent of judging a text.
pub const MODERATION: &str = "urn:iicp:intent:safety:moderate:v1";

/// Deepest nesting of JSON that is accepted from anyone.
pub const MAX_JSON_DEPTH: usize = 128;

/// A well-formed intent: `urn:iicp:intent:<domain>:<action>:v<N>`, or `x.<vendor>` as the domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Intent(String);

impl Intent {
    /// Longest intent that directories accept, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks and takes an intent. Matching is exact and case-sensitive, so nothing is normalised.
    ///
    /// # Errors
    /// `INTENT_INVALID`.
    pub fn parse(text: &str) -> Result<Intent> {
        if is_intent(text) {
            return Ok(Intent(text.to_owned()));
        }
        // A hostile intent must not fill the message.
        let shown: String = text.chars().take(80).collect();
        Err(Error::new(
            Code::IntentInvalid,
            format!(
                "{shown:?} is not an intent; it must read urn:iicp:intent:<domain>:<action>:v<N> in lower case, \
                 or urn:iicp:intent:x.<vendor>:<action>:v<N>"
            ),
        ))
    }

    /// The intent as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Domain, one or more action segments and a version without leading zero; a slash may stand in an action, because the
/// registry has `mcp:tools/call`. The reserved `+modifier` is refused.
pub(crate) fn is_intent(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("urn:iicp:intent:") else { return false };
    if text.len() > Intent::MAX_LEN {
        return false;
    }
    let mut segments = rest.split(':');
    let domain = segments.next().unwrap_or_default();
    let Some(version) = segments.next_back() else { return false };
    let word = |s: &str, extra: &[u8]| {
        let mut bytes = s.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || extra.contains(&b))
    };
    let domain_good = match domain.strip_prefix("x.") {
        Some(vendor) => word(vendor, b"-_"),
        None => word(domain, b"-_"),
    };
    let version_good = version
        .strip_prefix('v')
        .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty() && !n.starts_with('0') && n.len() <= 9);
    domain_good && version_good && segments.all(|action| word(action, b"-_/") && !action.ends_with('/'))
}

/// Quality of service of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Qos {
    /// Answered at once or not at all.
    Realtime,
    /// A person waits.
    Interactive,
    /// Nobody waits.
    Batch,
    /// Whatever is left.
    BestEffort,
}

impl Qos {
    /// Every class, in the order of urgency.
    pub const ALL: [Qos; 4] = [Qos::Realtime, Qos::Interactive, Qos::Batch, Qos::BestEffort];

    /// The spelling of the specification.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Qos::Realtime => "realtime",
            Qos::Interactive => "interactive",
            Qos::Batch => "batch",
            Qos::BestEffort => "best-effort",
        }
    }

    /// Reads either spelling that is on the wire (`best-effort`, `best_effort`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Qos> {
        match text {
            "realtime" => Some(Qos::Realtime),
            "interactive" => Some(Qos::Interactive),
            "batch" => Some(Qos::Batch),
            "best-effort" | "best_effort" => Some(Qos::BestEffort),
            _ => None,
        }
    }
}

/// How a task stands among others of its class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Before all others.
    Critical,
    /// Before most others.
    High,
    /// As most tasks.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl Priority {
    /// Reads the spelling of the specification.
    #[must_use]
    pub fn parse(text: &str) -> Option<Priority> {
        match text {
            "critical" => Some(Priority::Critical),
            "high" => Some(Priority::High),
            "normal" => Some(Priority::Normal),
            "low" => Some(Priority::Low),
            _ => None,
        }
    }

    /// The spelling of the specification.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        }
    }
}

/// A W3C `traceparent`, the same on every call that belongs to one submit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Traceparent([u8; 55]);

impl Traceparent {
    /// A fresh, sampled trace.
    #[must_use]
    pub fn random() -> Self {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        let (trace, span) = (Uuid::new_v4(), Uuid::new_v4());
        write_hex(trace.as_bytes(), &mut text[3..35]);
        write_hex(&span.as_bytes()[8..], &mut text[36..52]);
        Traceparent(text)
    }

    /// Reads a `traceparent`; none if it is malformed or all zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 55] = text.as_bytes().try_into().ok()?;
        let hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
        let set = |part: &[u8]| part.iter().any(|b| *b != b'0');
        let good = bytes[2] == b'-'
            && bytes[35] == b'-'
            && bytes[52] == b'-'
            && hex(&bytes[..2])
            && &bytes[..2] != b"ff"
            && hex(&bytes[3..35])
            && set(&bytes[3..35])
            && hex(&bytes[36..52])
            && set(&bytes[36..52])
            && hex(&bytes[53..]);
        good.then_some(Traceparent(bytes))
    }

    /// The trace's id and the caller's span, as bytes.
    pub(crate) fn ids(&self) -> ([u8; 16], [u8; 8]) {
        (read_hex(&self.0[3..35]), read_hex(&self.0[36..52]))
    }

    /// The header's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Both constructors admit ASCII only.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads lower-case hex that is known to be some.
fn read_hex<const N: usize>(text: &[u8]) -> [u8; N] {
    let digit =
        |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit.wrapping_sub(b'a').wrapping_add(10) };
    std::array::from_fn(|at| digit(text[2 * at]) << 4 | digit(text[2 * at + 1]))
}

fn write_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// JSON text that is passed on as it is: checked once, never parsed again by the engine.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

impl Payload {
    /// Takes JSON text.
    ///
    /// # Errors
    /// `PAYLOAD_INVALID` if it is not JSON, or nested deeper than [`MAX_JSON_DEPTH`].
    pub fn from_json(json: impl Into<Bytes>) -> Result<Self> {
        let json = json.into();
        let raw: &RawValue = serde_json::from_slice(&json)
            .map_err(|e| Error::new(Code::PayloadInvalid, format!("the payload is not JSON: {}", position(&e))))?;
        check_depth(raw.get().as_bytes())
            .map_err(|depth| Error::new(Code::PayloadInvalid, format!("the payload is nested deeper than {depth}")))?;
        let inside = json.slice_ref(raw.get().as_bytes());
        Ok(Payload(inside))
    }

    /// Serializes a value.
    ///
    /// # Errors
    /// `PAYLOAD_INVALID` if the value has no JSON form.
    pub fn serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let json = serde_json::to_vec(value)
            .map_err(|e| Error::new(Code::PayloadInvalid, format!("the value has no JSON form: {}", position(&e))))?;
        Payload::from_json(json)
    }

    /// Takes bytes that a JSON reader of this crate has just walked over.
    pub(crate) fn trusted(json: Bytes) -> Self {
        Payload(json)
    }

    /// Reads the JSON into a type of yours.
    ///
    /// # Errors
    /// `PAYLOAD_INVALID` says what was expected and where, never what was there.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.0).map_err(|e| {
            Error::new(Code::PayloadInvalid, format!("the payload does not have the expected form: {}", position(&e)))
        })
    }

    /// The JSON text.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The JSON text, without copying.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload(<{} bytes>)", self.0.len())
    }
}

impl From<serde_json::Value> for Payload {
    fn from(value: serde_json::Value) -> Self {
        Payload(value.to_string().into())
    }
}

/// Where and why JSON was refused, without the offending text: serde's own message may quote it.
pub(crate) fn position(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "syntax error",
        serde_json::error::Category::Data => "a value of the wrong type, or a missing one",
        serde_json::error::Category::Io => "it could not be read",
    };
    format!("{what} at line {} column {}", error.line(), error.column())
}

/// Refuses JSON nested deeper than [`MAX_JSON_DEPTH`]. The text must be valid JSON already.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), usize> {
    // Without that many opening brackets there is no such depth: a vectorised count settles nearly every text.
    if memchr::memchr2_iter(b'{', b'[', json).nth(MAX_JSON_DEPTH).is_none() {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return Err(MAX_JSON_DEPTH);
        }
    }
    Ok(())
}

/// A credential. `Debug` and JSON show only that there is one; the memory is wiped when it is dropped.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = String::json_schema(generator);
        // By this whoever shows options knows which of them not to show.
        schema.insert("format".into(), "password".into());
        schema
    }

    fn inline_schema() -> bool {
        true
    }
}

impl Secret {
    /// The credential itself; not for logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it may stand in a header.
    pub(crate) fn is_header_text(&self) -> bool {
        (1..=4096).contains(&self.0.len()) && self.0.bytes().all(|b| b.is_ascii_graphic())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Where there is none, nothing is hidden.
        serializer.serialize_str(if self.0.is_empty() { "" } else { "<secret>" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(<secret>)")
    }
}

/// A provider as the directory describes it. Everything but id and endpoint may be missing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Id of the node.
    pub node_id: String,
    /// Base URL of the node; `/v1/task` is appended.
    pub endpoint: String,
    /// Where the node takes native frames: `iicp://` or `iicpsec://`, host and port.
    pub transport_endpoint: Option<String>,
    /// The directory's score, 0 to 1; 0 if it gave none.
    pub score: f64,
    /// Whether the directory calls the node available; true if it does not say.
    pub available: bool,
    /// Region of the node.
    pub region: Option<String>,
    /// Models that the node serves.
    pub models: Vec<String>,
    /// Share of the node's slots in use, 0 to 1.
    pub load: Option<f64>,
    /// Reputation of the node, 0 to 1.
    pub reputation_score: Option<f64>,
    /// The key to seal tasks to, as the directory shows it.
    pub cx_public_key: Option<serde_json::Value>,
    /// How well the node is, in the directory's words.
    pub health_label: Option<String>,
    /// Whether the directory has reached the node itself.
    pub directory_observed_reachable: Option<bool>,
    /// Whether a browser can call the node.
    pub browser_usable: Option<bool>,
    /// What the node promises about the tasks it is given, and how firmly, as the directory states it.
    pub node_policy_manifest: Option<serde_json::Value>,
    /// Whether its tasks can be followed event by event: it names the service-lifecycle profile.
    #[serde(skip)]
    pub(crate) is_followed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intent_pattern_takes_vendors_and_refuses_modifiers() {
        for good in [
            CHAT,
            "urn:iicp:intent:x.acme:do-it:v1",
            "urn:iicp:intent:mcp:tools/call:v12",
            "urn:iicp:intent:translate:v1",
        ] {
            assert!(is_intent(good), "{good}");
        }
        for bad in [
            "",
            "chat",
            "urn:iicp:intent:",
            "urn:iicp:intent:llm:chat",
            "urn:iicp:intent:llm:chat:v0",
            "urn:iicp:intent:llm:chat:v01",
            "urn:iicp:intent:llm:chat:v1\n",
            "urn:iicp:intent:llm:chat:v1+fast",
            "urn:iicp:intent:LLM:chat:v1",
            "urn:iicp:intent:x.:a:v1",
            "urn:iicp:intent:llm::v1",
            "urn:iicp:intent:v1",
        ] {
            assert!(!is_intent(bad), "{bad}");
            assert_eq!(Intent::parse(bad).unwrap_err().code(), Code::IntentInvalid);
        }
        assert!(!is_intent(&format!("urn:iicp:intent:{}:v1", "a".repeat(255))));
    }

    #[test]
    fn a_fresh_traceparent_reads_back_and_a_zero_one_does_not() {
        let trace = Traceparent::random();
        assert_eq!(Traceparent::parse(trace.as_str()), Some(trace));
        assert_eq!(Traceparent::parse("00-00000000000000000000000000000000-0000000000000001-01"), None);
        assert_eq!(Traceparent::parse("ff-10000000000000000000000000000000-0000000000000001-01"), None);
        assert_eq!(Traceparent::parse("00-1"), None);
    }

    #[test]
    fn payloads_are_checked_once_and_never_shown() {
        let payload = Payload::from_json(&b" {\"secret\": 1} "[..]).unwrap();
        assert_eq!(&payload.bytes()[..], b"{\"secret\": 1}");
        assert!(!format!("{payload:?}").contains("secret"));
        let error = Payload::from_json(&b"{\"secret\": }"[..]).unwrap_err();
        assert_eq!(error.code(), Code::PayloadInvalid);
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn nesting_is_capped_and_brackets_in_strings_do_not_count() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Payload::from_json(nested(MAX_JSON_DEPTH)).is_ok());
        assert!(Payload::from_json(nested(MAX_JSON_DEPTH + 1)).is_err());
        assert!(Payload::from_json(format!("\"{}\\\"[\"", "[".repeat(500))).is_ok());
        assert!(Payload::from_json(format!("[{}[]]", "[],".repeat(500))).is_ok());
    }
}
