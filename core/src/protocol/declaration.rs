//! A node's price as it is declared to a directory, signed with the key that the two share.

use serde_json::Number;

use crate::crypto::digest::hmac_hex;
use crate::options::NodePricing;
use crate::wire::directory::Pricing;

/// The declaration; without a key it is not signed, and the directory takes it for a mere claim.
pub(crate) fn declare<'a>(pricing: &'a NodePricing, key: Option<&str>) -> Pricing<'a> {
    let multiplier = plain(pricing.credit_cost_multiplier);
    let model = pricing.pricing_model.as_str();
    // Keys sorted, no space, whole numbers without a fraction: what a directory writes when it verifies.
    let signed = format!(r#"{{"credit_cost_multiplier":{multiplier},"pricing_model":"{model}"}}"#);
    Pricing {
        declaration_signature: key.map(|key| hmac_hex(key, &signed)),
        credit_cost_multiplier: multiplier,
        pricing_model: model,
        effective_from: pricing.effective_from.as_deref(),
        effective_until: pricing.effective_until.as_deref(),
    }
}

/// A number of the options, which is 0 to 1,000, as the published peers write it.
fn plain(number: f64) -> Number {
    if number.fract() == 0.0 {
        // The range was checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        return Number::from(number as u32);
    }
    Number::from_f64(number).unwrap_or_else(|| Number::from(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(multiplier: f64) -> String {
        let pricing = NodePricing { credit_cost_multiplier: multiplier, ..NodePricing::default() };
        declare(&pricing, Some("operator-key")).declaration_signature.unwrap()
    }

    /// Made by the published Python package, 0.7.109.
    #[test]
    fn a_declaration_is_signed_over_its_canonical_text() {
        assert_eq!([1.0, 1.5, 0.0, 0.125].map(signature), VECTORS);
    }

    const VECTORS: [&str; 4] = [
        "d91d8385f44841253095103977129e019b4ef8c5a66d8e2458e7227cae5e63b5",
        "3db8590e1acf6c4249e4618bae1a8f542b8e035f80ce60d6d7e554929f8aa781",
        "d787f9bdba756eab752fb3cd81779d600d667b03ce8bc83828ca9d0b9473856a",
        "b66ac05fdc240b2928ad79dc3c9af65c3c616e8d2256c51f557012f4b52fe2fd",
    ];

    #[test]
    fn without_a_key_nothing_is_signed() {
        assert_eq!(declare(&NodePricing::default(), None).declaration_signature, None);
    }
}
