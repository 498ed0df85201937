//! Log-in providers: KOMBIT ([`saml`]: SAML 2.0) and OpenID Connect ([`oidc`]). Both are optional, and neither is asked anything
//! before somebody logs in: a provider that is away does not keep a node from starting.

pub mod oidc;
mod pem;
pub mod saml;

pub use oidc::{Oidc, OidcSettings};
pub use pem::PemError;
pub use saml::{Kombit, KombitSettings};

/// Why a provider's settings cannot be used. Names the setting, never shows a key.
#[derive(Debug, thiserror::Error)]
pub enum LogInSettingsError {
    #[error("{setting}: {source}")]
    Pem { setting: &'static str, source: PemError },
    #[error("{setting} must be {expected}")]
    Invalid { setting: &'static str, expected: &'static str },
    #[error("the log-in provider's HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
    #[error("certificate authorities for the log-in provider: {0}")]
    Tls(#[from] crate::send::tls::TlsError),
}
