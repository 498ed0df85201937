//! Log-in by OpenID Connect end to end: a browser, our API, and a provider that signs ID tokens.

use std::sync::Arc;

use serde_json::{Value, json};
use sluse_engine::login::{Oidc, OidcSettings};
use sluse_engine::send::tls::Authorities;
use sluse_http::login::LogInProviders;
use sluse_schema::secret::Secret;

use crate::fixture::{Api, BACKEND, FRONTEND};
use crate::identity_provider::query;
use crate::openid_provider::{CLIENT_ID, CLIENT_SECRET, Provider};

struct Rig {
    api: Api,
    provider: Provider,
}

/// A browser at the provider's page.
struct Left {
    cookie: String,
    location: String,
}

fn settings(issuer: &str) -> OidcSettings {
    OidcSettings {
        issuer: issuer.to_owned(),
        client_id: CLIENT_ID.to_owned(),
        client_secret: Secret::new(CLIENT_SECRET),
        role_claim: "realm_access.roles".to_owned(),
        role: "iot".to_owned(),
        backend_base_url: BACKEND.to_owned(),
    }
}

impl Rig {
    async fn start() -> Self {
        let provider = Provider::start();
        let oidc = Oidc::new(settings(&provider.issuer), &Authorities::load(None).unwrap()).unwrap();
        let api = Api::start_with_log_in(LogInProviders { kombit: None, oidc: Some(Arc::new(oidc)) }).await;
        Self { api, provider }
    }

    async fn leave(&self) -> Left {
        let url = format!("{}/auth/oidc/login?redirect={FRONTEND}/applications", self.api.base);
        let response = self.api.browser.get(url).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 302);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("set-cookie").contains("SameSite=Lax"), "{}", header("set-cookie"));
        Left { cookie: header("set-cookie").split(';').next().unwrap().to_owned(), location: header("location") }
    }

    /// Status, and where to.
    async fn come_back(&self, cookie: Option<&str>, pairs: &[(&str, &str)]) -> (u16, String) {
        self.come_back_at(&self.api.base, cookie, pairs).await
    }

    async fn come_back_at(&self, base: &str, cookie: Option<&str>, pairs: &[(&str, &str)]) -> (u16, String) {
        let asked = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let mut request = self.api.browser.get(format!("{base}/auth/oidc/callback?{asked}"));
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        let response = request.send().await.unwrap();
        let location = response.headers().get("location").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        (response.status().as_u16(), location)
    }

    /// Leaves, logs in with changed claims, comes back.
    async fn with_claims(&self, change: impl FnOnce(&mut Value)) -> (u16, String) {
        let left = self.leave().await;
        let (code, state) = self.provider.log_in(&left.location, change);
        self.come_back(Some(&left.cookie), &[("code", &code), ("state", &state)]).await
    }
}

fn failed(answer: &(u16, String)) -> bool {
    answer.0 == 302 && answer.1 == format!("{FRONTEND}/applications?error=MESSAGE.OIDC-LOGIN-FAILED")
}

fn token(answer: &(u16, String)) -> String {
    query(&answer.1).remove("jwt").unwrap_or_else(|| panic!("{answer:?}"))
}

#[tokio::test]
async fn somebody_new_is_let_in_made_a_user_and_found_again() {
    let rig = Rig::start().await;
    let first = token(&rig.with_claims(|_| ()).await);
    let (status, me) = rig.api.call("GET", "/auth/me", Some(&first), None).await;
    assert_eq!(status, 200, "{me}");
    let user = &me["user"];
    assert_eq!(user["nameId"], json!(format!("oidc:{}#7f2e", rig.provider.issuer)));
    assert_eq!((&user["name"], &user["email"], &user["permissions"]), (&json!("Åse Ek"), &Value::Null, &json!([])));
    token(&rig.with_claims(|_| ()).await);
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id IS NOT NULL").await, 1);
    token(&rig.with_claims(|claims| claims["sub"] = json!("another")).await);
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id IS NOT NULL").await, 2);
    let events = "SELECT count(*) FROM change_log WHERE action = 'LOGIN' AND remote_address IS NOT NULL";
    assert!(rig.api.number(events).await >= 3);
}

#[tokio::test]
async fn an_id_token_that_is_not_the_providers_to_us_now_is_refused() {
    let rig = Rig::start().await;
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 7] = [
        ("another nonce", |c| c["nonce"] = json!("other")),
        ("no nonce", |c| {
            c.as_object_mut().unwrap().remove("nonce");
        }),
        ("another issuer", |c| c["iss"] = json!("https://other.example.org")),
        ("another audience", |c| c["aud"] = json!("other")),
        ("expired", |c| c["exp"] = json!(chrono::Utc::now().timestamp() - 5)),
        ("another access token", |c| c["at_hash"] = json!("AAAAAAAAAAAAAAAAAAAAAA")),
        ("no subject", |c| c["sub"] = json!("")),
    ];
    for (what, change) in cases {
        let answer = rig.with_claims(change).await;
        assert!(failed(&answer), "{what}: {answer:?}");
    }
    assert_eq!(rig.provider.num_redeemed(), 7, "each went as far as the ID token");
    assert_eq!(rig.api.number("SELECT count(*) FROM app_user WHERE name_id IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_wrong_signature_is_refused_and_so_is_one_that_a_client_could_make() {
    let rig = Rig::start().await;
    rig.provider.sign_with_another_key();
    assert!(failed(&rig.with_claims(|_| ()).await));
    let rig = Rig::start().await;
    rig.provider.sign_with_the_client_secret();
    assert!(failed(&rig.with_claims(|_| ()).await));
    assert_eq!(rig.provider.num_redeemed(), 1);
}

#[tokio::test]
async fn state_and_code_are_good_once_and_for_the_browser_that_began() {
    let rig = Rig::start().await;
    let (mine, theirs) = (rig.leave().await, rig.leave().await);
    let (code, state) = rig.provider.log_in(&mine.location, |_| ());
    let (their_code, their_state) = rig.provider.log_in(&theirs.location, |_| ());
    for (what, cookie, pairs) in [
        ("another state", &mine.cookie, vec![("code", code.as_str()), ("state", "_other")]),
        ("another browser's state", &mine.cookie, vec![("code", &their_code), ("state", &their_state)]),
        ("no state", &mine.cookie, vec![("code", &code)]),
        ("no code", &mine.cookie, vec![("state", &state)]),
        ("a refusal", &mine.cookie, vec![("state", &state), ("error", "access_denied")]),
    ] {
        let answer = rig.come_back(Some(cookie), &pairs).await;
        assert!(failed(&answer), "{what}: {answer:?}");
    }
    assert_eq!(rig.provider.num_redeemed(), 0);
    // A code that belongs to another attempt: PKCE gives it away at the provider.
    assert!(failed(&rig.come_back(Some(&mine.cookie), &[("code", &their_code), ("state", &state)]).await));
    assert_eq!(rig.come_back(None, &[("code", &code), ("state", &state)]).await.0, 401, "no cookie");
    let good = [("code", code.as_str()), ("state", state.as_str())];
    token(&rig.come_back(Some(&mine.cookie), &good).await);
    assert!(failed(&rig.come_back(Some(&mine.cookie), &good).await), "the same again");
    let (second_code, _) = rig.provider.log_in(&mine.location, |_| ());
    let again = [("code", second_code.as_str()), ("state", state.as_str())];
    assert!(failed(&rig.come_back(Some(&mine.cookie), &again).await), "another code for the same attempt");
}

#[tokio::test]
async fn what_one_node_began_another_finishes_once() {
    let rig = Rig::start().await;
    let other = rig.api.another_node().await;
    let left = rig.leave().await;
    let (code, state) = rig.provider.log_in(&left.location, |_| ());
    let pairs = [("code", code.as_str()), ("state", state.as_str())];
    assert!(!token(&rig.come_back_at(&other, Some(&left.cookie), &pairs).await).is_empty());
    assert!(failed(&rig.come_back(Some(&left.cookie), &pairs).await), "a second time");
}

#[tokio::test]
async fn a_provider_may_change_its_key() {
    let rig = Rig::start().await;
    token(&rig.with_claims(|_| ()).await);
    rig.provider.change_key();
    // Its keys were read a moment ago, and are not read again before half a minute is over.
    assert!(failed(&rig.with_claims(|_| ()).await));
}

#[tokio::test]
async fn role_activity_and_redirect_are_checked_as_for_kombit() {
    let rig = Rig::start().await;
    let answer = rig.with_claims(|claims| claims["realm_access"]["roles"] = json!(["staff"])).await;
    assert_eq!(answer.1, format!("{FRONTEND}/applications?error=MissingRole"));
    token(&rig.with_claims(|_| ()).await);
    let client = rig.api.store.pool().get().await.unwrap();
    client.execute("UPDATE app_user SET active = false WHERE name_id IS NOT NULL", &[]).await.unwrap();
    let answer = rig.with_claims(|_| ()).await;
    assert_eq!(answer.1, format!("{FRONTEND}/applications?error=MESSAGE.USER-INACTIVE"));
    let elsewhere = format!("{}/auth/oidc/login?redirect=https://evil.example", rig.api.base);
    assert_eq!(rig.api.browser.get(elsewhere).send().await.unwrap().status().as_u16(), 400);
}

#[tokio::test]
async fn logging_out_leads_to_the_providers_end_of_session() {
    let rig = Rig::start().await;
    let token = token(&rig.with_claims(|_| ()).await);
    let url = format!("{}/auth/kombit/logout?secret_token={token}", rig.api.base);
    let response = rig.api.browser.get(url).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap();
    assert!(location.starts_with(&format!("{}/logout?client_id={CLIENT_ID}", rig.provider.issuer)), "{location}");
    assert_eq!(rig.api.call("GET", "/auth/me", Some(&token), None).await.0, 401);
}

#[tokio::test]
async fn a_provider_that_is_away_is_later_and_not_a_fault() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let oidc = Oidc::new(settings(&format!("http://{nobody}/realm")), &Authorities::load(None).unwrap()).unwrap();
    let api = Api::start_with_log_in(LogInProviders { kombit: None, oidc: Some(Arc::new(oidc)) }).await;
    let response = api.browser.get(format!("{}/auth/oidc/login", api.base)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let authorities = Authorities::load(None).unwrap();
    type Change = fn(&mut OidcSettings);
    let cases: [(&str, Change); 4] = [
        ("oidc.issuer", |s| s.issuer = "http://idp.example.org".into()),
        ("oidc.issuer", |s| s.issuer = "idp".into()),
        ("oidc.client_id", |s| s.client_id = String::new()),
        ("oidc.role", |s| s.role = String::new()),
    ];
    for (name, change) in cases {
        let mut bad = settings("https://idp.example.org");
        change(&mut bad);
        let error = Oidc::new(bad, &authorities).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
