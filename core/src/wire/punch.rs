//! What two peers of ours tell each other to find a path past their NATs. It goes through a relay, sealed from end to end:
//! a relay can neither read it nor put itself in between.

use std::borrow::Cow;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::sealed::{encode, fixed};
use super::stun::Token;

/// What the sealed words are sealed for, in the place of an intent.
pub(crate) const PURPOSE: &str = "urn:iicp:custom:core:punch:v1";
/// Largest message of either side.
pub(crate) const MOST_BYTES: usize = 4 << 10;
/// Places of either kind that a peer may name, and observers that a relay may have.
const MOST_PLACES: usize = 4;

/// How a peer is seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// As what others see its port.
    pub(crate) seen: Vec<SocketAddr>,
    /// Where it is for its neighbours: named only to who seems to be one.
    pub(crate) near: Vec<SocketAddr>,
    /// Whether all who were asked see the same.
    pub(crate) steady: bool,
    /// What the other side's questions to that port have to know.
    pub(crate) token: Token,
    /// From who takes connections: the hash of the key that proves it.
    pub(crate) pin: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    seen: Vec<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    near: Vec<Cow<'a, str>>,
    #[serde(default)]
    steady: bool,
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pin: Option<Cow<'a, str>>,
}

impl Words {
    pub(crate) fn write(&self) -> Vec<u8> {
        let texts =
            |places: &[SocketAddr]| places.iter().take(MOST_PLACES).map(|place| place.to_string().into()).collect();
        let fields = Fields {
            seen: texts(&self.seen),
            near: texts(&self.near),
            steady: self.steady,
            token: encode(&self.token.0).into(),
            pin: self.pin.as_deref().map(Into::into),
        };
        // Texts and a boolean always have a JSON form.
        serde_json::to_vec(&fields).unwrap_or_default()
    }

    /// Reads them; none if a word is missing. Places that are none are left out, and so are more than a few.
    pub(crate) fn read(json: &[u8]) -> Option<Words> {
        let fields: Fields<'_> = super::object(json).ok()?;
        let places =
            |texts: &[Cow<'_, str>]| texts.iter().filter_map(|place| place.parse().ok()).take(MOST_PLACES).collect();
        Some(Words {
            seen: places(&fields.seen),
            near: places(&fields.near),
            steady: fields.steady,
            token: Token(fixed(&fields.token)?),
            pin: fields.pin.map(Cow::into_owned),
        })
    }
}

/// What a caller sends: the name of this attempt, and its words, sealed to the worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct Asked<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) iicp_conf: &'a RawValue,
    /// Added by the relay: the ports on which it says as what it sees who asks there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) observers: Vec<u16>,
    /// Added by the relay: whether caller and worker come to it from the same address.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) beside: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl<'a> Asked<'a> {
    pub(crate) fn read(json: &'a [u8]) -> Option<Asked<'a>> {
        let asked: Asked<'_> = super::object(json).ok()?;
        (json.len() <= MOST_BYTES && asked.id.len() <= 64).then_some(asked)
    }

    pub(crate) fn write(&self) -> Bytes {
        // Text, numbers and what is JSON already.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// What a worker answers: its words, sealed to who asked.
#[derive(Serialize, Deserialize)]
pub(crate) struct Answered<'a> {
    #[serde(borrow)]
    pub(crate) iicp_conf_resp: &'a RawValue,
}

/// What a relay says before a caller asks: on which ports it observes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Observers {
    pub(crate) observers: Vec<u16>,
    /// Whether who asks and the worker come from the same address.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) beside: bool,
}

impl Observers {
    /// Reads them; none if there are none, or too many.
    pub(crate) fn read(json: &[u8]) -> Option<Observers> {
        let read: Observers = super::object(json).ok()?;
        (1..=MOST_PLACES).contains(&read.observers.len()).then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written_and_what_is_too_much_is_left_out() {
        let seen: Vec<SocketAddr> = vec!["5.5.1.2:7".parse().unwrap(), "[2001:4860::7]:1".parse().unwrap()];
        for pin in [None, Some("00".repeat(32))] {
            for near in [vec![], vec!["192.168.7.2:9".parse().unwrap()]] {
                let words = Words { seen: seen.clone(), near, steady: true, token: Token([7; 16]), pin: pin.clone() };
                assert_eq!(Words::read(&words.write()), Some(words));
            }
        }
        let many: Vec<_> = (1..99).map(|n| format!("5.5.1.2:{n}")).collect();
        let many = serde_json::json!({ "seen": many, "near": many, "token": encode(&[7; 16]), "steady": true });
        let many = Words::read(many.to_string().as_bytes()).unwrap();
        assert_eq!((many.seen.len(), many.near.len()), (MOST_PLACES, MOST_PLACES));
        let strange = serde_json::json!({ "seen": ["x", "5.5.1.2", "host:1", "5.5.1.2:1"], "token": encode(&[7; 16]) });
        let strange = Words::read(strange.to_string().as_bytes()).unwrap();
        assert_eq!((strange.seen.len(), strange.steady), (1, false));
        for bad in ["", "[]", "{}", r#"{"seen":[]}"#, r#"{"seen":[],"token":"AAAA"}"#, r#"{"seen":7,"token":""}"#] {
            assert_eq!(Words::read(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_relay_adds_its_ports_and_leaves_what_is_sealed_as_it_is() {
        let json = br#"{"id":"p-1","iicp_conf":{ "x" : 1 },"observers":[1,2,3],"beside":true}"#;
        for (beside, shown) in [(false, ""), (true, r#","beside":true"#)] {
            let asked = Asked::read(json).unwrap();
            let passed = Asked { observers: vec![9485], beside, ..asked }.write();
            let wanted = format!(r#"{{"id":"p-1","iicp_conf":{{ "x" : 1 }},"observers":[9485]{shown}}}"#);
            assert_eq!(String::from_utf8_lossy(&passed), wanted);
        }
        for bad in ["", "{}", r#"{"id":7,"iicp_conf":{}}"#, r#"{"id":"x"}"#, "[1]"] {
            assert!(Asked::read(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Asked::read(&[&json[..json.len() - 1], &[b' '; MOST_BYTES], b"}"].concat()).is_none());
        for (json, beside) in
            [(r#"{"observers":[9485,9486]}"#, false), (r#"{"observers":[9485,9486],"beside":true}"#, true)]
        {
            assert_eq!(Observers::read(json.as_bytes()), Some(Observers { observers: vec![9485, 9486], beside }));
        }
        for bad in [r#"{"observers":[]}"#, r#"{"observers":[1,2,3,4,5]}"#, r#"{"observers":[70000]}"#, "{}"] {
            assert_eq!(Observers::read(bad.as_bytes()), None, "{bad}");
        }
    }
}
