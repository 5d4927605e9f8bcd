//! The native transport of a node: what stands behind it, and where callers are told that it is.

use std::sync::Arc;

use super::State;
use crate::options::{NativeTransport, NodeOptions};
use crate::telemetry;
use crate::transport::endpoint::Endpoint;
use crate::transport::native_server::{Native, Plaintext};

/// What native connections are served with, unless the options want none.
pub(super) fn behind(state: &Arc<State>) -> Option<Arc<Native>> {
    let options = &state.options;
    let plaintext = match options.native {
        NativeTransport::Any => Plaintext::Everywhere,
        _ if options.tls.as_ref().is_some_and(|tls| tls.only) => Plaintext::Nowhere,
        _ => Plaintext::ThisMachine,
    };
    if plaintext == Plaintext::Everywhere {
        tracing::warn!(
            target: telemetry::NODE,
            "native frames are taken in plain text from everywhere, as option native says; whoever listens can read them"
        );
    }
    (options.native != NativeTransport::Off).then(|| {
        Arc::new(Native {
            admission: state.clone(),
            node_id: state.node_id.clone(),
            plaintext,
            max_body_bytes: options.max_body_bytes,
        })
    })
}

/// The native endpoint beside the HTTP one: the same host and port. Behind what speaks TLS for the node, no frame would come
/// through; and what is taken from this machine only is of no use to others.
pub(super) fn endpoint(options: &NodeOptions, endpoint: &Endpoint) -> Option<String> {
    let (scheme, http_port, rest) = match endpoint.as_str().strip_prefix("https://") {
        Some(rest) => (options.tls.is_some().then_some("iicpsec")?, 443, rest),
        None => ("iicp", 80, endpoint.as_str().strip_prefix("http://")?),
    };
    let is_taken = match options.native {
        NativeTransport::Off => false,
        NativeTransport::Auto => scheme == "iicpsec" || endpoint.is_loopback(),
        NativeTransport::Any => true,
    };
    let authority = rest.split('/').next()?;
    let names_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
    // Without a port it is HTTP's own there, and another one here.
    let port = if names_port { String::new() } else { format!(":{http_port}") };
    is_taken.then(|| format!("{scheme}://{authority}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::TlsOptions;

    #[test]
    fn callers_are_told_of_it_where_it_is_of_use_to_them() {
        let with = |tls: bool, native, url| {
            let options = NodeOptions { native, tls: tls.then(TlsOptions::default), ..NodeOptions::default() };
            endpoint(&options, &Endpoint::parse("x", url).unwrap())
        };
        let told = |native, url| with(false, native, url);
        let told_tls = |native, url| with(true, native, url);
        use NativeTransport::{Any, Auto, Off};
        assert_eq!(told(Auto, "http://127.0.0.1:7/").as_deref(), Some("iicp://127.0.0.1:7"));
        assert_eq!(told(Auto, "http://[::1]:7/base").as_deref(), Some("iicp://[::1]:7"));
        assert_eq!(told(Auto, "http://node.example.com:7"), None);
        assert_eq!(told(Any, "http://node.example.com").as_deref(), Some("iicp://node.example.com:80"));
        assert_eq!(told(Any, "http://[2001:4860::1]").as_deref(), Some("iicp://[2001:4860::1]:80"));
        assert_eq!(told(Any, "https://node.example.com"), None);
        assert_eq!(told(Off, "http://127.0.0.1:7"), None);
        for native in [Auto, Any] {
            let told = |url| told_tls(native, url);
            assert_eq!(told("https://node.example.com:7/").as_deref(), Some("iicpsec://node.example.com:7"));
            assert_eq!(told("https://node.example.com").as_deref(), Some("iicpsec://node.example.com:443"));
            assert_eq!(told("https://[2001:4860::1]").as_deref(), Some("iicpsec://[2001:4860::1]:443"));
        }
        assert_eq!(told_tls(Off, "https://node.example.com"), None);
    }
}
