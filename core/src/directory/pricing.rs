//! What a node asks for its work, and by whom that is vouched for.

use http::StatusCode;
use serde::Serialize;

use super::answer::Refusal;
use super::form::Form;
use crate::crypto::digest::{hmac_hex, same};

const PRICING_MODELS: &[&str] = &["per_token", "per_request", "flat"];

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Pricing {
    pub(super) credit_cost_multiplier: f64,
    pub(super) pricing_model: &'static str,
    /// Whether the node has signed it with its key.
    pub(super) attested: bool,
}

impl Default for Pricing {
    fn default() -> Self {
        Pricing { credit_cost_multiplier: 1.0, pricing_model: PRICING_MODELS[0], attested: false }
    }
}

/// The known way of pricing with this name.
pub(super) fn pricing_model(name: &str) -> Option<&'static str> {
    PRICING_MODELS.iter().find(|known| **known == name).copied()
}

/// A price as a node declares it, with the signature that it may have.
pub(super) struct Declaration {
    pricing: Pricing,
    signature: Option<String>,
}

impl Declaration {
    /// Reads a price; none if the node says nothing about it.
    pub(super) fn read(form: &mut Form<'_>) -> Option<Declaration> {
        let mut pricing = form.nested("pricing")?;
        let declaration = Declaration {
            pricing: Pricing {
                credit_cost_multiplier: pricing.number("credit_cost_multiplier", 0.0..=1000.0).unwrap_or(1.0),
                pricing_model: pricing.choice("pricing_model", PRICING_MODELS).unwrap_or(PRICING_MODELS[0]),
                attested: false,
            },
            signature: pricing.text("declaration_signature", 128),
        };
        form.absorb(pricing);
        Some(declaration)
    }

    /// The price, attested if it is signed with the node's key, and not above `most`.
    ///
    /// # Errors
    /// A refusal if it is signed with anything else.
    pub(super) fn judge(self, hmac_key: &str, most: Option<f64>) -> Result<Pricing, Refusal> {
        let attested = self.is_attested(hmac_key)?;
        let declared = self.pricing.credit_cost_multiplier;
        let credit_cost_multiplier = most.map_or(declared, |most| declared.min(most));
        Ok(Pricing { credit_cost_multiplier, attested, ..self.pricing })
    }

    fn is_attested(&self, hmac_key: &str) -> Result<bool, Refusal> {
        let Some(signature) = &self.signature else { return Ok(false) };
        let Pricing { credit_cost_multiplier, pricing_model, .. } = self.pricing;
        // Whole numbers are signed without a fraction, as most languages write them; `{}` does so.
        let signed =
            format!(r#"{{"credit_cost_multiplier":{credit_cost_multiplier},"pricing_model":"{pricing_model}"}}"#);
        if !same(hmac_hex(hmac_key, &signed).as_bytes(), signature.as_bytes()) {
            return Err(Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "IICP-E010",
                "pricing.declaration_signature is not made with the node's node_hmac_key; sign again, or leave it out",
            ));
        }
        Ok(true)
    }
}
