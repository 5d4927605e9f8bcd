use super::super::openai::tests::{task, whole};
use super::*;
use crate::types::EMBEDDING;

fn asked(payload: &Value) -> Result<Value> {
    let models = Models::new(&["claude".into()], None);
    let Content::Json(json) = job(&task(CHAT, &payload.to_string()), &models)?.content else { panic!("a form") };
    Ok(serde_json::from_slice(&json).unwrap())
}

#[tokio::test]
async fn a_chat_becomes_messages() {
    let request = asked(&json!({
        "messages": [
            { "role": "system", "content": "Be kind." },
            { "role": "user", "content": [
                { "type": "text", "text": "What is it?" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
                { "type": "image_url", "image_url": { "url": "https://example.com/a.png", "detail": "low" } },
            ] },
            { "role": "system", "content": [{ "type": "text", "text": "Be brief." }] },
            { "role": "assistant", "content": "", "tool_calls": [
                { "id": "c1", "type": "function", "function": { "name": "look", "arguments": "{\"at\":1}" } },
                { "id": "c2", "type": "function", "function": { "name": "wait", "arguments": "" } },
            ] },
            { "role": "tool", "tool_call_id": "c1", "content": "a cat" },
            { "role": "tool", "tool_call_id": "c2", "content": [{ "type": "text", "text": "done" }] },
        ],
        "temperature": 1.7, "top_p": 0.5, "stop": "END", "stream": true,
        "tools": [{ "type": "function", "function": { "name": "look", "parameters": { "type": "object" } } }],
        "tool_choice": { "type": "function", "function": { "name": "look" } },
    }))
    .unwrap();
    assert_eq!(
        request,
        json!({
            "model": "claude", "max_tokens": 4096, "system": "Be kind.\n\nBe brief.",
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "What is it?" },
                    { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AAAA" } },
                    { "type": "image", "source": { "type": "url", "url": "https://example.com/a.png" } },
                ] },
                { "role": "assistant", "content": [
                    { "type": "tool_use", "id": "c1", "name": "look", "input": { "at": 1 } },
                    { "type": "tool_use", "id": "c2", "name": "wait", "input": {} },
                ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "c1", "content": "a cat" },
                    { "type": "tool_result", "tool_use_id": "c2", "content": "done" },
                ] },
            ],
            "temperature": 1.0, "top_p": 0.5, "stop_sequences": ["END"],
            "tools": [{ "name": "look", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "tool", "name": "look" },
        })
    );
    let bound =
        asked(&json!({ "messages": [{ "role": "user", "content": "a" }], "max_completion_tokens": 5 })).unwrap();
    assert_eq!((&bound["max_tokens"], bound.get("system")), (&json!(5), None));
}

#[tokio::test]
async fn what_is_no_chat_is_refused() {
    let user = json!([{ "role": "user", "content": "a" }]);
    for bad in [
        json!({}),
        json!({ "messages": "canary" }),
        json!({ "messages": [] }),
        json!({ "messages": [{ "role": "oracle", "content": "canary" }] }),
        json!({ "messages": [{ "role": "tool", "content": "canary" }] }),
        json!({ "messages": [{ "role": "user", "content": [{ "type": "input_audio", "input_audio": {} }] }] }),
        json!({ "messages": user, "max_tokens": -1 }),
        json!({ "messages": user, "tools": 7 }),
        json!({ "messages": user, "tools": [], "tool_choice": "canary" }),
    ] {
        let error = asked(&bad).unwrap_err();
        assert!(error.code() == Code::PayloadInvalid && !error.message().contains("canary"), "{bad}: {error}");
    }
    let models = Models::new(&["claude".into()], None);
    assert_eq!(job(&task(EMBEDDING, "{}"), &models).unwrap_err().wire_code(), Some("unknown_intent"));
}

#[tokio::test]
async fn a_message_becomes_a_chats_answer() {
    let read = |body: Value| {
        let reply = reply(&body.to_string().into()).unwrap();
        (whole(&reply).json::<Value>().unwrap(), reply.tokens_used)
    };
    let (chat, tokens) = read(json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [{ "type": "thinking", "thinking": "hm" }, { "type": "text", "text": "Hello" }, { "type": "text", "text": " you" }],
        "stop_reason": "end_turn", "usage": { "input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 4 },
    }));
    assert_eq!(tokens, 17);
    assert_eq!(
        chat["choices"],
        json!([{ "index": 0, "message": { "role": "assistant", "content": "Hello you" }, "finish_reason": "stop" }])
    );
    assert_eq!(chat["usage"], json!({ "prompt_tokens": 13, "completion_tokens": 4, "total_tokens": 17 }));
    assert_eq!((&chat["model"], &chat["object"]), (&json!("claude-x"), &json!("chat.completion")));
    let (chat, _) = read(json!({
        "content": [{ "type": "tool_use", "id": "c1", "name": "look", "input": { "at": 1 } }], "stop_reason": "tool_use",
    }));
    let choice = &chat["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &json!("")));
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["id"], &call["function"]["name"]), (&json!("c1"), &json!("look")));
    assert_eq!(call["function"]["arguments"], json!("{\"at\":1}"));
    for (reason, finish) in [("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "content_filter")] {
        let (chat, _) = read(json!({ "content": [], "stop_reason": reason }));
        assert_eq!(chat["choices"][0]["finish_reason"], finish);
    }
    for bad in ["", "<html>", "[]", "{}", r#"{"content":"a"}"#, r#"{"type":"error","error":{}}"#] {
        assert!(matches!(super::reply(&Bytes::from(bad)), Err(Failure::Garbage(_))), "{bad}");
    }
}
