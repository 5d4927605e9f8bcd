//! An authority of our own, certificates of all kinds, and TLS by hand.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whoever signs certificates; only those who are told trust it.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

fn failed(error: rcgen::Error) -> io::Error {
    io::Error::other(error)
}

impl Authority {
    /// Another one.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub fn new() -> io::Result<Authority> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "An authority of a test");
        let der = params.self_signed(&key).map_err(failed)?.der().clone();
        Ok(Authority { issuer: Issuer::new(params, key), der })
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// A certificate for these names.
    ///
    /// # Errors
    /// For what is no name.
    pub fn issue(&self, names: &[&str]) -> io::Result<Pair> {
        self.issue_with(names, |_| {})
    }

    /// The same, for a time that is over.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_expired(&self, names: &[&str]) -> io::Result<Pair> {
        self.issue_with(names, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> io::Result<Pair> {
        let key = KeyPair::generate().map_err(failed)?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate: pem("CERTIFICATE", certificate.der()), key: pem("PRIVATE KEY", &key.serialize_der()) })
    }

    /// TLS of a client that trusts nobody else.
    ///
    /// # Errors
    /// None in practice.
    pub fn client(&self) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).map_err(io::Error::other)?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    /// Connects, and writes this many bytes of what TLS says one by one.
    ///
    /// # Errors
    /// The system's, and a certificate that is not trusted.
    pub async fn connect(&self, addr: SocketAddr, name: &str, dribbled: usize) -> io::Result<TlsStream<Dribble>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.client()?).connect(name, Dribble { stream, dribbled }).await
    }
}

impl Pair {
    /// Writes both to files, and says where they are.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, folder: &Path) -> io::Result<(PathBuf, PathBuf)> {
        std::fs::create_dir_all(folder)?;
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, &self.certificate)?;
        std::fs::write(&key, &self.key)?;
        Ok((certificate, key))
    }
}

/// A socket that writes its first bytes one by one.
#[derive(Debug)]
pub struct Dribble {
    stream: TcpStream,
    dribbled: usize,
}

impl AsyncRead for Dribble {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let most = if self.dribbled > 0 { buf.len().min(1) } else { buf.len() };
        self.dribbled = self.dribbled.saturating_sub(1);
        Pin::new(&mut self.stream).poll_write(cx, &buf[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
