//! TLS towards receivers and brokers: always verified, against the system's authorities plus the operator's and a target's own.
//! rustls with ring; no setting turns verification off, a further authority is what a private certificate needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Why a TLS setting cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file that was named in the configuration.
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no PEM certificate in {0}")]
    NoCertificate(String),
    #[error("no PEM private key in {0}")]
    NoKey(String),
    #[error("a certificate authority in {what} is not usable: {source}")]
    Authority {
        /// Where it stands.
        what: String,
        source: rustls::Error,
    },
    #[error("the TLS settings do not fit together: {0}")]
    Config(#[from] rustls::Error),
}

/// The authorities that every connection trusts: read once, shared by all targets.
#[derive(Clone, Debug)]
pub struct Authorities {
    roots: Arc<RootCertStore>,
    /// The configuration of everyone who needs nothing further.
    plain: Arc<ClientConfig>,
}

/// A client's own certificate chain and key.
#[derive(Debug)]
pub struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientIdentity {
    /// Reads a PEM chain and its PEM key.
    ///
    /// # Errors
    /// A file cannot be read, or holds no certificate or no key.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let key_pem = read(key)?;
        let key_der = rustls_pemfile::private_key(&mut key_pem.as_slice())
            .ok()
            .flatten()
            .ok_or_else(|| TlsError::NoKey(key.display().to_string()))?;
        Ok(Self { chain: certificates(&read(chain)?, &chain.display().to_string())?, key: key_der })
    }
}

impl Authorities {
    /// The system's authorities plus those in `extra_ca`, a PEM file. A machine without any is no error: plain targets work.
    ///
    /// # Errors
    /// `extra_ca` cannot be read or holds no usable certificate.
    pub fn load(extra_ca: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        let (num_usable, num_unusable) = roots.add_parsable_certificates(native.certs);
        if num_usable == 0 {
            tracing::warn!(
                num_unusable,
                "no certificate authorities found on this machine: TLS works only with authorities that are configured"
            );
        }
        if let Some(path) = extra_ca {
            add(&mut roots, &read(path)?, &path.display().to_string())?;
        }
        let plain = Arc::new(config_of(roots.clone(), None)?);
        Ok(Self { roots: Arc::new(roots), plain })
    }

    /// A client configuration that also trusts the authorities in `further_pem`, and shows `identity` when asked.
    ///
    /// # Errors
    /// No usable certificate in `further_pem`, or a key that does not fit its certificate.
    pub fn client_config(
        &self,
        further_pem: Option<&str>,
        identity: Option<ClientIdentity>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let further_pem = further_pem.filter(|pem| !pem.trim().is_empty());
        if further_pem.is_none() && identity.is_none() {
            return Ok(Arc::clone(&self.plain));
        }
        let mut roots = (*self.roots).clone();
        if let Some(pem) = further_pem {
            add(&mut roots, pem.as_bytes(), "the target's certificate authorities")?;
        }
        Ok(Arc::new(config_of(roots, identity)?))
    }
}

fn config_of(roots: RootCertStore, identity: Option<ClientIdentity>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match identity {
        Some(own) => builder.with_client_auth_cert(own.chain, own.key)?,
        None => builder.with_no_client_auth(),
    })
}

fn add(roots: &mut RootCertStore, pem: &[u8], what: &str) -> Result<(), TlsError> {
    for certificate in certificates(pem, what)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { what: what.to_owned(), source })?;
    }
    Ok(())
}

fn certificates(mut pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = rustls_pemfile::certs(&mut pem).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(TlsError::NoCertificate(what.to_owned()));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// The first error of type `E` in the chain, looking into I/O errors, whose `source` skips what they wrap.
pub(crate) fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_authorities_of_its_own_shares_one_configuration() {
        let authorities = Authorities::load(None).unwrap();
        let (a, b) =
            (authorities.client_config(None, None).unwrap(), authorities.client_config(Some(" "), None).unwrap());
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        let authorities = Authorities::load(None).unwrap();
        let wrong = authorities.client_config(Some("hello"), None).unwrap_err();
        assert!(matches!(wrong, TlsError::NoCertificate(_)), "{wrong}");
        assert!(matches!(Authorities::load(Some(Path::new("no-such-file.pem"))), Err(TlsError::Read { .. })));
    }
}
