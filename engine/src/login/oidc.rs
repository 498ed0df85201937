//! Log-in by OpenID Connect: discovery, code flow with PKCE, and an ID token that is checked for signature, issuer, audience, expiry
//! and nonce (the `openidconnect` crate does), by keys that only the provider has: no shared-secret algorithm, no `none`.
//!
//! The provider's settings and keys are read at the first log-in and kept for an hour. A token by a key that is not among them has
//! them read again, at most twice a minute, so that a provider may change its keys.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreResponseType, CoreRevocableToken,
    CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AccessTokenHash, AdditionalClaims, AsyncHttpClient, AuthType, AuthenticationFlow, AuthorizationCode,
    ClaimsVerificationError, Client, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IdToken, IdTokenClaims, IdTokenFields, IssuerUrl, Nonce,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, ProviderMetadataWithLogout, RedirectUrl, Scope,
    StandardErrorResponse, StandardTokenResponse,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluse_schema::port::login::OIDC_NAME_ID_PREFIX;
use sluse_schema::port::{LogInError, OidcAttempt, OidcProvider, Vouched};
use sluse_schema::secret::Secret;
use sluse_schema::text::cut;
use tokio::sync::Mutex;
use url::Url;

use super::LogInSettingsError;
use crate::send::tls::Authorities;

/// One request to the provider, answer included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Settings, keys and tokens are some kilobytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const KEPT_FOR: Duration = Duration::from_secs(3600);
const READ_AGAIN_AFTER: Duration = Duration::from_secs(30);
const NAME_ID_CHARS_MAX: usize = 1024;

const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// What the operator says of the provider.
#[derive(Clone, Debug)]
pub struct OidcSettings {
    /// Its settings are below it at `/.well-known/openid-configuration`.
    pub issuer: String,
    pub client_id: String,
    /// May be empty: a public client, with PKCE alone.
    pub client_secret: Secret,
    /// Name of the claim with somebody's roles, or its path (`realm_access.roles`); empty: no role is needed.
    pub role_claim: String,
    /// The role that lets in.
    pub role: String,
    /// `BACKEND_BASEURL`.
    pub backend_base_url: String,
}

/// Every claim beyond the standard ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct OtherClaims {
    #[serde(flatten)]
    all: Map<String, Value>,
}

impl AdditionalClaims for OtherClaims {}

type Token = IdToken<OtherClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;
type Fields = IdTokenFields<
    OtherClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type OidcClient = Client<
    OtherClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<Fields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// What was read from the provider.
struct Known {
    client: OidcClient,
    end_session: Option<Url>,
    read_at: Instant,
}

/// The provider, and us as its client.
pub struct Oidc {
    settings: OidcSettings,
    issuer: IssuerUrl,
    redirect: RedirectUrl,
    web: Web,
    known: Mutex<Option<Arc<Known>>>,
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Oidc({})", self.settings.issuer)
    }
}

impl Oidc {
    /// Checks the settings; asks nobody. `authorities`: whom the provider's own certificate may come from.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(settings: OidcSettings, authorities: &Authorities) -> Result<Self, LogInSettingsError> {
        let invalid = |setting, expected| LogInSettingsError::Invalid { setting, expected };
        let issuer = IssuerUrl::new(settings.issuer.clone())
            .ok()
            .filter(|issuer| is_safe(issuer.url()))
            .ok_or(invalid("oidc.issuer", "an https URL (http only on this machine)"))?;
        if settings.client_id.trim().is_empty() {
            return Err(invalid("oidc.client_id", "what the provider calls us"));
        }
        if !settings.role_claim.is_empty() && settings.role.is_empty() {
            return Err(invalid("oidc.role", "the role that lets in, when there is an oidc.role_claim"));
        }
        let redirect = RedirectUrl::new(format!("{}/api/v1/auth/oidc/callback", settings.backend_base_url))
            .map_err(|_| invalid("BACKEND_BASEURL", "a URL like https://sluse.example.org"))?;
        Ok(Self { issuer, redirect, web: Web::new(authorities)?, known: Mutex::new(None), settings })
    }

    /// The provider's settings, read again when they are older than `kept_for`.
    async fn known(&self, kept_for: Duration) -> Result<Arc<Known>, LogInError> {
        // Held while they are read: one reads, the others wait for what he finds.
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.read_at.elapsed() < kept_for) {
            return Ok(Arc::clone(known));
        }
        let metadata = ProviderMetadataWithLogout::discover_async(self.issuer.clone(), &self.web)
            .await
            .map_err(|error| LogInError::Unavailable(describe(&error)))?;
        let end_session = metadata.additional_metadata().end_session_endpoint.as_ref().map(|url| url.url().clone());
        let secret = (!self.settings.client_secret.is_empty())
            .then(|| ClientSecret::new(self.settings.client_secret.reveal().to_owned()));
        let methods = metadata.token_endpoint_auth_methods_supported();
        let only_by_post = methods.is_some_and(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretPost)
                && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
        });
        let mut client =
            OidcClient::from_provider_metadata(metadata, ClientId::new(self.settings.client_id.clone()), secret)
                .set_redirect_uri(self.redirect.clone());
        if only_by_post {
            client = client.set_auth_type(AuthType::RequestBody);
        }
        let fresh = Arc::new(Known { client, end_session, read_at: Instant::now() });
        *known = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn vouched(&self, claims: &IdTokenClaims<OtherClaims, CoreGenderClaim>) -> Result<Vouched, LogInError> {
        let subject = claims.subject().as_str();
        let name_id = format!("{OIDC_NAME_ID_PREFIX}{}#{subject}", claims.issuer().as_str());
        if subject.is_empty() || name_id.chars().count() > NAME_ID_CHARS_MAX || name_id.chars().any(char::is_control) {
            return Err(LogInError::Refused("the subject cannot be used as a name".to_owned()));
        }
        let name = claims
            .name()
            .and_then(|name| name.get(None))
            .map(|name| name.as_str())
            .or_else(|| claims.preferred_username().map(|name| name.as_str()))
            .or_else(|| claims.email().map(|email| email.as_str()))
            .filter(|name| !name.trim().is_empty())
            .unwrap_or(subject);
        let has_role = self.settings.role_claim.is_empty()
            || has_role(&claims.additional_claims().all, &self.settings.role_claim, &self.settings.role);
        let name = cut(name.trim(), 128).replace(char::is_control, " ");
        Ok(Vouched { name_id, name, has_role })
    }
}

/// `https`, or `http` to this very machine.
fn is_safe(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

/// A claim by its name, or by its path.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut parts = path.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// A list of roles, or a text with one or several.
fn has_role(claims: &Map<String, Value>, path: &str, role: &str) -> bool {
    match claim(claims, path) {
        Some(Value::Array(roles)) => roles.iter().any(|found| found.as_str() == Some(role)),
        Some(Value::String(roles)) => roles == role || roles.split_whitespace().any(|found| found == role),
        Some(Value::Object(roles)) => roles.contains_key(role),
        _ => false,
    }
}

fn check_token(
    known: &Known,
    token: &Token,
    access_token: &openidconnect::AccessToken,
    nonce: &Nonce,
) -> Result<IdTokenClaims<OtherClaims, CoreGenderClaim>, ClaimsVerificationError> {
    let verifier = known.client.id_token_verifier().set_allowed_algs(ALGORITHMS);
    let claims = token.claims(&verifier, nonce)?.clone();
    if let Some(expected) = claims.access_token_hash() {
        let of_key = |error| ClaimsVerificationError::SignatureVerification(error);
        let (algorithm, key) = (token.signing_alg().map_err(of_key)?, token.signing_key(&verifier).map_err(of_key)?);
        let found = AccessTokenHash::from_token(access_token, algorithm, key)
            .map_err(|error| ClaimsVerificationError::Other(error.to_string()))?;
        if found != *expected {
            return Err(ClaimsVerificationError::Other("the access token is another one's".to_owned()));
        }
    }
    Ok(claims)
}

/// An error with its causes, bounded: some come from the provider.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    cut(&text, 500).to_owned()
}

#[async_trait]
impl OidcProvider for Oidc {
    async fn log_in_url(&self, attempt: &OidcAttempt) -> Result<String, LogInError> {
        let known = self.known(KEPT_FOR).await?;
        let (state, nonce) = (attempt.state.clone(), attempt.nonce.reveal().to_owned());
        let verifier = PkceCodeVerifier::new(attempt.code_verifier.reveal().to_owned());
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let (url, _, _) = known
            .client
            .authorize_url(flow, move || CsrfToken::new(state), move || Nonce::new(nonce))
            .add_scope(Scope::new("profile".to_owned()))
            .add_scope(Scope::new("email".to_owned()))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok(url.into())
    }

    async fn redeem(&self, code: &str, attempt: &OidcAttempt) -> Result<Vouched, LogInError> {
        let known = self.known(KEPT_FOR).await?;
        let verifier = PkceCodeVerifier::new(attempt.code_verifier.reveal().to_owned());
        let answer = known
            .client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|error| LogInError::Unavailable(describe(&error)))?
            .set_pkce_verifier(verifier)
            .request_async(&self.web)
            .await
            .map_err(|error| match error {
                openidconnect::RequestTokenError::ServerResponse(said) => {
                    LogInError::Refused(cut(&format!("the code was not redeemed: {said}"), 500).to_owned())
                }
                other => LogInError::Unavailable(describe(&other)),
            })?;
        let token =
            answer.extra_fields().id_token().ok_or_else(|| LogInError::Refused("there is no ID token".to_owned()))?;
        let nonce = Nonce::new(attempt.nonce.reveal().to_owned());
        let refused = |error: ClaimsVerificationError| LogInError::Refused(format!("ID token: {}", describe(&error)));
        let claims = match check_token(&known, token, answer.access_token(), &nonce) {
            Ok(claims) => claims,
            Err(ClaimsVerificationError::SignatureVerification(first)) => {
                let fresh = self.known(READ_AGAIN_AFTER).await?;
                if Arc::ptr_eq(&fresh, &known) {
                    return Err(refused(ClaimsVerificationError::SignatureVerification(first)));
                }
                check_token(&fresh, token, answer.access_token(), &nonce).map_err(refused)?
            }
            Err(other) => return Err(refused(other)),
        };
        self.vouched(&claims)
    }

    async fn log_out_url(&self, return_to: &str) -> Option<String> {
        let mut url = self.known(KEPT_FOR).await.ok()?.end_session.clone()?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("post_logout_redirect_uri", return_to);
        Some(url.into())
    }
}

/// Our HTTP client, as `openidconnect` calls one: verified TLS, no redirects, bounded in time and size.
#[derive(Clone, Debug)]
struct Web(reqwest::Client);

/// Why the provider gave no answer.
#[derive(Debug, thiserror::Error)]
enum WebError {
    #[error("no answer")]
    Request(#[from] reqwest::Error),
    #[error("an answer of more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("not HTTP")]
    Http(#[from] openidconnect::http::Error),
}

impl Web {
    fn new(authorities: &Authorities) -> Result<Self, LogInSettingsError> {
        let tls = (*authorities.client_config(None, None)?).clone();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self(client))
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, WebError> {
        let mut answer = self.0.execute(request.try_into()?).await?;
        let mut response = openidconnect::http::Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            response = response.header(name, value);
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(WebError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(response.body(body)?)
    }
}

impl<'c> AsyncHttpClient<'c> for Web {
    type Error = WebError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, WebError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn roles_are_found_by_name_and_by_path_whatever_their_form() {
        let claims = json!({
            "groups": ["staff", "iot"], "scope": "openid iot", "https://example.org/roles": "iot",
            "realm_access": {"roles": ["iot"]}, "project": {"iot": {"1": "example.org"}}, "number": 7,
        });
        let Value::Object(claims) = claims else { unreachable!() };
        for path in ["groups", "scope", "https://example.org/roles", "realm_access.roles", "project"] {
            assert!(has_role(&claims, path, "iot"), "{path}");
            assert!(!has_role(&claims, path, "io"), "{path}");
        }
        for path in ["number", "missing", "realm_access.missing", "groups.0"] {
            assert!(!has_role(&claims, path, "iot"), "{path}");
        }
    }

    #[test]
    fn a_provider_is_spoken_to_over_tls_or_not_at_all() {
        for (issuer, expected) in [
            ("https://idp.example.org", true),
            ("http://127.0.0.1:8080/realm", true),
            ("http://[::1]:8080", true),
            ("http://localhost:8080", true),
            ("http://idp.example.org", false),
            ("http://localhost.example.org", false),
            ("ftp://idp.example.org", false),
        ] {
            assert_eq!(is_safe(&Url::parse(issuer).unwrap()), expected, "{issuer}");
        }
    }
}
