//! TLS of a node: read before any network is touched, asked of whoever comes in plain text, and told to callers by what is
//! advertised.

use std::sync::Arc;

use http::{Method, Request};
use url::Url;

use super::State;
use super::answer::tls_required;
use crate::error::{Code, Error, Result};
use crate::options::NodeOptions;
use crate::telemetry;
use crate::transport::conn::Conn;
use crate::transport::http_server::Answer;
use crate::transport::server_tls::ServerTls;
use crate::transport::trust::Trust;

/// What the options say of TLS: the node's own, and whom it trusts.
///
/// # Errors
/// `CONFIG_INVALID` with the path of what cannot be used.
pub(super) async fn load(options: &NodeOptions) -> Result<(Option<Arc<ServerTls>>, Trust)> {
    let (tls, trusted_ca) = (options.tls.clone(), options.trusted_ca.clone());
    // A disk may take its time, and nothing else may wait for it.
    let reading = tokio::task::spawn_blocking(move || {
        Ok((tls.as_ref().map(ServerTls::load).transpose()?, Trust::with(trusted_ca.as_deref())?))
    });
    reading.await.map_err(|_| Error::new(Code::Internal, "the thread that reads certificates broke down"))?
}

/// The scheme of what the node advertises.
pub(super) fn scheme(options: &NodeOptions) -> &'static str {
    if options.tls.is_some() { "https" } else { "http" }
}

/// Says so if callers are sent to a name that the certificate is not for: none of them would trust it.
pub(super) fn check_name(tls: &ServerTls, advertised: &str) {
    let host = Url::parse(advertised).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    if !tls.is_for(&host) {
        tracing::warn!(
            target: telemetry::NODE, advertised,
            "the node's certificate is not for the host that callers are sent to, and none will trust it; set endpoint to a \
             name in the certificate, or get one for this host"
        );
    }
}

/// The refusal of what came in plain text and may not, if it did.
pub(super) fn refuse_plaintext<B>(state: &State, request: &Request<B>, conn: &Conn) -> Option<Answer> {
    let tls = state.options.tls.as_ref().filter(|_| !conn.is_secure())?;
    // Health holds no secrets, and is asked by what watches over machines.
    let asks_health = request.uri().path() == "/iicp/health" && matches!(*request.method(), Method::GET | Method::HEAD);
    let is_allowed = !tls.only && (conn.is_from_here() || asks_health);
    (!is_allowed).then(tls_required)
}
