//! Who may be sent a task: a routing policy, and why a node does not meet it.
//!
//! What a node's manifest says is the directory's statement; the client holds it to a ticket's digest and no more.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::error::{Code, Error};
use crate::options::{IdentityLevel, PolicyProfile, RoutingPolicy};
use crate::types::NodeInfo;

/// A policy with its profile written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) require_encryption: bool,
    pub(crate) allow_remote_executor: bool,
    /// Trimmed and in lower case; empty allows every region.
    pub(crate) allowed_regions: Vec<String>,
    pub(crate) require_policy_manifest: bool,
    pub(crate) require_signed_manifest: bool,
    pub(crate) require_no_payload_retention: bool,
    pub(crate) identity_level: Option<IdentityLevel>,
}

/// Writes a policy out: the profile's rules, and what is said explicitly in their place.
pub(crate) fn resolve(policy: &RoutingPolicy) -> Resolved {
    let strict = policy.profile == PolicyProfile::StrictPolicy;
    let regions = match (&policy.allowed_regions, policy.profile) {
        (Some(regions), _) => regions.clone(),
        (None, PolicyProfile::EuRestricted) => vec!["eu".into(), "eea".into()],
        (None, _) => Vec::new(),
    };
    let known = policy.known_operator_only.unwrap_or_default().then_some(IdentityLevel::KnownOperator);
    Resolved {
        require_encryption: policy.require_encryption.unwrap_or(policy.profile != PolicyProfile::DebugOverride),
        allow_remote_executor: policy.allow_remote_executor.unwrap_or(policy.profile != PolicyProfile::Sensitive),
        allowed_regions: regions.iter().map(|region| plain(region)).filter(|region| !region.is_empty()).collect(),
        require_policy_manifest: policy.require_policy_manifest.unwrap_or(strict),
        require_signed_manifest: strict,
        require_no_payload_retention: policy.require_no_payload_retention.unwrap_or(strict),
        identity_level: policy.required_manifest_identity_level.max(known),
    }
}

fn plain(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Why a node may not be sent a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    RemoteExecutorDisabled,
    RegionNotAllowed,
    MissingEncryptionKey,
    MissingPolicyManifest,
    PolicyManifestNotSigned,
    PayloadRetentionNotNone,
    MissingManifestIdentity,
    PolicyManifestRevokedOrRotated,
    ManifestIdentityLevelTooLow,
}

impl Reason {
    /// The spelling of the specification.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Reason::RemoteExecutorDisabled => "remote_executor_disabled",
            Reason::RegionNotAllowed => "region_not_allowed",
            Reason::MissingEncryptionKey => "missing_encryption_key",
            Reason::MissingPolicyManifest => "missing_policy_manifest",
            Reason::PolicyManifestNotSigned => "policy_manifest_not_signed",
            Reason::PayloadRetentionNotNone => "payload_retention_not_none",
            Reason::MissingManifestIdentity => "missing_manifest_identity",
            Reason::PolicyManifestRevokedOrRotated => "policy_manifest_revoked_or_rotated",
            Reason::ManifestIdentityLevelTooLow => "manifest_identity_level_too_low",
        }
    }
}

/// Why a node does not meet a policy, the first reason in the specification's order. `key_ready` says whether a task can
/// be sealed to it.
pub(crate) fn refusal(policy: &Resolved, node: &NodeInfo, key_ready: bool) -> Option<Reason> {
    if !policy.allow_remote_executor {
        return Some(Reason::RemoteExecutorDisabled);
    }
    if !region_allowed(&policy.allowed_regions, node.region.as_deref()) {
        return Some(Reason::RegionNotAllowed);
    }
    if policy.require_encryption && !key_ready {
        return Some(Reason::MissingEncryptionKey);
    }
    // One that says nothing is none.
    let manifest = node.node_policy_manifest.as_ref().filter(|m| m.as_object().is_some_and(|m| !m.is_empty()));
    if policy.require_policy_manifest && manifest.is_none() {
        return Some(Reason::MissingPolicyManifest);
    }
    let says = |path: &str, wanted: &str| manifest.and_then(|m| m.pointer(path)?.as_str()) == Some(wanted);
    let signed = says("/verification/status", "signed_valid") || says("/evidence", "signed_verified");
    if policy.require_signed_manifest && !signed {
        return Some(Reason::PolicyManifestNotSigned);
    }
    if policy.require_no_payload_retention && !says("/retention/task_payload", "none") {
        return Some(Reason::PayloadRetentionNotNone);
    }
    policy.identity_level.and_then(|least| identity_refusal(least, manifest))
}

fn region_allowed(allowed: &[String], region: Option<&str>) -> bool {
    let region = plain(region.unwrap_or_default());
    let inside = |item: &str| region.strip_prefix(item).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    // A bare `eu` is no member state; policies for the area list it beside.
    allowed.is_empty() || allowed.iter().any(|item| inside(item) || (item == "eea" && region.starts_with("eu-")))
}

fn identity_refusal(least: IdentityLevel, manifest: Option<&Value>) -> Option<Reason> {
    let level = manifest.and_then(|m| m.get("manifest_identity_level")?.as_str()).map(plain).unwrap_or_default();
    let level = match level.as_str() {
        "" => return Some(Reason::MissingManifestIdentity),
        "revoked" | "rotated" => return Some(Reason::PolicyManifestRevokedOrRotated),
        "self_attested" => Some(IdentityLevel::SelfAttested),
        "signed_valid" => Some(IdentityLevel::SignedValid),
        "operator_bound" => Some(IdentityLevel::OperatorBound),
        "known_operator" => Some(IdentityLevel::KnownOperator),
        _ => None,
    };
    level.is_none_or(|level| level < least).then_some(Reason::ManifestIdentityLevelTooLow)
}

/// How often each reason came, sorted by its name: `reason=count, reason=count`.
pub(crate) fn summary(reasons: &[Reason]) -> String {
    let mut counts = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.as_str()).or_insert(0_usize) += 1;
    }
    let mut text = String::new();
    for (reason, count) in counts {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{reason}={count}");
    }
    text
}

/// The error when no candidate meets the policy. If all that is missing are keys, it is about sealing.
pub(crate) fn refused(reasons: &[Reason]) -> Error {
    if !reasons.is_empty() && reasons.iter().all(|reason| *reason == Reason::MissingEncryptionKey) {
        return Error::new(
            Code::ConfidentialityRequired,
            format!(
                "confidentiality required: none of the {} nodes that serve the intent has a key to seal the task to; \
                 no prompt was sent",
                reasons.len()
            ),
        )
        .with_wire_code("IICP-CX-REQUIRED");
    }
    Error::new(
        Code::PolicyRefused,
        format!(
            "the routing policy refused every node that serves the intent, and no prompt was sent: {}; change the \
             policy or ask for other nodes",
            summary(reasons)
        ),
    )
    .with_wire_code("IICP-POLICY-ROUTING")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(region: &str, manifest: Option<Value>) -> NodeInfo {
        NodeInfo {
            node_id: "n".into(),
            endpoint: "http://127.0.0.1:1".into(),
            transport_endpoint: None,
            score: 0.0,
            available: true,
            region: Some(region.into()),
            models: Vec::new(),
            load: None,
            reputation_score: None,
            cx_public_key: None,
            health_label: None,
            directory_observed_reachable: None,
            browser_usable: None,
            node_policy_manifest: manifest,
            is_followed: false,
        }
    }

    fn profile(profile: PolicyProfile) -> RoutingPolicy {
        RoutingPolicy { profile, ..RoutingPolicy::default() }
    }

    #[test]
    fn profiles_say_what_the_specification_says_and_explicit_rules_win() {
        let standard = resolve(&profile(PolicyProfile::Standard));
        assert!(standard.require_encryption && standard.allow_remote_executor && !standard.require_policy_manifest);
        assert!(!resolve(&profile(PolicyProfile::Sensitive)).allow_remote_executor);
        assert_eq!(resolve(&profile(PolicyProfile::EuRestricted)).allowed_regions, ["eu", "eea"]);
        assert!(!resolve(&profile(PolicyProfile::DebugOverride)).require_encryption);
        let strict = resolve(&profile(PolicyProfile::StrictPolicy));
        assert!(strict.require_policy_manifest && strict.require_signed_manifest);
        assert!(strict.require_no_payload_retention);
        let looser = RoutingPolicy {
            require_encryption: Some(true),
            allowed_regions: Some(vec![" US ".into(), " ".into()]),
            known_operator_only: Some(true),
            required_manifest_identity_level: Some(IdentityLevel::SignedValid),
            ..profile(PolicyProfile::DebugOverride)
        };
        let looser = resolve(&looser);
        assert!(looser.require_encryption);
        assert_eq!(looser.allowed_regions, ["us"]);
        assert_eq!(looser.identity_level, Some(IdentityLevel::KnownOperator), "the higher of the two");
        let everywhere = RoutingPolicy { allowed_regions: Some(vec![]), ..profile(PolicyProfile::EuRestricted) };
        assert_eq!(refusal(&resolve(&everywhere), &node("us", None), true), None);
    }

    #[test]
    fn the_first_reason_in_order_is_the_reason() {
        let mut policy = resolve(&RoutingPolicy {
            allow_remote_executor: Some(false),
            allowed_regions: Some(vec!["eu".into()]),
            known_operator_only: Some(true),
            ..profile(PolicyProfile::StrictPolicy)
        });
        let first = |policy: &Resolved, region, key, manifest| refusal(policy, &node(region, manifest), key);
        let reason = |policy: &Resolved| first(policy, "us", false, None).unwrap();
        assert_eq!(reason(&policy), Reason::RemoteExecutorDisabled);
        policy.allow_remote_executor = true;
        assert_eq!(reason(&policy), Reason::RegionNotAllowed);
        assert_eq!(first(&policy, "eu", false, None), Some(Reason::MissingEncryptionKey));
        assert_eq!(first(&policy, "eu", true, None), Some(Reason::MissingPolicyManifest));
        assert_eq!(first(&policy, "eu", true, Some(json!({}))), Some(Reason::MissingPolicyManifest));
        let mut manifest = json!({"verification": {"status": "self_signed"}});
        assert_eq!(first(&policy, "eu", true, Some(manifest.clone())), Some(Reason::PolicyManifestNotSigned));
        manifest["evidence"] = "signed_verified".into();
        assert_eq!(first(&policy, "eu", true, Some(manifest.clone())), Some(Reason::PayloadRetentionNotNone));
        manifest["retention"] = json!({"task_payload": "none"});
        for (level, reason) in [
            (json!(null), Some(Reason::MissingManifestIdentity)),
            (json!(3), Some(Reason::MissingManifestIdentity)),
            (json!("Rotated"), Some(Reason::PolicyManifestRevokedOrRotated)),
            (json!("revoked"), Some(Reason::PolicyManifestRevokedOrRotated)),
            (json!("made up"), Some(Reason::ManifestIdentityLevelTooLow)),
            (json!("operator_bound"), Some(Reason::ManifestIdentityLevelTooLow)),
            (json!(" known_operator "), None),
        ] {
            manifest["manifest_identity_level"] = level.clone();
            assert_eq!(first(&policy, "eu", true, Some(manifest.clone())), reason, "{level}");
        }
    }

    #[test]
    fn regions_match_whole_words_only() {
        let allowed = |items: &[&str], region: &str| {
            region_allowed(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>(), Some(region))
        };
        assert!(allowed(&["eu"], "EU-central ") && allowed(&["eu"], "eu") && allowed(&[], "anywhere"));
        assert!(!allowed(&["eu"], "europe") && !allowed(&["eu"], "") && !allowed(&["eu-west"], "eu"));
        assert!(allowed(&["eea"], "eu-north") && !allowed(&["eea"], "eu") && allowed(&["eea"], "eea-no"));
        assert!(!region_allowed(&["eu".into()], None));
    }

    #[test]
    fn the_summary_counts_and_the_error_says_that_nothing_was_sent() {
        let reasons = [Reason::RegionNotAllowed, Reason::MissingEncryptionKey, Reason::RegionNotAllowed];
        assert_eq!(summary(&reasons), "missing_encryption_key=1, region_not_allowed=2");
        let error = refused(&reasons);
        assert_eq!((error.code(), error.wire_code()), (Code::PolicyRefused, Some("IICP-POLICY-ROUTING")));
        assert!(error.message().contains("no prompt was sent"));
        let keyless = refused(&[Reason::MissingEncryptionKey; 2]);
        assert_eq!(keyless.code(), Code::ConfidentialityRequired);
        assert_eq!(keyless.wire_code(), Some("IICP-CX-REQUIRED"));
        assert!(keyless.message().contains("confidentiality required"));
    }
}
