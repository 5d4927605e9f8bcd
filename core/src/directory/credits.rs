//! Credits, of which this directory has none: a receipt is judged as on the public directory and then dropped, an account
//! is empty, and a task costs nothing.

use axum::extract::State;
use bytes::Bytes;
use http::{StatusCode, Uri};
use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{Outcome, Refusal, ok};
use super::desk::{Caller, Desk};
use super::form::Form;
use super::node::Node;
use super::score::Wish;
use crate::crypto::digest::{fingerprint, hmac_hex, same, unhex};
use crate::types::unix_seconds;

/// How long a quote would hold.
const QUOTE_S: u64 = 60;
/// The longest time that a receipt may be good for.
const MOST_RECEIPT_S: u64 = 3_600;

/// What a node wants to be paid for.
struct Receipt {
    task_id: String,
    tokens: u32,
    amount: f64,
    nonce: String,
    expires_at: u64,
    signature: String,
    response_hash: String,
    parent: String,
    session: String,
    querying: Option<String>,
}

impl Receipt {
    fn read(form: &mut Form<'_>) -> Option<Receipt> {
        let task_id = form.text("task_id", 255);
        let task_id = form.require("task_id", task_id);
        let tokens = form.count("tokens_used", 0..=u32::MAX);
        let tokens = form.require("tokens_used", tokens);
        let amount = form.number("amount", 0.0001..=1e9);
        let amount = form.require("amount", amount);
        let nonce = form.text("nonce", 255);
        let nonce = form.require("nonce", nonce);
        if nonce.as_deref().is_some_and(|nonce| nonce.len() < 32) {
            form.fault("nonce", "must have at least 32 characters");
        }
        let expires_at = form.text("expires_at", 64);
        let expires_at = form.require("expires_at", expires_at).and_then(|text| {
            let unix_s = unix_seconds(&text).and_then(|s| u64::try_from(s).ok());
            if unix_s.is_none() {
                form.fault("expires_at", "must be a time as in 2026-01-31T12:00:00Z");
            }
            unix_s
        });
        let mut digest = |name| {
            let text = form.text(name, 64);
            let text = form.require(name, text);
            if text.as_deref().is_some_and(|text| unhex::<32>(text).is_none()) {
                form.fault(name, "must be 64 hex digits in lower case");
            }
            text
        };
        let (signature, response_hash) = (digest("signature"), digest("response_hash"));
        Some(Receipt {
            parent: form.text("cip_parent_task_id", 255).unwrap_or_default(),
            session: form.text("cip_session_key", 255).unwrap_or_default(),
            querying: form.text("querying_node_id", 64),
            task_id: task_id?,
            tokens: tokens?,
            amount: amount?,
            nonce: nonce?,
            expires_at: expires_at?,
            signature: signature?,
            response_hash: response_hash?,
        })
    }

    /// What the node has signed: empty texts keep their places.
    fn signed(&self) -> String {
        let Receipt { task_id, tokens, parent, session, nonce, response_hash, .. } = self;
        let signed = format!("{task_id}:{tokens}:{parent}:{session}:{nonce}:{response_hash}");
        self.querying.as_ref().map_or_else(|| signed.clone(), |querying| format!("{signed}:{querying}"))
    }

    /// What is wrong with it, by itself.
    fn fault(&self, hmac_key: &str, multiplier: f64, now_unix_s: u64) -> Option<&'static str> {
        // Published nodes ask for the usual price, whatever they declared; below it nobody is held to his word.
        let most = 1.1 * f64::from(self.tokens.max(1).div_ceil(1_000)) * multiplier.max(1.0);
        if !same(hmac_hex(hmac_key, &self.signed()).as_bytes(), self.signature.as_bytes()) {
            Some("is not signed with the node's node_hmac_key")
        } else if self.expires_at <= now_unix_s || self.expires_at > now_unix_s + MOST_RECEIPT_S {
            Some("is over, or good for longer than an hour")
        } else if self.amount > most {
            Some("asks for more than its tokens are worth")
        } else {
            None
        }
    }
}

/// `POST credits/award`: sent by every published node after every task; judged and dropped.
pub(super) async fn award(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    let own = desk.registered(&caller)?;
    let mut form = Form::json(&body)?;
    if form.text("node_id", 64).is_some_and(|claimed| *claimed != *own.id) {
        return Err(Refusal::unauthorized());
    }
    let receipt = Receipt::read(&mut form);
    form.finish()?;
    let receipt = receipt.ok_or_else(|| Refusal::unreadable("the receipt cannot be read"))?;
    // It may have left in the meantime.
    let hmac_key = desk.store().hmac_key(&own.id).ok_or_else(Refusal::unauthorized)?;
    let now = desk.now();
    if let Some(fault) = receipt.fault(&hmac_key, own.state.pricing.credit_cost_multiplier, now.unix_s) {
        return Err(refused(fault));
    }
    let nonce = fingerprint(&[own.id.as_bytes(), b"|", receipt.nonce.as_bytes()]);
    if !desk.once().receipts.first(nonce, now.ms) {
        return Err(refused("was sent before"));
    }
    if !desk.once().earnings.takes(fingerprint(&[own.id.as_bytes()]), receipt.amount, now.ms) {
        return Err(refused("takes the node beyond 1,000 credits in an hour"));
    }
    ok(&json!({ "node_id": &*own.id, "accepted": true, "awarded": 0.0, "balance": 0.0, "spent": 0.0 }))
}

fn refused(fault: &str) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "IICP-E027", format!("the receipt {fault}"))
}

/// `GET credits/balance`.
pub(super) async fn balance(State(desk): Desk, caller: Caller) -> Outcome {
    ok(&empty_account(&desk.registered(&caller)?))
}

/// `GET credits/summary`.
pub(super) async fn summary(State(desk): Desk, caller: Caller) -> Outcome {
    let mut account = empty_account(&desk.registered(&caller)?);
    for name in ["total_earned", "total_spent", "tx_count"] {
        account[name] = 0.into();
    }
    account["reconciles"] = true.into();
    account["operator_wallet"] = Value::Null;
    ok(&account)
}

/// `GET credits/transactions`.
pub(super) async fn transactions(State(desk): Desk, caller: Caller) -> Outcome {
    let own = desk.registered(&caller)?;
    ok(&json!({ "node_id": &*own.id, "transactions": [], "count": 0 }))
}

/// `GET credits/quote`: what a task would cost, which is nothing.
pub(super) async fn quote(State(desk): Desk, caller: Caller, uri: Uri) -> Outcome {
    desk.registered(&caller)?;
    let mut form = Form::query(uri.query().unwrap_or_default());
    let wish = Wish::read(&mut form);
    form.count("max_tokens", 1..=u32::MAX);
    form.finish()?;
    wish.check_risk()?;
    let now = desk.now();
    let nodes = desk.store().select(&wish, now).len();
    ok(&quoted(nodes, now.unix_s))
}

fn quoted(nodes: usize, now_unix_s: u64) -> Value {
    json!({
        "quote_id": Uuid::new_v4().to_string(),
        "estimated_credits": 0.0,
        "min_credits": 0.0,
        "max_credits": 0.0,
        "price_per_1000_tokens": 0.0,
        "nodes_quoted": nodes,
        "quote_expires_at": now_unix_s + QUOTE_S,
        "consumer_balance": 0.0,
        "effective_balance": 0.0,
        "balance_scope": "node",
        "balance_sufficient": true,
    })
}

fn empty_account(own: &Node) -> Value {
    json!({ "node_id": &*own.id, "balance": 0.0, "unit": "credit", "tokens_per_credit": 1000 })
}
