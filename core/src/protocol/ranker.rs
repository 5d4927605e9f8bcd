//! What an application's ranker is shown of the candidates, and what it may answer. It sees who is eligible under made-up
//! names, so it cannot call them, and no prompt; it may move one candidate to the front, and no more.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crypto::digest::sha256_hex;
use crate::error::{Code, Error, Result};
use crate::types::{NodeInfo, position};

const EVIDENCE_SCHEMA: &str = "iicp-candidate-evidence-v0";

/// The name under which a ranker knows a node.
pub(crate) fn candidate_ref(node_id: &str) -> String {
    sha256_hex(&[b"iicp:candidate:v0\n", node_id.as_bytes()])
}

/// The name under which a ranker knows a task.
pub(crate) fn request_ref(task_id: &str) -> String {
    sha256_hex(&[b"iicp:request:v0\n", task_id.as_bytes()])
}

/// What a ranker is told of one candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CandidateEvidence {
    /// Always `iicp-candidate-evidence-v0`.
    pub schema_version: &'static str,
    /// The name under which a choice names the candidate: a digest, not the node's id.
    pub candidate_ref: String,
    /// Models that the node serves.
    pub models: Vec<String>,
    /// The directory's score, 0 to 1.
    pub directory_score: f64,
    /// Share of the node's slots in use, 0 to 1; 0 if nobody says.
    pub load: f64,
    /// How well the node is, in the directory's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_label: Option<String>,
    /// Whether the directory has reached the node itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory_observed_reachable: Option<bool>,
}

impl CandidateEvidence {
    pub(crate) fn of(node: &NodeInfo) -> Self {
        CandidateEvidence {
            schema_version: EVIDENCE_SCHEMA,
            candidate_ref: candidate_ref(&node.node_id),
            models: node.models.clone(),
            directory_score: node.score,
            load: node.load.unwrap_or_default(),
            health_label: node.health_label.clone(),
            directory_observed_reachable: node.directory_observed_reachable,
        }
    }
}

/// Why a ranker chose: for its own good reasons, or to learn about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankMode {
    /// Because it is the best.
    Normal,
    /// To learn about it.
    Exploration,
}

/// A ranker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankChoice {
    /// The candidate to be asked first.
    pub candidate_ref: String,
    /// Which policy chose; it is named in the receipt. 1 to 64 ASCII letters, digits, dots, dashes or underscores.
    pub policy_id: String,
    /// Why.
    pub mode: RankMode,
}

/// The candidates as a ranker wants them, and what receipts say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranked {
    pub(crate) order: Vec<usize>,
    /// If the candidate of its choice serves the task.
    pub(crate) receipt_primary: String,
    /// If another one does.
    pub(crate) receipt_fallback: String,
}

/// The error when a ranker failed, in its own words: they come from the application and go to the application.
pub(crate) fn refused(why: &str) -> Error {
    let why: String = why.chars().take(200).collect();
    Error::new(Code::RankerRefused, format!("the application's ranker did not choose: {why}; nothing was sent"))
        .with_wire_code("IICP-CANDIDATE-RANKER-REFUSED")
}

/// Reads a ranker's answer; null is none, and keeps the order that there is.
///
/// # Errors
/// `RANKER_REFUSED`.
pub(crate) fn read_choice(answer: &[u8]) -> Result<Option<RankChoice>> {
    let unreadable = |e| refused(&format!("its answer is not {{candidate_ref, policy_id, mode}}: {}", position(&e)));
    match serde_json::from_slice(answer).map_err(unreadable)? {
        Value::Null => Ok(None),
        // Not a list, which serde would take as well.
        answer @ Value::Object(_) => serde_json::from_value(answer).map(Some).map_err(unreadable),
        _ => Err(refused("its answer is neither null nor an object")),
    }
}

/// Puts a ranker's choice before the other candidates. `order` holds places in `refs`.
///
/// # Errors
/// `RANKER_REFUSED` if it chose what is no candidate, or does not say by which policy.
pub(crate) fn apply_choice(order: &[usize], refs: &[String], choice: &RankChoice) -> Result<Ranked> {
    let policy = choice.policy_id.as_str();
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !(1..=64).contains(&policy.len()) || !policy.bytes().all(good) {
        return Err(refused("policy_id must be 1-64 ASCII letters, digits, dots, dashes or underscores"));
    }
    let chosen = order.iter().copied().find(|at| refs.get(*at) == Some(&choice.candidate_ref));
    let chosen = chosen.ok_or_else(|| refused("its choice is outside the eligible candidate set"))?;
    let mode = match choice.mode {
        RankMode::Normal => "normal",
        RankMode::Exploration => "exploration",
    };
    Ok(Ranked {
        order: std::iter::once(chosen).chain(order.iter().copied().filter(|at| *at != chosen)).collect(),
        receipt_primary: format!("external_ranker/{policy}/{mode}"),
        receipt_fallback: format!("external_ranker/{policy}/fallback"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(candidate_ref: &str, policy_id: &str) -> RankChoice {
        RankChoice { candidate_ref: candidate_ref.into(), policy_id: policy_id.into(), mode: RankMode::Normal }
    }

    #[test]
    fn a_choice_moves_one_candidate_and_loses_none() {
        let refs = ["a", "b", "c"].map(str::to_owned);
        let ranked = apply_choice(&[2, 0, 1], &refs, &choice("b", "p")).unwrap();
        assert_eq!(ranked.order, [1, 2, 0]);
        assert_eq!(apply_choice(&[2, 0, 1], &refs, &choice("c", "p")).unwrap().order, [2, 0, 1]);
        assert!(apply_choice(&[0], &refs, &choice("b", "p")).is_err(), "known, but not eligible");
        assert!(apply_choice(&[7], &refs, &choice("b", "p")).is_err());
        for policy in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert_eq!(apply_choice(&[0], &refs, &choice("a", policy)).unwrap_err().code(), Code::RankerRefused);
        }
        assert!(apply_choice(&[0], &refs, &choice("a", &"x".repeat(64))).is_ok());
    }

    #[test]
    fn an_answer_is_null_or_exactly_a_choice() {
        assert_eq!(read_choice(b" null ").unwrap(), None);
        let read = read_choice(br#"{"candidate_ref":"a","policy_id":"p","mode":"normal"}"#).unwrap();
        assert_eq!(read, Some(choice("a", "p")));
        for bad in [
            &b""[..],
            b"{}",
            b"[]",
            br#"["a","p","normal"]"#,
            b"7",
            br#"{"candidate_ref":"a","policy_id":"p"}"#,
            br#"{"candidate_ref":"a","policy_id":"p","mode":"secret-mode"}"#,
            br#"{"candidate_ref":"a","policy_id":"p","mode":"normal","weight":1}"#,
        ] {
            let error = read_choice(bad).unwrap_err();
            assert_eq!(error.wire_code(), Some("IICP-CANDIDATE-RANKER-REFUSED"));
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
