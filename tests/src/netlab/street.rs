//! The open network: a directory that looks at nodes as the public one does, and a consumer.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use iicp_core::options::{ClientOptions, DirectoryOptions, RouteDiscovery};
use iicp_core::{Client, Directory, Task};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// Where the directory is.
pub const DIRECTORY: &str = "http://5.5.0.1:9480";

/// What nodes have registered, in order.
#[derive(Clone, Debug, Default)]
pub struct Registered(Arc<Mutex<Vec<Value>>>);

impl Registered {
    /// The last registration of a node that was taken.
    #[must_use]
    pub fn last(&self, node_id: &str) -> Option<Value> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().find(|one| one["node_id"] == node_id).cloned()
    }

    fn add(&self, registration: Value) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(registration);
    }
}

#[derive(Clone)]
struct Desk {
    /// The embedded directory, which is for its own machine only.
    inner: String,
    http: reqwest::Client,
    registered: Registered,
}

/// Serves the directory at [`DIRECTORY`] until the future that it is raced with ends.
///
/// # Panics
/// If it does not start.
pub async fn directory(registered: Registered, ready: std::sync::mpsc::Sender<()>) {
    let inner = Directory::bind(DirectoryOptions::loopback()).await.unwrap_or_else(|e| panic!("{e}"));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().unwrap_or_else(|e| panic!("{e}"));
    let desk = Desk { inner: inner.url(), http, registered };
    let place: SocketAddr = ([5, 5, 0, 1], 9480).into();
    let listener = TcpListener::bind(place).await.unwrap_or_else(|e| panic!("{place}: {e}"));
    let service = Router::new().fallback(answer).with_state(desk);
    let _ = ready.send(());
    let _ = axum::serve(listener, service).await;
}

async fn answer(State(desk): State<Desk>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let path = head.uri.path().to_owned();
    if path.ends_with("/v1/probe") {
        return probe(head.uri.query().unwrap_or_default()).await;
    }
    let registers = path.ends_with("/v1/register") && head.method == axum::http::Method::POST;
    if registers && let Err(refused) = judge(&desk, &body).await {
        return refused;
    }
    let url = format!("{}{}", desk.inner, head.uri.path_and_query().map_or("/", |path| path.as_str()));
    let mut forward = desk.http.request(head.method, url).body(body.clone());
    for name in ["authorization", "content-type", "x-node-id"] {
        if let Some(value) = head.headers.get(name) {
            forward = forward.header(name, value);
        }
    }
    let Ok(answer) = forward.send().await else { return axum::http::StatusCode::BAD_GATEWAY.into_response() };
    let status = answer.status();
    let bytes = answer.bytes().await.unwrap_or_default();
    if registers && status.is_success() {
        desk.registered.add(serde_json::from_slice(&body).unwrap_or_default());
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", axum::http::HeaderValue::from_static("application/json"));
    response
}

async fn probe(query: &str) -> Response {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).map(|v| v.replace("%3A", ":"));
    let ip = value("host=").and_then(|ip| ip.parse::<IpAddr>().ok());
    let port = value("port=").and_then(|port| port.parse::<u16>().ok());
    let (Some(ip), Some(port)) = (ip, port) else {
        return axum::http::StatusCode::UNPROCESSABLE_ENTITY.into_response();
    };
    let connecting = TcpStream::connect((ip, port));
    let reachable = tokio::time::timeout(Duration::from_secs(2), connecting).await.is_ok_and(|done| done.is_ok());
    axum::Json(json!({ "reachable": reachable, "latency_ms": 1, "error": null })).into_response()
}

/// Refuses a node that does not answer where it says that it is, as the public directory does.
async fn judge(desk: &Desk, body: &Bytes) -> Result<(), Response> {
    let wish: Value = serde_json::from_slice(body).unwrap_or_default();
    let is_known = !matches!(wish["nat_type"].as_str(), None | Some("" | "none" | "unknown"));
    if is_known && wish["transport_method"].is_string() {
        return Ok(());
    }
    let endpoint = wish["endpoint"].as_str().unwrap_or_default();
    let asked = desk.http.get(format!("{endpoint}/iicp/health")).timeout(Duration::from_secs(5)).send().await;
    if asked.is_ok_and(|answer| answer.status().is_success()) {
        return Ok(());
    }
    let error = json!({ "error": { "code": "IICP-E036", "message": "no answer" } });
    Err((axum::http::StatusCode::UNPROCESSABLE_ENTITY, axum::Json(error)).into_response())
}

/// Asks the mesh from outside; the answer.
///
/// # Errors
/// What the client says.
pub async fn ask(intent: &str) -> Result<String, String> {
    let mut options = ClientOptions::default();
    options.directory = DIRECTORY.into();
    // The tickets of the directory behind the directory name another issuer.
    options.route_discovery = RouteDiscovery::Legacy;
    let client = Client::new(options).map_err(|e| e.to_string())?;
    let task = Task::new(intent, json!({ "text": "knock" })).timeout(Duration::from_secs(5));
    let done = client.submit(task).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&done.result.into_bytes()).into_owned())
}
