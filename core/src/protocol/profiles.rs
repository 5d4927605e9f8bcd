//! Profiles: what a directory says to a request for one.

use serde::{Deserialize, Serialize};

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
}
