//! The top level of a JSON object, its values as bytes: what is only passed on is walked over, never built into a tree.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Code, Error, Result};
use crate::types::position;

/// Most fields of a payload: each costs memory beside its bytes, and no interface has half as many.
const MOST_FIELDS: usize = 256;

/// The fields of an object, in their order.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// # Errors
    /// `PAYLOAD_INVALID` if it is no object, or one of very many fields.
    pub(super) fn read(json: &'a [u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(|e| {
            let why = position(&e);
            Error::new(
                Code::PayloadInvalid,
                format!("the payload is not an object of at most {MOST_FIELDS} fields: {why}"),
            )
        })
    }

    /// The value of a field that is there and not null. Of fields with the same name the last counts, as for most readers.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rev().find(|(known, _)| known == name)?.1;
        (found.get() != "null").then_some(found)
    }

    /// A field that must be text if it is there.
    ///
    /// # Errors
    /// `PAYLOAD_INVALID` names it.
    pub(super) fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        match serde_json::from_str::<Text<'a>>(raw.get()) {
            Ok(Text(text)) => Ok(Some(text)),
            Err(_) => Err(Error::new(Code::PayloadInvalid, format!("{name} of the payload must be a text"))),
        }
    }

    /// Takes fields out, wherever they stand.
    pub(super) fn remove(&mut self, names: &[&str]) {
        self.0.retain(|(known, _)| !names.contains(&&**known));
    }

    /// The object again, with more fields at its end. Whoever adds one has removed what had its name.
    pub(super) fn write(&self, more: &[(&str, &[u8])]) -> Bytes {
        let length = |(name, value): &(Cow<'_, str>, &RawValue)| name.len() + value.get().len() + 4;
        let extra: usize = more.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut out = Vec::with_capacity(self.0.iter().map(length).sum::<usize>() + extra + 2);
        let known = self.0.iter().map(|(name, value)| (&**name, value.get().as_bytes()));
        for (name, value) in known.chain(more.iter().copied()) {
            out.push(if out.is_empty() { b'{' } else { b',' });
            json_string(&mut out, name);
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.extend_from_slice(if out.is_empty() { b"{}" } else { b"}" });
        out.into()
    }
}

/// Writes a JSON string.
pub(super) fn json_string(out: &mut Vec<u8>, text: &str) {
    // A string always has a JSON form and a Vec always takes it.
    let _ = serde_json::to_writer(out, text);
}

/// Text that is borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    if fields.len() == MOST_FIELDS {
                        return Err(A::Error::custom("too many fields"));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_touched_keeps_its_bytes_and_its_order() {
        let json = r#" {"b" : [1, 2 ,{}], "stream":true, "a\"":"\u00e9", "stream" : {}, "n":null} "#;
        let mut fields = Fields::read(json.as_bytes()).unwrap();
        assert!(fields.get("n").is_none() && fields.get("b").is_some());
        fields.remove(&["stream", "n"]);
        let written = fields.write(&[("stream", b"false")]);
        assert_eq!(&written[..], br#"{"b":[1, 2 ,{}],"a\"":"\u00e9","stream":false}"#);
        assert_eq!(&Fields::read(b"{}").unwrap().write(&[])[..], b"{}");
    }

    #[test]
    fn what_is_no_object_or_a_hoard_of_fields_is_refused() {
        let many = format!("{{{}}}", (0..=MOST_FIELDS).map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(","));
        for bad in ["[]", "7", "\"canary\"", "null", "{", &many] {
            let error = Fields::read(bad.as_bytes()).unwrap_err();
            assert!(error.code() == Code::PayloadInvalid && !error.message().contains("canary"), "{error}");
        }
        assert_eq!(Fields::read(br#"{"model":7}"#).unwrap().text("model").unwrap_err().code(), Code::PayloadInvalid);
    }
}
