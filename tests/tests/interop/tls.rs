//! The published client calls our node over TLS, with an authority that its HTTP library is told of.

use std::path::Path;

use iicp_core::options::{NatType, NodeOptions, TlsOptions, TransportMethod};
use iicp_core::{Inbound, Node, Reply};
use iicp_tests::tls::Authority;
use serde_json::{Value, json};

use crate::directory;
use crate::peer::{Peer, free_port};
use crate::their_client::{MODES, TASK};

/// Their client calls no literal address of this machine, and `127.1`, which it lets through, is no name in TLS.
const NAME: &str = "node.example.com";

#[tokio::test]
async fn their_client_calls_our_node_over_tls_and_no_node_that_it_does_not_trust() {
    let authority = Authority::new().unwrap();
    let pair = authority.issue(&[NAME]).unwrap();
    let directory = directory().await;
    let mut options = NodeOptions::default();
    options.intents = vec![TASK.into()];
    options.directory = directory.url();
    options.port = free_port();
    options.endpoint = Some(format!("https://{NAME}:{}", options.port));
    // Nobody but their client knows where that is, and so nobody looks.
    options.transport_method = Some(TransportMethod::Direct);
    options.nat_type = Some(NatType::FullCone);
    let mut tls = TlsOptions::default();
    tls.certificate = pair.certificate;
    tls.key = pair.key.as_str().into();
    tls.only = true;
    options.tls = Some(tls);
    let echo = |task: Inbound| async move { Ok(Reply::from(task.payload)) };
    let node = Node::bind(options).await.unwrap().serve(echo).await.unwrap();
    assert!(node.is_registered());

    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop-authority.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let here = ("IICP_PEER_NAME_OF_LOOPBACK", NAME);
    let told = Peer::start_with("peer_client.py", &[here, ("SSL_CERT_FILE", path.to_str().unwrap())]).await;
    let untold = Peer::start_with("peer_client.py", &[here]).await;
    for mode in MODES {
        let command = json!({
            "directory": directory.url(), "mode": mode, "intent": TASK, "payload": { "text": "grüße" },
        });
        let done = told.ok("submit", command.clone()).await;
        assert_eq!(done["result"], json!({ "text": "grüße" }), "{mode}");
        let refused: Result<Value, Value> = untold.call("submit", command).await;
        let why = refused.unwrap_err()["message"].to_string();
        assert!(why.contains("CERTIFICATE_VERIFY_FAILED"), "{mode}: {why}");
    }
}
