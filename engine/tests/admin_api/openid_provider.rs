//! An OpenID Connect provider that says what a test wants it to say: discovery, keys, and a token endpoint that checks the client,
//! the redirect address and PKCE, and signs ID tokens with RS256. The test plays the browser and the log-in page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const CLIENT_ID: &str = "sluse";
pub const CLIENT_SECRET: &str = "a secret & more";

/// What the log-in page remembers of a code.
#[derive(Clone)]
struct Issued {
    challenge: String,
    redirect_uri: String,
    claims: Value,
}

struct State {
    issuer: String,
    key: PKey<Private>,
    key_id: String,
    /// Signs instead of the key that is published.
    wrong_key: Option<PKey<Private>>,
    algorithm: Algorithm,
    codes: HashMap<String, Issued>,
    num_redeemed: usize,
}

#[derive(Clone)]
pub struct Provider {
    pub issuer: String,
    state: Arc<Mutex<State>>,
}

fn key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

impl Provider {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            issuer: String::new(),
            key: key(),
            key_id: "first".to_owned(),
            wrong_key: None,
            algorithm: Algorithm::RS256,
            codes: HashMap::new(),
            num_redeemed: 0,
        }));
        let data = web::Data::new(Arc::clone(&state));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/realm/.well-known/openid-configuration", web::get().to(discovery))
                .route("/realm/keys", web::get().to(keys))
                .route("/realm/token", web::post().to(token))
        })
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let issuer = format!("http://{}/realm", server.addrs()[0]);
        state.lock().unwrap().issuer = issuer.clone();
        tokio::spawn(server.run());
        Self { issuer, state }
    }

    /// Somebody logs in at the page that `location` leads to: the code, and the state that goes back with it. `change` may spoil
    /// the claims.
    pub fn log_in(&self, location: &str, change: impl FnOnce(&mut Value)) -> (String, String) {
        let asked = super::identity_provider::query(location);
        assert!(location.starts_with(&format!("{}/authorize?", self.issuer)), "{location}");
        assert_eq!((asked["response_type"].as_str(), asked["client_id"].as_str()), ("code", CLIENT_ID));
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        let now = Utc::now().timestamp();
        let mut claims = json!({
            "iss": self.issuer, "sub": "7f2e", "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"],
            "name": "Åse Ek", "email": "ase@example.org", "realm_access": {"roles": ["iot", "staff"]},
        });
        change(&mut claims);
        let code = uuid::Uuid::new_v4().to_string();
        let issued =
            Issued { challenge: asked["code_challenge"].clone(), redirect_uri: asked["redirect_uri"].clone(), claims };
        self.state.lock().unwrap().codes.insert(code.clone(), issued);
        (code, asked["state"].clone())
    }

    /// Signs with a key that nobody knows.
    pub fn sign_with_another_key(&self) {
        self.state.lock().unwrap().wrong_key = Some(key());
    }

    /// Signs with the client secret, as some do; anybody who has it could.
    pub fn sign_with_the_client_secret(&self) {
        self.state.lock().unwrap().algorithm = Algorithm::HS256;
    }

    /// Publishes another key and signs with it.
    pub fn change_key(&self) {
        let mut state = self.state.lock().unwrap();
        state.key = key();
        state.key_id = "second".to_owned();
    }

    pub fn num_redeemed(&self) -> usize {
        self.state.lock().unwrap().num_redeemed
    }
}

type Shared = web::Data<Arc<Mutex<State>>>;

async fn discovery(state: Shared) -> HttpResponse {
    let issuer = state.lock().unwrap().issuer.clone();
    HttpResponse::Ok().json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
        "end_session_endpoint": format!("{issuer}/logout"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "HS256"],
    }))
}

async fn keys(state: Shared) -> HttpResponse {
    let state = state.lock().unwrap();
    let rsa = state.key.rsa().unwrap();
    HttpResponse::Ok().json(json!({"keys": [{
        "kty": "RSA", "use": "sig", "alg": "RS256", "kid": state.key_id,
        "n": URL_SAFE_NO_PAD.encode(rsa.n().to_vec()), "e": URL_SAFE_NO_PAD.encode(rsa.e().to_vec()),
    }]}))
}

fn error(code: &str) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({"error": code}))
}

async fn token(request: HttpRequest, form: web::Form<HashMap<String, String>>, state: Shared) -> HttpResponse {
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(CLIENT_ID), encoded(CLIENT_SECRET))));
    if request.headers().get("authorization").and_then(|v| v.to_str().ok()) != Some(&basic) {
        return error("invalid_client");
    }
    let mut state = state.lock().unwrap();
    let Some(issued) = form.get("code").and_then(|code| state.codes.remove(code)) else {
        return error("invalid_grant");
    };
    let verifier = form.get("code_verifier").cloned().unwrap_or_default();
    let is_theirs = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == issued.challenge
        && form.get("redirect_uri") == Some(&issued.redirect_uri)
        && form.get("grant_type").map(String::as_str) == Some("authorization_code");
    if !is_theirs {
        return error("invalid_grant");
    }
    state.num_redeemed += 1;
    let key = match state.algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(CLIENT_SECRET.as_bytes()),
        _ => {
            let key = state.wrong_key.as_ref().unwrap_or(&state.key);
            EncodingKey::from_rsa_der(&key.rsa().unwrap().private_key_to_der().unwrap())
        }
    };
    let mut header = Header::new(state.algorithm);
    header.kid = (state.algorithm == Algorithm::RS256).then(|| state.key_id.clone());
    let id_token = jsonwebtoken::encode(&header, &issued.claims, &key).unwrap();
    HttpResponse::Ok()
        .json(json!({"access_token": "at", "token_type": "Bearer", "expires_in": 300, "id_token": id_token}))
}
