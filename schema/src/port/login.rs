//! Log-in providers: who vouches for somebody beside our own passwords. SAML 2.0 ([`SamlProvider`], KOMBIT) and OpenID Connect
//! ([`OidcProvider`]). A provider only says who somebody is and whether he has the role that lets him in; what he may do here is
//! our groups' matter.
//!
//! Every attempt has an id of its own, random and used once: SAML's request id (`InResponseTo`), OpenID Connect's `state`. The
//! caller of these ports keeps it with the browser that began, and claims it in the store before he lets anybody in
//! ([`super::admin::LogInStore::claim_attempt`]).

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::secret::Secret;

/// What every [`Vouched::name_id`] of an OpenID Connect provider begins with; no SAML name may.
pub const OIDC_NAME_ID_PREFIX: &str = "oidc:";

/// Why a provider did not vouch for anybody. For the log; a caller learns only that it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogInError {
    /// What came back is not what the provider says to us, now, about this attempt.
    #[error("refused: {0}")]
    Refused(String),
    /// The provider cannot be reached, or answers nonsense: the same may go through later.
    #[error("the log-in provider is not available: {0}")]
    Unavailable(String),
}

/// Somebody for whom a provider vouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The provider's name for him, the same at every log-in.
    pub name_id: String,
    /// What to call him.
    pub name: String,
    /// Whether he has the role that lets him in; `true` where none is needed.
    pub has_role: bool,
}

/// A SAML 2.0 identity provider, and us as its service provider.
#[async_trait]
pub trait SamlProvider: Debug + Send + Sync + 'static {
    /// Where a browser goes to log in: a signed `AuthnRequest` by the HTTP-Redirect binding.
    ///
    /// # Errors
    /// [`LogInError::Unavailable`] when it cannot be signed.
    fn log_in_url(&self, attempt: &str, now: DateTime<Utc>) -> Result<String, LogInError>;

    /// Checks a `SAMLResponse` (base64) as the answer to `attempt`: signature, issuer, audience, recipient, times, `InResponseTo`.
    ///
    /// # Errors
    /// [`LogInError::Refused`] with the reason.
    async fn check_response(
        &self,
        saml_response: &str,
        attempt: &str,
        now: DateTime<Utc>,
    ) -> Result<Vouched, LogInError>;

    /// Where a browser goes to end the session at the provider: a signed `LogoutRequest`.
    ///
    /// # Errors
    /// [`LogInError::Unavailable`] when it cannot be signed.
    fn log_out_url(&self, name_id: &str, now: DateTime<Utc>) -> Result<String, LogInError>;

    /// Our metadata, for the provider's administrator.
    fn metadata(&self) -> String;
}

/// One attempt to log in by OpenID Connect: what the browser that began it keeps until it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcAttempt {
    /// The attempt's id.
    pub state: String,
    /// Must stand in the ID token.
    pub nonce: Secret,
    /// PKCE: proves to the provider that who redeems the code is who asked for it.
    pub code_verifier: Secret,
}

/// An OpenID Connect provider, and us as its client.
#[async_trait]
pub trait OidcProvider: Debug + Send + Sync + 'static {
    /// Where a browser goes to log in: the authorization endpoint, with state, nonce and PKCE challenge.
    ///
    /// # Errors
    /// [`LogInError::Unavailable`] when the provider's settings cannot be had.
    async fn log_in_url(&self, attempt: &OidcAttempt) -> Result<String, LogInError>;

    /// Redeems a code and checks the ID token that comes for it: signature, issuer, audience, expiry, nonce.
    ///
    /// # Errors
    /// [`LogInError`].
    async fn redeem(&self, code: &str, attempt: &OidcAttempt) -> Result<Vouched, LogInError>;

    /// Where a browser goes to end the session at the provider, if the provider has such a place.
    async fn log_out_url(&self, return_to: &str) -> Option<String>;
}
