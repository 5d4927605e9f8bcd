//! What a node says about a finished task when it asks its directory for the credits.

use std::time::Duration;

use serde_json::Value;

use crate::crypto::digest::{hmac_hex, sha256_hex};

/// How long a request for credits is good.
pub(crate) const VALIDITY: Duration = Duration::from_secs(300);
/// Longest task id that directories take here.
const LONGEST_ID: usize = 255;

/// A finished task, ready to be signed.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) task_id: String,
    pub(crate) tokens: u64,
    /// Drawn once for every task: a directory that has taken the receipt refuses the same again, so a repetition is safe.
    pub(crate) nonce: String,
    pub(crate) response_hash: String,
    /// The node that the caller says it is.
    pub(crate) querying_node_id: Option<String>,
}

impl Receipt {
    /// The receipt of a result. None if nobody knows how many tokens it took, for then nothing can be claimed.
    pub(crate) fn new(
        task_id: String,
        told: u64,
        nonce: String,
        result: &[u8],
        querying_node_id: Option<String>,
    ) -> Option<Receipt> {
        // Sorted by key, without space: the tree's own map is sorted, its text compact.
        let result: Value = serde_json::from_slice(result).ok()?;
        let tokens = if told > 0 { told } else { result["usage"]["total_tokens"].as_u64().unwrap_or_default() };
        if tokens == 0 || task_id.len() > LONGEST_ID {
            return None;
        }
        let response_hash = sha256_hex(&[result.to_string().as_bytes()]);
        Some(Receipt { task_id, tokens, nonce, response_hash, querying_node_id })
    }

    /// Credits for the tokens: 1 for 1,000, and no more than a node that is cheaper than that has declared.
    pub(crate) fn amount(&self, multiplier: f64) -> f64 {
        // A count of tokens is far below the precision's end.
        #[allow(clippy::cast_precision_loss)]
        let amount = self.tokens as f64 / 1_000.0 * multiplier.min(1.0);
        (amount * 10_000.0).round().max(1.0) / 10_000.0
    }

    /// The directory's proof that it was this node, under the key that the two share. Two fields of parts of larger tasks
    /// are empty.
    pub(crate) fn signature(&self, key: &str) -> String {
        let Receipt { task_id, tokens, nonce, response_hash, querying_node_id } = self;
        let mut text = format!("{task_id}:{tokens}:::{nonce}:{response_hash}");
        if let Some(asking) = querying_node_id.as_deref().filter(|id| !id.is_empty()) {
            text.push(':');
            text.push_str(asking);
        }
        hmac_hex(key, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(tokens: u64, result: &str, asking: Option<&str>) -> Option<Receipt> {
        let nonce = "0123456789abcdef".repeat(2);
        Receipt::new("task-1".into(), tokens, nonce, result.as_bytes(), asking.map(Into::into))
    }

    /// Made by the published Python package, 0.7.109, with this nonce.
    #[test]
    fn a_receipt_is_signed_over_the_text_that_published_directories_verify() {
        let result = r#" {"b": [1, 2.5, null, true], "a": {"z": "y", "x": 1.0}} "#;
        let plain = receipt(1234, result, None).unwrap();
        assert_eq!(plain.response_hash, "58d053d2cdd2a2c9bb3ebee38b4d47bc747139df5c625478890c7f66d9424f80");
        let signed = "6ac69b011dae313fe0bd2451731805cf5bddc5957d1fe3d11195f5738932b61d";
        assert_eq!(plain.signature("shared-key"), signed);
        assert_eq!(receipt(1234, result, Some("")).unwrap().signature("shared-key"), signed);
        let asked = receipt(1234, result, Some("asker-1")).unwrap();
        let signed = "c58bd5cf26b90ce4c250472271e70b64a63f0af6fe4463ac896e88d9e1ab9d81";
        assert_eq!(asked.signature("shared-key"), signed);
    }

    #[test]
    fn only_known_tokens_are_claimed() {
        assert!(receipt(0, r#"{"text": "x"}"#, None).is_none());
        assert!(receipt(0, r#"{"usage": {"total_tokens": 0}}"#, None).is_none());
        assert!(receipt(0, r#"{"usage": null}"#, None).is_none());
        assert!(receipt(0, r#"[1]"#, None).is_none());
        assert_eq!(receipt(0, r#"{"usage": {"total_tokens": 9}}"#, None).unwrap().tokens, 9);
        assert_eq!(receipt(7, r#"{"usage": {"total_tokens": 9}}"#, None).unwrap().tokens, 7, "the handler knows best");
    }

    /// A directory takes up to 1.1 times what the tokens cost at the declared price, and nothing below 0.0001.
    #[test]
    fn no_amount_is_above_what_a_directory_takes() {
        for tokens in [1_u32, 2, 999, 1_000, 1_001, 123_456] {
            for multiplier in [0.0, 0.01, 0.5, 1.0, 3.0] {
                let amount = receipt(tokens.into(), "1", None).unwrap().amount(multiplier);
                let ceiling = f64::from(tokens.div_ceil(1_000)) * multiplier * 1.1 + 0.0001;
                assert!(amount >= 0.0001 && amount <= ceiling + 1e-9, "{tokens} × {multiplier}: {amount} > {ceiling}");
            }
        }
        assert!((receipt(1234, "1", None).unwrap().amount(1.0) - 1.234).abs() < 1e-9);
    }
}
