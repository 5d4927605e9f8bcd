//! Workers that pull over HTTP, as browsers do.

use iicp_tests::http::{Answer, Conn};
use serde_json::{Value, json};

use super::peer::Issuer;
use super::{assert_refused, get, relay, send, soon, task};
use iicp_core::LiveNode;

async fn request(relay: &LiveNode, method: &str, path: &str, token: &str, body: Option<Value>) -> Answer {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut conn = Conn::open(relay.addr()).await.unwrap();
    conn.write(text.as_bytes()).await.unwrap();
    conn.answer().await.unwrap()
}

async fn bind(relay: &LiveNode, body: Value) -> Answer {
    request(relay, "POST", "/v1/relay/bind", "", Some(body)).await
}

async fn bound(relay: &LiveNode, worker_id: &str) -> String {
    let answer = bind(relay, json!({"worker_id": worker_id, "intent": "x", "models": ["m"]})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let bound = answer.json();
    assert_eq!(bound["poll_timeout_s"], 25);
    assert_eq!(bound["worker_endpoint_path"], format!("/v1/relay-for/{worker_id}"));
    let token = bound["session_token"].as_str().unwrap();
    assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
    token.to_owned()
}

#[tokio::test]
async fn a_worker_that_pulls_serves_tasks_like_any_other() {
    let relay = relay(|_| ()).await;
    let token = bound(&relay, "web-1").await;
    assert_eq!(
        get(&relay, "/v1/relay-for/web-1/iicp/health").await.json(),
        json!({"status": "ok", "node_id": "web-1", "via_relay": true, "models": ["m"]})
    );
    let (answer, ()) = tokio::join!(send(&relay, "web-1", task(1)), async {
        let pulled = request(&relay, "GET", "/v1/relay/pull", &token, None).await;
        assert_eq!(pulled.status, 200);
        assert_eq!(pulled.json()["task"], task(1));
        let result = json!({"call_id": pulled.json()["call_id"], "result": {"result": {"ok": true}}});
        let taken = request(&relay, "POST", "/v1/relay/result", &token, Some(result)).await;
        assert_eq!((taken.status, taken.body.len()), (204, 0));
    });
    assert_eq!(
        answer.json(),
        json!({"task_id": "t-1", "status": "completed", "result": {"ok": true}, "generated_by_ai": true})
    );
    let unknown = json!({"call_id": "nobody's", "result": {}});
    assert_eq!(request(&relay, "POST", "/v1/relay/result", &token, Some(unknown)).await.status, 204);
    assert_eq!(request(&relay, "POST", "/v1/relay/unbind", &token, None).await.status, 204);
    assert_eq!(get(&relay, "/v1/relay-for/web-1/iicp/health").await.status, 404);
    assert_refused(&request(&relay, "GET", "/v1/relay/pull", &token, None).await, 401, "IICP-E021");
}

#[tokio::test]
async fn what_a_pulling_worker_may_not_is_refused() {
    let relay = relay(|_| ()).await;
    let token = bound(&relay, "web-1").await;
    assert_refused(&bind(&relay, json!({"worker_id": "web-1"})).await, 409, "IICP-E038");
    for bad in [json!({}), json!({"worker_id": ""}), json!({"worker_id": "../x"}), json!({"worker_id": 7}), json!([])] {
        assert_refused(&bind(&relay, bad).await, 422, "IICP-E001");
    }
    for (method, path) in [("GET", "/v1/relay/pull"), ("POST", "/v1/relay/result"), ("POST", "/v1/relay/unbind")] {
        for stranger in ["", "x", &"0".repeat(32)] {
            let body = (method == "POST").then(|| json!({"call_id": "c", "result": {}}));
            assert_refused(&request(&relay, method, path, stranger, body).await, 401, "IICP-E021");
        }
    }
    for bad in [json!({}), json!({"call_id": "c"}), json!({"call_id": "c", "result": 7}), json!([])] {
        let answer = request(&relay, "POST", "/v1/relay/result", &token, Some(bad)).await;
        assert_refused(&answer, 422, "IICP-E001");
    }
    assert_eq!(request(&relay, "DELETE", "/v1/relay/bind", "", None).await.status, 405);
    assert_eq!(request(&relay, "OPTIONS", "/v1/relay/bind", "", None).await.status, 204);
}

#[tokio::test]
async fn a_second_pull_takes_the_place_of_the_first() {
    let relay = relay(|_| ()).await;
    let token = bound(&relay, "web-1").await;
    let (first, (second, answer)) = tokio::join!(request(&relay, "GET", "/v1/relay/pull", &token, None), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        tokio::join!(request(&relay, "GET", "/v1/relay/pull", &token, None), async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let mut quick = task(1);
            quick["constraints"]["timeout_ms"] = 300.into();
            send(&relay, "web-1", &quick).await
        })
    });
    assert_eq!((first.status, second.status), (204, 200), "each call is pulled once");
    assert_refused(&answer, 504, "IICP-E031");
}

#[tokio::test]
async fn a_pulling_worker_needs_a_ticket_where_others_do() {
    let issuer = Issuer::new(1);
    let key = issuer.public_key();
    let relay = relay(|options| {
        options.ticket_required = Some(true);
        options.ticket_key = Some(key);
    })
    .await;
    let with = |ticket: &str| json!({"worker_id": "web-1", "bind_ticket": ticket});
    assert_refused(&bind(&relay, json!({"worker_id": "web-1"})).await, 401, "IICP-E040");
    assert_refused(&bind(&relay, with("x")).await, 401, "IICP-E040");
    let ticket = issuer.ticket("web-1", 1);
    let first = bind(&relay, with(&ticket)).await;
    assert_eq!(first.status, 200);
    assert_refused(&bind(&relay, with(&ticket)).await, 409, "IICP-E040");
    let token = first.json()["session_token"].as_str().unwrap().to_owned();
    let pulling = request(&relay, "GET", "/v1/relay/pull", &token, None);
    let (displaced, second) = tokio::join!(soon(pulling), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        bind(&relay, with(&issuer.ticket("web-1", 2))).await
    });
    assert_eq!(second.status, 200, "the owner comes again");
    assert_refused(&displaced, 401, "IICP-E021");
}
