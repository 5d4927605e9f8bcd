//! Do results of several nodes agree, and on which of them may the client stop waiting?
//!
//! Texts of models agree when they begin alike, embeddings when they point the same way, anything else when it is the
//! same JSON. Of each result only what is compared is kept.

use serde::Deserialize;
use serde_json::Value;

use crate::crypto::digest::sha256_hex;
use crate::types::{CHAT, COMPLETION, EMBEDDING, TRANSCRIPTION};

/// How much of two texts is compared, in characters.
const COMPARED_CHARS: usize = 512;
/// How alike two vectors must be.
const LEAST_COSINE: f64 = 0.95;

/// What of a result is compared.
#[derive(Clone, Debug)]
enum Essence {
    Text(String),
    Vectors(Vec<Vec<f64>>),
    /// Digest of the JSON, whatever the order of its names and the spelling of its numbers.
    Json(String),
}

impl Essence {
    fn of(intent: &str, result: &[u8]) -> Option<Essence> {
        if intent == EMBEDDING
            && let Some(vectors) = vectors(result)
        {
            return Some(Essence::Vectors(vectors));
        }
        let result: Value = serde_json::from_slice(result).ok()?;
        let text = if matches!(intent, CHAT | COMPLETION | TRANSCRIPTION) { text(&result) } else { None };
        Some(match text {
            Some(text) => Essence::Text(text.trim().chars().take(COMPARED_CHARS).collect()),
            None => {
                // A result may be long; its digest is not.
                let mut canonical = Vec::new();
                write_canonical(&mut canonical, &result);
                Essence::Json(sha256_hex(&[&canonical]))
            }
        })
    }

    fn agrees(&self, other: &Essence) -> bool {
        match (self, other) {
            (Essence::Text(left), Essence::Text(right)) | (Essence::Json(left), Essence::Json(right)) => left == right,
            (Essence::Vectors(left), Essence::Vectors(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_way(left, right))
            }
            _ => false,
        }
    }
}

/// The text of a chat, a completion or a transcription. A call of tools is more than its text.
fn text(result: &Value) -> Option<&str> {
    let Some(choice) = result.pointer("/choices/0") else {
        return result.as_str().or_else(|| result.get("text")?.as_str());
    };
    match choice.get("message") {
        Some(message) if message.get("tool_calls").is_some_and(|calls| !calls.is_null()) => None,
        Some(message) => message.get("content")?.as_str(),
        None => choice.get("text")?.as_str(),
    }
}

fn vectors(result: &[u8]) -> Option<Vec<Vec<f64>>> {
    #[derive(Deserialize)]
    struct Item {
        embedding: Vec<f64>,
    }
    #[derive(Deserialize)]
    struct List {
        data: Vec<Item>,
    }
    let list: List = serde_json::from_slice(result).ok()?;
    Some(list.data.into_iter().map(|item| item.embedding).collect())
}

fn same_way(left: &[f64], right: &[f64]) -> bool {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let lengths = product(left, left).sqrt() * product(right, right).sqrt();
    left.len() == right.len()
        // What overflows is no number and no agreement.
        && ((lengths == 0.0 && left == right) || product(left, right) / lengths >= LEAST_COSINE)
}

/// JSON in one spelling: names sorted (as the reader keeps them), numbers by their value.
fn write_canonical(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Array(list) => {
            out.push(b'[');
            for value in list {
                write_canonical(out, value);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Object(object) => {
            out.push(b'{');
            for (name, value) in object {
                let _ = serde_json::to_writer(&mut *out, name);
                write_canonical(out, value);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Number(number) => {
            // An integer is exact as it is; a float that is whole is written as the integer that it is.
            let whole = number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0 && n.abs() < 1.0e19);
            #[allow(clippy::cast_possible_truncation)]
            let text = whole.map_or_else(|| number.to_string(), |n| (n as i128).to_string());
            out.extend_from_slice(text.as_bytes());
        }
        other => {
            let _ = serde_json::to_writer(out, other);
        }
    }
}

/// What is known after some of the results are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait for more.
    Pending,
    /// Enough agree; this is the first of them.
    Agreed(usize),
    /// No more can come that would be enough.
    Impossible,
}

/// Counts the results of one task that several nodes run.
#[derive(Debug)]
pub(crate) struct Tally {
    intent: String,
    /// Nodes of which nothing was heard yet.
    awaited: usize,
    quorum: usize,
    results: Vec<(usize, Essence)>,
}

impl Tally {
    /// For a task that `nodes` run, of which `quorum` must agree.
    pub(crate) fn new(intent: &str, nodes: usize, quorum: usize) -> Self {
        Tally { intent: intent.to_owned(), awaited: nodes, quorum: quorum.max(1), results: Vec::new() }
    }

    /// Takes the result of a node. One that is no JSON agrees with none.
    pub(crate) fn result(&mut self, node: usize, result: &[u8]) -> Verdict {
        self.awaited = self.awaited.saturating_sub(1);
        if let Some(essence) = Essence::of(&self.intent, result) {
            self.results.push((node, essence));
        }
        self.verdict()
    }

    /// Notes that a node brings no result.
    pub(crate) fn failure(&mut self) -> Verdict {
        self.awaited = self.awaited.saturating_sub(1);
        self.verdict()
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let agreeing = |(_, one): &(usize, Essence)| self.results.iter().filter(|(_, two)| one.agrees(two)).count();
        let mut most = 0;
        for result in &self.results {
            // A vector that overflows does not even agree with itself.
            let count = agreeing(result);
            if count >= self.quorum {
                return Verdict::Agreed(result.0);
            }
            most = most.max(count);
        }
        if most + self.awaited >= self.quorum { Verdict::Pending } else { Verdict::Impossible }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(intent: &str, left: &str, right: &str) -> bool {
        let essence = |text: &str| Essence::of(intent, text.as_bytes()).unwrap();
        essence(left).agrees(&essence(right))
    }

    fn chat(text: &str) -> String {
        serde_json::json!({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"n": text.len()}})
            .to_string()
    }

    #[test]
    fn chats_agree_by_their_text_alone() {
        assert!(agree(CHAT, &chat("yes"), &chat(" yes\n")));
        assert!(agree(CHAT, &chat("yes"), "\"yes\""));
        assert!(!agree(CHAT, &chat("yes"), &chat("no")));
        let long = |end: &str| chat(&format!("{}{end}", "ä".repeat(511)));
        assert!(agree(CHAT, &long("xa"), &long("xb")) && !agree(CHAT, &long("a"), &long("b")));
        let calls = |name: &str| {
            format!(r#"{{"choices":[{{"message":{{"content":"","tool_calls":[{{"name":"{name}"}}]}}}}]}}"#)
        };
        assert!(agree(CHAT, &calls("a"), &calls("a")) && !agree(CHAT, &calls("a"), &calls("b")));
        assert!(agree(COMPLETION, r#"{"choices":[{"text":"a"}],"id":1}"#, r#"{"choices":[{"text":"a "}],"id":2}"#));
        assert!(agree(TRANSCRIPTION, r#"{"text":"a","x":1}"#, r#"{"text":"a"}"#));
        assert!(!agree("urn:iicp:intent:x.a:b:v1", r#"{"text":"a","x":1}"#, r#"{"text":"a"}"#), "its text is not all");
    }

    #[test]
    fn embeddings_agree_when_every_vector_points_the_same_way() {
        let vectors = |a: f64, b: f64| format!(r#"{{"data":[{{"embedding":[1,0]}},{{"embedding":[{a},{b}]}}]}}"#);
        assert!(agree(EMBEDDING, &vectors(1.0, 0.0), &vectors(2.0, 0.6)));
        assert!(!agree(EMBEDDING, &vectors(1.0, 0.0), &vectors(2.0, 0.7)));
        assert!(!agree(EMBEDDING, &vectors(1.0, 0.0), &vectors(-1.0, 0.0)));
        assert!(agree(EMBEDDING, &vectors(0.0, 0.0), &vectors(0.0, 0.0)));
        assert!(!agree(EMBEDDING, &vectors(0.0, 0.0), &vectors(1.0, 0.0)));
        assert!(!agree(EMBEDDING, &vectors(1e300, 0.0), &vectors(1e300, 0.0)), "it overflows");
        assert!(!agree(EMBEDDING, &vectors(1.0, 0.0), r#"{"data":[{"embedding":[1,0]}]}"#));
        assert!(!agree(EMBEDDING, r#"{"data":[{"embedding":[1,0]}]}"#, r#"{"data":[{"embedding":[1]}]}"#));
        assert!(agree(EMBEDDING, r#"{"data":[{"embedding":"AAA"}]}"#, r#"{ "data":[{"embedding":"AAA"}]}"#));
    }

    #[test]
    fn anything_else_agrees_as_json() {
        let other = "urn:iicp:intent:x.a:b:v1";
        assert!(agree(other, r#"{"a":1,"b":[1.50,-0.0]}"#, r#"{ "b": [15e-1, 0], "a": 1.0 }"#));
        assert!(agree(other, "[1e16,18446744073709551615]", "[10000000000000000,18446744073709551615]"));
        for (left, right) in [
            ("1", "2"),
            ("9007199254740993", "9007199254740992"),
            ("1e300", "1e301"),
            ("[1]", "1"),
            (r#"["a","b"]"#, r#"["a,b"]"#),
            ("[[],[]]", "[[[]]]"),
            ("null", "false"),
            ("\"1\"", "1"),
        ] {
            assert!(!agree(other, left, right), "{left} {right}");
        }
    }

    #[test]
    fn a_tally_ends_as_soon_as_it_is_certain() {
        let other = "urn:iicp:intent:x.a:b:v1";
        let mut tally = Tally::new(other, 3, 2);
        assert_eq!(tally.verdict(), Verdict::Pending);
        assert_eq!(tally.result(2, b"1"), Verdict::Pending);
        assert_eq!(tally.result(0, b"2"), Verdict::Pending);
        assert_eq!(tally.result(1, b"1.0"), Verdict::Agreed(2), "the first of those that agree");
        let mut tally = Tally::new(other, 5, 3);
        for (node, result) in [(0, &b"1"[..]), (1, b"2"), (2, b"no json")] {
            assert_eq!(tally.result(node, result), Verdict::Pending);
        }
        assert_eq!(tally.failure(), Verdict::Impossible);
        assert_eq!(tally.failure(), Verdict::Impossible);
        assert_eq!(Tally::new(other, 2, 1).result(1, b"7"), Verdict::Agreed(1));
    }
}
