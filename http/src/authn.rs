//! Authentication: who is calling. A token (`Authorization: Bearer`, HS256) wins over an API key (`X-API-KEY`); an invalid token
//! lets the key be tried, as in the reference. A token is good only while its user is active, not expired, and has the token's
//! version; the account with its groups is one query, kept for five seconds at most and dropped at every change of rights that is made
//! here or heard of from another node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, web};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluse_schema::id::UserId;
use sluse_schema::permission::{Principal, PrincipalKind};
use sluse_schema::port::CallersEpoch;
use sluse_schema::port::admin::{Account, AdminError, AdminStore};
use sluse_schema::text::cut;

use crate::config::HttpConfig;
use crate::context::AppState;
use crate::error::{ApiError, code};

/// How long a caller's rights may lag behind a change that nobody told this node of.
const CALLER_TTL: Duration = Duration::from_secs(5);
const NUM_CALLERS_MAX: usize = 10_000;
/// Longest token or key that is looked at.
const CREDENTIAL_BYTES_MAX: usize = 4096;

/// What a token says; names as the web client reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// E-mail.
    pub username: String,
    pub sub: i64,
    #[serde(rename = "isKombit")]
    pub is_kombit: bool,
    pub iat: i64,
    pub exp: i64,
    /// Names the token in the change log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// `app_user.token_version` at log-in.
    #[serde(default)]
    pub ver: i32,
}

/// Who is calling, once he proved it.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub principal: Arc<Principal>,
    /// Which token or key it was, for the change log.
    pub credential: String,
}

/// What the credentials of a request came to; handlers turn it into an answer, since public routes do not care.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// No credentials at all.
    Absent,
    /// Good ones.
    Known(Authenticated),
    /// Bad ones, with the answer to give.
    Failed(ApiError),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum CallerKey {
    User(i64),
    ApiKey([u8; 32]),
}

#[derive(Clone, Debug)]
struct Caller {
    principal: Arc<Principal>,
    /// Of an API key: which one it is.
    credential: String,
    /// Of a user: what a token must say.
    token_version: i32,
    is_active: bool,
    expires_at: Option<DateTime<Utc>>,
    loaded_at: Instant,
    epoch: u64,
}

/// Signs and checks tokens, and resolves callers.
pub struct Authenticator {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    token_lifetime: Duration,
    callers: Cache<CallerKey, Caller>,
    /// What was loaded in an earlier epoch does not count.
    epoch: Arc<CallersEpoch>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authenticator")
    }
}

impl Authenticator {
    /// With the configured secret.
    pub fn new(config: &HttpConfig, epoch: Arc<CallersEpoch>) -> Self {
        let secret = config.jwt_secret.reveal().as_bytes();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            token_lifetime: config.token_lifetime,
            callers: Cache::new(NUM_CALLERS_MAX),
            epoch,
        }
    }

    /// A token for this account.
    ///
    /// # Errors
    /// 500 when it cannot be signed.
    pub fn issue(&self, account: &Account, now: DateTime<Utc>) -> Result<String, ApiError> {
        let lifetime_s = i64::try_from(self.token_lifetime.as_secs()).unwrap_or(i64::MAX / 2);
        let claims = Claims {
            username: account.email.clone().or_else(|| account.name_id.clone()).unwrap_or_default(),
            sub: account.user.0,
            is_kombit: account.name_id.is_some(),
            iat: now.timestamp(),
            exp: now.timestamp().saturating_add(lifetime_s),
            ver: account.token_version,
            jti: Some(uuid::Uuid::new_v4().simple().to_string()),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).map_err(|error| {
            tracing::error!(%error, "a token could not be signed");
            ApiError::internal()
        })
    }

    /// The claims of a token that is ours and not expired.
    pub fn check(&self, token: &str) -> Option<Claims> {
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).ok().map(|data| data.claims)
    }

    /// Forgets what is kept of callers: something changed.
    pub fn forget_all(&self) {
        self.epoch.raise();
    }

    /// Finds out who is calling.
    pub async fn authenticate(&self, headers: &HeaderMap, admin: &dyn AdminStore) -> Authentication {
        let token = bearer(headers);
        let api_key = headers.get("x-api-key").and_then(|v| v.to_str().ok());
        if let Some(claims) = token.and_then(|t| self.check(t)) {
            return settle(self.of_claims(&claims, admin).await);
        }
        if let Some(key) = api_key {
            return settle(self.of_api_key(key, admin).await);
        }
        if headers.contains_key(AUTHORIZATION) {
            return Authentication::Failed(ApiError::unauthorized());
        }
        Authentication::Absent
    }

    /// The same for a link that a browser follows, which carries its token in the query; the header wins.
    ///
    /// # Errors
    /// 401 without a good token; 503 when that cannot be told.
    pub async fn authenticate_by(
        &self,
        headers: &HeaderMap,
        token: Option<&str>,
        admin: &dyn AdminStore,
    ) -> Result<Authenticated, ApiError> {
        let token = bearer(headers).or(token).filter(|token| token.len() <= CREDENTIAL_BYTES_MAX);
        let claims = token.and_then(|token| self.check(token)).ok_or_else(ApiError::unauthorized)?;
        self.of_claims(&claims, admin).await
    }

    async fn of_claims(&self, claims: &Claims, admin: &dyn AdminStore) -> Result<Authenticated, ApiError> {
        let now = Utc::now();
        let key = CallerKey::User(claims.sub);
        let caller = match self.cached(&key) {
            Some(caller) => caller,
            None => {
                let epoch = self.epoch.now();
                let account = admin
                    .account_of_user(UserId(claims.sub))
                    .await
                    .map_err(later)?
                    .ok_or_else(ApiError::unauthorized)?;
                let name = account.email.clone().or(account.name_id).unwrap_or(account.name);
                let principal = Principal::new(account.user, name, PrincipalKind::User, &account.grants);
                let caller = Caller {
                    principal: Arc::new(principal),
                    credential: String::new(),
                    token_version: account.token_version,
                    is_active: account.is_active,
                    expires_at: account.expires_at,
                    loaded_at: Instant::now(),
                    epoch,
                };
                self.callers.insert(key, caller.clone());
                caller
            }
        };
        let is_good = caller.is_active
            && caller.token_version == claims.ver
            && caller.expires_at.is_none_or(|expires_at| now < expires_at);
        if !is_good {
            return Err(ApiError::unauthorized());
        }
        let token = claims.jti.clone().unwrap_or_else(|| claims.iat.to_string());
        let credential = format!("token {}", cut(&token, 64));
        Ok(Authenticated { principal: caller.principal, credential })
    }

    async fn of_api_key(&self, api_key: &str, admin: &dyn AdminStore) -> Result<Authenticated, ApiError> {
        let refused = || ApiError::new(actix_web::http::StatusCode::UNAUTHORIZED, code::API_KEY_AUTH_FAILED);
        if api_key.is_empty() || api_key.len() > CREDENTIAL_BYTES_MAX {
            return Err(refused());
        }
        let hash: [u8; 32] = Sha256::digest(api_key.as_bytes()).into();
        let key = CallerKey::ApiKey(hash);
        let caller = match self.cached(&key) {
            Some(caller) => caller,
            None => {
                let epoch = self.epoch.now();
                let found = admin.caller_of_api_key(&hash).await.map_err(later)?.ok_or_else(refused)?;
                let caller = Caller {
                    principal: Arc::new(Principal::new(
                        found.system_user,
                        found.name,
                        PrincipalKind::ApiKey,
                        &found.grants,
                    )),
                    credential: format!("api-key {}", found.key),
                    token_version: 0,
                    is_active: true,
                    expires_at: found.expires_at,
                    loaded_at: Instant::now(),
                    epoch,
                };
                self.callers.insert(key, caller.clone());
                caller
            }
        };
        if caller.expires_at.is_some_and(|expires_at| expires_at <= Utc::now()) {
            return Err(ApiError::new(actix_web::http::StatusCode::UNAUTHORIZED, code::API_KEY_EXPIRED));
        }
        Ok(Authenticated { principal: caller.principal, credential: caller.credential })
    }

    fn cached(&self, key: &CallerKey) -> Option<Caller> {
        let caller = self.callers.get(key)?;
        let is_fresh = caller.epoch == self.epoch.now() && caller.loaded_at.elapsed() < CALLER_TTL;
        is_fresh.then_some(caller)
    }
}

fn settle(result: Result<Authenticated, ApiError>) -> Authentication {
    match result {
        Ok(known) => Authentication::Known(known),
        Err(error) => Authentication::Failed(error),
    }
}

fn later(error: AdminError) -> ApiError {
    match error {
        AdminError::NotFound => ApiError::unauthorized(),
        other => other.into(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer") && token.len() <= CREDENTIAL_BYTES_MAX;
    is_bearer.then(|| token.trim())
}

/// Parts of the API whose changes give nobody other rights: they leave what is kept of callers alone.
const WITHOUT_RIGHTS: [&str; 9] = [
    "iot-device",
    "data-target",
    "payload-decoder",
    "test-payload-decoder",
    "device-model",
    "multicast",
    "chirpstack",
    "sigfox-group",
    "sigfox-device-type",
];

fn may_change_rights(path: &str) -> bool {
    let rest = path.strip_prefix("/api/v1/").unwrap_or(path);
    let first = rest.split('/').next().unwrap_or_default();
    !WITHOUT_RIGHTS.contains(&first) && first != "iot-device-payload-decoder-data-target-connection"
}

/// Middleware: resolves the caller before anything of the body is read, and after a change forgets what is kept of callers.
pub async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let Some(state) = request.app_data::<web::Data<AppState>>().cloned() else {
        return Err(ApiError::internal().into());
    };
    let authentication = state.authenticator.authenticate(request.headers(), state.admin()).await;
    let is_change = matches!(authentication, Authentication::Known(_))
        && !request.method().is_safe()
        && may_change_rights(request.path());
    request.extensions_mut().insert(authentication);
    let response = next.call(request).await;
    if is_change {
        state.authenticator.forget_all();
    }
    response
}

#[cfg(test)]
mod tests {
    use sluse_schema::secret::Secret;

    use super::*;

    fn authenticator(secret: &str) -> Authenticator {
        Authenticator::new(&HttpConfig::new("127.0.0.1:0".parse().unwrap(), Secret::new(secret)), Arc::default())
    }

    fn account() -> Account {
        Account {
            user: UserId(7),
            name: "Rita".into(),
            email: Some("rita@example.org".into()),
            name_id: None,
            password_hash: None,
            is_active: true,
            expires_at: None,
            token_version: 3,
            grants: Vec::new(),
        }
    }

    #[test]
    fn a_token_says_what_the_web_client_reads() {
        let ours = authenticator("a secret of enough length");
        let token = ours.issue(&account(), Utc::now()).unwrap();
        let claims = ours.check(&token).unwrap();
        assert_eq!((claims.sub, claims.username.as_str(), claims.ver), (7, "rita@example.org", 3));
        assert_eq!(claims.exp - claims.iat, 9 * 3600);
        assert!(!claims.is_kombit);
    }

    #[test]
    fn tokens_of_another_secret_expired_or_unsigned_are_refused() {
        let ours = authenticator("a secret of enough length");
        let foreign = authenticator("another secret").issue(&account(), Utc::now()).unwrap();
        assert_eq!(ours.check(&foreign), None);
        let old = ours.issue(&account(), Utc::now() - chrono::TimeDelta::hours(10)).unwrap();
        assert_eq!(ours.check(&old), None);
        // {"alg":"none"} with our claims and no signature
        let token = ours.issue(&account(), Utc::now()).unwrap();
        let (payload, signature) = (token.split('.').nth(1).unwrap(), token.split('.').nth(2).unwrap());
        assert_eq!(ours.check(&format!("eyJhbGciOiJub25lIn0.{payload}.")), None);
        assert_eq!(ours.check(&format!("{token}.{payload}")), None);
        // Our secret, but not our algorithm; and a key that the token itself names.
        let claims = ours.check(&token).unwrap();
        for (algorithm, secret) in [
            (Algorithm::HS512, "a secret of enough length"),
            (Algorithm::HS384, "a secret of enough length"),
            (Algorithm::HS256, "secretKey-os2iot-secretKey"),
            (Algorithm::HS256, ""),
        ] {
            let mut header = Header::new(algorithm);
            (header.kid, header.jku) = (Some("../../dev/null".into()), Some("https://evil.example/keys".into()));
            let forged = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
            assert_eq!(ours.check(&forged), None, "{algorithm:?} {secret}");
        }
        // Other claims under a signature that is ours.
        let other = Account { user: UserId(1), ..account() };
        let other = ours.issue(&other, Utc::now()).unwrap();
        let mixed = format!("{}.{}.{signature}", token.split('.').next().unwrap(), other.split('.').nth(1).unwrap());
        assert_eq!(ours.check(&mixed), None);
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, actix_web::http::header::HeaderValue::from_static("bEaReR abc"));
        assert_eq!(bearer(&headers), Some("abc"));
        headers.insert(AUTHORIZATION, actix_web::http::header::HeaderValue::from_static("Basic abc"));
        assert_eq!(bearer(&headers), None);
    }
}
