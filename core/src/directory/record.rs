//! What a node says of itself when it registers, checked and cut to what the directory uses.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::answer::Refusal;
use super::form::Form;
use super::manifest::Manifest;
use super::operator::Operator;
use super::pricing::Declaration;
use crate::crypto::pinned::Pin;
use crate::options::is_node_id;
use crate::protocol::risk;
use crate::types::is_intent;

/// Most bytes of a registration, as it is sent and as it is kept.
pub(super) const MOST_BYTES: usize = 64 << 10;
/// Most capabilities of a node, and most models of each.
const MOST_LISTED: usize = 64;
/// What a text costs beside its bytes.
const TEXT_BYTES: usize = 48;
/// Most bytes of what a node says about its ways to be reached.
const MOST_METADATA_BYTES: usize = 8 << 10;

const TRANSPORT_METHODS: &[&str] =
    &["direct", "upnp_mapped", "stun_hole_punch", "turn_relay", "external_tunnel", "webrtc_datachannel", "unknown"];
const NAT_TYPES: &[&str] = &["full_cone", "restricted_cone", "port_restricted", "symmetric", "unknown"];
const EXPOSURE_MODES: &[&str] = &[
    "outbound_only",
    "ipv4_public_direct",
    "ipv4_cgnat_blocked",
    "ipv6_direct_firewall_required",
    "ipv6_direct_pinhole_available",
    "relay_required",
    "tunnel_required",
    "dual_stack_available",
];
const BACKENDS: &[&str] = &["ollama", "lmstudio", "vllm", "llamacpp", "meshllm", "anthropic", "custom"];
const MODALITIES: &[&str] = &["text", "image", "audio", "video"];

/// A request to register. No `Debug`: it holds secrets.
pub(super) struct Registration {
    /// The id that the node wants; without one the directory gives it one.
    pub(super) node_id: Option<String>,
    /// The token of the last registration, as proof of ownership.
    pub(super) proof: Option<String>,
    /// A key that the operator chose for heartbeat challenges.
    pub(super) hmac_key: Option<String>,
    /// What it costs, if it says so.
    pub(super) declaration: Option<Declaration>,
    pub(super) record: Record,
}

/// What is kept of a registration. Its JSON is one that [`Record::read`] reads.
#[derive(Serialize)]
pub(super) struct Record {
    pub(super) endpoint: String,
    pub(super) region: String,
    pub(super) capabilities: Vec<Capability>,
    #[serde(rename = "limits", serialize_with = "as_limits")]
    pub(super) max_concurrent: u32,
    pub(super) transport_endpoint: Option<String>,
    pub(super) transport_method: Option<&'static str>,
    pub(super) nat_type: Option<&'static str>,
    pub(super) exposure_mode: Option<&'static str>,
    pub(super) backend: Option<&'static str>,
    pub(super) relay_capable: bool,
    /// Where workers bind themselves to it, if it relays.
    pub(super) relay_accept_port: Option<u32>,
    /// Candidates and relays among it; the directory reads no more of it than [`Record::relay_pin`].
    pub(super) transport_metadata: Option<Box<RawValue>>,
    pub(super) policy: Policy,
    #[serde(rename = "availability")]
    pub(super) windows: Vec<Window>,
    /// As it was sent, byte for byte: clients seal to it.
    pub(super) cx_public_key: Option<Box<RawValue>>,
    #[serde(rename = "policy_manifest", serialize_with = "as_sent", skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<Manifest>,
    /// Whose node it is, once that was judged.
    #[serde(flatten)]
    pub(super) operator: Option<Operator>,
    #[serde(flatten)]
    pub(super) software: Software,
}

#[derive(Serialize)]
pub(super) struct Capability {
    pub(super) intent: String,
    pub(super) models: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<u32>,
    pub(super) input_modalities: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) supported_profiles: Vec<String>,
}

#[derive(Default, Serialize)]
pub(super) struct Policy {
    pub(super) allow_remote_inference: bool,
    pub(super) allow_tool_execution: bool,
    pub(super) allow_file_access: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pricing_credits_per_1000: Option<f64>,
}

/// Minutes of the day (UTC) in which the node gives a share of itself.
#[derive(Serialize)]
pub(super) struct Window {
    #[serde(rename = "start", serialize_with = "as_time")]
    pub(super) from: u32,
    #[serde(rename = "end", serialize_with = "as_time")]
    pub(super) to: u32,
    pub(super) share: f64,
}

#[derive(Serialize)]
pub(super) struct Software {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sdk_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sdk_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) implementation_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) implementation_version: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn as_limits<S: Serializer>(max_concurrent: &u32, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map([("max_concurrent", max_concurrent)])
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn as_time<S: Serializer>(minute: &u32, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{:02}:{:02}", minute / 60, minute % 60))
}

fn as_sent<S: Serializer>(manifest: &Option<Manifest>, s: S) -> Result<S::Ok, S::Error> {
    manifest.as_ref().map(|manifest| &manifest.sent).serialize(s)
}

impl Registration {
    /// Reads a registration.
    ///
    /// # Errors
    /// A refusal that names every field at fault.
    pub(super) fn read(body: &[u8]) -> Result<Registration, Refusal> {
        let mut form = Form::json(body)?;
        let node_id = form.text("node_id", 36);
        if node_id.as_deref().is_some_and(|id| !is_node_id(id)) {
            form.fault("node_id", "must be a letter or digit, then letters, digits, '.', '_', ':' or '-'");
        }
        let proof = form.text("current_node_token", 255);
        let hmac_key = form.text("node_hmac_key", 128);
        let declaration = Declaration::read(&mut form);
        let record = Record::read(&mut form);
        if let Some(record) = &record
            && record.weight() > MOST_BYTES
        {
            form.fault("capabilities", format!("the registration takes more than {MOST_BYTES} bytes to keep"));
        }
        form.finish()?;
        // Without a fault there is a record.
        let record = record.ok_or_else(|| Refusal::unreadable("the registration cannot be read"))?;
        if let Some(why) = record.serving(None).find_map(|capability| risk::refusal(&capability.intent)) {
            return Err(Refusal::policy(why));
        }
        Ok(Registration { node_id, proof, hmac_key, declaration, record })
    }
}

impl Record {
    pub(super) fn read(form: &mut Form<'_>) -> Option<Record> {
        let endpoint = read_endpoint(form);
        let region = read_region(form);
        let capabilities = read_capabilities(form);
        let max_concurrent = read_limits(form);
        let transport_endpoint = form.text("transport_endpoint", 255);
        let scheme_good = |url: &str| url.starts_with("iicp://") || url.starts_with("iicpsec://");
        if transport_endpoint.as_deref().is_some_and(|url| !scheme_good(url)) {
            form.fault("transport_endpoint", "must begin with iicp:// or iicpsec://");
        }
        let (transport_method, nat_type) =
            (form.choice("transport_method", TRANSPORT_METHODS), form.choice("nat_type", NAT_TYPES));
        let (exposure_mode, backend) = (form.choice("exposure_mode", EXPOSURE_MODES), form.choice("backend", BACKENDS));
        let relay_capable = form.flag("relay_capable").unwrap_or_default();
        let relay_accept_port = form.count("relay_accept_port", 1..=65_535);
        let transport_metadata = read_transport_metadata(form);
        let policy = read_policy(form);
        let windows = read_windows(form);
        let cx_public_key = read_cx_key(form);
        let (manifest, operator) = (Manifest::read(form), Operator::read(form));
        let software = read_software(form);
        Some(Record {
            endpoint: endpoint?,
            region: region?,
            capabilities: capabilities?,
            max_concurrent: max_concurrent?,
            transport_endpoint,
            transport_method,
            nat_type,
            exposure_mode,
            backend,
            relay_capable,
            relay_accept_port,
            transport_metadata,
            policy,
            windows,
            cx_public_key,
            manifest,
            operator,
            software,
        })
    }

    /// What a relay says that its TLS is proven with.
    pub(super) fn relay_pin(&self) -> Option<String> {
        let told = self.transport_metadata.as_ref().filter(|_| self.relay_capable)?;
        let told: Value = serde_json::from_str(told.get()).ok()?;
        told.get("relay_tls_spki_sha256")?.as_str().filter(|pin| Pin::parse(pin).is_some()).map(str::to_owned)
    }

    /// The capabilities for an intent, or all of them.
    pub(super) fn serving<'a>(&'a self, intent: Option<&'a str>) -> impl Iterator<Item = &'a Capability> {
        self.capabilities.iter().filter(move |capability| intent.is_none_or(|intent| capability.intent == intent))
    }

    /// The dearest multiplier that its models are worth: three times what a model of the size of its largest weighs. None if
    /// no model tells its size.
    pub(super) fn most_multiplier(&self) -> Option<f64> {
        let models = self.serving(None).flat_map(|capability| &capability.models);
        let largest = models.filter_map(|model| billions(model)).max_by(f64::total_cmp)?;
        let weights = [(1.0, 0.05), (7.0, 1.0), (13.0, 2.0), (30.0, 6.5), (70.0, 32.0)];
        Some(3.0 * weights.into_iter().find(|(most, _)| largest <= *most).map_or(75.0, |(_, weight)| weight))
    }

    /// Whether the node says that it cannot be reached directly, so that asking its health would prove nothing.
    pub(super) fn is_behind_nat(&self) -> bool {
        self.nat_type.is_some_and(|nat| nat != "unknown") && self.transport_method.is_some()
    }

    /// What keeping the record costs, nearly.
    pub(super) fn weight(&self) -> usize {
        let text = |text: &String| text.len() + TEXT_BYTES;
        let optional = |value: &Option<String>| value.as_ref().map_or(0, text);
        let software = &self.software;
        let of_capability = |capability: &Capability| {
            text(&capability.intent) + capability.models.iter().map(text).sum::<usize>() + 4 * TEXT_BYTES
        };
        size_of::<Record>()
            + text(&self.endpoint)
            + text(&self.region)
            + self.capabilities.iter().map(of_capability).sum::<usize>()
            + optional(&self.transport_endpoint)
            + [&self.cx_public_key, &self.transport_metadata]
                .into_iter()
                .map(|raw| raw.as_ref().map_or(0, |raw| raw.get().len() + TEXT_BYTES))
                .sum::<usize>()
            + self.manifest.as_ref().map_or(0, |manifest| 2 * manifest.sent.get().len())
            + self.operator.as_ref().map_or(0, Operator::weight)
            + self.windows.len() * size_of::<Window>()
            + [&software.sdk_language, &software.sdk_version].into_iter().map(optional).sum::<usize>()
            + [&software.implementation_name, &software.implementation_version].into_iter().map(optional).sum::<usize>()
    }
}

/// The size that stands in the name of a model, such as `llama-3.1-8b` or `gemma:270m`, in thousand millions.
fn billions(model: &str) -> Option<f64> {
    let parts = model.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    let size = |part: &str| {
        let (number, unit) = part.split_at_checked(part.len().checked_sub(1)?)?;
        let unit = match unit {
            "b" | "B" => 1.0,
            "m" | "M" => 0.001,
            _ => return None,
        };
        let digits = number.starts_with(|c: char| c.is_ascii_digit());
        number.parse::<f64>().ok().filter(|_| digits).map(|number| number * unit)
    };
    parts.filter_map(size).max_by(f64::total_cmp)
}

fn read_endpoint(form: &mut Form<'_>) -> Option<String> {
    let endpoint = form.text("endpoint", 255);
    let endpoint = form.require("endpoint", endpoint)?;
    // A URL reader forgives white space and missing slashes; clients would be sent the text as it is.
    let is_spelt_out = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    let url = url::Url::parse(&endpoint).ok().filter(|_| is_spelt_out && !endpoint.contains(char::is_whitespace));
    let good = url.is_some_and(|url| url.has_host() && url.username().is_empty() && url.password().is_none());
    if !good {
        form.fault("endpoint", "must be an http or https URL without credentials");
    }
    Some(endpoint)
}

fn read_region(form: &mut Form<'_>) -> Option<String> {
    let region = form.text("region", 64);
    let region = form.require("region", region)?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !region.starts_with(|c: char| c.is_ascii_alphabetic()) || !region.bytes().all(word) {
        form.fault("region", "must be a letter, then letters, digits, '_' or '-'");
    }
    Some(region)
}

fn read_limits(form: &mut Form<'_>) -> Option<u32> {
    let limits = form.nested("limits");
    let mut limits = form.require("limits", limits)?;
    let max_concurrent = limits.count("max_concurrent", 1..=256);
    let max_concurrent = limits.require("max_concurrent", max_concurrent);
    // Optional in one part of the specification, required in another; kept by none.
    limits.count("tokens_per_min", 1..=u32::MAX);
    form.absorb(limits);
    max_concurrent
}

fn read_capabilities(form: &mut Form<'_>) -> Option<Vec<Capability>> {
    let list = form.list("capabilities", MOST_LISTED);
    let list = form.require("capabilities", list)?;
    if list.is_empty() {
        form.fault("capabilities", "must have at least one entry");
    }
    let mut capabilities = Vec::with_capacity(list.len());
    for mut entry in list {
        let intent = entry.text("intent", 255);
        let intent = entry.require("intent", intent);
        if intent.as_deref().is_some_and(|intent| !is_intent(intent)) {
            entry.fault("intent", "must read urn:iicp:intent:<domain>:<action>:v<N>");
        }
        let models = entry.texts("models", MOST_LISTED, 255).unwrap_or_default();
        let max_tokens = entry.count("max_tokens", 1..=u32::MAX);
        let input_modalities = read_modalities(&mut entry);
        let supported_profiles = entry.texts("supported_profiles", 16, 160).unwrap_or_default();
        if !supported_profiles.iter().all(|profile| profile.starts_with("urn:iicp:profile:")) {
            entry.fault("supported_profiles", "must each begin with urn:iicp:profile:");
        }
        form.absorb(entry);
        if let Some(intent) = intent {
            capabilities.push(Capability { intent, models, max_tokens, input_modalities, supported_profiles });
        }
    }
    Some(capabilities)
}

fn read_modalities(entry: &mut Form<'_>) -> Vec<&'static str> {
    let Some(named) = entry.texts("input_modalities", MODALITIES.len(), 64) else { return vec!["text"] };
    let known = |name: &String| MODALITIES.iter().find(|known| *known == name).copied();
    let modalities: Option<Vec<_>> = named.iter().map(known).collect();
    modalities.unwrap_or_else(|| {
        entry.fault("input_modalities", format!("must be some of {}", MODALITIES.join(", ")));
        Vec::new()
    })
}

fn read_policy(form: &mut Form<'_>) -> Policy {
    let Some(mut policy) = form.nested("policy") else { return Policy::default() };
    let read = Policy {
        allow_remote_inference: policy.flag("allow_remote_inference").unwrap_or_default(),
        allow_tool_execution: policy.flag("allow_tool_execution").unwrap_or_default(),
        allow_file_access: policy.flag("allow_file_access").unwrap_or_default(),
        pricing_credits_per_1000: policy.number("pricing_credits_per_1000", 0.0..=1000.0),
    };
    form.absorb(policy);
    read
}

/// What the node says about its ways to be reached; its candidates and its relay have a place of their own in a
/// registration, and none in what is shown.
fn read_transport_metadata(form: &mut Form<'_>) -> Option<Box<RawValue>> {
    let mut told: Map<String, Value> = match form.raw("transport_metadata") {
        Some(raw) => serde_json::from_str(raw.get()).ok().or_else(|| {
            form.fault("transport_metadata", "must be an object, not nested too deeply");
            None
        })?,
        None => Map::new(),
    };
    if let Some(raw) = form.raw("transport_candidates") {
        match serde_json::from_str(raw.get()) {
            Ok(Value::Array(candidates)) => drop(told.insert("candidates".into(), candidates.into())),
            _ => form.fault("transport_candidates", "must be a list, not nested too deeply"),
        }
    }
    if let Some(relay) = form.text("relay_endpoint", 255) {
        told.insert("relay_endpoint".into(), relay.into());
    }
    if told.is_empty() {
        return None;
    }
    let told = serde_json::value::to_raw_value(&told).ok()?;
    if told.get().len() > MOST_METADATA_BYTES {
        form.fault("transport_metadata", format!("must be at most {MOST_METADATA_BYTES} bytes, candidates included"));
    }
    Some(told)
}

fn read_windows(form: &mut Form<'_>) -> Vec<Window> {
    let mut windows = Vec::new();
    for mut entry in form.list("availability", MOST_LISTED).unwrap_or_default() {
        let mut minute = |name| {
            let text = entry.text(name, 5);
            let minute = entry.require(name, text).and_then(|text| minute_of_day(&text));
            if minute.is_none() {
                entry.fault(name, "must be a time as HH:MM");
            }
            minute.unwrap_or_default()
        };
        let (from, to) = (minute("start"), minute("end"));
        windows.push(Window { from, to, share: entry.number("share", 0.0..=1.0).unwrap_or(1.0) });
        form.absorb(entry);
    }
    windows
}

fn minute_of_day(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |part: &str, most: u32| {
        let good = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u32>().ok().filter(|number| good && *number <= most)
    };
    Some(digits(hour, 24)? * 60 + digits(minute, 59)?)
}

fn read_cx_key(form: &mut Form<'_>) -> Option<Box<RawValue>> {
    let raw = form.raw("cx_public_key")?;
    let mut key = form.nested("cx_public_key")?;
    for (name, words) in [("algorithm", &["X25519"]), ("encoding", &["base64url"])] {
        let word = key.choice(name, words);
        key.require(name, word);
    }
    for (name, most) in [("key", 128), ("key_id", 32)] {
        let text = key.text(name, most);
        key.require(name, text);
    }
    key.texts("features", 16, 64);
    form.absorb(key);
    // Clients read it back whole, with readers of limited depth.
    if serde_json::from_str::<Value>(raw.get()).is_err() {
        form.fault("cx_public_key", "is nested too deeply");
    }
    Some(raw.to_owned())
}

fn read_software(form: &mut Form<'_>) -> Software {
    let sdk_version = form.text("sdk_version", 32);
    let compatibility = form.text("sdk_compatibility_version", 32);
    if sdk_version.is_some() && compatibility.is_some() && sdk_version != compatibility {
        form.fault("sdk_compatibility_version", "must be the same as sdk_version");
    }
    Software {
        sdk_language: form.text("sdk_language", 32),
        sdk_version: sdk_version.or(compatibility),
        implementation_name: form.text("implementation_name", 64),
        implementation_version: form.text("implementation_version", 32),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A registration with the given fields on top of the required ones.
    pub(in crate::directory) fn registration(more: Value) -> Result<Registration, Refusal> {
        let mut body = json!({
            "endpoint": "http://127.0.0.1:9600", "region": "eu",
            "capabilities": [{ "intent": crate::types::CHAT, "models": ["m-1", "m-2"] }],
            "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        Registration::read(body.to_string().as_bytes())
    }

    fn faults(more: Value) -> String {
        let Err(refusal) = registration(more) else { return String::new() };
        assert_eq!((refusal.status.as_u16(), refusal.code), (422, "validation_error"));
        format!("{refusal:?}")
    }

    #[test]
    fn what_a_published_node_sends_is_taken() {
        let body = br#"{"endpoint":"http://node-py.iicp-lab.example:9601","region":"eu-lab","capabilities":[{"intent":"urn:iicp:intent:llm:chat:v1","models":["echo-model"],"max_tokens":8192,"input_modalities":["text"]}],"limits":{"max_concurrent":64,"tokens_per_min":10000},"node_id":"aaaaaaaa-0000-4000-8000-000000000001","sdk_language":"python","sdk_version":"0.7.109","sdk_latest_seen":null,"sdk_update_consecutive_failures":0,"auto_update_enabled":false,"relay_accept_port":9485,"cx_public_key":{"algorithm":"X25519","encoding":"base64url","key":"Ip52uKfpMhxv_uzHOxcXHK-q0d08BDbHBduLaQQaLl4","key_id":"cx-369f867b9c22ed40","features":["response_encryption_v1"]}}"#;
        let read = Registration::read(body).unwrap();
        assert_eq!(read.node_id.as_deref(), Some("aaaaaaaa-0000-4000-8000-000000000001"));
        assert!(read.record.cx_public_key.unwrap().get().starts_with(r#"{"algorithm":"X25519","encoding""#));
        assert_eq!(read.record.software.sdk_version.as_deref(), Some("0.7.109"));
    }

    #[test]
    fn each_missing_field_is_named() {
        let Err(refusal) = Registration::read(b"{}") else { panic!("nothing was required") };
        let text = format!("{refusal:?}");
        for name in ["endpoint", "region", "capabilities", "limits"] {
            assert!(text.contains(&format!("{name:?}: Array [String(\"is required\")]")), "{name}: {text}");
        }
    }

    #[test]
    fn each_bound_is_kept() {
        for (field, value) in [
            ("endpoint", json!("ftp://127.0.0.1")),
            ("endpoint", json!("http://127.0.0.1:1/\t")),
            ("endpoint", json!("http://u:p@127.0.0.1")),
            ("endpoint", json!(format!("http://{}", "a".repeat(255)))),
            ("region", json!("1eu")),
            ("region", json!("eu lab")),
            ("node_id", json!("-x")),
            ("node_id", json!("x".repeat(37))),
            ("node_id", json!("a/b")),
            ("capabilities", json!([])),
            ("capabilities", json!([{ "intent": "chat" }])),
            ("capabilities", json!([{ "models": [] }])),
            ("capabilities", json!([{ "intent": crate::types::CHAT, "models": vec!["m"; 65] }])),
            ("capabilities", json!([{ "intent": crate::types::CHAT, "models": ["m".repeat(256)] }])),
            ("capabilities", json!([{ "intent": crate::types::CHAT, "input_modalities": ["smell"] }])),
            ("capabilities", json!([{ "intent": crate::types::CHAT, "supported_profiles": ["mine"] }])),
            ("capabilities", json!(vec![json!({ "intent": crate::types::CHAT }); 65])),
            ("limits", json!({ "max_concurrent": 0, "tokens_per_min": 1 })),
            ("limits", json!({ "max_concurrent": 257, "tokens_per_min": 1 })),
            ("limits", json!(7)),
            ("transport_endpoint", json!("http://127.0.0.1")),
            ("transport_method", json!("pigeon")),
            ("nat_type", json!("none")),
            ("exposure_mode", json!("everywhere")),
            ("backend", json!("gpt")),
            ("relay_capable", json!("yes")),
            ("policy", json!({ "allow_file_access": 1 })),
            ("pricing", json!({ "credit_cost_multiplier": 1001 })),
            ("availability", json!([{ "start": "25:00", "end": "9:00" }])),
            ("cx_public_key", json!({ "algorithm": "RSA", "encoding": "base64url", "key": "k", "key_id": "i" })),
            ("cx_public_key", json!({ "algorithm": "X25519", "encoding": "base64url", "key": "k" })),
            ("sdk_version", json!("x".repeat(33))),
        ] {
            let found = faults(json!({ field: value }));
            assert!(found.contains(field), "{field} {value}: {found}");
        }
        let both = json!({ "sdk_version": "0.7.1", "sdk_compatibility_version": "0.7.2" });
        assert!(faults(both).contains("sdk_compatibility_version"));
    }

    #[test]
    fn what_is_kept_of_a_registration_is_read_back_as_it_was() {
        let cx = r#"{"key_id":"cx-1","algorithm":"X25519","encoding":"base64url","key":"k","zzz":1.50}"#;
        let all = json!({
            "transport_endpoint": "iicp://127.0.0.1:9484", "transport_method": "turn_relay", "nat_type": "symmetric",
            "exposure_mode": "relay_required", "backend": "ollama", "relay_capable": true, "relay_accept_port": 9485,
            "transport_metadata": { "b": [1.50, null], "a": "x" }, "transport_candidates": [7], "relay_endpoint": "r",
            "policy": { "allow_remote_inference": true, "pricing_credits_per_1000": 2.5 },
            "availability": [{ "start": "08:05", "end": "24:00", "share": 0.25 }, { "start": "00:00", "end": "07:59" }],
            "cx_public_key": serde_json::from_str::<Value>(cx).unwrap(),
            "sdk_language": "rust", "sdk_version": "0.7.109", "implementation_name": "x", "implementation_version": "1",
        });
        for more in [json!({}), all] {
            let json = serde_json::to_string(&registration(more).unwrap().record).unwrap();
            let mut form = Form::json(json.as_bytes()).unwrap();
            let again = Record::read(&mut form).unwrap();
            assert!(form.finish().is_ok());
            assert_eq!(serde_json::to_string(&again).unwrap(), json);
            assert_eq!(again.max_concurrent, 4);
        }
    }

    #[test]
    fn many_small_texts_weigh_what_they_cost() {
        let models: Vec<String> = (0..64).map(|n| n.to_string()).collect();
        let capability = json!({ "intent": crate::types::CHAT, "models": models });
        assert_eq!(faults(json!({ "capabilities": vec![capability.clone(); 4] })), "");
        assert!(faults(json!({ "capabilities": vec![capability; 64] })).contains("bytes to keep"));
    }

    #[test]
    fn a_window_is_read_in_minutes_of_the_day() {
        assert_eq!(minute_of_day("08:30"), Some(510));
        assert_eq!(minute_of_day("24:00"), Some(1440));
        for bad in ["8:30", "08:60", "+8:30", "08", ""] {
            assert_eq!(minute_of_day(bad), None, "{bad}");
        }
    }
}
