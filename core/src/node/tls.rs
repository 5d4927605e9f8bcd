//! TLS of a node: read before any network is touched, asked of whoever comes in plain text, and told to callers by what is
//! advertised.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Request};
use url::Url;

use super::answer::tls_required;
use super::{State, relaying};
use crate::crypto::certificate::Validity;
use crate::error::{Code, Error, Result};
use crate::options::NodeOptions;
use crate::telemetry;
use crate::transport::conn::Conn;
use crate::transport::http_server::Answer;
use crate::transport::server_tls::ServerTls;
use crate::transport::trust::Trust;
use crate::types::CertificateReport;

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

/// What a node with these options would show, read as it would read it; none if it has no TLS.
///
/// # Errors
/// As [`load`].
pub(super) async fn examine(options: &NodeOptions) -> Result<Option<CertificateReport>> {
    let (Some(tls), _) = load(options).await? else { return Ok(None) };
    let listening =
        || Some(options.host.clone()).filter(|host| !host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()));
    let host = options.endpoint.as_deref().map_or_else(listening, host_of);
    let Validity { from, until } = tls.validity().ok_or_else(|| {
        Error::of_options(
            Code::ConfigInvalid,
            "option `tls.certificate`: it does not say how long it is good, as it should",
        )
    })?;
    let is_for_host = host.as_deref().is_none_or(|host| tls.is_for(host));
    Ok(Some(CertificateReport::new(from, until, host, is_for_host)))
}

fn host_of(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// The scheme of what the node advertises.
pub(super) fn scheme(options: &NodeOptions) -> &'static str {
    if options.tls.is_some() { "https" } else { "http" }
}

/// Says so if callers are sent to a name that the certificate is not for: none of them would trust it.
pub(super) fn check_name(tls: &ServerTls, advertised: &str) {
    if !host_of(advertised).is_some_and(|host| tls.is_for(&host)) {
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
    let path = request.uri().path();
    // Health holds no secrets, and is asked by what watches over machines.
    let asks_health = path == "/iicp/health" && matches!(*request.method(), Method::GET | Method::HEAD);
    // Published workers send their callers to a relay by http, and seal for themselves what nobody else may read.
    let relay = state.options.relay_server.as_ref().filter(|relay| !relay.tls_required);
    let is_for_relay = relay.is_some() && relaying::is_for_relay(path);
    let is_allowed = !tls.only && (conn.is_from_here() || asks_health || is_for_relay);
    (!is_allowed).then(tls_required)
}
