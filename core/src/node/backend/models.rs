//! What a backend's models are offered for, as their names tell.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::options::{Modality, NodeCapability};
use crate::types::{CHAT, COMPLETION, EMBEDDING, SPEECH, TRANSCRIPTION};

/// Most models that are offered, and the longest name of one: what directories take.
const MOST_MODELS: usize = 64;
const MOST_NAME: usize = 255;

/// The models that a node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Models {
    pub(super) names: Vec<String>,
    default: Option<String>,
    /// The operator said so: what the backend lists changes nothing.
    fixed: bool,
}

impl Models {
    /// What the operator offers: the node's `models`, or the one `model` of the backend.
    pub(super) fn new(models: &[String], default: Option<&str>) -> Self {
        let names = if models.is_empty() { default.into_iter().map(str::to_owned).collect() } else { models.to_vec() };
        Models { fixed: !names.is_empty(), default: default.map(str::to_owned), names }
    }

    /// The offer after the backend has listed its models. An empty list says nothing, and another order is no change.
    pub(super) fn listed(&self, names: Vec<String>) -> Models {
        let is_same = || {
            let sorted = |mut names: Vec<String>| {
                names.sort_unstable();
                names
            };
            sorted(names.clone()) == sorted(self.names.clone())
        };
        if self.fixed || names.is_empty() || is_same() {
            return self.clone();
        }
        Models { names, ..self.clone() }
    }

    /// Whether a model may be asked for. As long as nothing is known, the backend decides.
    pub(super) fn has(&self, model: &str) -> bool {
        let is_it = |name: &String| name == model || name.strip_suffix(":latest") == Some(model);
        self.names.is_empty() || self.names.iter().any(is_it)
    }

    /// The model of a task that names none.
    pub(super) fn default_for(&self, intent: &str) -> Option<&str> {
        let default = self.default.as_deref();
        match intent {
            CHAT | COMPLETION => default.or_else(|| self.first(|name| !is_embedder(name))),
            EMBEDDING => default
                .filter(|name| is_embedder(name))
                .or_else(|| self.first(is_embedder))
                .or(default)
                .or_else(|| self.first(|_| true)),
            // A model of another trade is worse than none.
            TRANSCRIPTION | SPEECH if self.names.len() == 1 => self.first(|_| true),
            _ => None,
        }
    }

    fn first(&self, fits: impl Fn(&str) -> bool) -> Option<&str> {
        self.names.iter().map(String::as_str).find(|name| fits(name))
    }

    /// What a directory is told: the models by intent and by what they take. `by_names` if the operator named no intents.
    pub(super) fn capabilities(&self, intents: &[Arc<str>], by_names: bool) -> Vec<NodeCapability> {
        let split = intents.iter().any(|intent| **intent == *EMBEDDING) && intents.len() > 1;
        let mut capabilities: Vec<NodeCapability> = Vec::new();
        for intent in intents {
            let begun = capabilities.len();
            let serves = |name: &&String| !split || is_embedder(name) == (**intent == *EMBEDDING);
            for name in self.names.iter().filter(serves) {
                let modalities = modalities(name);
                match capabilities[begun..].iter_mut().find(|known| known.input_modalities == modalities) {
                    Some(known) => known.models.push(name.clone()),
                    None => capabilities.push(capability(intent, modalities.to_vec(), vec![name.clone()])),
                }
            }
            if capabilities.len() == begun && !by_names {
                capabilities.push(capability(intent, vec![Modality::Text], Vec::new()));
            }
        }
        capabilities
    }
}

fn capability(intent: &str, input_modalities: Vec<Modality>, models: Vec<String>) -> NodeCapability {
    NodeCapability { intent: intent.to_owned(), input_modalities, models, ..NodeCapability::default() }
}

fn is_embedder(name: &str) -> bool {
    name.to_ascii_lowercase().contains("embed")
}

/// What a model takes beside text, by the words that its makers put into names.
fn modalities(name: &str) -> &'static [Modality] {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    let image = name.ends_with("-vl") || has(&["-vl-", "vision", "llava", "omni"]);
    let audio = has(&["audio", "voxtral", "omni"]);
    match (image, audio) {
        (false, false) => &[Modality::Text],
        (true, false) => &[Modality::Text, Modality::Image],
        (false, true) => &[Modality::Text, Modality::Audio],
        (true, true) => &[Modality::Text, Modality::Image, Modality::Audio],
    }
}

/// The names in a list of models, in any of its three forms; none if it is no such list. What is no name is left out.
pub(super) fn names(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Listing<'a> {
        #[serde(borrow, default)]
        data: Option<Vec<&'a RawValue>>,
        #[serde(borrow, default)]
        models: Option<Vec<&'a RawValue>>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(alias = "name", alias = "model")]
        id: String,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let listing: Listing<'_> = serde_json::from_slice(body).ok()?;
    let entries = listing.data.or(listing.models)?;
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        // Ollama's entries have `name` and `model`, which are the same.
        let named = serde_json::from_str::<Named>(entry.get()).map(|named| named.name);
        let Ok(name) = named.or_else(|_| serde_json::from_str::<Entry>(entry.get()).map(|entry| entry.id)) else {
            continue;
        };
        let good = (1..=MOST_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        if good && !names.contains(&name) {
            names.push(name);
        }
        if names.len() == MOST_MODELS {
            break;
        }
    }
    Some(names)
}

/// The state of one model in a list that tells it; of the first that has one if none is named.
pub(super) fn state_of(body: &[u8], model: Option<&str>) -> Option<String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(alias = "key", alias = "name")]
        id: String,
        #[serde(alias = "status")]
        state: String,
    }
    #[derive(Deserialize)]
    struct Listing<'a> {
        #[serde(borrow, alias = "data")]
        models: Vec<&'a RawValue>,
    }
    let listing: Listing<'_> = crate::wire::object(body).ok()?;
    let entries = listing.models.iter().filter_map(|entry| serde_json::from_str::<Entry>(entry.get()).ok());
    let mut of_it = entries.filter(|entry| model.is_none_or(|model| entry.id == model));
    of_it.next().map(|entry| entry.state.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(models: &[&str]) -> Models {
        Models::default().listed(models.iter().map(|name| (*name).to_owned()).collect())
    }

    fn intents(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn shown(capabilities: &[NodeCapability]) -> Vec<String> {
        let show = |c: &NodeCapability| {
            let modalities: Vec<String> = c.input_modalities.iter().map(|m| format!("{m:?}").to_lowercase()).collect();
            format!("{} {} {}", c.intent, modalities.join("+"), c.models.join(","))
        };
        capabilities.iter().map(show).collect()
    }

    #[test]
    fn models_are_grouped_by_intent_and_by_what_they_take() {
        let offer =
            offer(&["llama3", "qwen2-vl", "nomic-embed-text", "qwen2-vl-7b", "gpt-4o-omni", "voxtral", "mistral"]);
        let groups = offer.capabilities(&intents(&[CHAT, EMBEDDING]), true);
        assert_eq!(
            shown(&groups),
            [
                format!("{CHAT} text llama3,mistral"),
                format!("{CHAT} text+image qwen2-vl,qwen2-vl-7b"),
                format!("{CHAT} text+image+audio gpt-4o-omni"),
                format!("{CHAT} text+audio voxtral"),
                format!("{EMBEDDING} text nomic-embed-text"),
            ]
        );
        // One intent alone has all models, whatever they are called.
        assert_eq!(
            shown(&self::offer(&["minilm"]).capabilities(&intents(&[EMBEDDING]), false)),
            [format!("{EMBEDDING} text minilm")]
        );
        assert_eq!(
            shown(&self::offer(&["x-embed"]).capabilities(&intents(&[CHAT, EMBEDDING]), true)),
            [format!("{EMBEDDING} text x-embed")]
        );
        assert!(Models::default().capabilities(&intents(&[CHAT, EMBEDDING]), true).is_empty());
        assert_eq!(shown(&Models::default().capabilities(&intents(&[CHAT, EMBEDDING]), false)).len(), 2);
    }

    #[test]
    fn what_the_operator_named_stays_and_another_order_is_no_news() {
        let fixed = Models::new(&["a".into()], None);
        assert_eq!(fixed.listed(vec!["b".into()]), fixed);
        let one = Models::new(&[], Some("a"));
        assert!(one.has("a") && !one.has("b") && one.listed(vec!["b".into()]) == one);
        let live = offer(&["a", "b"]);
        assert_eq!(live.listed(vec!["b".into(), "a".into()]).names, ["a", "b"]);
        assert_eq!(live.listed(Vec::new()), live, "an empty list says nothing");
        assert_eq!(live.listed(vec!["c".into()]).names, ["c"]);
    }

    #[test]
    fn a_task_without_a_model_gets_one_of_its_trade() {
        let offer = offer(&["nomic-embed", "llama3:latest", "mistral"]);
        assert_eq!(offer.default_for(CHAT), Some("llama3:latest"));
        assert_eq!(offer.default_for(EMBEDDING), Some("nomic-embed"));
        assert_eq!(offer.default_for(TRANSCRIPTION), None);
        assert!(offer.has("llama3") && offer.has("llama3:latest") && !offer.has("gpt"));
        let named = Models::new(&["llama3".into(), "nomic-embed".into()], Some("llama3"));
        assert_eq!((named.default_for(CHAT), named.default_for(EMBEDDING)), (Some("llama3"), Some("nomic-embed")));
        assert_eq!(Models::new(&[], Some("whisper-1")).default_for(TRANSCRIPTION), Some("whisper-1"));
        assert!(Models::default().has("anything") && Models::default().default_for(CHAT).is_none());
    }

    #[test]
    fn lists_of_models_are_read_in_every_form_and_never_believed_whole() {
        let openai = br#"{"object":"list","data":[{"id":"a","owned_by":"x"},{"id":"b"},{"id":"a"},{"x":1},7]}"#;
        assert_eq!(names(openai).unwrap(), ["a", "b"]);
        let ollama = br#"{"models":[{"name":"llama3:latest","model":"llama3:latest","size":1}]}"#;
        assert_eq!(names(ollama).unwrap(), ["llama3:latest"]);
        let long = "x".repeat(300);
        let bad = serde_json::json!({ "data": [{ "id": long }, { "id": "a\nb" }, { "id": "" }, { "id": null }] });
        assert!(names(bad.to_string().as_bytes()).unwrap().is_empty());
        let many: Vec<_> = (0..1000).map(|n| serde_json::json!({ "id": format!("m-{n}") })).collect();
        assert_eq!(names(serde_json::json!({ "data": many }).to_string().as_bytes()).unwrap().len(), MOST_MODELS);
        for none in ["", "<html>", "[]", "[[]]", "{}", "{\"data\":7}", "null"] {
            assert!(names(none.as_bytes()).is_none(), "{none}");
        }
    }
}
