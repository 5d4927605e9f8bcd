//! The TLS of a server that others know by its name: the certificate and the key that the operator gave, and those that
//! take their place when they are renewed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};

use super::trust::{failed, provider};
use crate::crypto::certificate::{self, Misfit, Validity};
use crate::error::{Error, Result};
use crate::options::{TlsOptions, is_pem};
use crate::runtime::TaskGroup;
use crate::state;
use crate::telemetry;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So long before its end a certificate should have been renewed; and how often that is said.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);
const SAY_EVERY: Duration = Duration::from_secs(24 * 3600);

type Fingerprint = [u8; 32];

/// What was last found where the options point.
struct Seen {
    fingerprint: Fingerprint,
    /// Why it is not served; and whether that was said.
    trouble: Option<(Error, bool)>,
    /// When it was last said that the certificate is, or soon will be, of no use.
    said_age: Option<SystemTime>,
}

/// The TLS of one server.
pub(crate) struct ServerTls {
    options: TlsOptions,
    config: Arc<ServerConfig>,
    served: Arc<Served>,
    seen: Mutex<Seen>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// What is shown to whoever connects now.
struct Served(RwLock<Arc<CertifiedKey>>);

impl Served {
    fn now(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Served")
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ServerTls {
    /// Reads what the options name. Blocks on the disk.
    ///
    /// # Errors
    /// `CONFIG_INVALID` with the path of what cannot be read, is no such thing, or does not belong to the other half.
    pub(crate) fn load(options: &TlsOptions) -> Result<Arc<Self>> {
        let (fingerprint, pair) = read(options);
        let served = Arc::new(Served(RwLock::new(Arc::new(pair?))));
        if state::is_exposed(options.key.expose()) {
            tracing::warn!(
                target: telemetry::TRANSPORT, path = options.key.expose(),
                "everybody on this machine may read this file, which is secret; chmod 600 it"
            );
        }
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(served.clone());
        // Who comes again is known by what he shows, and not by memory of ours.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(failed)?;
        config.send_tls13_tickets = 1;
        let seen = Mutex::new(Seen { fingerprint, trouble: None, said_age: None });
        let tls = Arc::new(ServerTls { options: options.clone(), config: Arc::new(config), served, seen });
        tls.speak_of_age(SystemTime::now());
        Ok(tls)
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// When the certificate that is shown begins and ceases to be good.
    pub(crate) fn validity(&self) -> Option<Validity> {
        self.served.now().cert.first().and_then(|own| certificate::validity(own))
    }

    /// Whether the certificate that is shown is for this host.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        self.served.now().cert.first().is_some_and(|own| certificate::is_for(own, host))
    }

    /// Takes what is renewed, until the group closes.
    pub(crate) fn keep_fresh(self: &Arc<Self>, group: &TaskGroup) {
        let (tls, closing) = (self.clone(), group.closing());
        let looking = async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let tls = tls.clone();
                let _ = tokio::task::spawn_blocking(move || tls.look()).await;
            }
        };
        group.spawn("certificate", async move {
            tokio::select! {
                () = closing => {}
                () = looking => {}
            }
        });
    }

    fn look(&self) {
        if !is_pem(&self.options.certificate) || !is_pem(self.options.key.expose()) {
            self.renew();
        }
        self.speak_of_age(SystemTime::now());
    }

    /// Looks once. What is of no use is left alone, and said when it is still so the next time: files are not renewed both
    /// at once.
    fn renew(&self) {
        let (fingerprint, pair) = read(&self.options);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.fingerprint == fingerprint {
            if let Some((error, said @ false)) = &mut seen.trouble {
                *said = true;
                tracing::warn!(
                    target: telemetry::TRANSPORT, why = error.message(),
                    "the certificate cannot be renewed; the one before is still served"
                );
            }
            return;
        }
        seen.fingerprint = fingerprint;
        match pair {
            Ok(pair) => {
                *self.served.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                (seen.trouble, seen.said_age) = (None, None);
                tracing::info!(target: telemetry::TRANSPORT, "a renewed certificate is served");
            }
            Err(error) => seen.trouble = Some((error, false)),
        }
    }

    fn speak_of_age(&self, now: SystemTime) {
        let Some(Validity { from, until }) = self.validity() else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.said_age.is_some_and(|said| now.duration_since(said).is_ok_and(|since| since < SAY_EVERY)) {
            return;
        }
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let what = match () {
            () if seconds > until => "the node's certificate has expired, and no caller trusts it; renew it",
            () if seconds < from => "the node's certificate is not good yet; check the clock",
            () if seconds + SOON.as_secs() > until => "the node's certificate expires within a week; renew it",
            () => return,
        };
        seen.said_age = Some(now);
        tracing::warn!(target: telemetry::TRANSPORT, until_unix_s = until, "{what}");
    }
}

/// Reads both halves. Beside them a fingerprint of what was found, so that nothing is judged twice.
fn read(options: &TlsOptions) -> (Fingerprint, Result<CertifiedKey>) {
    let mut digest = Context::new(&SHA256);
    let texts =
        [("tls.certificate", &*options.certificate), ("tls.key", options.key.expose())].map(|(option, given)| {
            let text = state::pem(option, given);
            // The length stands between them, so that what belongs to one is not taken for the other's.
            let bytes = match &text {
                Ok(text) => text.as_slice(),
                Err(error) => error.message().as_bytes(),
            };
            digest.update(&(bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
            text
        });
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest.finish().as_ref());
    let [chain, key] = texts;
    (fingerprint, chain.and_then(|chain| pair(options, &chain, &key?)))
}

fn pair(options: &TlsOptions, chain: &[u8], key: &[u8]) -> Result<CertifiedKey> {
    let (certificate, secret) = (&*options.certificate, options.key.expose());
    let chain: Vec<CertificateDer<'static>> =
        certificate::read_chain(chain).map_err(|why| state::unusable("tls.certificate", certificate, why))?;
    let key = certificate::read_key(key).map_err(|why| state::unusable("tls.key", secret, why))?;
    certificate::pair(chain, key, &provider()).map_err(|misfit| match misfit {
        Misfit::Key(why) => state::unusable("tls.key", secret, why),
        Misfit::Pair => {
            let place = if is_pem(certificate) { "the text given".to_owned() } else { format!("{certificate:?}") };
            let why = format!("it is not the key of the certificate in {place}");
            state::unusable("tls.key", secret, &why)
        }
    })
}
