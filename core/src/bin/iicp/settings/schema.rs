//! The settings of a section, read from the JSON Schema of the library's option struct: no second list to keep in step.

use iicp_core::options::Validate;
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An option struct of the library.
pub(crate) trait Options: JsonSchema + Serialize + DeserializeOwned + Default + Validate {}

impl<T: JsonSchema + Serialize + DeserializeOwned + Default + Validate> Options for T {}

/// One option that has a value of its own.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Where it stands in its section, such as `backend.url`.
    pub path: String,
    pub kind: Kind,
    pub about: String,
    /// Whether its value is shown to nobody.
    pub secret: bool,
    /// Whether it is PEM: the text itself, or the path of a file.
    pub pem: bool,
}

impl Setting {
    /// Whether a value holds the secret itself. A path tells nobody anything.
    pub(crate) fn is_secret(&self, value: &Value) -> bool {
        self.secret && !(self.pem && value.as_str().is_some_and(|text| !text.contains("-----BEGIN ")))
    }
}

/// What may be given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Boolean,
    /// A whole number, not below the first and not above the second, as far as the type itself says.
    Integer(i128, i128),
    Number,
    Text,
    /// One of these words.
    Word(Vec<String>),
    List(Box<Kind>),
    /// What only JSON or a table of the file can express.
    Json,
}

impl Kind {
    /// What is expected, for error messages.
    pub(crate) fn expected(&self) -> String {
        match self {
            Kind::Boolean => "true or false".into(),
            Kind::Integer(least, most) => format!("a whole number, {least} to {most}"),
            Kind::Number => "a number".into(),
            Kind::Text => "text".into(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::List(of) => format!("a list, each {}", of.expected()),
            Kind::Json => "an object or a list, as the documentation of the option says".into(),
        }
    }

    /// Whether `value` is of this kind.
    pub(crate) fn takes(&self, value: &Value) -> bool {
        match self {
            Kind::Boolean => value.is_boolean(),
            Kind::Integer(least, most) => {
                let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
                whole.is_some_and(|n| (*least..=*most).contains(&n))
            }
            Kind::Number => value.is_number(),
            Kind::Text => value.is_string(),
            Kind::Word(words) => value.as_str().is_some_and(|text| words.iter().any(|word| word == text)),
            Kind::List(of) => value.as_array().is_some_and(|items| items.iter().all(|item| of.takes(item))),
            Kind::Json => true,
        }
    }

    /// Reads what a variable or a flag says; none if it is not of this kind.
    pub(crate) fn read(&self, text: &str) -> Option<Value> {
        let trimmed = text.trim();
        let value = match self {
            Kind::Boolean => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Value::Bool(true),
                "false" | "0" | "no" | "off" => Value::Bool(false),
                _ => return None,
            },
            Kind::Integer(..) => {
                trimmed.parse::<i64>().map(Value::from).or_else(|_| trimmed.parse::<u64>().map(Value::from)).ok()?
            }
            Kind::Number => serde_json::Number::from_f64(trimmed.parse().ok()?).map(Value::Number)?,
            Kind::Text => Value::from(text),
            Kind::Word(_) => Value::from(trimmed),
            Kind::List(of) => {
                let parts = trimmed.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| of.read(part)).collect::<Option<_>>()?)
            }
            Kind::Json => serde_json::from_str(trimmed).ok()?,
        };
        self.takes(&value).then_some(value)
    }
}

/// Every setting of an option struct, those of its inner structs included.
pub(crate) fn settings<T: Options>() -> Vec<Setting> {
    let schema = schema_for!(T).to_value();
    let mut found = Vec::new();
    collect(&schema, &schema, "", &mut found);
    found
}

fn collect(root: &Value, schema: &Value, prefix: &str, found: &mut Vec<Setting>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        let inner = resolve(root, property);
        if inner["properties"].is_object() {
            collect(root, inner, &format!("{path}."), found);
            continue;
        }
        let about = property["description"].as_str().unwrap_or_default().replace('\n', " ");
        let (secret, pem) = (inner["format"] == "password", property["contentMediaType"] == "application/x-pem-file");
        found.push(Setting { kind: kind(root, inner), about, secret, pem, path });
    }
}

/// The schema itself, without references and without the choice of null.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(target) = schema["$ref"].as_str().and_then(|target| root.pointer(target.strip_prefix('#')?)) {
        return resolve(root, target);
    }
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    let mut other = choices.filter(|choice| choice["type"] != "null");
    match (other.next(), other.next()) {
        (Some(only), None) => resolve(root, only),
        _ => schema,
    }
}

fn kind(root: &Value, schema: &Value) -> Kind {
    if let Some(words) = schema["oneOf"].as_array() {
        let words: Option<Vec<String>> = words.iter().map(|word| Some(word["const"].as_str()?.to_owned())).collect();
        return words.map_or(Kind::Json, Kind::Word);
    }
    if let Some(words) = schema["enum"].as_array() {
        return Kind::Word(words.iter().filter_map(|word| Some(word.as_str()?.to_owned())).collect());
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        name => name.as_str(),
    };
    match name {
        Some("boolean") => Kind::Boolean,
        Some("integer") => integer(schema),
        Some("number") => Kind::Number,
        Some("string") => Kind::Text,
        Some("array") => match kind(root, resolve(root, &schema["items"])) {
            Kind::Json | Kind::List(_) => Kind::Json,
            plain => Kind::List(Box::new(plain)),
        },
        _ => Kind::Json,
    }
}

fn integer(schema: &Value) -> Kind {
    let (least, most) = match schema["format"].as_str() {
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint" | "uint64") => (0, u64::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN.into(), i128::from(i64::MAX)),
    };
    Kind::Integer(least, most)
}

/// The value at a path such as `backend.url`.
pub(crate) fn value_at<'a>(options: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(options, |value, name| &value[name])
}

/// Sets the value at a path; objects on the way are made where there are none.
pub(crate) fn set(options: &mut Value, path: &str, value: Value) {
    let mut place = options;
    for name in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(serde_json::Map::new());
        }
        place = &mut place[name];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions};
    use serde_json::json;

    use super::*;

    fn find<T: Options>(path: &str) -> Setting {
        settings::<T>().into_iter().find(|setting| setting.path == path).unwrap_or_else(|| panic!("no setting {path}"))
    }

    #[test]
    fn settings_are_those_of_the_options_with_inner_structs_and_secrets_known() {
        assert_eq!(find::<NodeOptions>("port").kind, Kind::Integer(0, 65_535));
        assert_eq!(find::<NodeOptions>("intents").kind, Kind::List(Box::new(Kind::Text)));
        assert_eq!(find::<DirectoryOptions>("probe").kind, Kind::Boolean);
        let profile = find::<ClientOptions>("routing_policy.profile");
        assert!(
            matches!(&profile.kind, Kind::Word(words) if words.contains(&"eu_restricted".to_owned())),
            "{profile:?}"
        );
        let token = find::<ClientOptions>("node_token");
        assert!(token.secret && token.kind == Kind::Text && token.is_secret(&json!("word")));
        let key = find::<NodeOptions>("tls.key");
        assert!(
            key.secret && key.is_secret(&json!("-----BEGIN PRIVATE KEY-----")) && !key.is_secret(&json!("/key.pem"))
        );
        let authority = find::<ClientOptions>("trusted_ca");
        assert!(authority.pem && !authority.secret && authority.kind == Kind::Text);
        assert!(settings::<ClientOptions>().iter().all(|setting| !setting.about.is_empty()));
    }

    #[test]
    fn text_is_read_as_what_the_setting_is_or_not_at_all() {
        assert_eq!(Kind::Boolean.read("off"), Some(json!(false)));
        assert_eq!(Kind::Boolean.read("2"), None);
        assert_eq!(Kind::Integer(0, 65_535).read(" 9484 "), Some(json!(9484)));
        for wrong in ["65536", "-1", "1.5", "", "x"] {
            assert_eq!(Kind::Integer(0, 65_535).read(wrong), None, "{wrong}");
        }
        assert_eq!(Kind::Integer(0, u64::MAX.into()).read("18446744073709551615"), Some(json!(u64::MAX)));
        assert_eq!(Kind::Number.read("0.5"), Some(json!(0.5)));
        assert_eq!(Kind::Number.read("NaN"), None);
        assert_eq!(Kind::List(Box::new(Kind::Text)).read("a, b,"), Some(json!(["a", "b"])));
        assert_eq!(Kind::Word(vec!["a".into()]).read("b"), None);
    }

    #[test]
    fn a_path_leads_into_objects_that_need_not_be_there_yet() {
        let mut options = json!({ "backend": null, "port": 1 });
        set(&mut options, "backend.url", json!("http://x"));
        set(&mut options, "port", json!(2));
        assert_eq!(options, json!({ "backend": { "url": "http://x" }, "port": 2 }));
        assert_eq!(value_at(&options, "backend.url"), "http://x");
        assert!(value_at(&options, "backend.none.at_all").is_null());
    }
}
