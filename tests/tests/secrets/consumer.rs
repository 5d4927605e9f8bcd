//! A consumer with a credential, consumer tokens, tickets and sealed prompts, and what may go wrong for it. Directory and
//! node are real; between each of them and the client stands somebody who writes down what passes.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use iicp_core::options::{
    Chat, ClientOptions, Completion, ConsumerAuth, DirectoryOptions, Discover, Embedding, Moderation, NodeOptions,
    PolicyProfile, RouteDiscovery, RoutingPolicy, Speech, TaskAuth, TaskOptions, Transcription,
};
use iicp_core::{
    CHAT, COMPLETION, Client, Code, Directory, EMBEDDING, Error, Inbound, LiveNode, MODERATION, Node, RankChoice,
    RankMode, RankRequest, Reply, SPEECH, TRANSCRIPTION, Task,
};
use iicp_tests::between::{Between, Clock};
use iicp_tests::http::{Conn, addr};
use iicp_tests::tap::Tap;
use serde_json::{Value, json};

use crate::{CANARY, say, show};

/// A directory and a node, and whoever listens before them.
struct Mesh {
    directory: Directory,
    node: LiveNode,
    tap: Tap,
}

impl Mesh {
    async fn start() -> Mesh {
        let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
        let mut options = NodeOptions::default();
        options.intents = [CHAT, COMPLETION, EMBEDDING, TRANSCRIPTION, SPEECH, MODERATION].map(str::to_owned).into();
        options.directory = directory.url();
        // Who stands between signs with a key of his own, which the node could not know.
        options.auth = TaskAuth::Open;
        let node = Node::bind(options).await.unwrap().serve(answer).await.unwrap();
        let tap = Tap::start(0, node.addr().port()).await.unwrap();
        Mesh { directory, node, tap }
    }

    /// In front of the directory; the node's address becomes the tap's, and `change` is made to it as well.
    async fn between(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Between {
        let between = Between::start(addr(&self.directory.url())).await.unwrap();
        let at = self.tap.addr();
        between.set_nodes(move |node| {
            node["endpoint"] = format!("http://{at}").into();
            // Native frames would go round the tap.
            node["transport_endpoint"] = Value::Null;
            change(node);
        });
        between
    }

    /// What passed between client and node. No word of a prompt, an answer or a credential was among it.
    fn heard(&self, credential: &str) -> String {
        let heard = self.tap.take();
        assert!(!heard.to_lowercase().contains(CANARY), "{heard}");
        assert!(!heard.contains(credential), "the credential went to the provider: {heard}");
        heard
    }
}

/// An answer that fits every intent.
async fn answer(_: Inbound) -> Result<Reply, Error> {
    let choice = json!({ "message": { "role": "assistant", "content": CANARY }, "text": CANARY });
    Ok(Reply::from(json!({
        "choices": [choice], "text": CANARY, "data": [{ "index": 0, "embedding": [0.5] }], "audio": STANDARD.encode(CANARY),
        "results": [{ "flagged": true, "categories": { CANARY: true }, "category_scores": { CANARY: 1.0 } }],
    })))
}

/// Registers somebody, for the credential alone.
async fn credential(directory: &Directory) -> String {
    let body = json!({
        "node_id": "the-consumer", "endpoint": "http://127.0.0.1:9", "region": "eu",
        "capabilities": [{ "intent": "urn:iicp:intent:lab:nothing:v1", "models": [], "max_tokens": 1 }],
        "limits": { "max_concurrent": 1, "tokens_per_min": 1 },
    });
    let mut conn = Conn::open(addr(&directory.url())).await.unwrap();
    let answer = conn.post("/v1/register", &body).await.unwrap();
    answer.json()["node_token"].as_str().unwrap_or_else(|| panic!("{}", answer.status)).to_owned()
}

fn options(between: &Between) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.directory = between.url();
    options.timeout_ms = 10_000;
    options
}

fn prompt() -> Task {
    Task::new(CHAT, json!({ "messages": [{ "role": "user", "content": CANARY }] }))
}

/// Everything that a consumer meets; returns what was secret and is not made of the canary.
pub(crate) async fn lives_with_secrets() -> Vec<String> {
    let mesh = Mesh::start().await;
    let token = credential(&mesh.directory).await;
    let mut secrets = vec![token.clone()];
    secrets.append(&mut asks_for_everything(&mesh, &token).await);
    secrets.append(&mut is_refused_before_anything_is_sent(&mesh).await);
    secrets.append(&mut does_not_believe_its_directory(&mesh, &token).await);
    mesh.node.shutdown(Duration::from_secs(5)).await;
    // Of a signed text neither half is said.
    secrets.iter().flat_map(|secret| secret.split('.')).map(str::to_owned).collect()
}

/// Every call, with a consumer token that the provider is shown.
async fn asks_for_everything(mesh: &Mesh, token: &str) -> Vec<String> {
    let between = mesh.between(|_| {}).await;
    let mut options = options(&between);
    options.node_token = Some(token.into());
    options.node_id = Some("the-consumer".into());
    options.consumer_auth = ConsumerAuth::Required;
    say(&format!("{options:?} {options:#?} {}", serde_json::to_string(&options).unwrap()));
    let client = Client::new(options).unwrap();
    say(&format!("{client:?}"));

    let task = prompt();
    say(&format!("{task:?} {:?}", task.options));
    let done = client.submit(task).await.unwrap();
    assert!(done.sealed && done.receipt.dispatch_ticket_id_prefix.is_some());
    say(&format!("{done:?} {done:#?} {}", serde_json::to_string(&done.receipt).unwrap()));

    macro_rules! asked {
        ($($verb:ident: $ask:expr;)*) => {$(
            let ask = $ask;
            say(&format!("{ask:?} {ask:#?}"));
            let reply = client.$verb(ask).await.unwrap();
            say(&format!("{reply:?} {reply:#?}"));
        )*};
    }
    asked! {
        chat: Chat::system(CANARY).message("user", CANARY);
        complete: Completion::of(CANARY);
        embed: Embedding::of([CANARY]);
        transcribe: Transcription::of(CANARY.as_bytes());
        speak: Speech::of(CANARY);
        moderate: Moderation::of([CANARY]);
    }
    let heard = mesh.heard(token);
    assert!(heard.contains("\"iicp_conf\"") && heard.contains("\"iicp_conf_resp\""), "{heard}");
    let signed = between.signed();
    // In a header, or in a native frame.
    let shown = |text: &&String| heard.contains(text.as_str());
    assert_eq!(signed.iter().filter(shown).count(), 6, "one consumer token per intent: {heard}");
    signed
}

/// Tasks that never leave.
async fn is_refused_before_anything_is_sent(mesh: &Mesh) -> Vec<String> {
    let between = mesh.between(|_| {}).await;
    let mut strict = options(&between);
    strict.routing_policy.profile = PolicyProfile::Sensitive;
    say(&format!("{strict:?}"));
    let error = Client::new(strict).unwrap().submit(prompt()).await.unwrap_err();
    assert_eq!(error.code(), Code::PolicyRefused);
    show(&error);

    let mut task = prompt();
    let mut policy = RoutingPolicy::default();
    policy.allowed_regions = Some(vec!["nowhere".into()]);
    task.options.routing_policy = Some(policy);
    say(&format!("{:?}", TaskOptions::clone(&task.options)));
    show(&Client::new(options(&between)).unwrap().submit(task).await.unwrap_err());

    let fails = |_: RankRequest| Err(Error::rejected("the ranker is out of order"));
    let strange = |request: RankRequest| {
        say(&format!("{request:?}"));
        let choice = RankChoice { candidate_ref: "nobody".into(), policy_id: "p".into(), mode: RankMode::Normal };
        Ok(Some(choice))
    };
    let clients = [Client::with_ranker(options(&between), fails), Client::with_ranker(options(&between), strange)];
    for client in clients {
        let error = client.unwrap().submit(prompt()).await.unwrap_err();
        assert_eq!(error.code(), Code::RankerRefused);
        show(&error);
    }

    let keyless = mesh.between(|node| node["cx_public_key"] = json!({ "key": CANARY })).await;
    let error = Client::new(options(&keyless)).unwrap().submit(prompt()).await.unwrap_err();
    assert_eq!(error.code(), Code::ConfidentialityRequired);
    show(&error);
    for endpoint in
        ["http://10.0.0.1:80", "http://user:canary@127.0.0.1:1", "http://127.0.0.1:1/?token=canary", "canary://x"]
    {
        let away = mesh.between(move |node| node["endpoint"] = endpoint.into()).await;
        for mode in [RouteDiscovery::Ticketed, RouteDiscovery::Legacy] {
            let mut options = options(&away);
            options.route_discovery = mode;
            let error = Client::new(options).unwrap().submit(prompt()).await.unwrap_err();
            assert!(error.code() == Code::EndpointRefused || !endpoint.contains("10.0.0.1"), "{mode:?}: {error}");
            show(&error);
        }
    }
    assert_eq!(mesh.heard(CANARY), "", "nothing was to be sent");
    between.signed()
}

/// Tickets and tokens that do not verify, and credentials that the directory does not know.
async fn does_not_believe_its_directory(mesh: &Mesh, token: &str) -> Vec<String> {
    let between = mesh.between(|_| {}).await;
    between.set_clock(Clock { signed_ahead_s: -3_600, ..Clock::default() });
    let error = Client::new(options(&between)).unwrap().submit(prompt()).await.unwrap_err();
    assert_eq!(error.code(), Code::TicketRefused);
    show(&error);

    // By discovery, so that it is the token that does not verify; then one that the directory does not give.
    for credential in [token, "canary-node-token"] {
        let mut options = options(&between);
        options.route_discovery = RouteDiscovery::Legacy;
        options.node_token = Some(credential.into());
        options.node_id = Some("the-consumer".into());
        say(&format!("{options:?}"));
        let optional = Client::new(options.clone()).unwrap();
        say(&format!("{:?}", optional.submit(prompt()).await.unwrap()));
        let heard = mesh.heard(credential);
        assert!(heard.contains("\"iicp_conf\"") && !heard.contains("x-iicp-consumer-token"), "{heard}");
        options.consumer_auth = ConsumerAuth::Required;
        let error = Client::new(options).unwrap().submit(prompt()).await.unwrap_err();
        assert_eq!(error.code(), Code::ConsumerAuthRequired);
        show(&error);
        assert_eq!(mesh.heard(credential), "", "nothing was to be sent");
    }
    let found = Client::new(options(&between)).unwrap().discover(Discover::intent(CHAT)).await.unwrap();
    assert_eq!(found.len(), 1);
    between.signed()
}
