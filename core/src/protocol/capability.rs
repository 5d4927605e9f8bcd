//! Effective capabilities (`urn:iicp:profile:effective-capability:v1`, pre-normative): what a provider says it can do, in
//! complete variants, and which of them meet what a request asks for.
//!
//! One variant has to meet everything: a provider that sees in one variant and calls tools in another does not do both.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Code, Error, Result};
use crate::types::{Intent, check_depth, is_intent, position, unix_seconds};

const SCHEMA_VERSION: &str = "1.0.0";

/// What a provider advertises.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Advertisement {
    schema_version: String,
    pub(crate) capabilities: Vec<Capability>,
}

/// One variant of a service, complete.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capability {
    pub(crate) intent: String,
    pub(crate) version: Option<String>,
    pub(crate) phase: Option<u64>,
    pub(crate) variant_id: Option<String>,
    #[serde(default)]
    pub(crate) models: Vec<String>,
    pub(crate) max_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) input_modalities: Vec<String>,
    #[serde(default)]
    pub(crate) output_modalities: Vec<String>,
    #[serde(default)]
    pub(crate) features: Vec<String>,
    #[serde(default)]
    pub(crate) execution_capabilities: Vec<String>,
    #[serde(default)]
    pub(crate) limits: BTreeMap<String, Limit>,
    #[serde(default)]
    pub(crate) supported_profiles: Vec<String>,
    pub(crate) claim_provenance: Option<Provenance>,
    /// Kept as they are, known or not.
    #[serde(default)]
    pub(crate) extensions: BTreeMap<String, Extension>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    pub(crate) value: f64,
    pub(crate) unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Tokens,
    Items,
    Bytes,
    Milliseconds,
    Dimensions,
}

/// On what a claim rests, and how long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provenance {
    pub(crate) source: Source,
    pub(crate) observed_at: Option<String>,
    pub(crate) valid_until: Option<String>,
    pub(crate) evidence_ref: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    HeuristicFallback,
    OperatorAssertion,
    ProviderMetadata,
    RuntimeIntrospection,
    ConformanceProbe,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extension {
    pub(crate) required: bool,
    pub(crate) value: Value,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Requirements {
    schema_version: String,
    pub(crate) intent: String,
    #[serde(default)]
    pub(crate) requires: Vec<Requirement>,
    #[serde(default)]
    pub(crate) prefers: Vec<Requirement>,
    #[serde(default)]
    pub(crate) limits: Vec<LimitRequirement>,
}

/// One capability by class and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Requirement {
    pub(crate) class: Class,
    pub(crate) id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    InputModality,
    OutputModality,
    Feature,
    ExecutionCapability,
    Profile,
    Extension,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitRequirement {
    pub(crate) id: String,
    pub(crate) operator: Operator,
    pub(crate) value: f64,
    pub(crate) unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operator {
    Gte,
    Lte,
    Eq,
}

/// Names that both sides give the same meaning, by class.
pub(crate) type Vocabulary = BTreeMap<Class, BTreeSet<String>>;

/// Why no variant will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefusalCode {
    RequiredCapabilityUnknown,
    RequiredCapabilityUnsupported,
    RequiredCapabilityStale,
    CapabilityLimitUnsatisfied,
    CapabilityPolicyDenied,
}

/// A refusal in its form on the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Refusal {
    schema_version: &'static str,
    pub(crate) code: RefusalCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requirement: Option<Requirement>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<LimitRequirement>,
}

impl Refusal {
    fn new(code: RefusalCode, requirement: Option<&Requirement>, limit: Option<&LimitRequirement>) -> Self {
        Refusal { schema_version: SCHEMA_VERSION, code, requirement: requirement.cloned(), limit: limit.cloned() }
    }
}

/// The variants that meet a request.
#[derive(Debug, PartialEq)]
pub(crate) struct Matching<'a> {
    pub(crate) variants: Vec<&'a Capability>,
    /// Whether something that was preferred is not to be had; it changes nothing else.
    pub(crate) preference_unavailable: bool,
}

impl Capability {
    fn has(&self, requirement: &Requirement) -> bool {
        let id = &requirement.id;
        match requirement.class {
            Class::InputModality => self.input_modalities.contains(id),
            Class::OutputModality => self.output_modalities.contains(id),
            Class::Feature => self.features.contains(id),
            Class::ExecutionCapability => self.execution_capabilities.contains(id),
            Class::Profile => self.supported_profiles.contains(id),
            Class::Extension => self.extensions.contains_key(id),
        }
    }

    fn is_fresh(&self, now_unix_s: i64) -> bool {
        let until = self.claim_provenance.as_ref().and_then(|claim| claim.valid_until.as_deref());
        // Times were read once already.
        until.is_none_or(|until| unix_seconds(until).is_some_and(|until| until >= now_unix_s))
    }

    fn meets(&self, wanted: &LimitRequirement) -> bool {
        self.limits.get(&wanted.id).is_some_and(|limit| {
            limit.unit == wanted.unit
                && match wanted.operator {
                    Operator::Gte => limit.value >= wanted.value,
                    Operator::Lte => limit.value <= wanted.value,
                    #[allow(clippy::float_cmp)]
                    Operator::Eq => limit.value == wanted.value,
                }
        })
    }
}

/// Finds the variants that meet everything that is required.
///
/// # Errors
/// The refusal, with what it is about.
pub(crate) fn matching<'a>(
    advertisement: &'a Advertisement,
    request: &Requirements,
    vocabulary: &Vocabulary,
    denials: &[Requirement],
    now_unix_s: i64,
) -> Result<Matching<'a>, Refusal> {
    let known = |wanted: &Requirement| vocabulary.get(&wanted.class).is_some_and(|ids| ids.contains(&wanted.id));
    for wanted in &request.requires {
        if !known(wanted) {
            return Err(Refusal::new(RefusalCode::RequiredCapabilityUnknown, Some(wanted), None));
        }
        if denials.contains(wanted) {
            return Err(Refusal::new(RefusalCode::CapabilityPolicyDenied, Some(wanted), None));
        }
    }
    let mut variants: Vec<&Capability> =
        advertisement.capabilities.iter().filter(|variant| variant.intent == request.intent).collect();
    // An extension that must be understood excludes its variant unless the request names it.
    variants.retain(|variant| {
        let understood = |id: &String| request.requires.iter().any(|r| r.class == Class::Extension && r.id == *id);
        variant.extensions.iter().all(|(id, extension)| !extension.required || understood(id))
    });
    for wanted in &request.requires {
        variants.retain(|variant| variant.has(wanted));
        if variants.is_empty() {
            return Err(Refusal::new(RefusalCode::RequiredCapabilityUnsupported, Some(wanted), None));
        }
    }
    if variants.is_empty() {
        return Err(Refusal::new(RefusalCode::RequiredCapabilityUnsupported, None, None));
    }
    variants.retain(|variant| variant.is_fresh(now_unix_s));
    if variants.is_empty() {
        return Err(Refusal::new(RefusalCode::RequiredCapabilityStale, None, None));
    }
    for wanted in &request.limits {
        variants.retain(|variant| variant.meets(wanted));
        if variants.is_empty() {
            return Err(Refusal::new(RefusalCode::CapabilityLimitUnsatisfied, None, Some(wanted)));
        }
    }
    let had = |wanted: &Requirement| known(wanted) && variants.iter().any(|variant| variant.has(wanted));
    Ok(Matching { preference_unavailable: !request.prefers.iter().all(had), variants })
}

/// Reads an advertisement and holds it to the schema.
///
/// # Errors
/// `INVALID_ARG` with what is wrong, never with what was there.
pub(crate) fn read_advertisement(json: &[u8]) -> Result<Advertisement> {
    let advertisement: Advertisement = read(json)?;
    check(advertisement.schema_version == SCHEMA_VERSION, "schema_version is not 1.0.0")?;
    check((1..=128).contains(&advertisement.capabilities.len()), "capabilities are not 1 to 128")?;
    let mut variants = BTreeSet::new();
    for capability in &advertisement.capabilities {
        check_capability(capability)?;
        check(variants.insert((&capability.intent, &capability.variant_id)), "a variant comes twice")?;
    }
    Ok(advertisement)
}

/// Reads what a request asks for and holds it to the schema.
///
/// # Errors
/// `INVALID_ARG` with what is wrong, never with what was there.
pub(crate) fn read_requirements(json: &[u8]) -> Result<Requirements> {
    let requirements: Requirements = read(json)?;
    check(requirements.schema_version == SCHEMA_VERSION, "schema_version is not 1.0.0")?;
    check(is_intent(&requirements.intent), "the intent is none")?;
    for set in [&requirements.requires, &requirements.prefers] {
        check(set.len() <= 64 && set.iter().all(|wanted| name(&wanted.id, 255)), "a requirement is out of bounds")?;
        check(set.iter().collect::<BTreeSet<_>>().len() == set.len(), "a requirement comes twice")?;
    }
    let good = |limit: &LimitRequirement| word(&limit.id) && amount(limit.value);
    check(requirements.limits.len() <= 32 && requirements.limits.iter().all(good), "a limit is out of bounds")?;
    Ok(requirements)
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    let wrong = |why: &str| Error::new(Code::InvalidArg, format!("these capabilities are not of the schema: {why}"));
    // Serde would take a list for an object.
    if json.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(wrong("no object"));
    }
    let value = serde_json::from_slice(json).map_err(|e| wrong(&position(&e)))?;
    check_depth(json).map_err(|most| wrong(&format!("nested deeper than {most}")))?;
    Ok(value)
}

fn check(good: bool, why: &str) -> Result<()> {
    if good {
        return Ok(());
    }
    Err(Error::new(Code::InvalidArg, format!("these capabilities are not of the schema: {why}")))
}

fn check_capability(capability: &Capability) -> Result<()> {
    check(is_intent(&capability.intent) && capability.intent.len() <= Intent::MAX_LEN, "the intent is none")?;
    check(capability.version.as_deref().is_none_or(|v| name(v, 32)), "version is not 1 to 32 characters")?;
    check(capability.variant_id.as_deref().is_none_or(|v| name(v, 64)), "variant_id is not 1 to 64 characters")?;
    check(capability.phase != Some(0) && capability.max_tokens != Some(0), "phase or max_tokens is 0")?;
    for set in [
        &capability.models,
        &capability.input_modalities,
        &capability.output_modalities,
        &capability.features,
        &capability.execution_capabilities,
        &capability.supported_profiles,
    ] {
        check(set.len() <= 64 && set.iter().all(|id| name(id, 255)), "a list is out of bounds")?;
        check(set.iter().collect::<BTreeSet<_>>().len() == set.len(), "a name comes twice in a list")?;
    }
    let good = |(id, limit): (&String, &Limit)| word(id) && amount(limit.value);
    check(capability.limits.len() <= 32 && capability.limits.iter().all(good), "a limit is out of bounds")?;
    let good = |id: &String| (3..=128).contains(&id.chars().count());
    check(
        capability.extensions.len() <= 32 && capability.extensions.keys().all(good),
        "an extension is out of bounds",
    )?;
    let Some(claim) = &capability.claim_provenance else { return Ok(()) };
    check(claim.evidence_ref.as_deref().is_none_or(|text| name(text, 255)), "evidence_ref is not 1 to 255 characters")?;
    let times = [&claim.observed_at, &claim.valid_until];
    check(times.into_iter().flatten().all(|time| unix_seconds(time).is_some()), "a time is not in RFC 3339")
}

fn name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count())
}

fn amount(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// A name of a limit: a letter, then letters, digits and underscores, all lower case.
fn word(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && text.len() <= 64
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OTHER: &str = "urn:iicp:intent:x.a:b:v1";

    fn advertise(capabilities: Value) -> Result<Advertisement> {
        read_advertisement(json!({"schema_version": "1.0.0", "capabilities": capabilities}).to_string().as_bytes())
    }

    fn ask(more: Value) -> Result<Requirements> {
        let mut request = json!({"schema_version": "1.0.0", "intent": OTHER});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read_requirements(request.to_string().as_bytes())
    }

    #[test]
    fn what_breaks_the_schema_is_no_advertisement() {
        assert!(advertise(json!([{"intent": OTHER}])).is_ok());
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        for bad in [
            json!([]),
            json!({}),
            json!([[OTHER]]),
            json!([{"intent": "chat"}]),
            json!([{"intent": OTHER}, {"intent": OTHER}]),
            json!([{"intent": OTHER, "phase": 0}]),
            json!([{"intent": OTHER, "max_tokens": -1}]),
            json!([{"intent": OTHER, "variant_id": ""}]),
            json!([{"intent": OTHER, "models": ["a", "a"]}]),
            json!([{"intent": OTHER, "models": many}]),
            json!([{"intent": OTHER, "limits": {"Big": {"value": 1, "unit": "tokens"}}}]),
            json!([{"intent": OTHER, "limits": {"big": {"value": 1, "unit": "apples"}}}]),
            json!([{"intent": OTHER, "extensions": {"ab": {"required": false, "value": 1}}}]),
            json!([{"intent": OTHER, "extensions": {"abc": {"required": false}}}]),
            json!([{"intent": OTHER, "claim_provenance": {"source": "rumour"}}]),
            json!([{"intent": OTHER, "claim_provenance": {"source": "conformance_probe", "valid_until": "soon"}}]),
        ] {
            assert_eq!(advertise(bad.clone()).unwrap_err().code(), Code::InvalidArg, "{bad}");
        }
        for bad in [&b""[..], b"[]", b"null", br#"["1.0.0",[]]"#, br#"{"schema_version":"2.0.0","capabilities":[]}"#] {
            assert!(read_advertisement(bad).is_err());
        }
        for bad in [
            json!({"requires": [{"class": "colour", "id": "red"}]}),
            json!({"requires": [{"class": "feature", "id": "a"}, {"class": "feature", "id": "a"}]}),
            json!({"limits": [{"id": "a", "operator": "gt", "value": 1, "unit": "items"}]}),
            json!({"limits": [{"id": "a", "operator": "eq", "value": -1, "unit": "items"}]}),
            json!({"intent": "chat"}),
        ] {
            assert!(ask(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_extension_that_must_be_understood_excludes_who_does_not_name_it() {
        let advertisement =
            advertise(json!([{"intent": OTHER, "extensions": {"org.x": {"required": true, "value": null}}}])).unwrap();
        let vocabulary = Vocabulary::from([(Class::Extension, BTreeSet::from(["org.x".to_owned()]))]);
        let run =
            |request: &Requirements| matching(&advertisement, request, &vocabulary, &[], 0).map(|m| m.variants.len());
        assert_eq!(run(&ask(json!({})).unwrap()).unwrap_err().code, RefusalCode::RequiredCapabilityUnsupported);
        assert_eq!(run(&ask(json!({"requires": [{"class": "extension", "id": "org.x"}]})).unwrap()), Ok(1));
    }

    #[test]
    fn limits_count_in_their_unit_only() {
        let advertisement =
            advertise(json!([{"intent": OTHER, "limits": {"size": {"value": 10, "unit": "items"}}}])).unwrap();
        for (operator, value, unit, good) in [
            ("gte", 10, "items", true),
            ("lte", 10, "items", true),
            ("eq", 10, "items", true),
            ("eq", 9, "items", false),
            ("lte", 9, "items", false),
            ("gte", 1, "bytes", false),
        ] {
            let limit = json!({"id": "size", "operator": operator, "value": value, "unit": unit});
            let request = ask(json!({"limits": [limit]})).unwrap();
            let found = matching(&advertisement, &request, &Vocabulary::new(), &[], 0);
            assert_eq!(found.is_ok(), good, "{operator} {value} {unit}");
        }
    }
}
