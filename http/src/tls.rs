//! The optional TLS listener: rustls, TLS 1.2 and 1.3, HTTP/2 and 1.1. Certificate and key are PEM files that are read again when
//! they change or when we are told to (SIGHUP), without a connection noticing; files that do not fit together leave the old ones in
//! use, and say so.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Where the listener is, and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListen {
    pub listen: SocketAddr,
    /// The certificate with what stands between it and an authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS: cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("TLS: no PEM certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    #[error("TLS: no PEM private key in {}", .0.display())]
    NoKey(PathBuf),
    #[error("TLS: {} is not usable: {source}", .path.display())]
    Unusable { path: PathBuf, source: rustls::Error },
    #[error("TLS: the key does not belong to the certificate: {0}")]
    Mismatch(rustls::Error),
    #[error("TLS: {0}")]
    Config(rustls::Error),
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificates {
    files: TlsListen,
    current: ArcSwap<CertifiedKey>,
    read_at: Mutex<[Option<SystemTime>; 2]>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// They are not there, or not certificate and key of each other.
    pub fn load(files: &TlsListen) -> Result<Arc<Self>, TlsError> {
        let changed_at = changed_at(files);
        let current = ArcSwap::from_pointee(read(files)?);
        Ok(Arc::new(Self { files: files.clone(), current, read_at: Mutex::new(changed_at) }))
    }

    /// Reads the files again; new connections see what is in them now.
    ///
    /// # Errors
    /// As [`Certificates::load`]; then the old ones stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = changed_at(&self.files);
        self.current.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// [`Certificates::reload`], and a line in the log about it.
    pub fn reload_and_tell(&self) {
        match self.reload() {
            Ok(()) => tracing::info!(certificate = %self.files.certificate.display(), "TLS certificate read again"),
            Err(error) => tracing::error!(%error, "the old TLS certificate stays in use"),
        }
    }

    /// Looks at the files for ever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let seen = *self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
            if changed_at(&self.files) != seen {
                self.reload_and_tell();
            }
        }
    }

    /// What a listener needs.
    ///
    /// # Errors
    /// [`TlsError::Config`].
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?;
        Ok(builder.with_no_client_auth().with_cert_resolver(Arc::clone(self) as _))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn changed_at(files: &TlsListen) -> [Option<SystemTime>; 2] {
    [&files.certificate, &files.key].map(|path| fs::metadata(path).and_then(|about| about.modified()).ok())
}

fn pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn read(files: &TlsListen) -> Result<CertifiedKey, TlsError> {
    let chain: Vec<_> =
        rustls_pemfile::certs(&mut pem(&files.certificate)?.as_slice()).filter_map(Result::ok).collect();
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(files.certificate.clone()));
    }
    let key = rustls_pemfile::private_key(&mut pem(&files.key)?.as_slice())
        .ok()
        .flatten()
        .ok_or_else(|| TlsError::NoKey(files.key.clone()))?;
    let key = ring::sign::any_supported_type(&key)
        .map_err(|source| TlsError::Unusable { path: files.key.clone(), source })?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(TlsError::Mismatch)?;
    Ok(certified)
}
