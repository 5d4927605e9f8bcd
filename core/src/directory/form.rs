//! Reading fields one by one, from a JSON object or from a query, and saying about each what is wrong with it.
//!
//! Unknown fields are ignored, null and empty text count as absent, and what was sent is never quoted back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Faults, Refusal};
use crate::types::position;

enum Field<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

/// Fields that are read by name.
pub(super) struct Form<'a> {
    path: String,
    fields: HashMap<String, Field<'a>>,
    faults: Faults,
}

impl<'a> Form<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// A refusal if it is no JSON object.
    pub(super) fn json(body: &'a [u8]) -> Result<Form<'a>, Refusal> {
        let fields: HashMap<String, &RawValue> = serde_json::from_slice(body)
            .map_err(|e| Refusal::unreadable(format!("the body must be a JSON object: {}", position(&e))))?;
        Ok(Form::new(String::new(), fields))
    }

    /// Reads a query; of a name that comes twice the last counts, as in JSON.
    pub(super) fn query(query: &'a str) -> Form<'a> {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let fields = pairs.map(|(name, text)| (name.into_owned(), Field::Text(text))).collect();
        Form { path: String::new(), fields, faults: Faults::new() }
    }

    fn new(path: String, fields: HashMap<String, &'a RawValue>) -> Form<'a> {
        let fields = fields.into_iter().map(|(name, raw)| (name, Field::Json(raw))).collect();
        Form { path, fields, faults: Faults::new() }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Notes what is wrong with a field.
    pub(super) fn fault(&mut self, name: &str, what: impl Into<String>) {
        self.faults.entry(format!("{}{name}", self.path)).or_default().push(what.into());
    }

    /// Takes over what a nested form found wrong.
    pub(super) fn absorb(&mut self, nested: Form<'_>) {
        self.faults.extend(nested.faults);
    }

    pub(super) fn require<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.faults.contains_key(&format!("{}{name}", self.path)) {
            self.fault(name, "is required");
        }
        value
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// A refusal that names every fault.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        if self.faults.is_empty() { Ok(()) } else { Err(Refusal::invalid(self.faults)) }
    }

    /// The JSON of a field, exactly as it was sent.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        match self.fields.get(name)? {
            Field::Json(raw) if raw.get() != "null" => Some(raw),
            Field::Json(_) | Field::Text(_) => None,
        }
    }

    fn typed<T: Deserialize<'a>>(&mut self, name: &str, kind: &str) -> Option<T> {
        let value = serde_json::from_str(self.raw(name)?.get()).ok();
        if value.is_none() {
            self.fault(name, format!("must be {kind}"));
        }
        value
    }

    /// Text of at most so many bytes, without control characters.
    pub(super) fn text(&mut self, name: &str, most: usize) -> Option<String> {
        let text = match self.fields.get(name)? {
            Field::Text(text) => text.clone().into_owned(),
            Field::Json(_) => self.typed(name, "text")?,
        };
        if text.is_empty() {
            return None;
        }
        if text.len() > most || text.chars().any(char::is_control) {
            self.fault(name, format!("must be at most {most} bytes without control characters"));
            return None;
        }
        Some(text)
    }

    /// One of the given words.
    pub(super) fn choice(&mut self, name: &str, words: &'static [&'static str]) -> Option<&'static str> {
        let text = self.text(name, 64)?;
        let word = words.iter().find(|word| **word == text).copied();
        if word.is_none() {
            self.fault(name, format!("must be one of {}", words.join(", ")));
        }
        word
    }

    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match self.fields.get(name)? {
            Field::Text(text) => text.parse().ok(),
            Field::Json(_) => Some(self.typed(name, "a number")?),
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.fault(name, format!("must be a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A whole number; a fraction is cut off.
    pub(super) fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.number(name, f64::from(*range.start())..=f64::from(*range.end()))?;
        // The range was checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(number as u32)
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        match self.fields.get(name)? {
            Field::Json(_) => self.typed(name, "true or false"),
            Field::Text(text) => match &**text {
                "1" | "true" => Some(true),
                "0" | "false" => Some(false),
                _ => {
                    self.fault(name, "must be true or false");
                    None
                }
            },
        }
    }

    /// A list of at most so many texts of at most so many bytes.
    pub(super) fn texts(&mut self, name: &str, most: usize, most_bytes: usize) -> Option<Vec<String>> {
        let texts: Vec<String> = self.typed(name, "a list of texts")?;
        let good = |text: &String| !text.is_empty() && text.len() <= most_bytes && !text.chars().any(char::is_control);
        if texts.len() > most || !texts.iter().all(good) {
            self.fault(name, format!("must be at most {most} texts of 1 to {most_bytes} bytes each"));
            return None;
        }
        Some(texts)
    }

    /// A nested object. What it finds wrong has to be taken over with [`Form::absorb`].
    pub(super) fn nested(&mut self, name: &str) -> Option<Form<'a>> {
        let fields = self.typed(name, "an object")?;
        Some(Form::new(format!("{}{name}.", self.path), fields))
    }

    /// A list of at most so many nested objects.
    pub(super) fn list(&mut self, name: &str, most: usize) -> Option<Vec<Form<'a>>> {
        let list: Vec<HashMap<String, &'a RawValue>> = self.typed(name, "a list of objects")?;
        if list.len() > most {
            self.fault(name, format!("must have at most {most} entries"));
            return None;
        }
        let form = |(at, fields)| Form::new(format!("{}{name}.{at}.", self.path), fields);
        Some(list.into_iter().enumerate().map(form).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_named_and_no_value_is_quoted() {
        let body = br#"{"a":7,"b":"secret\u0007","c":-1,"d":"x","e":"yes","f":["",1],"g":[],"h":{"i":"long"}}"#;
        let mut form = Form::json(body).unwrap();
        assert_eq!(form.text("a", 10), None);
        assert_eq!(form.text("b", 10), None);
        assert_eq!(form.count("c", 0..=5), None);
        assert_eq!(form.choice("d", &["y", "z"]), None);
        assert_eq!(form.flag("e"), None);
        assert_eq!(form.texts("f", 2, 3), None);
        assert!(form.nested("g").is_none());
        let mut nested = form.nested("h").unwrap();
        assert_eq!(nested.text("i", 3), None);
        form.absorb(nested);
        let missing = form.text("k", 1);
        assert_eq!(form.require("k", missing), None);
        let named: Vec<&str> = form.faults.keys().map(String::as_str).collect();
        assert_eq!(named, ["a", "b", "c", "d", "e", "f", "g", "h.i", "k"]);
        let refusal = format!("{:?}", form.finish().unwrap_err());
        assert!(!refusal.contains("secret") && !refusal.contains("long"), "{refusal}");
    }

    #[test]
    fn null_and_empty_count_as_absent() {
        let mut form = Form::json(br#"{"a":null,"b":"","c":null,"d":null}"#).unwrap();
        assert_eq!((form.text("a", 9), form.text("b", 9)), (None, None));
        assert_eq!((form.number("c", 0.0..=1.0), form.flag("d")), (None, None));
        assert!(form.finish().is_ok());
    }

    #[test]
    fn a_query_is_read_like_a_body() {
        let mut form = Form::query("a=x%20y&n=0.5&c=7&f=1&n=0.25&g=");
        assert_eq!(form.text("a", 9).as_deref(), Some("x y"));
        assert_eq!((form.number("n", 0.0..=1.0), form.count("c", 1..=9)), (Some(0.25), Some(7)));
        assert_eq!((form.flag("f"), form.text("g", 1)), (Some(true), None));
        assert!(form.finish().is_ok());
        let mut form = Form::query("n=NaN&c=x&f=maybe");
        assert_eq!((form.number("n", 0.0..=1.0), form.count("c", 1..=9), form.flag("f")), (None, None, None));
        assert!(form.finish().is_err());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in [&b""[..], b"[]", b"7", b"null", b"{", b"\xff", b"{\"a\":}"] {
            assert!(Form::json(body).is_err(), "{body:?}");
        }
        assert_eq!(Form::json(br#"{"c":{"b":2, "a":1}}"#).unwrap().raw("c").unwrap().get(), r#"{"b":2, "a":1}"#);
    }
}
