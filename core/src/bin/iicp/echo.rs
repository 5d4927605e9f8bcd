//! A model for trying out a mesh: it says what it was told.

use iicp_core::{CHAT, COMPLETION, Error, Inbound, Reply, Result};
use serde_json::{Value, json};

/// The model's name, as discovery shows it.
pub(crate) const MODEL: &str = "echo";

/// Repeats the last message of a chat and the prompt of a completion; of anything else, the payload.
pub(crate) async fn echo(task: Inbound) -> Result<Reply> {
    match &*task.intent {
        CHAT => {
            let chat: Value = task.json()?;
            let last = chat["messages"].as_array().and_then(|messages| messages.last());
            let text = last.and_then(|message| text_of(&message["content"]));
            text.map(|text| Reply::chat(format!("You said: {text}")))
                .ok_or_else(|| Error::rejected("the chat has no message with text"))
        }
        COMPLETION => {
            let completion: Value = task.json()?;
            let prompt =
                completion["prompt"].as_str().ok_or_else(|| Error::rejected("the completion has no prompt"))?;
            Ok(json!({ "choices": [{ "index": 0, "text": prompt, "finish_reason": "stop" }] }).into())
        }
        _ => Ok(task.payload.clone().into()),
    }
}

/// The content itself, or its parts that are text.
fn text_of(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            Some(parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    }
}
