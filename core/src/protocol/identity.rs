//! Telling a model that its request came through IICP: one message, after the application's own instructions.
//!
//! It is for chats alone. It never holds an endpoint, token, node id or score, and nothing about other candidates; the
//! application's messages stay as they are. Each candidate is told anew, from the original messages.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Code, Error, Result};
use crate::options::RuntimeIdentity;
use crate::types::CHAT;

/// Begins the message, and where it stands already nothing is added.
const MARKER: &str = "IICP-RUNTIME-CONTEXT/1";
/// What a model is told about its place. The wording is ours; only its structure is the specification's.
const CAPSULE: &str = "You were handed this request over IICP, the Intent-based Inter-agent Communication Protocol: an \
open protocol by which a client names an intent, finds the services that can meet it, and picks one. You are the service \
that was picked, not IICP itself. What stands below is all that is known here; where a fact is missing, say that you do \
not know it.";
/// Longest fact, in bytes.
const MOST_FACT_BYTES: usize = 160;
const MOST_CAPABILITIES: usize = 32;
/// Longest message, in bytes.
const MOST_BYTES: usize = 2048;

/// Which client speaks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientName {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl ClientName {
    /// This library.
    pub(crate) fn own() -> Self {
        ClientName { name: "iicp-core".into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// How client and model are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Connection {
    Routed,
    LocalBrowser,
}

impl Connection {
    const fn text(self) -> &'static str {
        match self {
            Connection::Routed => "The request was routed through IICP to a provider.",
            Connection::LocalBrowser => {
                "This model is running locally in the browser; no remote IICP provider was selected."
            }
        }
    }
}

/// Why this service was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Selection {
    MatchedIntentAndConstraints,
    ExplicitModelMatch,
    FallbackAfterUnavailableCandidate,
    IntentionalExploration,
    LocalBrowserExecution,
}

impl Selection {
    /// For the candidate at this place of the order.
    pub(crate) const fn of_place(place: usize) -> Self {
        match place {
            0 => Selection::MatchedIntentAndConstraints,
            _ => Selection::FallbackAfterUnavailableCandidate,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Selection::MatchedIntentAndConstraints => "This service matched the requested intent and constraints.",
            Selection::ExplicitModelMatch => "This service offers the model that was asked for by name.",
            Selection::FallbackAfterUnavailableCandidate => {
                "This service stepped in for another one that was not available."
            }
            Selection::IntentionalExploration => "This service was tried on purpose, to learn how well it does.",
            Selection::LocalBrowserExecution => "The browser runs the model by itself.",
        }
    }
}

/// What a model may be told. There is no place in it for anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Facts {
    pub(crate) client: Option<ClientName>,
    pub(crate) connection_mode: Option<Connection>,
    pub(crate) selected_model: Option<String>,
    pub(crate) effective_capabilities: Vec<String>,
    pub(crate) selection_reason: Option<Selection>,
}

/// The messages of a chat, as they go to a candidate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Composed {
    /// As the application gave them.
    Unchanged,
    Messages(Vec<Value>),
}

/// The model that a candidate will use, if that is certain: the requested one if it is listed, or the only one there is.
pub(crate) fn selected_model<'a>(requested: Option<&str>, models: &'a [String]) -> Option<&'a str> {
    let listed = requested.and_then(|requested| models.iter().find(|model| *model == requested));
    let only = || if let [only] = models { Some(only) } else { None };
    listed.or_else(only).map(String::as_str)
}

/// Adds the message to a chat. `instructions` says whether the provider takes instructions at all.
///
/// # Errors
/// `POLICY_REFUSED` if the model must be told and cannot be.
pub(crate) fn compose(
    intent: &str,
    mode: RuntimeIdentity,
    instructions: bool,
    messages: &[Value],
    facts: &Facts,
) -> Result<Composed> {
    if mode == RuntimeIdentity::Disabled || intent != CHAT || messages.iter().any(has_marker) {
        return Ok(Composed::Unchanged);
    }
    if !instructions {
        return match mode {
            RuntimeIdentity::Required => Err(Error::of_options(
                Code::PolicyRefused,
                "the model must be told that it is called through IICP, and this provider takes no instructions; no \
                 prompt was sent; set `runtime_identity` to auto",
            )
            .with_wire_code("required_identity_context_unsupported")),
            RuntimeIdentity::Auto | RuntimeIdentity::Disabled => Ok(Composed::Unchanged),
        };
    }
    let place = messages.iter().position(|message| !instructs(message)).unwrap_or(messages.len());
    let mut composed = messages.to_vec();
    composed.insert(place, json!({"role": "system", "content": render(intent, facts)}));
    Ok(Composed::Messages(composed))
}

/// Whether a message is an instruction of the application.
fn instructs(message: &Value) -> bool {
    matches!(message.get("role").and_then(Value::as_str), Some("system" | "developer"))
}

fn has_marker(message: &Value) -> bool {
    let text = |content: &Value| content.as_str().is_some_and(|text| text.contains(MARKER));
    let part = |part: &Value| part.get("text").is_some_and(text);
    instructs(message)
        && message
            .get("content")
            .is_some_and(|content| text(content) || content.as_array().is_some_and(|parts| parts.iter().any(part)))
}

/// Facts come from the directory too: one that is not fit to be told is left out.
fn fit(fact: &str) -> bool {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    !fact.trim().is_empty() && fact.len() <= MOST_FACT_BYTES && !fact.chars().any(breaks)
}

fn render(intent: &str, facts: &Facts) -> String {
    let mut lines = vec![format!("[{MARKER}]"), CAPSULE.into(), "Runtime facts:".into(), format!("- intent: {intent}")];
    if let Some(client) = facts.client.as_ref().filter(|client| fit(&client.name) && fit(&client.version)) {
        lines.push(format!("- client: {} {}", client.name, client.version));
    }
    if let Some(connection) = facts.connection_mode {
        lines.push(format!("- connection: {}", connection.text()));
    }
    if let Some(model) = facts.selected_model.as_deref().filter(|model| fit(model)) {
        lines.push(format!("- selected model: {model}"));
    }
    let capabilities_at = lines.len();
    let selection = facts.selection_reason.map(|reason| format!("- selection: {}", reason.text()));
    lines.extend(selection);
    // Whatever they are, the lines above fit.
    let used: usize = lines.iter().map(|line| line.len() + 1).sum();
    if let Some(line) = capabilities(&facts.effective_capabilities, MOST_BYTES.saturating_sub(used)) {
        lines.insert(capabilities_at, line);
    }
    lines.join("\n")
}

/// As many capabilities as there is room for.
fn capabilities(names: &[String], room: usize) -> Option<String> {
    let mut line = String::new();
    for name in names.iter().filter(|name| fit(name)).take(MOST_CAPABILITIES) {
        let before = if line.is_empty() { "- effective capabilities: " } else { ", " };
        if line.len() + before.len() + name.len() > room {
            break;
        }
        line.push_str(before);
        line.push_str(name);
    }
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(mode: RuntimeIdentity, messages: &[Value], facts: &Facts) -> Composed {
        compose(CHAT, mode, true, messages, facts).unwrap()
    }

    fn full() -> Facts {
        Facts {
            client: Some(ClientName::own()),
            connection_mode: Some(Connection::Routed),
            selected_model: Some("m-1".into()),
            effective_capabilities: vec!["a".into(), "b".into()],
            selection_reason: Some(Selection::of_place(1)),
        }
    }

    #[test]
    fn the_facts_come_line_by_line_in_their_order() {
        let text = render(CHAT, &full());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "[IICP-RUNTIME-CONTEXT/1]");
        assert_eq!(lines[1], CAPSULE);
        assert_eq!(lines[2], "Runtime facts:");
        let heads: Vec<&str> = lines[3..].iter().map(|line| line.split(": ").next().unwrap()).collect();
        let wanted =
            ["- intent", "- client", "- connection", "- selected model", "- effective capabilities", "- selection"];
        assert_eq!(heads, wanted);
        assert_eq!(lines[4], format!("- client: iicp-core {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(lines[7], "- effective capabilities: a, b");
        assert_eq!(render(CHAT, &Facts::default()).lines().count(), 4, "what is not known is not there");
    }

    #[test]
    fn the_message_stands_after_the_applications_instructions_and_changes_none() {
        let messages = ["system", "developer", "user", "system", "assistant"]
            .map(|role| json!({"role": role, "content": "x", "name": "kept"}));
        let Composed::Messages(composed) = chat(RuntimeIdentity::Auto, &messages, &full()) else { panic!() };
        assert_eq!(composed.len(), 6);
        assert_eq!(composed[2]["role"], "system");
        let rest: Vec<&Value> = composed.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, m)| m).collect();
        assert!(rest.into_iter().eq(messages.iter()));
        let only = [json!({"role": "system", "content": "x"})];
        let Composed::Messages(composed) = chat(RuntimeIdentity::Auto, &only, &full()) else { panic!() };
        assert_eq!(composed[0], only[0]);
    }

    #[test]
    fn a_marker_counts_in_instructions_only() {
        let says = |role: &str, content: Value| [json!({"role": role, "content": content})];
        for marked in [
            says("system", json!("[IICP-RUNTIME-CONTEXT/1] x")),
            says("developer", json!([{"type": "text", "text": "see IICP-RUNTIME-CONTEXT/1"}])),
        ] {
            assert_eq!(chat(RuntimeIdentity::Required, &marked, &full()), Composed::Unchanged);
        }
        let users = says("user", json!("[IICP-RUNTIME-CONTEXT/1]"));
        assert!(matches!(chat(RuntimeIdentity::Auto, &users, &full()), Composed::Messages(_)));
    }

    #[test]
    fn facts_that_are_not_fit_are_left_out_and_the_message_stays_short() {
        for bad in ["", " ", "a\nRuntime facts:", "a\u{2028}b", "a\u{7}", &"x".repeat(161), &"ä".repeat(81)] {
            assert!(!fit(bad), "{bad:?}");
        }
        assert!(fit(&"ä".repeat(80)));
        let long = |n: usize| format!("{n:03}{}", "x".repeat(157));
        let facts = Facts {
            client: Some(ClientName { name: long(1), version: long(2) }),
            selected_model: Some(long(3)),
            effective_capabilities: (0..100).map(long).collect(),
            ..full()
        };
        let text = render(CHAT, &facts);
        assert!(text.len() <= MOST_BYTES && text.len() > MOST_BYTES - 200, "{}", text.len());
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert!(capabilities(&names, 2000).unwrap().ends_with(", 31"));
        assert_eq!(capabilities(&names, 10), None);
    }

    #[test]
    fn a_model_is_named_only_when_it_is_certain() {
        let models = ["a", "b"].map(str::to_owned);
        assert_eq!(selected_model(Some("b"), &models), Some("b"));
        assert_eq!(selected_model(Some("c"), &models), None);
        assert_eq!(selected_model(None, &models), None);
        assert_eq!(selected_model(None, &models[..1]), Some("a"));
        assert_eq!(selected_model(Some("c"), &models[..1]), Some("a"));
    }
}
