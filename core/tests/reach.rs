//! Which places a client calls and a node may be at, as an application sees it.

#![allow(clippy::unwrap_used)]

use iicp_core::options::{ClientOptions, NodeOptions, RouteDiscovery};
use iicp_core::{CHAT, Client, Code, Inbound, Node, Reply, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn node_options(host: &str) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.host = host.into();
    options
}

async fn hello(_: Inbound) -> Result<Reply> {
    Ok(Reply::chat("hello"))
}

/// A directory that names one node.
async fn directory_that_names(endpoint: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let nodes = format!("{{\"nodes\":[{{\"node_id\":\"n-1\",\"endpoint\":\"{endpoint}\"}}]}}");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", nodes.len());
            let _ = stream.write_all(format!("{head}{nodes}").as_bytes()).await;
        }
    });
    url
}

fn client(directory: &str) -> Result<Client> {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    // The directory of this test knows neither tickets nor keys.
    options.route_discovery = RouteDiscovery::Legacy;
    options.routing_policy.require_encryption = Some(false);
    Client::new(options)
}

#[tokio::test]
async fn a_directory_on_this_machine_may_name_nodes_on_it_and_none_in_private_space() {
    let node = Node::bind(node_options("127.0.0.1")).await.unwrap().serve(hello).await.unwrap();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let url = directory_that_names(&format!("http://{host}:{}", node.addr().port())).await;
        assert_eq!(client(&url).unwrap().chat("hi").await.unwrap().text(), "hello", "{host}");
    }
    for hidden in ["http://169.254.169.254/latest", "http://0x0a.0.0.1", "http://[::ffff:10.0.0.1]:1", "http://ollama"]
    {
        let url = directory_that_names(hidden).await;
        let error = client(&url).unwrap().chat("hi").await.unwrap_err();
        assert_eq!(
            (error.code(), error.wire_code()),
            (Code::EndpointRefused, Some("IICP-ENDPOINT-REFUSED")),
            "{hidden}"
        );
        assert!(error.message().contains("n-1"), "{error}");
    }
}

#[tokio::test]
async fn a_directory_may_be_anywhere_that_can_be_called() {
    for url in ["https://iicp.network/api", "http://10.0.0.1", "http://directory.lan:9480", "http://[fd00::1]"] {
        assert!(client(url).is_ok(), "{url}");
    }
    for url in ["http://0.0.0.0:9480", "http://[::]:1", "http://224.0.0.1", "http://255.255.255.255"] {
        assert_eq!(client(url).unwrap_err().code(), Code::EndpointRefused, "{url}");
    }
}

#[tokio::test]
async fn a_node_on_all_addresses_that_is_registered_says_under_which_it_is_reached() {
    for host in ["0.0.0.0", "::"] {
        let mut options = node_options(host);
        options.directory = "http://127.0.0.1:1".into();
        let error = Node::bind(options.clone()).await.unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid, "{error}");
        assert!(error.message().contains("set endpoint"), "{error}");
        options.endpoint = Some("https://node.example.com/iicp/".into());
        assert_eq!(Node::bind(options).await.unwrap().url(), "https://node.example.com/iicp");
        assert!(Node::bind(node_options(host)).await.unwrap().addr().ip().is_unspecified(), "{host}");
    }
}
