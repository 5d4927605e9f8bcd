//! One result from the parts of a stream, for a caller who takes no parts.
//!
//! Chats and completions come in the deltas of the OpenAI dialect and become what they would have been without a stream.
//! Texts are joined; of anything else the parts are listed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{Code, Error, Result};
use crate::types::Payload;

/// Collects the parts of one stream.
#[derive(Default)]
pub(crate) struct Assembly {
    bytes: usize,
    most: usize,
    parts: usize,
    text: String,
    others: Vec<Value>,
    choices: BTreeMap<u64, Choice>,
    /// What every delta repeats (id, model, usage, …); the last word counts.
    about: Map<String, Value>,
}

/// One answer among those that were asked for.
#[derive(Default)]
struct Choice {
    /// `message` of a chat.
    message: Map<String, Value>,
    tools: BTreeMap<u64, Value>,
    /// `text` of a completion.
    text: Option<String>,
    finish_reason: Value,
}

impl Assembly {
    /// Parts of at most `most` bytes in all.
    pub(crate) fn new(most: usize) -> Self {
        Assembly { most, ..Assembly::default() }
    }

    /// Adds the next part.
    ///
    /// # Errors
    /// `HANDLER` for what is not JSON, or too much.
    pub(crate) fn push(&mut self, part: &[u8]) -> Result<()> {
        self.bytes += part.len();
        if self.bytes > self.most {
            return Err(Error::new(Code::Handler, format!("the parts of the answer are over {} bytes", self.most)));
        }
        let part: Value =
            serde_json::from_slice(part).map_err(|_| Error::new(Code::Handler, "a part of the answer is not JSON"))?;
        self.parts += 1;
        match part {
            Value::String(text) => self.text.push_str(&text),
            Value::Object(mut delta) if delta.get("choices").is_some_and(is_deltas) => {
                if let Some(Value::Array(choices)) = delta.remove("choices") {
                    choices.into_iter().for_each(|choice| self.choose(choice));
                }
                self.about.extend(delta.into_iter().filter(|(_, value)| !value.is_null()));
            }
            other => self.others.push(other),
        }
        Ok(())
    }

    fn choose(&mut self, choice: Value) {
        let Value::Object(mut choice) = choice else { return };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        let known = self.choices.entry(index).or_default();
        if let Some(Value::String(text)) = choice.remove("text") {
            known.text.get_or_insert_default().push_str(&text);
        }
        if let Some(Value::Object(delta)) = choice.remove("delta") {
            for (name, value) in delta {
                match (name.as_str(), value) {
                    (_, Value::Null) => {}
                    ("tool_calls", Value::Array(calls)) => calls.into_iter().for_each(|call| known.call_tool(call)),
                    (_, value) => add(&mut known.message, name, value),
                }
            }
        }
        match choice.remove("finish_reason") {
            None | Some(Value::Null) => {}
            Some(reason) => known.finish_reason = reason,
        }
    }

    /// The whole result.
    pub(crate) fn finish(mut self) -> Payload {
        if self.choices.is_empty() && self.about.is_empty() {
            return match (self.others.len(), self.text.is_empty()) {
                (1, true) => self.others.swap_remove(0).into(),
                (0, _) => Value::String(self.text).into(),
                _ => json!({ "chunks": self.others }).into(),
            };
        }
        if let Some(Value::String(object)) = self.about.get_mut("object")
            && let Some(whole) = object.strip_suffix(".chunk")
        {
            *object = whole.to_owned();
        }
        let choices: Vec<Value> = self.choices.into_iter().map(|(index, choice)| choice.whole(index)).collect();
        self.about.insert("choices".into(), choices.into());
        Value::Object(self.about).into()
    }
}

/// Whether these are the deltas of a stream and no whole answers.
fn is_deltas(choices: &Value) -> bool {
    choices.as_array().is_some_and(|choices| choices.iter().all(|choice| choice.get("message").is_none()))
}

/// Adds a field of a delta: texts grow, of anything else the last word counts; a role is said once.
fn add(message: &mut Map<String, Value>, name: String, value: Value) {
    match (message.get_mut(&name), value) {
        (Some(Value::String(text)), Value::String(more)) if name != "role" => text.push_str(&more),
        (_, value) => {
            message.insert(name, value);
        }
    }
}

impl Choice {
    /// Adds a part of a tool call: its arguments come in pieces.
    fn call_tool(&mut self, call: Value) {
        let Value::Object(mut call) = call else { return };
        let index = call.remove("index").as_ref().and_then(Value::as_u64).unwrap_or(0);
        let Value::Object(known) = self.tools.entry(index).or_insert_with(|| json!({})) else { return };
        for (name, value) in call {
            match (known.get_mut(&name), value) {
                (_, Value::Null) => {}
                (Some(Value::Object(function)), Value::Object(more)) => {
                    for (name, value) in more {
                        match (function.get_mut(&name), value) {
                            (Some(Value::String(text)), Value::String(more)) if name == "arguments" => {
                                text.push_str(&more);
                            }
                            (_, value) => drop(function.insert(name, value)),
                        }
                    }
                }
                (_, value) => drop(known.insert(name, value)),
            }
        }
    }

    fn whole(mut self, index: u64) -> Value {
        let finish_reason = self.finish_reason;
        if let Some(text) = self.text {
            return json!({ "index": index, "text": text, "finish_reason": finish_reason });
        }
        if !self.tools.is_empty() {
            self.message.insert("tool_calls".into(), self.tools.into_values().collect());
        }
        self.message.entry("role").or_insert_with(|| "assistant".into());
        // Typed clients read a text here, also where only tools are called.
        self.message.entry("content").or_insert_with(|| "".into());
        json!({ "index": index, "message": self.message, "finish_reason": finish_reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(parts: &[Value]) -> Value {
        let mut assembly = Assembly::new(10_000);
        for part in parts {
            assembly.push(part.to_string().as_bytes()).unwrap();
        }
        assembly.finish().json().unwrap()
    }

    #[test]
    fn the_deltas_of_a_chat_become_the_chat() {
        let delta = |delta: Value| json!({ "id": "c", "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": delta }] });
        let last = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }], "usage": { "total_tokens": 3 } });
        let whole = assemble(&[
            delta(json!({ "role": "assistant", "content": "" })),
            delta(json!({ "content": "Hel" })),
            delta(json!({ "role": "assistant", "content": "lo" })),
            last,
        ]);
        let message = json!({ "role": "assistant", "content": "Hello" });
        assert_eq!(whole["choices"], json!([{ "index": 0, "message": message, "finish_reason": "stop" }]));
        assert_eq!((&whole["object"], &whole["usage"]["total_tokens"]), (&json!("chat.completion"), &json!(3)));
    }

    #[test]
    fn the_arguments_of_a_tool_call_are_joined() {
        let call = |call: Value| json!({ "choices": [{ "delta": { "tool_calls": [call] } }] });
        let whole = assemble(&[
            call(
                json!({ "index": 0, "id": "t", "type": "function", "function": { "name": "f", "arguments": "{\"a\"" } }),
            ),
            call(json!({ "index": 0, "function": { "arguments": ":1}" } })),
        ]);
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["tool_calls"][0]["function"], json!({ "name": "f", "arguments": "{\"a\":1}" }));
        assert_eq!(message["content"], "");
    }

    #[test]
    fn completions_texts_and_anything_else_are_put_together_as_they_are() {
        let text = |index: u64, text: &str| json!({ "choices": [{ "index": index, "text": text }] });
        let whole = assemble(&[text(1, "b"), text(0, "a"), text(1, "c")]);
        let choice = |index: u64, text: &str| json!({ "index": index, "text": text, "finish_reason": null });
        assert_eq!(whole["choices"], json!([choice(0, "a"), choice(1, "bc")]));
        assert_eq!(assemble(&[json!("a"), json!("b")]), "ab");
        assert_eq!(assemble(&[]), "");
        assert_eq!(assemble(&[json!({ "x": 1 })]), json!({ "x": 1 }));
        assert_eq!(assemble(&[json!({ "x": 1 }), json!([2])]), json!({ "chunks": [{ "x": 1 }, [2]] }));
        let answer = json!({ "choices": [{ "message": { "content": "whole" } }] });
        assert_eq!(assemble(std::slice::from_ref(&answer)), answer, "a whole answer is left alone");
    }

    #[test]
    fn more_than_fits_is_refused() {
        let mut assembly = Assembly::new(10);
        assembly.push(b"\"12345\"").unwrap();
        assert_eq!(assembly.push(b"\"12345\"").unwrap_err().code(), Code::Handler);
        assert_eq!(Assembly::new(10).push(b"{").unwrap_err().code(), Code::Handler);
    }
}
