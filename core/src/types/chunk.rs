//! What a streamed task comes back with, part by part.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use serde_json::value::RawValue;

use super::{Payload, Usage};

/// A part of a result, in the order in which the provider made it. `Debug` shows its size, not what it says.
#[derive(Clone)]
#[non_exhaustive]
pub struct Chunk {
    /// The part, as the handler gave it: for a chat a delta in the OpenAI dialect, from a provider that does not stream
    /// the whole result.
    pub result: Payload,
    /// Tokens that the task has used so far, if the provider counts them.
    pub tokens_used: Option<u64>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
}

/// What a part says of the answer that it belongs to.
#[derive(Default)]
pub(crate) struct Words {
    pub(crate) text: String,
    pub(crate) finish_reason: Option<String>,
    pub(crate) usage: Option<Usage>,
    pub(crate) model: Option<String>,
}

/// A field of whatever form; none if it is not the one that is read.
fn field<T: DeserializeOwned>(json: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(json?.get()).ok()
}

impl Chunk {
    /// No part, but maybe the number of tokens.
    pub(crate) fn nothing(tokens_used: Option<u64>) -> Self {
        Chunk::new(Payload::trusted(Bytes::new()), tokens_used)
    }

    pub(crate) fn new(result: Payload, tokens_used: Option<u64>) -> Self {
        Chunk { result, tokens_used }
    }

    /// A part that is a text: the next words of a chat, as chat clients read them.
    #[must_use]
    pub fn delta(text: impl Into<String>) -> Self {
        let delta = serde_json::json!({ "content": text.into() });
        serde_json::json!({ "choices": [{ "index": 0, "delta": delta }] }).into()
    }

    /// Notes how many tokens the task has used so far.
    #[must_use]
    pub fn tokens_used(mut self, tokens: u64) -> Self {
        self.tokens_used = Some(tokens);
        self
    }

    /// The text of this part: what a chat or a completion says next in its first answer, or the part itself if it is a
    /// text; empty if it says nothing, as the last part of a chat often does.
    #[must_use]
    pub fn text(&self) -> String {
        self.said().text
    }

    /// Everything that this part says of its answer.
    pub(crate) fn said(&self) -> Words {
        let json = self.result.bytes();
        if json.first() == Some(&b'"') {
            let text = serde_json::from_slice(json).unwrap_or_default();
            return Words { text, ..Words::default() };
        }
        let Ok(said) = serde_json::from_slice::<Said<'_>>(json) else { return Words::default() };
        let mut words = Words { usage: field(said.usage), model: field(said.model), ..Words::default() };
        if let Some(choice) = said.choices.into_iter().next() {
            words.finish_reason = field(choice.finish_reason);
            let text = choice.delta.or(choice.message).map_or(choice.text, |said| said.content);
            words.text = text.map_or_else(String::new, Cow::into_owned);
        }
        words
    }
}

impl From<Payload> for Chunk {
    fn from(result: Payload) -> Self {
        Chunk::new(result, None)
    }
}

impl From<serde_json::Value> for Chunk {
    fn from(value: serde_json::Value) -> Self {
        Payload::from(value).into()
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("result", &self.result).field("tokens_used", &self.tokens_used).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_tells_its_text_whatever_its_form() {
        for (part, text) in [
            (json!({ "choices": [{ "delta": { "content": "a\n" } }] }), "a\n"),
            (json!({ "choices": [{ "delta": { "content": null } }] }), ""),
            (json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }], "usage": {} }), ""),
            (json!({ "choices": [{ "message": { "role": "assistant", "content": "whole" } }] }), "whole"),
            (json!({ "choices": [{ "text": "b" }, { "text": "c" }] }), "b"),
            (json!({ "choices": [{ "message": { "content": [1] } }] }), ""),
            (json!("plain"), "plain"),
            (json!({ "data": [] }), ""),
            (json!(7), ""),
        ] {
            assert_eq!(Chunk::new(part.clone().into(), None).text(), text, "{part}");
        }
        assert!(!format!("{:?}", Chunk::new(json!("secret").into(), None)).contains("secret"));
    }
}
