//! What stands before the directory: an embedded one listens on its own machine only, and talks to nobody who names another.
//! So this proxy says that it is there, as a proxy in front of it has to. It also looks at nodes from outside, which an embedded
//! directory does not, as the public one does: when a node registers, and when somebody asks whether a place can be reached.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iicp_tests::between::read_request;
use iicp_tests::http::Conn;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

/// What is of interest of a registration.
const FIELDS: [&str; 5] = ["node_id", "endpoint", "transport_method", "exposure_mode", "transport_metadata"];
const MOST: usize = 10_000;
/// As long as the public directory tries.
const PATIENCE: Duration = Duration::from_secs(5);

/// Registrations that the directory took, in their order.
pub(crate) type Registered = Arc<Mutex<Vec<Value>>>;

/// Listens at all addresses of the machine, for as long as the task runs.
pub(crate) async fn serve(listener: TcpListener, directory: SocketAddr, registered: Registered) {
    while let Ok((client, _)) = listener.accept().await {
        let registered = registered.clone();
        tokio::spawn(async move {
            // However a conversation ends, it is the client's to judge.
            let _ = converse(client, directory, &registered).await;
        });
    }
}

/// What the public directory does beside listing: none if it has nothing to say against passing the request on.
async fn looked(target: &str, path: &str, body: &[u8]) -> Option<(u16, Value)> {
    let query =
        |name: &str| target.split(['?', '&']).skip(1).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    if path.ends_with("/probe") {
        let host = query("host").unwrap_or_default().replace("%3A", ":");
        let place = (host.parse::<IpAddr>().ok()?, query("port")?.parse().ok()?);
        let reached = matches!(timeout(PATIENCE, TcpStream::connect(place)).await, Ok(Ok(_)));
        return Some((
            200,
            json!({ "reachable": reached, "latency_ms": 1, "error": (!reached).then_some("no connection") }),
        ));
    }
    if !path.ends_with("/register") {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let is_declared =
        body["transport_method"].is_string() && body["nat_type"].as_str().is_some_and(|nat| nat != "unknown");
    if is_declared || is_alive(body["endpoint"].as_str()?).await {
        return None;
    }
    let message = "no healthy answer from the endpoint's /iicp/health within 5 s";
    Some((422, json!({ "error": { "code": "IICP-E036", "message": message, "retryable": true } })))
}

async fn is_alive(endpoint: &str) -> bool {
    if let Some(name) = endpoint.strip_prefix("https://") {
        // Somebody is there; who it is, the node and the consumer find out.
        return matches!(timeout(PATIENCE, TcpStream::connect((name, 443))).await, Ok(Ok(_)));
    }
    let (place, path) = endpoint.trim_start_matches("http://").split_once('/').unwrap_or((&endpoint[7..], ""));
    let Some(place) = lookup_host(place).await.ok().and_then(|mut places| places.next()) else { return false };
    let asked = async {
        let mut conn = Conn::open(place).await?;
        let path = if path.is_empty() { String::new() } else { format!("/{}", path.trim_end_matches('/')) };
        conn.get(&format!("{path}/iicp/health")).await
    };
    matches!(timeout(PATIENCE, asked).await, Ok(Ok(answer)) if answer.status == 200)
}

async fn converse(client: TcpStream, directory: SocketAddr, registered: &Registered) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut inner = Conn::open(directory).await?;
    while let Some((path, request)) = read_request(&mut client).await? {
        let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(request.len(), |at| at + 2);
        let (head, body) = request.split_at(end);
        let head = String::from_utf8_lossy(head).into_owned();
        let target = head.split_whitespace().nth(1).unwrap_or_default();
        if let Some((status, answer)) = looked(target, &path, body.get(2..).unwrap_or_default()).await {
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 {status} Directory\r\ncontent-type: application/json\r\n");
            let text = format!("{head}content-length: {}\r\n\r\n{answer}", answer.len());
            client.get_mut().write_all(text.as_bytes()).await?;
            continue;
        }
        let stays = |line: &&str| !line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("host:"));
        let mut lines: Vec<&str> = head.lines().filter(stays).collect();
        lines.insert(1, "host: localhost");
        inner.write(&[lines.join("\r\n").as_bytes(), b"\r\n", body].concat()).await?;
        let answer = inner.answer().await?;
        if path.ends_with("/register") && (200..300).contains(&answer.status) {
            note(registered, body.get(2..).unwrap_or_default());
        }
        let mut text = format!("HTTP/1.1 {} Directory\r\n", answer.status);
        for (name, value) in answer.headers.iter().filter(|(name, _)| name != "content-length") {
            text += &format!("{name}: {value}\r\n");
        }
        if answer.status != 204 {
            text += &format!("content-length: {}\r\n", answer.body.len());
        }
        client.get_mut().write_all(&[text.as_bytes(), b"\r\n", &answer.body].concat()).await?;
    }
    Ok(())
}

fn note(registered: &Registered, body: &[u8]) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let noted: serde_json::Map<_, _> = FIELDS.iter().map(|name| ((*name).to_owned(), body[*name].clone())).collect();
    let mut all = registered.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() < MOST {
        all.push(json!(noted));
    }
}
