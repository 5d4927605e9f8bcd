use std::net::SocketAddr;

use http::header::HeaderValue;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::node::handler::{self, Caller};
use crate::types::{Priority, Qos};

/// A task as the node hands it on.
pub(in crate::node::backend) fn task(intent: &str, payload: &str) -> Inbound {
    Inbound {
        task_id: "t-1".into(),
        intent: intent.into(),
        payload: Payload::from_json(payload.to_owned()).unwrap(),
        deadline: Instant::now(),
        qos: Qos::BestEffort,
        priority: Priority::Normal,
        model: None,
        max_tokens: None,
        takes_events: false,
        traceparent: None,
        tracestate: None,
        caller: Caller {
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            source_node_id: None,
            verified: false,
            verified_node_id: None,
        },
        cancelled: CancellationToken::new(),
    }
}

fn models(names: &[&str]) -> Models {
    Models::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), None)
}

fn sent(job: &Job) -> String {
    match &job.content {
        Content::Json(json) => String::from_utf8(json.to_vec()).unwrap(),
        Content::Form(_) => panic!("a form"),
    }
}

fn answer(content_type: &'static str, body: &[u8]) -> http_client::Reply {
    http_client::Reply {
        status: 200,
        content_type: (!content_type.is_empty()).then(|| HeaderValue::from_static(content_type)),
        retry_after: None,
        date: None,
        body: Bytes::copy_from_slice(body),
        connect: std::time::Duration::ZERO,
        first_byte: std::time::Duration::ZERO,
    }
}

pub(in crate::node::backend) fn whole(reply: &Reply) -> &Payload {
    let handler::Content::Whole(result) = &reply.content else { panic!("parts") };
    result
}

fn result(wanted: &Wanted, content_type: &'static str, body: &str) -> Result<(String, u64), Failure> {
    reply(wanted, &answer(content_type, body.as_bytes()))
        .map(|reply| (String::from_utf8(whole(&reply).bytes().to_vec()).unwrap(), reply.tokens_used))
}

#[tokio::test]
async fn a_payload_goes_up_as_it_came_but_for_its_model_and_its_stream() {
    let models = models(&["llama3", "nomic-embed"]);
    let payload =
        r#"{ "messages": [ {"role":"user","content":"h\u00e9"} ], "stream":true, "stream_options":{}, "x":1.50 }"#;
    let job_ = job(&task(CHAT, payload), &models).unwrap();
    assert_eq!(job_.path, "/chat/completions");
    assert_eq!(
        sent(&job_),
        r#"{"messages":[ {"role":"user","content":"h\u00e9"} ],"x":1.50,"model":"llama3","stream":false}"#
    );
    // The payload's own model counts more than the constraint's, and that more than the node's.
    let mut wish = task(CHAT, r#"{"model":"llama3","max_tokens":7}"#);
    (wish.model, wish.max_tokens) = (Some("nomic-embed".into()), Some(9));
    assert_eq!(sent(&job(&wish, &models).unwrap()), r#"{"max_tokens":7,"model":"llama3","stream":false}"#);
    let mut wish = task(COMPLETION, r#"{"prompt":"a","model":null,"max_tokens":null}"#);
    (wish.model, wish.max_tokens) = (Some("nomic-embed".into()), Some(9));
    let expected = r#"{"prompt":"a","model":"nomic-embed","max_tokens":9,"stream":false}"#;
    assert_eq!(sent(&job(&wish, &models).unwrap()), expected);
    let mut wish = task(CHAT, r#"{"max_completion_tokens":7}"#);
    wish.max_tokens = Some(9);
    assert!(!sent(&job(&wish, &models).unwrap()).contains("max_tokens"));
    let embed = job(&task(EMBEDDING, r#"{"input":["a"],"stream":true}"#), &models).unwrap();
    assert_eq!((embed.path, &*sent(&embed)), ("/embeddings", r#"{"input":["a"],"model":"nomic-embed"}"#));
    let judged = job(&task(MODERATION, r#"{"input":"a"}"#), &models).unwrap();
    assert_eq!((judged.path, &*sent(&judged)), ("/moderations", r#"{"input":"a"}"#));
    let spoken = job(&task(SPEECH, r#"{"input":"a","response_format":"wav"}"#), &models).unwrap();
    assert_eq!(
        (spoken.path, &*sent(&spoken)),
        ("/audio/speech", r#"{"input":"a","response_format":"wav","voice":"alloy"}"#)
    );
    assert_eq!(spoken.wanted, Wanted::Sound { format: Some("wav".into()) });
}

#[tokio::test]
async fn what_the_backend_cannot_do_is_refused_before_it_is_asked() {
    let refused = |intent: &str, payload: &str, models: &Models| job(&task(intent, payload), models).unwrap_err();
    let unknown = refused("urn:iicp:intent:llm:rerank:v1", "{}", &models(&["m"]));
    assert_eq!((unknown.http_status(), unknown.wire_code()), (Some(404), Some("unknown_intent")));
    let no_model = refused(CHAT, r#"{"model":"canary"}"#, &models(&["m"]));
    assert_eq!((no_model.http_status(), no_model.wire_code()), (Some(404), Some("IICP-E029")));
    assert!(!no_model.message().contains("canary"));
    assert_eq!(refused(CHAT, "{}", &Models::default()).code(), Code::Capacity, "no model anywhere yet");
    for (intent, payload) in [
        (CHAT, "[]"),
        (CHAT, r#""canary""#),
        (CHAT, r#"{"model":7}"#),
        (TRANSCRIPTION, "{}"),
        (TRANSCRIPTION, r#"{"audio":7}"#),
        (TRANSCRIPTION, r#"{"audio":"not base64!"}"#),
        (TRANSCRIPTION, r#"{"audio":"AAAA","temperature":"\r\nhot"}"#),
    ] {
        assert_eq!(refused(intent, payload, &models(&["m"])).code(), Code::PayloadInvalid, "{payload}");
    }
}

#[tokio::test]
async fn a_result_is_the_answer_as_it_is() {
    let chat = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"h\u00e9"}}],"usage":{"prompt_tokens":3,"completion_tokens":4},"extra":{"n":1.50}}"#;
    assert_eq!(result(&Wanted::Chat, "application/json", &format!(" {chat}\n")), Ok((chat.into(), 7)));
    let data = Wanted::Object { with: "data" };
    let embedded = r#"{"data":[{"embedding":[0.10,1e-7],"index":0}],"usage":{"total_tokens":"many"}}"#;
    assert_eq!(result(&data, "", embedded), Ok((embedded.into(), 0)), "a count in no known form is none");
    let usage = r#"{"data":[],"usage":{"prompt_tokens":2,"total_tokens":2.0}}"#;
    assert_eq!(result(&data, "", usage).unwrap().1, 2);
}

#[tokio::test]
async fn a_message_that_only_calls_tools_says_an_empty_text() {
    let body = r#"{"x":null,"choices":[{"message":{"content" : null,"tool_calls":[{"content":null}]}},{"message":{"content":"a"}},{"message":{"content":null}},{"message":{}}],"usage":{"total_tokens":5}}"#;
    let expected = r#"{"x":null,"choices":[{"message":{"content" : "","tool_calls":[{"content":null}]}},{"message":{"content":"a"}},{"message":{"content":""}},{"message":{}}],"usage":{"total_tokens":5}}"#;
    assert_eq!(result(&Wanted::Chat, "application/json", body), Ok((expected.into(), 5)));
}

#[tokio::test]
async fn what_is_no_answer_is_never_a_result() {
    let choices = Wanted::Object { with: "choices" };
    for bad in [
        "",
        "<html>oops</html>",
        "data: {\"choices\":[]}\n\n",
        "[]",
        "null",
        "{",
        r#"{"error":{"message":"canary"}}"#,
        r#"{"choices":null}"#,
        r#"{"choices":[{"message":{"content":"a"}}]} trailing"#,
        "{\"choices\":[{\"message\":{\"content\":\"a\nb\"}}]}",
    ] {
        assert!(matches!(result(&Wanted::Chat, "application/json", bad), Err(Failure::Garbage(_))), "{bad}");
        assert!(matches!(result(&choices, "application/json", bad), Err(Failure::Garbage(_))), "{bad}");
    }
    assert!(
        result(&Wanted::Chat, "", r#"{"choices":[]}"#).is_err()
            && result(&Wanted::Chat, "", r#"{"choices":[7]}"#).is_err()
    );
    let deep = format!(r#"{{"choices":[{{"message":{{"content":"a"}}}}],"x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert_eq!(result(&Wanted::Chat, "", &deep), Err(Failure::Garbage("nested too deeply")));
    let not_text = answer("application/json", b"{\"choices\":[{\"message\":{\"content\":\"\xff\"}}]}");
    assert!(matches!(reply(&Wanted::Chat, &not_text), Err(Failure::Garbage(_))));
}

#[tokio::test]
async fn a_transcript_comes_as_json_or_as_text_but_not_as_a_page() {
    let json = r#"{"text":"hello","language":"en"}"#;
    assert_eq!(result(&Wanted::Transcript, "application/json", json), Ok((json.into(), 0)));
    let text = Ok((r#"{"text":"hello \"you\""}"#.into(), 0));
    assert_eq!(result(&Wanted::Transcript, "text/plain; charset=utf-8", "hello \"you\"\n"), text);
    for (content_type, body) in [
        ("text/html", "hello"),
        ("text/plain", " <html>no</html>"),
        ("application/json", "hello"),
        ("application/json", r#"{"error":"x"}"#),
    ] {
        assert!(result(&Wanted::Transcript, content_type, body).is_err(), "{content_type} {body}");
    }
}

#[tokio::test]
async fn a_sound_comes_back_in_base64_and_nothing_else_passes_for_one() {
    let sound = |format: Option<&str>| Wanted::Sound { format: format.map(str::to_owned) };
    for (content_type, asked, format) in [
        ("audio/mpeg", None, "mp3"),
        ("audio/wav", None, "wav"),
        ("Audio/X-WAV; q=1", None, "wav"),
        ("audio/flac", Some("flac"), "flac"),
    ] {
        let (json, _) = result(&sound(asked), content_type, "RIFF....").unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["audio"], &json["format"]), (&json!("UklGRi4uLi4="), &json!(format)), "{content_type}");
        assert!(json["content_type"].as_str().unwrap().starts_with("audio/"));
    }
    for (content_type, body) in [("application/json", "{}"), ("text/html", "x"), ("", "x"), ("audio/wav", "")] {
        assert!(result(&sound(None), content_type, body).is_err(), "{content_type}");
    }
}
