//! Profiles: what a directory says to a request for one, and whether a request and a provider fit together by one
//! (`iicp.profile.compatibility.v0`, pre-normative).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Versions of profiles that this library implements, each with the digest of the fixture that defines it.
const KNOWN: &[(&str, &str, &str)] = &[
    (
        "iicp.profile.compatibility.v0",
        "0.4.0-draft",
        "d039eaf52afca6866832779261db7bdd2ffd818a36bc8ba9aea1db0c9c115012",
    ),
    (
        "iicp.profile.compatibility.v0",
        "0.3.0-draft",
        "4137ecf91b4748a2b368cf4428b4604c6947f8879d77402cc7937d11d24b2aaf",
    ),
];

/// The code with which a required profile is refused.
pub(crate) const UNSUPPORTED: &str = "unsupported_pre_normative_profile";

/// What a discovery asks for. Nothing of it is a discovery without profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Asked<'a> {
    pub(crate) profile_id: Option<&'a str>,
    pub(crate) profile_version: Option<&'a str>,
    pub(crate) profile_fixture_sha256: Option<&'a str>,
    pub(crate) profile_required: bool,
}

/// What a directory answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Negotiation {
    pub(crate) requested: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) dispatch_allowed: bool,
}

/// Answers a request for a profile. Version and fixture must be exactly known ones.
pub(crate) fn negotiate(asked: Asked<'_>) -> Negotiation {
    if asked == Asked::default() {
        return Negotiation { requested: false, status: None, reason: None, dispatch_allowed: true };
    }
    let named = (asked.profile_id, asked.profile_version, asked.profile_fixture_sha256);
    let (status, reason) = match KNOWN.iter().any(|(id, version, sha)| named == (Some(id), Some(version), Some(sha))) {
        true => ("compatible", "compatible"),
        false => ("unsupported", UNSUPPORTED),
    };
    Negotiation {
        requested: true,
        status: Some(status),
        reason: Some(reason),
        dispatch_allowed: status == "compatible" || !asked.profile_required,
    }
}

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
    fn a_profile_is_known_by_id_version_and_digest_together() {
        let (id, version, sha) = KNOWN[0];
        let asked = Asked {
            profile_id: Some(id),
            profile_version: Some(version),
            profile_fixture_sha256: Some(sha),
            profile_required: true,
        };
        assert!(negotiate(asked).dispatch_allowed);
        for other in [
            Asked { profile_version: Some(KNOWN[1].1), ..asked },
            Asked { profile_fixture_sha256: None, ..asked },
            Asked { profile_required: true, ..Asked::default() },
        ] {
            let negotiation = negotiate(other);
            assert!(negotiation.requested && !negotiation.dispatch_allowed, "{other:?}");
        }
        assert!(negotiate(Asked { profile_version: None, profile_required: false, ..asked }).dispatch_allowed);
    }

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
