//! JSON and CBOR, one into the other: published nodes and clients have results as CBOR inside of bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use serde_json::Value as Json;

use super::cbor::{Item, Reader, Result};
use super::frame::Reason;

/// The JSON of one CBOR value; bytes become base64, as the published clients have it. Written as it is read: a tree would
/// take fifty times what a hostile node sends. Some values are ten times as long in JSON: it is not made longer than `most`.
///
/// # Errors
/// `CborDecodeError` or `InvalidPayload` for what is not one well-formed value, or has no JSON form; `PayloadTooLarge`.
pub(crate) fn to_json(cbor: &[u8], most: usize) -> Result<Vec<u8>> {
    let mut reader = Reader::new(cbor);
    // From here on depth, keys and texts are known to be sound.
    reader.skip()?;
    reader.end()?;
    let mut out = Vec::with_capacity(most.min(cbor.len() + cbor.len() / 4));
    write(&mut Reader::new(cbor), &mut out, most)?;
    if out.len() > most { Err(Reason::PayloadTooLarge) } else { Ok(out) }
}

fn write(reader: &mut Reader<'_>, out: &mut Vec<u8>, most: usize) -> Result<()> {
    // A text or bytes are as long as what they are read from, or six times that.
    if out.len() > most {
        return Err(Reason::PayloadTooLarge);
    }
    match reader.item()? {
        Item::Uint(value) => scalar(out, value),
        Item::Negative(value) => match i64::try_from(-1 - i128::from(value)) {
            Ok(value) => scalar(out, value),
            Err(_) => return Err(Reason::InvalidPayload),
        },
        Item::Bytes(bytes) => scalar(out, STANDARD.encode(bytes)),
        Item::Text(text) => super::write_string(out, text),
        Item::Bool(value) => scalar(out, value),
        // What is not a number is null, as the published clients have it.
        Item::Float(value) => scalar(out, value),
        Item::Nothing => out.extend_from_slice(b"null"),
        Item::Array(n) => {
            out.push(b'[');
            for at in 0..n {
                comma(out, at);
                write(reader, out, most)?;
            }
            out.push(b']');
        }
        Item::Map(n) => {
            out.push(b'{');
            for at in 0..n {
                comma(out, at);
                let Item::Text(key) = reader.item()? else { return Err(Reason::InvalidPayload) };
                super::write_string(out, key);
                out.push(b':');
                write(reader, out, most)?;
            }
            out.push(b'}');
        }
        Item::Tag => write(reader, out, most)?,
        Item::Simple => return Err(Reason::InvalidPayload),
    }
    Ok(())
}

fn comma(out: &mut Vec<u8>, at: u64) {
    if at > 0 {
        out.push(b',');
    }
}

fn scalar(out: &mut Vec<u8>, value: impl serde::Serialize) {
    // Plain values have a JSON form, and a Vec takes it.
    let _ = serde_json::to_writer(out, &value);
}

/// The deterministic CBOR of a JSON text.
///
/// # Errors
/// `InvalidPayload` for what is not JSON.
pub(crate) fn to_cbor(json: &[u8]) -> Result<Vec<u8>> {
    let value: Json = serde_json::from_slice(json).map_err(|_| Reason::InvalidPayload)?;
    let mut out = Vec::with_capacity(json.len());
    ciborium::into_writer(&dynamic(value), &mut out).map_err(|_| Reason::InvalidPayload)?;
    Ok(out)
}

fn dynamic(value: Json) -> Cbor {
    match value {
        Json::Null => Cbor::Null,
        Json::Bool(value) => Cbor::Bool(value),
        Json::String(value) => Cbor::Text(value),
        Json::Number(value) => match (value.as_u64(), value.as_i64()) {
            (Some(value), _) => Cbor::Integer(value.into()),
            (None, Some(value)) => Cbor::Integer(value.into()),
            (None, None) => Cbor::Float(value.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Array(values) => Cbor::Array(values.into_iter().map(dynamic).collect()),
        Json::Object(entries) => {
            let mut entries: Vec<(String, Json)> = entries.into_iter().collect();
            // As they are encoded: by length, and then by their bytes.
            entries.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
            Cbor::Map(entries.into_iter().map(|(key, value)| (Cbor::Text(key), dynamic(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_survives_the_way_through_cbor() {
        for json in [
            r#"{"b":[1,-1,0.5,1e300,18446744073709551615,-9223372036854775808],"aa":{"é":null,"z":true},"":""}"#,
            "[]",
            "null",
            r#""\u0000\n\"""#,
        ] {
            let cbor = to_cbor(json.as_bytes()).unwrap();
            let back: Json = serde_json::from_slice(&to_json(&cbor, 1 << 20).unwrap()).unwrap();
            assert_eq!(back, serde_json::from_str::<Json>(json).unwrap());
        }
        assert_eq!(
            to_cbor(br#"{"aa":1,"b":2}"#).unwrap(),
            b"\xa2\x61b\x02\x62aa\x01",
            "keys in the order of their bytes"
        );
    }

    #[test]
    fn numbers_of_every_width_are_read() {
        for (cbor, json) in [
            (&b"\xf9\x3c\x00"[..], "1.0"),
            (b"\xf9\xc4\x00", "-4.0"),
            (b"\xf9\x00\x01", "5.960464477539063e-8"),
            (b"\xf9\x04\x00", "0.00006103515625"),
            (b"\xf9\x7b\xff", "65504.0"),
            (b"\xf9\x7c\x00", "null"),
            (b"\xf9\x7e\x00", "null"),
            (b"\xfa\x47\xc3\x50\x00", "100000.0"),
            (b"\x3b\x7f\xff\xff\xff\xff\xff\xff\xff", "-9223372036854775808"),
            (b"\x42hi", r#""aGk=""#),
            (b"\xc1\x00", "0"),
        ] {
            assert_eq!(String::from_utf8(to_json(cbor, 1 << 20).unwrap()).unwrap(), json);
        }
    }

    #[test]
    fn json_is_made_no_longer_than_it_may_be() {
        // A list of a million small numbers of half precision, each of which is twenty characters long.
        let n = 1_000_000_u32;
        let cbor = [&[0x9a][..], &n.to_be_bytes(), &b"\xf9\x00\x01".repeat(1_000_000)].concat();
        assert_eq!(to_json(&cbor, 4 << 20), Err(Reason::PayloadTooLarge));
        assert_eq!(to_json(b"\x63abc", 4), Err(Reason::PayloadTooLarge));
        assert_eq!(to_json(b"\x63abc", 5).unwrap(), b"\"abc\"");
    }

    #[test]
    fn what_has_no_json_form_is_refused() {
        for cbor in
            [&b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"\xa1\x01\x02", b"\xf0", b"\x00\x00", b"", b"\x9f\xff"]
        {
            assert!(to_json(cbor, 1 << 20).is_err(), "{cbor:?}");
        }
        assert!(to_cbor(b"{").is_err());
    }
}
