//! Whether a request and a provider fit together by the profile `iicp.profile.compatibility.v0` (pre-normative).

use serde::Deserialize;
use serde_json::Value;

/// Old names of intents, with those in use.
const ALIASES: &[(&str, &str)] = &[("urn:iicp:intent:classify:v1", "urn:iicp:intent:llm:classify:v1")];
/// Bridges to other protocols that are defined.
const BRIDGES: &[&str] = &["a2a_skill", "mcp_tool"];

/// What a request asks of a provider under the profile.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Request {
    pub(crate) intent: String,
    pub(crate) schema_digest: Option<String>,
    /// Told for people; the digest is what is compared.
    pub(crate) schema: Option<Value>,
    pub(crate) extensions: Vec<Extension>,
    /// `deny` if a policy has refused it.
    pub(crate) policy: Option<String>,
    /// The bridge by which another protocol's call came in.
    pub(crate) mapping_kind: Option<String>,
}

/// What a provider offers under the profile.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Offer {
    pub(crate) intent: String,
    pub(crate) schema_digest: Option<String>,
    pub(crate) schema: Option<Value>,
    pub(crate) extensions: Vec<Extension>,
}

/// An extension that is asked for or offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Extension {
    pub(crate) uri: String,
    pub(crate) required: bool,
    pub(crate) experimental: bool,
    pub(crate) owner: Option<String>,
    /// An experimental extension has to be looked at again by then, and is over otherwise.
    pub(crate) review_expires_at_s: u64,
}

/// Why a provider does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ineligible {
    PolicyRefusal,
    UnsupportedBinding,
    IntentMismatch,
    SchemaDigestMismatch,
    ExperimentalExtensionExpired,
    RequiredExtensionMissing,
}

impl Ineligible {
    /// The spelling of the specification.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Ineligible::PolicyRefusal => "policy_refusal",
            Ineligible::UnsupportedBinding => "unsupported_binding",
            Ineligible::IntentMismatch => "intent_mismatch",
            Ineligible::SchemaDigestMismatch => "schema_digest_mismatch",
            Ineligible::ExperimentalExtensionExpired => "experimental_extension_expired",
            Ineligible::RequiredExtensionMissing => "required_extension_missing",
        }
    }
}

/// Whether a provider fits a request. Schemas are compared by their digests, where the request has one.
pub(crate) fn compatible(request: &Request, offer: &Offer, now_unix_s: u64) -> Result<(), Ineligible> {
    if request.policy.as_deref() == Some("deny") {
        return Err(Ineligible::PolicyRefusal);
    }
    if request.mapping_kind.as_deref().is_some_and(|kind| !BRIDGES.contains(&kind)) {
        return Err(Ineligible::UnsupportedBinding);
    }
    if current_name(&request.intent) != current_name(&offer.intent) {
        return Err(Ineligible::IntentMismatch);
    }
    if request.schema_digest.is_some() && request.schema_digest != offer.schema_digest {
        return Err(Ineligible::SchemaDigestMismatch);
    }
    for extension in request.extensions.iter().filter(|extension| extension.required) {
        if extension.experimental && extension.review_expires_at_s <= now_unix_s {
            return Err(Ineligible::ExperimentalExtensionExpired);
        }
        if !offer.extensions.iter().any(|offered| offered.uri == extension.uri) {
            return Err(Ineligible::RequiredExtensionMissing);
        }
    }
    Ok(())
}

/// The name that is in use, if this is an old one.
pub(crate) fn current_name(intent: &str) -> &str {
    ALIASES.iter().find(|(old, _)| *old == intent).map_or(intent, |(_, current)| current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_required_can_exclude() {
        let wanted = |required, experimental| Request {
            intent: "i".into(),
            extensions: vec![Extension {
                uri: "u".into(),
                required,
                experimental,
                review_expires_at_s: 100,
                ..Extension::default()
            }],
            ..Request::default()
        };
        let offer = Offer { intent: "i".into(), ..Offer::default() };
        assert_eq!(compatible(&wanted(false, true), &offer, 200), Ok(()));
        assert_eq!(compatible(&wanted(true, false), &offer, 200), Err(Ineligible::RequiredExtensionMissing));
        let full = Offer { extensions: wanted(false, false).extensions, ..offer };
        assert_eq!(compatible(&wanted(true, true), &full, 99), Ok(()));
        assert_eq!(compatible(&wanted(true, true), &full, 100), Err(Ineligible::ExperimentalExtensionExpired));
    }
}
