use super::*;

const MOST: usize = 1 << 20;

fn asking(followed: Option<&str>) -> Asking {
    Asking::new("s-1".into(), "c-1".into(), followed.map(Into::into))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// What one answer says: its result, or status and code.
fn read(payload: &[u8]) -> Result<Result<String, (u16, String)>, Fault> {
    Ok(match asking(None).take(payload, MOST)? {
        Said::Result(json) => Ok(String::from_utf8(json).unwrap()),
        Said::Refused(refusal) => Err((refusal.status, refusal.code.into_owned())),
        Said::Event(_) => panic!("an event that nobody asked for"),
    })
}

/// An answer of session `s-1` to call `c-1`, and what else stands in it.
fn answer(more: &[(u8, &[u8])]) -> Vec<u8> {
    let mut all = vec![(2, &b"\x63s-1"[..]), (15, b"\x63c-1")];
    all.retain(|(key, _)| !more.iter().any(|(other, _)| key == other));
    all.extend_from_slice(more);
    let mut out = vec![0xa0 + u8::try_from(all.len()).unwrap()];
    for (key, value) in all {
        out.extend_from_slice(if key < 24 { &[] } else { &[0x18] });
        out.push(key);
        out.extend_from_slice(value);
    }
    out
}

fn in_bytes(inner: &[u8]) -> Vec<u8> {
    [&[0x58, u8::try_from(inner.len()).unwrap()], inner].concat()
}

#[test]
fn a_call_is_byte_for_byte_what_published_clients_send() {
    let intent = "urn:iicp:intent:llm:chat:v1";
    let urn: String = intent.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut out = Vec::new();
    asking(None).write(intent, b"{\"n\": 1}", &mut out).unwrap();
    let golden = format!("49494350 01050000 00000033 a4 02 63732d31 03 781b{urn} 05 48 7b226e223a20317d 0f 63632d31");
    assert_eq!(out, bytes(&golden));
    // Who follows the task names it, and that it may come twice.
    out.clear();
    asking(Some("t-1")).write(intent, b"{}", &mut out).unwrap();
    let golden = format!(
        "49494350 01050000 00000038 a6 02 63732d31 03 781b{urn} 05 42 7b7d 0f 63632d31 10 63742d31 1818 63742d31"
    );
    assert_eq!(out, bytes(&golden));
}

#[test]
fn answers_are_read_as_published_nodes_write_them() {
    // In the order of keys that Python has, and in that of Rust.
    let cbor = in_bytes(b"\xa1\x65model\x64echo");
    let python = answer(&[(2, b"\x63s-1"), (5, &cbor), (15, b"\x63c-1")]);
    let rust = answer(&[(2, b"\x63s-1"), (15, b"\x63c-1"), (5, &cbor)]);
    assert_ne!(python, rust);
    for payload in [python, rust] {
        assert_eq!(read(&payload), Ok(Ok(r#"{"model":"echo"}"#.into())));
    }
    // {2: "s-1", 15: "c-1", 100: 400, 101: "no"}
    assert_eq!(read(&bytes("a4 02 63732d31 0f 63632d31 1864 190190 1865 626e6f")), Ok(Err((422, "rejected".into()))));
}

#[test]
fn the_spelling_of_a_result_is_never_guessed() {
    for (result, json) in [
        (in_bytes(b"\xa1\x61a\x01"), r#"{"a":1}"#),
        // What relays pass on: JSON, which no CBOR begins like.
        (in_bytes(br#"{"a":1}"#), r#"{"a":1}"#),
        (in_bytes(br#"[1,"x"]"#), r#"[1,"x"]"#),
        // CBOR comes first: as JSON these would be 5, 80 and 912.
        (in_bytes(b"5"), "-22"),
        (in_bytes(b"80"), "-49"),
        (in_bytes(b"912"), "-12595"),
        (in_bytes(b"\x63hey"), r#""hey""#),
        (in_bytes(b"\xf6"), "null"),
        (b"\xa1\x61a\x41b".to_vec(), r#"{"a":"Yg=="}"#),
        (b"\x63hey".to_vec(), r#""hey""#),
    ] {
        assert_eq!(read(&answer(&[(5, &result)])), Ok(Ok(json.into())), "{result:x?}");
    }
    for neither in [&b"{\"a\":"[..], b"[1", b"true", b"\"x\"", b"", b"\xff", b"{} {}", b"\xa2\x61a\x01\x61a\x02"] {
        assert_eq!(read(&answer(&[(5, &in_bytes(neither))])), Err(Fault::Unreadable), "{neither:x?}");
    }
    // No JSON text of an object or a list is CBOR as well.
    for json in [r#"{}"#, "[]", r#"{"":0}"#, "[[[[[[[[]]]]]]]]", r#"{"result":{"choices":[]},"usage":{"total":7}}"#] {
        assert!(to_json(json.as_bytes(), MOST).is_err(), "{json}");
    }
}

#[test]
fn every_spelling_of_a_status_is_read_and_no_other() {
    let word = |word: &str| [&[0x60 + u8::try_from(word.len()).unwrap()], word.as_bytes()].concat();
    let of = |status: &str| read(&answer(&[(4, &word(status)), (5, &in_bytes(b"\xa0"))]));
    for success in ["success", "completed"] {
        assert_eq!(of(success), Ok(Ok("{}".into())), "{success}");
    }
    for error in ["error", "failed", "rejected", "cancelled"] {
        assert_eq!(of(error), Ok(Err((502, "backend_error".into()))), "{error}");
    }
    for timeout in ["timeout", "timed_out", "expired"] {
        assert_eq!(of(timeout), Ok(Err((504, "task_timeout".into()))), "{timeout}");
    }
    assert_eq!(of("partial"), Err(Fault::TerminalFlag));
    for unknown in ["", "ok", "Success", "running"] {
        assert_eq!(of(unknown), Err(Fault::StatusDisagreement), "{unknown}");
    }
    assert_eq!(read(&answer(&[(4, &word("success"))])), Ok(Ok("{}".into())), "a success with nothing to say");
    assert_eq!(read(&answer(&[])), Err(Fault::Unreadable), "and nothing at all");
}

#[test]
fn a_failure_is_taken_for_not_run_only_where_the_server_itself_says_so() {
    let of = |code: &[u8], message: &str| {
        let message = [&[0x78, u8::try_from(message.len()).unwrap()], message.as_bytes()].concat();
        let failed = read(&answer(&[(100, code), (101, &message), (5, &in_bytes(b"\xa0"))]));
        failed.unwrap().unwrap_err()
    };
    assert_eq!(of(b"\x19\x01\xad", "IICP-E021: max_concurrent=4 reached"), (429, "IICP-E021".into()));
    assert_eq!(of(b"\x19\x01\xf7", "no handler configured"), (503, "temporarily_unavailable".into()));
    // The same numbers from a handler, which has run.
    assert_eq!(of(b"\x19\x01\xad", "slow down"), (502, "backend_error".into()));
    assert_eq!(of(b"\x19\x01\xf7", "the backend is down"), (502, "backend_error".into()));
    assert_eq!(of(b"\x19\x01\xf4", "handler raised exception"), (502, "backend_error".into()));
    assert_eq!(of(b"\x19\x01\xf8", "too slow"), (504, "task_timeout".into()));
    for refused in [400_u16, 404, 405, 409, 413, 422] {
        let code = [&[0x19], &refused.to_be_bytes()[..]].concat();
        assert_eq!(of(&code, "no"), (422, "rejected".into()), "{refused}");
    }
    // Any number that a handler may think of.
    for code in [&b"\x00"[..], b"\x20", b"\x39\x7f\xff", b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff", b"\x18\xc8"] {
        assert_eq!(of(code, "odd"), (502, "backend_error".into()), "{code:x?}");
    }
}

#[test]
fn an_answer_to_another_call_or_after_the_last_is_none() {
    let result = in_bytes(b"\xa0");
    assert_eq!(read(&answer(&[(2, b"\x63s-2"), (5, &result)])), Err(Fault::SessionDrift));
    assert_eq!(read(&answer(&[(2, b"\xf6"), (5, &result)])), Err(Fault::SessionDrift));
    assert_eq!(read(&answer(&[(15, b"\x63c-2"), (5, &result)])), Err(Fault::CallDrift));
    assert_eq!(read(&answer(&[(15, b"\xf6"), (5, &result)])), Err(Fault::CallDrift));
    let mut asking = asking(None);
    assert!(asking.take(&answer(&[(5, &result)]), MOST).is_ok() && asking.has_ended());
    assert_eq!(asking.take(&answer(&[(5, &result)]), MOST).err(), Some(Fault::AfterTerminal));
}

#[test]
fn a_bomb_is_refused_before_it_goes_off() {
    assert_eq!(read(&[0x81].repeat(1_000_000)), Err(Fault::Unreadable));
    let inside = |inner: &[u8]| {
        let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
        read(&answer(&[(5, &[&[0x5a], &length[..], inner].concat())]))
    };
    assert_eq!(inside(&[&[0x81].repeat(1_000_000)[..], b"\xf6"].concat()), Err(Fault::Unreadable));
    let json = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(inside(json.as_bytes()), Err(Fault::Unreadable));
    // Half a million keys, each twice; and a list that says it has more elements than there are bytes.
    let entry = |key: u32| [&[0x1a], &(key % 250_000).to_be_bytes()[..], b"\xf6"].concat();
    let twice: Vec<u8> = (0..500_000).flat_map(entry).collect();
    assert_eq!(inside(&[&[0xba], &500_000_u32.to_be_bytes()[..], &twice].concat()), Err(Fault::Unreadable));
    assert_eq!(inside(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff"), Err(Fault::Unreadable));
    // Small numbers of half precision are seven times as long in JSON.
    let long = [&[0x9a], &400_000_u32.to_be_bytes()[..], &b"\xf9\x00\x01".repeat(400_000)].concat();
    assert_eq!(inside(&long), Err(Fault::TooLarge));
}
