//! What web pages, broken peers and floods get.

use serde_json::json;

use crate::peer::{Wire, ask, beat, eventually, loopback, node, registered, request, with};

#[tokio::test]
async fn web_pages_are_kept_out() {
    let directory = loopback().await;
    let own = directory.addr().to_string();
    let body = node("n-1", json!({}));
    for headers in [
        vec![("host", "evil.example")],
        vec![("host", "rebound.evil.example:9480"), ("content-type", "application/json")],
        vec![("host", own.as_str()), ("origin", "http://evil.example")],
        vec![("host", own.as_str()), ("origin", "null")],
        vec![("host", own.as_str()), ("host", "evil.example")],
    ] {
        for line in ["GET /iicp/health", "GET /v1/stats", "POST /v1/register", "OPTIONS /v1/register"] {
            let reply = Wire::connect(directory.addr()).await.exchange(&request(line, &headers, &body)).await;
            assert_eq!((reply.status, reply.code().as_str()), (403, "forbidden"), "{line} {headers:?}");
        }
    }
    for form in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = [("host", own.as_str()), ("content-type", form)];
        let reply =
            Wire::connect(directory.addr()).await.exchange(&request("POST /v1/register", &headers, &body)).await;
        assert_eq!(reply.status, 415, "{form}");
    }
    assert_eq!(ask(&directory, "GET /v1/node/n-1", None, "").await.status, 404, "nothing was registered");
    let here = [("host", own.as_str()), ("origin", "http://localhost:3000")];
    let reply = Wire::connect(directory.addr()).await.exchange(&request("GET /v1/stats", &here, "")).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn every_refusal_is_json_and_says_what_is_wrong() {
    let directory = loopback().await;
    let token = registered(&directory, "n-1", json!({})).await;
    let deep = format!(r#"{{"cx_public_key":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(65 << 10));
    let huge = format!(r#"{{"x":"{}"}}"#, "y".repeat(257 << 10));
    for (line, body, status, code) in [
        ("GET /", "", 404, "not_found"),
        ("GET /v1", "", 404, "not_found"),
        ("GET /v2/discover", "", 404, "not_found"),
        ("POST /v1/operator/challenge", "{}", 404, "not_found"),
        ("GET /v1/events?since_seq=0", "", 404, "not_found"),
        ("POST /v1/relay/ticket", r#"{"relay_node_id":"a/b"}"#, 422, "validation_error"),
        ("POST /v1/relay/ticket", "[]", 400, "request_error"),
        ("POST /v1/credits/award", "{}", 422, "validation_error"),
        ("POST /v1/audit-report", "{}", 422, "validation_error"),
        ("GET /v1/probe", "", 422, "validation_error"),
        ("GET /v1/probe?host=iicp.network&port=80", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&max_multiplier=-1", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&min_quality_score=2", "", 422, "validation_error"),
        ("GET /v1/discover?intent=urn:iicp:intent:credit:decision:v1", "", 422, "IICP-POLICY-001"),
        ("GET /v1/node/%ff%fe", "", 404, "not_found"),
        ("GET /v1/registry/nodes/%ff", "", 404, "REGISTRY-NODE-NOT-FOUND"),
        ("GET /v1/register", "", 405, "method_not_allowed"),
        ("PUT /api/v1/register", "{}", 405, "method_not_allowed"),
        ("OPTIONS /v1/register", "", 405, "method_not_allowed"),
        ("POST /v1/discover", "{}", 405, "method_not_allowed"),
        ("POST /v1/register", "", 400, "request_error"),
        ("POST /v1/register", "{", 400, "request_error"),
        ("POST /v1/register", "[]", 400, "request_error"),
        ("POST /v1/register", "{}", 422, "validation_error"),
        ("POST /v1/register", deep.as_str(), 422, "validation_error"),
        ("POST /v1/register", long.as_str(), 413, "payload_too_large"),
        ("POST /v1/register", huge.as_str(), 413, "payload_too_large"),
        ("POST /v1/heartbeat", huge.as_str(), 413, "payload_too_large"),
        ("POST /v1/heartbeat", "nonsense", 400, "request_error"),
        ("POST /v1/heartbeat", r#"{"health_models":"all"}"#, 422, "validation_error"),
        ("DELETE /v1/register", "{}", 422, "validation_error"),
        ("POST /v1/dispatch/ticket", "7", 400, "request_error"),
        ("POST /v1/dispatch/ticket", "{}", 422, "validation_error"),
        ("GET /v1/discover", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&limit=many", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&prompt=secret", "", 422, "validation_error"),
        ("GET /v1/discover?intent=x&profile_required=1", "", 422, "unsupported_pre_normative_profile"),
    ] {
        let reply = ask(&directory, line, Some(&token), body).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{line}: {}", reply.text);
    }
    let missing = ask(&directory, "POST /v1/register", None, r#"{"region":"1"}"#).await.json();
    assert_eq!(missing["error"]["fields"]["endpoint"], json!(["is required"]));
    assert!(missing["error"]["fields"]["region"].is_array());
    assert_eq!(beat(&directory, "n-1", &token, json!({})).await.status, 200, "the directory lives on");
}

#[tokio::test]
async fn a_flood_of_registrations_stays_within_the_bound() {
    let directory = with(|options| (options.max_nodes, options.node_ttl_ms) = (200, 50)).await;
    let host = directory.addr().to_string();
    let headers = [("host", host.as_str()), ("content-type", "application/json")];
    let mut wire = Wire::connect(directory.addr()).await;
    let mut taken = 0;
    for n in 0..5_000 {
        let reply = wire.exchange(&request("POST /v1/register", &headers, &node(&format!("n-{n}"), json!({})))).await;
        match reply.status {
            201 => taken += 1,
            503 => assert_eq!((reply.code().as_str(), reply.headers["retry-after"].as_str()), ("directory_full", "30")),
            other => panic!("{other}: {}", reply.text),
        }
    }
    assert!(taken >= 200, "{taken}");
    let stats = wire.exchange(&request("GET /v1/registry/stats", &headers, "")).await.json();
    assert_eq!(stats["registered_nodes"], 200);
    let directory = &directory;
    eventually("dormant nodes make room", || async move {
        ask(directory, "POST /v1/register", None, &node("late", json!({}))).await.status == 201
    })
    .await;
}
