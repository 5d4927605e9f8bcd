//! What the generator reads: the option structs by their JSON Schema, in the order of their fields.

use iicp_core::CHAT;
use iicp_core::options::{
    AvailabilityWindow, BackendOptions, Chat, ChatMessage, ClientOptions, Completion, DirectoryOptions, Discover,
    Embedding, Moderation, NatOptions, NodeCapability, NodeOptions, NodePolicy, NodePricing, ProfileRequest,
    PublicListing, QueueOptions, RelayServerOptions, RelayWorkerOptions, RouteConstraints, RoutingPolicy,
    RuntimeOptions, Speech, TaskOptions, TlsOptions, Transcription, Validate, from_json,
};
use schemars::{JsonSchema, schema_for};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserializer as _, Serialize};
use serde_json::{Value, json};

/// One option struct.
#[derive(Debug)]
pub struct Struct {
    /// Name of the Rust struct.
    pub name: String,
    /// Its doc comment.
    pub about: String,
    /// Its fields, in the order of the source.
    pub options: Vec<OptionField>,
}

/// One option.
#[derive(Debug)]
pub struct OptionField {
    /// Name, the same in every language up to its case.
    pub name: String,
    /// What may be given.
    pub kind: Kind,
    /// Whether nothing may be given, with a meaning of its own.
    pub optional: bool,
    /// The default; null for an optional one.
    pub default: Value,
    /// Whether 0 or `false` may be given and is not the default: languages that have no missing value need a pointer.
    pub zero_is_a_value: bool,
    /// The doc comment.
    pub about: String,
}

/// The type of an option, free of any language.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Text.
    String,
    /// One of these words.
    Enum(Vec<String>),
    /// Another struct, by its name.
    Struct(String),
    /// What a message says: text, or a list of parts.
    Content,
    /// An object with any fields.
    Map,
    /// Any JSON.
    Json,
    /// Any number of these.
    List(Box<Kind>),
}

/// Every option struct, in the order in which a newcomer meets them.
///
/// # Errors
/// Names the option whose schema this generator cannot express.
pub fn structs() -> Result<Vec<Struct>, String> {
    let none = || json!({});
    Ok(vec![
        read::<ClientOptions>(none())?,
        read::<Discover>(json!({ "intent": CHAT }))?,
        read::<TaskOptions>(json!({ "intent": CHAT }))?,
        read::<RoutingPolicy>(none())?,
        read::<RouteConstraints>(none())?,
        read::<ProfileRequest>(json!({
            "profile_id": "p", "profile_version": "0", "profile_fixture_sha256": "0".repeat(64),
        }))?,
        read::<Chat>(json!({ "messages": [{ "role": "user", "content": "" }] }))?,
        message()?,
        read::<Completion>(json!({ "prompt": "a" }))?,
        read::<Embedding>(json!({ "input": "a" }))?,
        read::<Transcription>(json!({ "audio": "AAAA" }))?,
        read::<Speech>(json!({ "input": "a" }))?,
        read::<Moderation>(json!({ "input": "a" }))?,
        read::<NodeOptions>(json!({ "intents": [CHAT] }))?,
        read::<BackendOptions>(json!({ "url": "http://127.0.0.1:1" }))?,
        read::<TlsOptions>(json!({ "certificate": "a", "key": "b" }))?,
        read::<NodeCapability>(json!({ "intent": CHAT }))?,
        read::<RelayServerOptions>(none())?,
        read::<RelayWorkerOptions>(none())?,
        read::<NatOptions>(none())?,
        read::<NodePolicy>(none())?,
        read::<NodePricing>(none())?,
        read::<PublicListing>(none())?,
        read::<AvailabilityWindow>(none())?,
        read::<DirectoryOptions>(none())?,
        read::<RuntimeOptions>(none())?,
        read::<QueueOptions>(none())?,
    ])
}

/// Reads a struct; `least` is the least that it is valid with.
fn read<T: JsonSchema + Default + Serialize + DeserializeOwned + Validate>(least: Value) -> Result<Struct, String> {
    let is_a_value = |field: &str, zero| accepts::<T>(&least, field, zero);
    let (schema, fields) = (schema_for!(T).to_value(), field_order(&T::default())?);
    if schema["properties"].as_object().map(serde_json::Map::len) != Some(fields.len()) {
        return Err(format!("an option of {} is not serialized when it is not given", text(&schema["title"])));
    }
    describe(&schema, fields, is_a_value)
}

/// A message is part of a chat, which checks it.
fn message() -> Result<Struct, String> {
    let fields = ["role", "content", "name", "tool_calls", "tool_call_id"].map(str::to_owned);
    let schema = schema_for!(ChatMessage).to_value();
    if schema["properties"].as_object().map(serde_json::Map::len) != Some(fields.len()) {
        return Err("a message has other fields than the generator knows".into());
    }
    describe(&schema, fields.into(), |_, _| false)
}

fn describe(schema: &Value, fields: Vec<String>, is_a_value: impl Fn(&str, Value) -> bool) -> Result<Struct, String> {
    let name = text(&schema["title"]);
    let options = fields
        .into_iter()
        .map(|field| {
            let property = &schema["properties"][&field];
            let about = || format!("option {field} of {name}");
            let (kind, optional) = kind(schema, property).ok_or_else(|| format!("{}: {property}", about()))?;
            let about = match text(&property["description"]) {
                none if none.is_empty() => return Err(format!("{} has no doc comment", about())),
                text => text,
            };
            // A struct's own defaults stand with the struct.
            let default = if matches!(kind, Kind::Struct(_)) { Value::Null } else { property["default"].clone() };
            let zero_is_a_value = zero(&kind).is_some_and(|zero| zero != default && is_a_value(&field, zero));
            Ok(OptionField { name: field, kind, optional, default, zero_is_a_value, about })
        })
        .collect::<Result<_, String>>()?;
    Ok(Struct { about: text(&schema["description"]), name, options })
}

/// The value that languages without a missing value give in its stead.
fn zero(kind: &Kind) -> Option<Value> {
    match kind {
        Kind::Boolean => Some(false.into()),
        Kind::Integer | Kind::Number => Some(0.into()),
        _ => None,
    }
}

fn accepts<T: Default + DeserializeOwned + Validate>(least: &Value, field: &str, value: Value) -> bool {
    let mut options = least.clone();
    options[field] = value;
    from_json::<T>(&options.to_string()).is_ok()
}

/// A schema lists its properties by the alphabet; a serialized struct keeps the order of the source.
fn field_order<T: Serialize>(value: &T) -> Result<Vec<String>, String> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, IgnoredAny)) = map.next_entry()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }
    let json = serde_json::to_string(value).map_err(|e| e.to_string())?;
    serde_json::Deserializer::from_str(&json).deserialize_map(Keys).map_err(|e| e.to_string())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('\n', " ")
}

/// The type, and whether null is one of its values.
fn kind(root: &Value, schema: &Value) -> Option<(Kind, bool)> {
    if *schema == Value::Bool(true)
        || schema.as_object().is_some_and(|s| s.keys().all(|k| ["description", "default"].contains(&k.as_str())))
    {
        return Some((Kind::Json, true));
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let (null, other): (Vec<_>, Vec<_>) = choices.iter().partition(|choice| choice["type"] == "null");
        let [other] = other[..] else { return None };
        return Some((kind(root, other)?.0, !null.is_empty()));
    }
    if let Some(target) = schema["$ref"].as_str() {
        let target = target.strip_prefix('#')?;
        let resolved = root.pointer(target)?;
        return match target.rsplit('/').next()? {
            "Content" => Some((Kind::Content, false)),
            name if resolved["properties"].is_object() => Some((Kind::Struct(name.to_owned()), false)),
            _ => kind(root, resolved),
        };
    }
    if let Some(words) = schema["oneOf"].as_array() {
        let words = words.iter().map(|word| Some(word["const"].as_str()?.to_owned())).collect::<Option<_>>()?;
        return Some((Kind::Enum(words), false));
    }
    let (name, optional) = match &schema["type"] {
        Value::String(name) => (name.as_str(), false),
        Value::Array(names) => match &names[..] {
            [Value::String(name), Value::String(null)] if null == "null" => (name.as_str(), true),
            _ => return None,
        },
        _ => return None,
    };
    let kind = match name {
        "boolean" => Kind::Boolean,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "string" => Kind::String,
        "array" => Kind::List(Box::new(kind(root, &schema["items"])?.0)),
        "object" => Kind::Map,
        _ => return None,
    };
    Some((kind, optional))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_keep_the_order_of_the_source_and_every_one_is_read() {
        let structs = structs().unwrap();
        let chat = structs.iter().find(|s| s.name == "Chat").unwrap();
        assert_eq!(chat.options[0].name, "messages");
        assert_eq!(chat.options[0].kind, Kind::List(Box::new(Kind::Struct("ChatMessage".into()))));
        let qos = chat.options.iter().find(|option| option.name == "qos").unwrap();
        assert!(qos.optional && matches!(&qos.kind, Kind::Enum(words) if words.contains(&"best-effort".to_owned())));
    }

    #[test]
    fn a_zero_that_means_something_is_told_from_one_that_cannot_be_given() {
        let structs = structs().unwrap();
        let is_a_value = |name: &str, field: &str| {
            let options = structs.iter().find(|s| s.name == name).unwrap();
            options.options.iter().find(|option| option.name == field).unwrap().zero_is_a_value
        };
        assert!(is_a_value("DirectoryOptions", "probe"), "false switches off what is on");
        assert!(is_a_value("Chat", "temperature") && is_a_value("NodeOptions", "result_bytes"));
        assert!(!is_a_value("ClientOptions", "timeout_ms"), "0 is out of range");
        assert!(!is_a_value("NodeOptions", "port") && !is_a_value("TaskOptions", "idempotent"), "0 is the default");
    }

    #[test]
    fn a_schema_that_cannot_be_expressed_is_refused_not_guessed() {
        for schema in [r#"{"type":["string","integer"]}"#, r#"{"anyOf":[{"type":"string"},{"type":"integer"}]}"#] {
            assert!(kind(&Value::Null, &serde_json::from_str(schema).unwrap()).is_none(), "{schema}");
        }
    }
}
