//! A browser, our API, and an identity provider with real signatures, for tests of KOMBIT's log-in.

use std::sync::Arc;

use serde_json::Value;
use sluse_engine::login::{Kombit, KombitSettings};
use sluse_http::login::LogInProviders;
use sluse_schema::secret::Secret;

use crate::fixture::{Api, BACKEND, FRONTEND};
use crate::identity_provider::{ENTITY_ID, Pair, ROLE, Say, assertion, posted, query, read_request, response, sign};

/// The provider, us as it knows us, and the API.
pub struct Rig {
    pub api: Api,
    pub provider: Pair,
    pub service: Pair,
}

pub fn settings(provider: &Pair, service: &Pair) -> KombitSettings {
    KombitSettings {
        entry_point: "https://idp.example.org/sso?tenant=1".to_owned(),
        certificate: provider.certificate_pem(),
        private_key: Secret::new(service.key_pem()),
        own_certificate: service.certificate_pem(),
        role_name: ROLE.to_owned(),
        issuer: ENTITY_ID.to_owned(),
        backend_base_url: BACKEND.to_owned(),
    }
}

/// What a browser got: status, where to, body, and the cookies it was given.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub location: String,
    pub cookies: Vec<String>,
    pub body: Value,
}

pub async fn answer(response: reqwest::Response) -> Answer {
    let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let cookies = response.headers().get_all("set-cookie").iter().map(|v| v.to_str().unwrap().to_owned()).collect();
    let (status, location) = (response.status().as_u16(), header("location").unwrap_or_default());
    let text = response.text().await.unwrap();
    Answer { status, location, cookies, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

/// `name=value` of the one cookie.
pub fn cookie(answer: &Answer) -> String {
    assert_eq!(answer.cookies.len(), 1, "{answer:?}");
    answer.cookies[0].split(';').next().unwrap().to_owned()
}

/// A browser on its way: it left with this cookie and this request.
pub struct Left {
    pub cookie: String,
    pub request: String,
}

impl Rig {
    pub async fn start() -> Self {
        let (provider, service) = (Pair::new("idp"), Pair::new("sluse"));
        let kombit = Kombit::new(&settings(&provider, &service)).unwrap();
        let api = Api::start_with_log_in(LogInProviders { kombit: Some(Arc::new(kombit)), oidc: None }).await;
        Self { api, provider, service }
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.api.browser.get(format!("{}{path}", self.api.base)).send().await.unwrap()).await
    }

    /// A browser leaves for the provider.
    pub async fn leave(&self, redirect: Option<&str>) -> Left {
        let path = match redirect {
            Some(to) => format!("/auth/kombit/login?{}", serde_urlencoded(&[("redirect", to)])),
            None => "/auth/kombit/login".to_owned(),
        };
        let left = self.get(&path).await;
        assert_eq!(left.status, 302, "{left:?}");
        let request = read_request(&left.location, &self.service.certificate);
        assert_eq!(request.base, "https://idp.example.org/sso");
        Left { cookie: cookie(&left), request: request.id }
    }

    /// A browser comes back with a response.
    pub async fn come_back(&self, left: &Left, xml: &str) -> Answer {
        self.come_back_at(&self.api.base, left, xml).await
    }

    /// It comes back to another node.
    pub async fn come_back_at(&self, base: &str, left: &Left, xml: &str) -> Answer {
        self.post_at(base, Some(&left.cookie), &[("SAMLResponse", &posted(xml))]).await
    }

    pub async fn post(&self, cookie: Option<&str>, form: &[(&str, &str)]) -> Answer {
        self.post_at(&self.api.base, cookie, form).await
    }

    pub async fn post_at(&self, base: &str, cookie: Option<&str>, form: &[(&str, &str)]) -> Answer {
        let url = format!("{base}/auth/kombit/login/callback");
        let mut request = self
            .api
            .browser
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(serde_urlencoded(form));
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        answer(request.send().await.unwrap()).await
    }

    pub fn say(&self, left: &Left) -> Say {
        Say::good(&left.request, BACKEND)
    }

    pub fn signed(&self, say: &Say) -> String {
        sign(&assertion(say, "_assertion"), &self.provider.key)
    }

    /// A good response to what the browser left with, changed by `change` before anything is signed.
    pub fn good(&self, left: &Left, change: impl FnOnce(&mut Say)) -> String {
        let mut say = self.say(left);
        change(&mut say);
        response(&say, &self.signed(&say), None)
    }

    /// Logs in with `redirect` and returns the token.
    pub async fn log_in(&self) -> String {
        let left = self.leave(Some(&format!("{FRONTEND}/applications"))).await;
        let back = self.come_back(&left, &self.good(&left, |_| ())).await;
        assert_eq!(back.status, 302, "{back:?}");
        query(&back.location)["jwt"].clone()
    }
}

pub fn serde_urlencoded(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
