//! One attempt to log in by a provider, from the browser's leaving to its coming back. It is kept by the browser, in a signed
//! cookie that lives for fifteen minutes, and nowhere here: so any node can finish what another began, nobody fills our memory by
//! beginning, and what one browser began no other can finish (a log-in that somebody else is made to complete).
//!
//! The cookie holds the attempt's id (SAML's request id, OpenID Connect's `state`), where to go afterwards, and for OpenID Connect
//! nonce and PKCE verifier, which are the browser's own to see. That an attempt counts once is the store's matter
//! ([`sluse_schema::port::admin::LogInStore::claim_attempt`]).

use actix_web::HttpRequest;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluse_schema::port::OidcAttempt;
use sluse_schema::secret::Secret;
use url::Url;

use super::front_end;
use crate::config::HttpConfig;
use crate::error::ApiError;

/// How long somebody may take to log in at the provider.
const LIFETIME_S: i64 = 15 * 60;
const COOKIE_PATH: &str = "/api/v1/auth";

/// Which provider was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Kombit,
    Oidc,
}

impl Provider {
    const fn cookie(self) -> &'static str {
        match self {
            Self::Kombit => "sluse_kombit",
            Self::Oidc => "sluse_oidc",
        }
    }

    /// The code that the web client is given when it did not work.
    pub const fn failed(self) -> &'static str {
        match self {
            Self::Kombit => "MESSAGE.KOMBIT-LOGIN-FAILED",
            Self::Oidc => "MESSAGE.OIDC-LOGIN-FAILED",
        }
    }

    /// In logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kombit => "kombit",
            Self::Oidc => "oidc",
        }
    }
}

/// What the browser keeps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which provider's: an attempt at one is none at the other.
    aud: String,
    exp: i64,
    /// 192 random bits behind an underscore, so that it is an XML id too.
    pub id: String,
    /// Where to go afterwards, when that was said; allowed when it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redirect: Option<String>,
    nonce: String,
    verifier: String,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt").field("id", &self.id).field("redirect", &self.redirect).finish_non_exhaustive()
    }
}

/// Signs and reads cookies. Its key comes from the tokens' secret but is another one: no cookie is a token.
pub struct Attempts {
    encoding: EncodingKey,
    decoding: DecodingKey,
    is_https: bool,
    frontend_base_url: String,
}

impl std::fmt::Debug for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attempts")
    }
}

fn random() -> String {
    let mut bytes = [0_u8; 24];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Attempts {
    /// With a key of the configured secret.
    pub fn new(config: &HttpConfig) -> Self {
        let key = Sha256::new()
            .chain_update(b"sluse log-in attempt v1\0")
            .chain_update(config.jwt_secret.reveal().as_bytes())
            .finalize();
        Self {
            encoding: EncodingKey::from_secret(&key),
            decoding: DecodingKey::from_secret(&key),
            is_https: config.backend_base_url.starts_with("https:"),
            frontend_base_url: config.frontend_base_url.clone(),
        }
    }

    /// A new attempt. `redirect` is what the caller asked for; nothing means the web client's start.
    ///
    /// # Errors
    /// 400 when `redirect` is elsewhere than at the web client's.
    pub fn begin(&self, provider: Provider, redirect: Option<&str>, now: DateTime<Utc>) -> Result<Attempt, ApiError> {
        let redirect = match redirect.map(str::trim).filter(|text| !matches!(*text, "" | "null" | "undefined")) {
            None => None,
            Some(text) => Some(front_end::allowed(text, &self.frontend_base_url).ok_or_else(|| {
                ApiError::bad_request("redirect must be a URL at the web client's origin (FRONTEND_BASEURL)")
            })?),
        };
        Ok(Attempt {
            aud: provider.as_str().to_owned(),
            exp: now.timestamp().saturating_add(LIFETIME_S),
            id: format!("_{}", random()),
            redirect: redirect.map(Into::into),
            nonce: random(),
            // RFC 7636 wants 43 characters or more.
            verifier: format!("{}{}", random(), random()),
        })
    }

    /// The cookie that keeps `attempt`. A provider that posts the browser back comes from another site, so over TLS the cookie
    /// says `None`; without TLS it may not, and a browser's default has to do (Chromium's lets a cookie through to a post for two
    /// minutes).
    ///
    /// # Errors
    /// 500 when it cannot be signed.
    pub fn cookie(&self, provider: Provider, attempt: &Attempt) -> Result<Cookie<'static>, ApiError> {
        let signed =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), attempt, &self.encoding).map_err(|error| {
                tracing::error!(%error, "a log-in attempt could not be signed");
                ApiError::internal()
            })?;
        Ok(self.baked(provider, signed, Duration::seconds(LIFETIME_S)))
    }

    /// The cookie that takes the attempt away.
    pub fn no_cookie(&self, provider: Provider) -> Cookie<'static> {
        self.baked(provider, String::new(), Duration::ZERO)
    }

    fn baked(&self, provider: Provider, value: String, max_age: Duration) -> Cookie<'static> {
        let mut cookie =
            Cookie::build(provider.cookie(), value).path(COOKIE_PATH).http_only(true).max_age(max_age).finish();
        match (provider, self.is_https) {
            (Provider::Oidc, is_https) => {
                cookie.set_same_site(SameSite::Lax);
                cookie.set_secure(is_https);
            }
            (Provider::Kombit, true) => {
                cookie.set_same_site(SameSite::None);
                cookie.set_secure(true);
            }
            (Provider::Kombit, false) => {}
        }
        cookie
    }

    /// The attempt that this browser began, if it did and it is not over.
    pub fn of_request(&self, provider: Provider, request: &HttpRequest) -> Option<Attempt> {
        let cookie = request.cookie(provider.cookie())?;
        self.read(provider, cookie.value())
    }

    fn read(&self, provider: Provider, signed: &str) -> Option<Attempt> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_audience(&[provider.as_str()]);
        validation.set_required_spec_claims(&["exp", "aud"]);
        jsonwebtoken::decode::<Attempt>(signed, &self.decoding, &validation).ok().map(|data| data.claims)
    }

    /// Where to go afterwards, and whether that was asked for: without, an error is an answer and not a redirect.
    pub fn destination(&self, attempt: &Attempt) -> (Option<Url>, bool) {
        // Asked again: the web client may have moved since.
        let asked = attempt.redirect.as_deref().and_then(|to| front_end::allowed(to, &self.frontend_base_url));
        let is_asked = asked.is_some();
        (asked.or_else(|| Url::parse(&self.frontend_base_url).ok()), is_asked)
    }
}

impl Attempt {
    /// As OpenID Connect needs it.
    pub fn as_oidc(&self) -> OidcAttempt {
        OidcAttempt {
            state: self.id.clone(),
            nonce: Secret::new(self.nonce.as_str()),
            code_verifier: Secret::new(self.verifier.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(secret: &str) -> Attempts {
        let mut config = HttpConfig::new("127.0.0.1:0".parse().unwrap(), Secret::new(secret));
        config.frontend_base_url = "https://iot.example.org".to_owned();
        config.backend_base_url = "https://api.example.org".to_owned();
        Attempts::new(&config)
    }

    #[test]
    fn an_attempt_is_read_back_by_the_same_secret_for_the_same_provider_in_time() {
        let ours = attempts("one secret of enough length");
        let now = Utc::now();
        let attempt = ours.begin(Provider::Oidc, Some("https://iot.example.org/x"), now).unwrap();
        let cookie = ours.cookie(Provider::Oidc, &attempt).unwrap();
        assert_eq!(ours.read(Provider::Oidc, cookie.value()), Some(attempt.clone()));
        assert_eq!(ours.read(Provider::Kombit, cookie.value()), None, "another provider's");
        assert_eq!(attempts("another secret").read(Provider::Oidc, cookie.value()), None, "another secret's");
        assert_eq!(ours.read(Provider::Oidc, &format!("{}x", cookie.value())), None);
        let old = ours.begin(Provider::Oidc, None, now - chrono::TimeDelta::seconds(LIFETIME_S + 1)).unwrap();
        assert_eq!(ours.read(Provider::Oidc, ours.cookie(Provider::Oidc, &old).unwrap().value()), None, "too late");
        assert!(attempt.id.len() > 30 && attempt.verifier.len() >= 43);
        assert_eq!(ours.destination(&attempt).0.unwrap().as_str(), "https://iot.example.org/x");
        assert_eq!(ours.destination(&old), (Url::parse("https://iot.example.org").ok(), false));
    }

    #[test]
    fn an_attempt_that_would_lead_elsewhere_is_not_begun() {
        let begin = |to| attempts("secret").begin(Provider::Kombit, to, Utc::now()).map_err(|e| e.status().as_u16());
        assert_eq!(begin(Some("https://evil.example")).unwrap_err(), 400);
        for none in [None, Some(""), Some("undefined"), Some("null")] {
            assert_eq!(begin(none).unwrap().redirect, None);
        }
    }

    #[test]
    fn cookies_are_kept_from_scripts_and_from_plain_connections() {
        let ours = attempts("secret");
        for provider in [Provider::Kombit, Provider::Oidc] {
            let attempt = ours.begin(provider, None, Utc::now()).unwrap();
            let text = ours.cookie(provider, &attempt).unwrap().to_string();
            for part in ["HttpOnly", "Secure", "Path=/api/v1/auth", "Max-Age=900"] {
                assert!(text.contains(part), "{part}");
            }
        }
    }
}
