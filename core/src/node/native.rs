//! The native transport of a node: what stands behind it, and where callers are told that it is.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::State;
use crate::options::{NativeTransport, NodeOptions};
use crate::telemetry;
use crate::transport::endpoint::Endpoint;
use crate::transport::native_server::Native;

/// What native connections are served with, unless the options want none.
pub(super) fn behind(state: &Arc<State>) -> Option<Arc<Native>> {
    let options = &state.options;
    let plaintext = options.native == NativeTransport::Any;
    if plaintext {
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
            held: AtomicUsize::new(0),
        })
    })
}

/// The native endpoint beside the HTTP one: the same host and port. Behind what speaks TLS for the node, no frame would come
/// through; and what is taken from this machine only is of no use to others.
pub(super) fn endpoint(options: &NodeOptions, endpoint: &Endpoint) -> Option<String> {
    let taken = match options.native {
        NativeTransport::Off => false,
        NativeTransport::Auto => endpoint.is_loopback(),
        NativeTransport::Any => true,
    };
    let authority = endpoint.as_str().strip_prefix("http://")?.split('/').next()?;
    let names_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
    // Without a port it is HTTP's own there, and another one here.
    taken.then(|| format!("iicp://{authority}{}", if names_port { "" } else { ":80" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_of_it_where_it_is_of_use_to_them() {
        let told = |native, url| {
            let options = NodeOptions { native, ..NodeOptions::default() };
            endpoint(&options, &Endpoint::parse("x", url).unwrap())
        };
        use NativeTransport::{Any, Auto, Off};
        assert_eq!(told(Auto, "http://127.0.0.1:7/").as_deref(), Some("iicp://127.0.0.1:7"));
        assert_eq!(told(Auto, "http://[::1]:7/base").as_deref(), Some("iicp://[::1]:7"));
        assert_eq!(told(Auto, "http://node.example.com:7"), None);
        assert_eq!(told(Any, "http://node.example.com").as_deref(), Some("iicp://node.example.com:80"));
        assert_eq!(told(Any, "http://[2001:4860::1]").as_deref(), Some("iicp://[2001:4860::1]:80"));
        assert_eq!(told(Any, "https://node.example.com"), None);
        assert_eq!(told(Off, "http://127.0.0.1:7"), None);
    }
}
