//! Statements that a node's operator signed elsewhere: passed on as they are, because a signature covers their text, but
//! held against the directories' bounds first.

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};

/// Most bytes of one statement.
const MOST_BYTES: usize = 16 << 10;

/// Checks a policy manifest.
pub(super) fn check_policy_manifest(manifest: &Map<String, Value>) -> Result<()> {
    let manifest = Statement { name: "policy_manifest", path: String::new(), fields: manifest };
    manifest.check_size()?;
    for (field, most) in [("version", 32), ("jurisdiction", 64), ("policy_url", 256), ("contact_url", 256)] {
        manifest.text(field, most)?;
    }
    manifest.text("signed_statement", 1024)?;
    manifest.flag("remote_executor_can_read_prompt")?;
    manifest.word("training_use", &["none", "opt_in", "provider_defined"])?;
    manifest.list("subprocessors", 20)?;
    manifest.list("unsupported_intents", 100)?;
    if let Some(retention) = manifest.nested("retention")? {
        retention.word("task_payload", &["none", "transient", "provider_defined"])?;
        retention.number("logs_days", 3_650)?;
    }
    if let Some(signature) = manifest.nested("signature")? {
        signature.word("algorithm", &["Ed25519"])?;
        for field in ["key_id", "public_key", "signature"] {
            signature.text(field, 512)?;
            signature.require(field)?;
        }
    }
    Ok(())
}

/// Checks an operator's delegation to a node.
pub(super) fn check_operator_delegation(delegation: &Map<String, Value>, node_id: Option<&str>) -> Result<()> {
    let delegation = Statement { name: "operator_delegation", path: String::new(), fields: delegation };
    delegation.check_size()?;
    for (field, most) in [("node_id", 36), ("operator_pub", 64), ("sig", 128)] {
        delegation.text(field, most)?;
        delegation.require(field)?;
    }
    delegation.number("not_after", u64::MAX)?;
    delegation.require("not_after")?;
    match (node_id, delegation.fields["node_id"].as_str()) {
        (Some(own), Some(other)) if own != other => Err(delegation.fault("node_id", "is not the id of this node")),
        _ => Ok(()),
    }
}

struct Statement<'a> {
    name: &'static str,
    path: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Statement<'a> {
    fn fault(&self, field: &str, what: &str) -> Error {
        Error::of_options(Code::ConfigInvalid, format!("option `{}`: {}{field} of a node {what}", self.name, self.path))
    }

    fn check_size(&self) -> Result<()> {
        let size = serde_json::to_vec(self.fields).map_or(usize::MAX, |text| text.len());
        if size <= MOST_BYTES {
            return Ok(());
        }
        let message = format!("option `{}` of a node has {size} bytes; it must have at most {MOST_BYTES}", self.name);
        Err(Error::of_options(Code::ConfigInvalid, message))
    }

    /// A field that is there; null counts as absent.
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn require(&self, field: &str) -> Result<()> {
        self.get(field).map(|_| ()).ok_or_else(|| self.fault(field, "is missing"))
    }

    fn text(&self, field: &str, most: usize) -> Result<()> {
        match self.get(field).map(Value::as_str) {
            None => Ok(()),
            Some(Some(text)) if !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control) => Ok(()),
            Some(_) => Err(self.fault(field, &format!("must be text of 1 to {most} bytes without control characters"))),
        }
    }

    fn word(&self, field: &str, words: &[&str]) -> Result<()> {
        match self.get(field).map(Value::as_str) {
            None => Ok(()),
            Some(Some(text)) if words.contains(&text) => Ok(()),
            Some(_) => Err(self.fault(field, &format!("must be {}", words.join(" or ")))),
        }
    }

    fn flag(&self, field: &str) -> Result<()> {
        match self.get(field) {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(_) => Err(self.fault(field, "must be true or false")),
        }
    }

    fn number(&self, field: &str, most: u64) -> Result<()> {
        match self.get(field).map(Value::as_u64) {
            None => Ok(()),
            Some(Some(number)) if number <= most => Ok(()),
            Some(_) => Err(self.fault(field, &format!("must be a whole number from 0 to {most}"))),
        }
    }

    fn list(&self, field: &str, most: usize) -> Result<()> {
        match self.get(field).map(Value::as_array) {
            None => Ok(()),
            Some(Some(list)) if list.len() <= most => Ok(()),
            Some(_) => Err(self.fault(field, &format!("must be a list of at most {most}"))),
        }
    }

    fn nested(&self, field: &str) -> Result<Option<Statement<'a>>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Statement { name: self.name, path: format!("{field}."), fields })),
            Some(_) => Err(self.fault(field, "must be an object")),
        }
    }
}
