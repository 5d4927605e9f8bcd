//! Error bodies: written in one shape, read in the four that are out there (nested, flat, a bare string, HTML).

use std::time::Duration;

use serde::Deserialize;

/// What could be read from a peer's error body. Everything may be missing.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Failure {
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Other(serde::de::IgnoredAny),
}

impl Text {
    fn text(self) -> Option<String> {
        match self {
            Text::Text(text) => Some(text),
            Text::Other(_) => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields {
    code: Option<Text>,
    message: Option<Text>,
    retry_after_ms: Option<Seconds>,
    retry_after: Option<Seconds>,
    retry_after_seconds: Option<Seconds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorField {
    Code(String),
    Nested(Fields),
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Body {
    error: Option<ErrorField>,
    #[serde(flatten)]
    flat: Fields,
}

impl Failure {
    /// Reads whatever the body offers; a body that is no JSON object offers nothing.
    pub(crate) fn read(body: &[u8]) -> Failure {
        let Ok(body) = serde_json::from_slice::<Body>(body) else { return Failure::default() };
        let mut failure = Failure::from_fields(body.flat);
        match body.error {
            Some(ErrorField::Nested(fields)) => {
                let nested = Failure::from_fields(fields);
                failure.code = nested.code.or(failure.code);
                failure.message = nested.message.or(failure.message);
                failure.retry_after = nested.retry_after.or(failure.retry_after);
            }
            Some(ErrorField::Code(code)) => failure.code = Some(clean(&code)),
            Some(ErrorField::Other(_)) | None => {}
        }
        failure
    }

    fn from_fields(fields: Fields) -> Failure {
        let pause = |number: Option<Seconds>, unit: f64| match number {
            Some(Seconds::Number(n)) if n.is_finite() && n >= 0.0 => {
                Some(Duration::from_secs_f64((n * unit).min(86_400.0)))
            }
            Some(Seconds::Number(_) | Seconds::Other(_)) | None => None,
        };
        Failure {
            code: fields.code.and_then(Text::text).map(|code| clean(&code)),
            message: fields.message.and_then(Text::text).map(|message| clean(&message)),
            retry_after: pause(fields.retry_after_ms, 0.001)
                .or_else(|| pause(fields.retry_after, 1.0))
                .or_else(|| pause(fields.retry_after_seconds, 1.0)),
        }
    }
}

/// A peer's text, fit for a log line: no control characters, at most 200 characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes an error body. The code stands inside `error`, where the specification wants it, and once more at the top,
/// where the published Python client looks for it.
pub(crate) fn write(code: &str, message: &str, more: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let mut error = serde_json::Map::new();
    error.insert("code".into(), code.into());
    error.insert("message".into(), message.into());
    for (name, value) in more {
        error.insert((*name).into(), value.clone());
    }
    serde_json::json!({ "error": error, "code": code, "message": message, "status": "error" }).to_string().into_bytes()
}

/// Writes an error body whose `error` is the code itself, as published directories refuse a registration that comes too
/// soon.
pub(crate) fn write_bare(code: &str, message: &str, more: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let mut body = serde_json::json!({ "error": code, "code": code, "message": message, "status": "error" });
    for (name, value) in more {
        body[*name] = value.clone();
    }
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_shapes_are_read() {
        let nested = Failure::read(br#"{"error":{"code":"IICP-E021","message":"full","retry_after_ms":2000}}"#);
        assert_eq!(nested.code.as_deref(), Some("IICP-E021"));
        assert_eq!(nested.retry_after, Some(Duration::from_secs(2)));
        let flat = Failure::read(br#"{"code":"IICP-E005","message":"later"}"#);
        assert_eq!((flat.code.as_deref(), flat.message.as_deref()), (Some("IICP-E005"), Some("later")));
        let text = Failure::read(br#"{"error":"IICP-E034","message":"slow down","retry_after":60}"#);
        assert_eq!(text.code.as_deref(), Some("IICP-E034"));
        assert_eq!(text.retry_after, Some(Duration::from_secs(60)));
        assert_eq!(Failure::read(b"<html>502</html>"), Failure::default());
        assert_eq!(
            Failure::read(br#"{"error":null,"code":null,"message":7,"retry_after":"soon"}"#),
            Failure::default()
        );
        assert_eq!(Failure::read(br#"{"error":[1,2]}"#), Failure::default());
    }

    #[test]
    fn a_peers_text_cannot_break_a_log_line() {
        let failure = Failure::read(br#"{"error":{"code":"a\nb","message":"x\r\ny"}}"#);
        assert_eq!(failure.code.as_deref(), Some("a b"));
        assert_eq!(failure.message.as_deref(), Some("x  y"));
        assert_eq!(clean(&"é".repeat(999)).chars().count(), 200);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let body = write("capacity_exceeded", "all 4 slots are busy", &[("retry_after_ms", 2000.into())]);
        let failure = Failure::read(&body);
        assert_eq!(failure.code.as_deref(), Some("capacity_exceeded"));
        assert_eq!(failure.retry_after, Some(Duration::from_secs(2)));
        let failure = Failure::read(&write_bare("IICP-E034", "slow down", &[("retry_after", 7.into())]));
        assert_eq!(failure.code.as_deref(), Some("IICP-E034"));
        assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
    }
}
