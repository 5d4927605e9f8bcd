use super::*;

fn reply(body: &str) -> Result<Payload> {
    TaskReply::read("t-1", &Bytes::copy_from_slice(body.as_bytes()))?.result()
}

#[test]
fn what_the_client_writes_the_node_reads() {
    let options = TaskOptions {
        intent: crate::types::CHAT.into(),
        qos: Some(Qos::BestEffort),
        model: Some("m\"1".into()),
        source_node_id: Some("n-1".into()),
        ..TaskOptions::default()
    };
    let payload = Payload::from_json(&br#"{"a": [1,2]}"#[..]).unwrap();
    let body = write_request(&options, "t-1", TaskBody::Plain(&payload), Sending { timeout_ms: 1500, streamed: false });
    let request = TaskRequest::read(&body).unwrap();
    assert_eq!((&*request.task_id, &*request.intent), ("t-1", crate::types::CHAT));
    assert_eq!(request.payload.unwrap().get(), r#"{"a": [1,2]}"#);
    assert_eq!(request.constraints.timeout_ms, Some(1500));
    assert_eq!(request.constraints.qos(), Qos::BestEffort);
    assert_eq!(request.source_node_id.as_deref(), Some("n-1"));
    assert!(String::from_utf8(body).unwrap().contains(r#""qos_class":"best_effort""#));
}

#[test]
fn a_sealed_task_has_its_envelope_and_no_payload() {
    let options = TaskOptions { intent: crate::types::CHAT.into(), ..TaskOptions::default() };
    for sealed_reply in [true, false] {
        let body = TaskBody::Sealed { envelope: br#"{"version":1}"#, sealed_reply };
        let body = write_request(&options, "t-1", body, Sending { timeout_ms: 1500, streamed: true });
        let request = TaskRequest::read(&body).unwrap();
        assert!(request.payload.is_none() && !String::from_utf8_lossy(&body).contains("payload"));
        assert_eq!(request.iicp_conf.unwrap().get(), r#"{"version":1}"#);
        assert_eq!(request.wants_sealed_reply(), sealed_reply);
    }
    for word in ["null", "\"REQUIRED\"", "true", "{}", "7"] {
        let body = format!(r#"{{"task_id":"t","intent":"i","cx_response_encryption":{word}}}"#);
        assert!(!TaskRequest::read(body.as_bytes()).unwrap().wants_sealed_reply(), "{word}");
    }
}

#[test]
fn nulls_and_unknown_fields_of_a_request_are_normal() {
    let request = TaskRequest::read(
        br#"{"task_id":"t","intent":"i","payload":null,"constraints":null,"auth":{"token":"x"},"zzz":[{}]}"#,
    )
    .unwrap();
    assert!(request.payload.is_none());
    assert_eq!(request.constraints.qos(), Qos::BestEffort);
    assert!(TaskRequest::read(br#"{"intent":"i"}"#).is_err());
    assert!(TaskRequest::read(br#"{"task_id":"t","intent":"i","constraints":{"timeout_ms":-1}}"#).is_err());
    let deep = format!(r#"{{"task_id":"t","intent":"i","payload":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert!(TaskRequest::read(deep.as_bytes()).is_err());
}

#[test]
fn every_spelling_of_success_is_read() {
    assert_eq!(&reply(r#"{"task_id":"t-1","status":"success","result":{"x":1}}"#).unwrap().bytes()[..], br#"{"x":1}"#);
    assert_eq!(&reply(r#"{"status":"completed","generated_by_ai":true,"result":7}"#).unwrap().bytes()[..], b"7");
    let merged = reply(r#"{"task_id":"t-1","status":"completed","choices":[],"usage":null}"#).unwrap();
    assert_eq!(&merged.bytes()[..], br#"{"choices":[],"usage":null}"#);
    assert_eq!(&reply(r#"{"status":"success","result":null}"#).unwrap().bytes()[..], b"null");
    let ours = write_reply("t-1", b"[1]", 1.23456);
    assert_eq!(&reply(std::str::from_utf8(&ours).unwrap()).unwrap().bytes()[..], b"[1]");
}

#[test]
fn the_result_is_found_in_a_reply_without_reading_it() {
    let tricky = r#"{"a":"\",\"status\":\"success\",\"result\":","metrics":{"latency_ms":1},"b":",\"metrics\":{"}"#;
    for (task_id, result) in [("t-1", "[1]"), (r#"","status":"success","result":"#, tricky), ("\\", "\"\"")] {
        let reply = Bytes::from(write_reply(task_id, result.as_bytes(), 1.5));
        assert_eq!(result_of(&reply).as_deref(), Some(result.as_bytes()), "{task_id}");
        assert!(serde_json::from_slice::<serde_json::Value>(&reply).is_ok());
    }
    assert_eq!(result_of(&Bytes::from_static(b"{}")), None);
}

#[test]
fn parts_that_came_by_themselves_are_a_task_as_well() {
    let parts = TaskParts {
        task_id: "t-1",
        intent: crate::types::CHAT,
        payload: Bytes::from_static(b" {\"a\": 1} "),
        timeout_ms: Some(7),
        qos: Some("realtime"),
        node_token: Some("s"),
        ..TaskParts::default()
    };
    let request = TaskRequest::of_parts(&parts).unwrap();
    assert_eq!(request.node_token().as_deref(), Some("s"));
    assert_eq!(request.payload.unwrap().get(), r#"{"a": 1}"#);
    assert_eq!((request.constraints.timeout_ms, request.constraints.qos()), (Some(7), Qos::Realtime));
    let of = |payload: &[u8]| {
        let parts = TaskParts { payload: Bytes::copy_from_slice(payload), ..TaskParts::default() };
        TaskRequest::of_parts(&parts).map(|request| request.payload.is_some())
    };
    assert_eq!(of(b"null"), Ok(false));
    assert!(of(b"").is_err() && of(b"{").is_err() && of("[".repeat(200).as_bytes()).is_err());
}

#[test]
fn what_a_task_says_of_its_caller_and_its_wishes_is_read_in_every_form() {
    let read = |more: &str| format!(r#"{{"task_id":"t","intent":"i"{more}}}"#);
    for (more, token) in [
        (r#","auth":{"node_token":"a"}"#, Some("a")),
        (r#","auth":{"token":"b"}"#, Some("b")),
        (r#","auth":{"node_token":null,"token":"b\u0020c"}"#, Some("b c")),
        (r#","auth":"s""#, None),
        (r#","auth":{"node_token":7}"#, None),
        (r#","auth":null"#, None),
        ("", None),
    ] {
        let body = read(more);
        let request = TaskRequest::read(body.as_bytes()).unwrap();
        assert_eq!(request.node_token().as_deref(), token, "{more}");
    }
    for (more, nonce) in [
        (r#","nonce":"n""#, Some("\"n\"")),
        (r#","nonce":7"#, Some("7")),
        (r#","nonce":null"#, None),
        (r#","nonce":"""#, None),
    ] {
        let body = read(more);
        assert_eq!(TaskRequest::read(body.as_bytes()).unwrap().nonce(), nonce, "{more}");
    }
    let known = format!("[{LIFECYCLE:?}]");
    let unknown = format!("[{LIFECYCLE:?},\"p\"]");
    for (named, required) in [("null", false), ("[ ]", false), (&known, false), (&unknown, true), ("7", true)] {
        let body = read(&format!(r#","constraints":{{"required_profiles":{named},"priority":"high"}}"#));
        let constraints = TaskRequest::read(body.as_bytes()).unwrap().constraints;
        assert_eq!(
            (constraints.requires_unknown_profiles(), constraints.priority()),
            (required, Priority::High),
            "{named}"
        );
    }
}

#[test]
fn an_envelope_around_a_result_is_told_from_a_result_that_looks_like_one() {
    let look = |result: &str| returned(&Bytes::copy_from_slice(result.as_bytes()));
    let wrapped = |inner: &'static str| Returned::Wrapped(Bytes::from_static(inner.as_bytes()));
    assert_eq!(look(r#"{"result": {"a":1} }"#), wrapped(r#"{"a":1}"#));
    assert_eq!(look(r#"{"status":"success","task_id":"t","result":[1],"metrics":{},"error":null}"#), wrapped("[1]"));
    assert_eq!(look(r#"{"result":{"result":1}}"#), wrapped(r#"{"result":1}"#), "once");
    for plain in [
        "7",
        "[]",
        "{}",
        r#"["result"]"#,
        r#""result""#,
        r#"{"results":[]}"#,
        r#"{"result":1,"answer":2}"#,
        r#"{"a":{"result":1}}"#,
        r#"{"result":null,"error":{"code":"x"}}"#,
        r#"{"status":"success"}"#,
        r#"{"error_code":"x","error_message":"y"}"#,
        r#"{"error_code":1,"error_message":"y","more":1}"#,
    ] {
        assert_eq!(look(plain), Returned::Plain, "{plain}");
    }
    assert_eq!(look(r#"{"error_code":408,"error_message":"slow"}"#), Returned::BackendError(408));
}

#[test]
fn failures_inside_a_200_are_failures() {
    for body in [
        r#"{"status":"error","error":{"code":"backend_error","message":"x"}}"#,
        r#"{"status":"completed","error_code":502,"error_message":"down"}"#,
        r#"{"status":"success","result":{"error_code":400,"error_message":"no model"}}"#,
        r#"{"status":"success","result":{},"error":{"message":"x"}}"#,
    ] {
        assert_eq!(reply(body).unwrap_err().code(), Code::Backend, "{body}");
    }
    for body in [
        "",
        "[]",
        "7",
        r#"{"status":"success""#,
        r#"{"result":{}}"#,
        r#"{"status":"maybe","result":{}}"#,
        r#"{"status":"success","task_id":"t-2","result":1}"#,
    ] {
        assert_eq!(reply(body).unwrap_err().code(), Code::Malformed, "{body}");
    }
    assert_eq!(
        reply(r#"{"status":"encrypted","iicp_conf_resp":{}}"#).unwrap_err().code(),
        Code::ConfidentialityRequired
    );
}
