//! The published client: discovers, submits, chats, and talks natively to one node.

use futures_util::StreamExt as _;
use iicp_client::iicp_tcp::{IicpTcpClient, IicpTcpClientError};
use iicp_client::{
    ChatMessage, ChatOptions, ClientConfig, DiscoverOptions, IicpClient, IicpError, TaskConstraints, TaskRequest,
};
use serde_json::{Value, json};

use crate::{Told, port, text};

/// The fields of the client's declared error.
fn told(error: IicpError) -> Value {
    let retryable = error.is_transient();
    let message = error.to_string();
    match error {
        IicpError::Protocol { code, status, .. } => {
            json!({ "kind": "protocol", "code": code, "http_status": status, "message": message, "retryable": retryable })
        }
        IicpError::NoNodes { .. } => json!({ "kind": "no_nodes", "message": message, "retryable": retryable }),
        IicpError::Http(_) => json!({ "kind": "http", "message": message, "retryable": retryable }),
        _ => json!({ "kind": "other", "message": message, "retryable": retryable }),
    }
}

fn client(command: &Value) -> IicpClient {
    let config = ClientConfig {
        directory_url: text(command, "directory"),
        route_discovery_mode: text(command, "mode"),
        ..ClientConfig::default()
    };
    IicpClient::new(config).expect("a client")
}

pub(crate) async fn discover(command: &Value) -> Told {
    let options = DiscoverOptions::default();
    let found = client(command).discover(&text(command, "intent"), Some(options), None).await.map_err(told)?;
    let nodes = found.nodes.iter();
    Ok(nodes.map(|node| json!({ "node_id": node.node_id, "endpoint": node.endpoint })).collect())
}

pub(crate) async fn submit(command: &Value) -> Told {
    let timeout_ms = command["timeout_ms"].as_u64().unwrap_or(30_000);
    let constraints = TaskConstraints {
        timeout_ms: Some(timeout_ms),
        max_tokens: None,
        model: None,
        qos: None,
        region: None,
        min_reputation: None,
    };
    let request = TaskRequest {
        // Empty: the client makes one.
        task_id: String::new(),
        intent: text(command, "intent"),
        payload: command["payload"].clone(),
        constraints: Some(constraints),
        route_constraints: None,
        auth: None,
        source_node_id: None,
        routing_policy: None,
    };
    let done = client(command).submit(request).await.map_err(told)?;
    Ok(json!({
        "task_id": done.task_id, "status": done.status, "result": done.result, "error": done.error,
        "ticket": done.dispatch_ticket_id_prefix, "from": done.routing_receipt.map(|receipt| receipt.selected_node_id_prefix),
    }))
}

pub(crate) async fn chat(command: &Value) -> Told {
    let options = ChatOptions { model: command["model"].as_str().map(str::to_owned), ..ChatOptions::default() };
    let message = ChatMessage { role: "user".into(), content: text(command, "content") };
    let reply = client(command).chat(vec![message], Some(options)).await.map_err(told)?;
    let choice = &reply.choices[0];
    Ok(json!({
        "role": choice.message.role, "content": choice.message.content, "finish_reason": choice.finish_reason,
    }))
}

/// Every request that the native client has, one after the other on one connection; the last takes it along.
pub(crate) async fn native(command: &Value) -> Told {
    let broken = |error: IicpTcpClientError| json!({ "kind": "native", "message": error.to_string() });
    let intent = text(command, "intent");
    let mut peer = IicpTcpClient::connect("127.0.0.1", port(command, "port")).await.map_err(broken)?;
    peer.handshake().await.map_err(broken)?;
    let echo = peer.ping(Some(b"abc")).await.map_err(broken)?;
    let nodes = peer.discover(&intent).await.map_err(broken)?.len();
    let mut answers = Vec::new();
    for (at, payload) in command["payloads"].as_array().into_iter().flatten().enumerate() {
        answers.push(match peer.call(&intent, payload.clone(), Some(&format!("call-{at}"))).await {
            Ok(result) => json!({ "result": result }),
            Err(error) => json!({ "error": error.to_string() }),
        });
    }
    let (node_id, version) = (peer.peer_node_id.clone(), peer.framing_version);
    let key = Some("their-task".into());
    let events = peer.call_stream(intent, command["followed"].clone(), "their-task", "session-1", None, key);
    let events = events.map(|event| match event {
        Ok(event) => json!({ "status": event.status, "result": event.result, "final": event.is_final }),
        Err(error) => json!({ "broken": error.to_string() }),
    });
    let events: Vec<Value> = events.collect().await;
    Ok(json!({
        "node_id": node_id, "version": version, "echo": echo.map(|echo| String::from_utf8_lossy(&echo).into_owned()),
        "nodes": nodes, "answers": answers, "events": events,
    }))
}
