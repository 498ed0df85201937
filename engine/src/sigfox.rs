//! Sigfox's REST API over HTTP: basic authentication, JSON, pages followed up to a limit.
//!
//! What is read is remembered for a minute per login, since Sigfox limits how often it may be asked and the web client asks for
//! groups and device types on every page; whatever we write forgets all of it. Limits: 10 s per request, 8 MiB per answer, 20
//! pages per list.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use quick_cache::sync::Cache;
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Value, json};
use sluse_schema::port::sigfox::{SigfoxApi, SigfoxCallback, SigfoxError, SigfoxLogin};

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 8 << 20;
const NUM_PAGES_MAX: usize = 20;
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
const NUM_REMEMBERED_MAX: usize = 256;
/// `callbackType` of data, and its `callbackSubtype` of both directions.
const CALLBACK_DATA: i64 = 0;
const CALLBACK_BIDIR: i64 = 3;

/// Why Sigfox cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum SigfoxSetUpError {
    #[error("{0:?} is no URL that begins with http:// or https://")]
    Url(String),
    #[error("no HTTP client can be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// Calls Sigfox.
#[derive(Debug)]
pub struct SigfoxClient {
    client: Client,
    /// Ends in a slash.
    base: Url,
    remembered: Cache<u64, (Instant, Value)>,
}

impl SigfoxClient {
    /// A client of the API below this URL.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(base_url: &str) -> Result<Self, SigfoxSetUpError> {
        let wrong = || SigfoxSetUpError::Url(base_url.to_owned());
        let base = Url::parse(&format!("{}/", base_url.trim_end_matches('/'))).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sluse/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, base, remembered: Cache::new(NUM_REMEMBERED_MAX) })
    }

    /// A URL below the base; every part of a path is one segment, whatever it holds.
    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, SigfoxError> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(SigfoxError::Unavailable("the base URL takes no path".to_owned())),
        };
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    async fn call(
        &self,
        login: &SigfoxLogin,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Value, SigfoxError> {
        let mut request = self.client.request(method, url).basic_auth(&login.username, Some(login.password.reveal()));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(unavailable)?;
        let status = response.status();
        let answer = read(response).await?;
        match status {
            StatusCode::UNAUTHORIZED => Err(SigfoxError::BadLogin),
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Err(SigfoxError::NotFound),
            StatusCode::TOO_MANY_REQUESTS => Err(SigfoxError::TooMany),
            StatusCode::BAD_REQUEST => {
                let said: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
                Err(SigfoxError::Refused(said.get("errors").cloned().unwrap_or(said)))
            }
            status if status.is_success() && answer.is_empty() => Ok(Value::Null),
            status if status.is_success() => serde_json::from_slice(&answer)
                .map_err(|_| SigfoxError::Unavailable("its answer is no JSON".to_owned())),
            status => Err(SigfoxError::Unavailable(format!("it answers {status}"))),
        }
    }

    async fn get(&self, login: &SigfoxLogin, path: &[&str], query: &[(&str, &str)]) -> Result<Value, SigfoxError> {
        let url = self.url(path, query)?;
        let key = key_of(login, &url);
        if let Some((at, value)) = self.remembered.get(&key)
            && at.elapsed() < REMEMBERED_FOR
        {
            return Ok(value);
        }
        let value = self.call(login, Method::GET, url, None).await?;
        self.remembered.insert(key, (Instant::now(), value.clone()));
        Ok(value)
    }

    /// The `data` of a list, over all its pages.
    async fn list(
        &self,
        login: &SigfoxLogin,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Vec<Value>, SigfoxError> {
        let mut page = self.get(login, path, query).await?;
        let mut rows = Vec::new();
        for _ in 0..NUM_PAGES_MAX {
            if let Some(Value::Array(data)) = page.get_mut("data").map(Value::take) {
                rows.extend(data);
            }
            let next = page.pointer("/paging/next").and_then(Value::as_str).and_then(|url| Url::parse(url).ok());
            // The login goes along, so only to where it belongs.
            let Some(next) = next.filter(|url| url.origin() == self.base.origin()) else { break };
            page = self.call(login, Method::GET, next, None).await?;
        }
        Ok(rows)
    }

    async fn write(
        &self,
        login: &SigfoxLogin,
        method: Method,
        path: &[&str],
        body: &Value,
    ) -> Result<Value, SigfoxError> {
        let answer = self.call(login, method, self.url(path, &[])?, Some(body)).await;
        self.remembered.clear();
        answer
    }

    async fn create(&self, login: &SigfoxLogin, path: &[&str], body: &Value) -> Result<String, SigfoxError> {
        let answer = self.write(login, Method::POST, path, body).await?;
        let id = answer.get("id").and_then(Value::as_str);
        id.map(str::to_owned).ok_or_else(|| SigfoxError::Unavailable("its answer has no id".to_owned()))
    }
}

fn key_of(login: &SigfoxLogin, url: &Url) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&login.username, login.password.reveal(), url.as_str()).hash(&mut hasher);
    hasher.finish()
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, SigfoxError> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(SigfoxError::Unavailable("its answer is too large".to_owned()));
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}

fn unavailable(error: reqwest::Error) -> SigfoxError {
    SigfoxError::Unavailable(error.without_url().to_string())
}

#[async_trait]
impl SigfoxApi for SigfoxClient {
    async fn accepts(&self, login: &SigfoxLogin) -> Result<bool, SigfoxError> {
        // Never from memory: the question is whether it is so now.
        let answer = self.call(login, Method::GET, self.url(&["api-users"], &[])?, None).await;
        match answer {
            Ok(answer) => Ok(answer["data"].as_array().is_some_and(|users| !users.is_empty())),
            Err(SigfoxError::BadLogin | SigfoxError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn group(&self, login: &SigfoxLogin) -> Result<Option<Value>, SigfoxError> {
        let answer = self.get(login, &["groups"], &[]).await?;
        Ok(answer.pointer("/data/0").cloned())
    }

    async fn contracts(&self, login: &SigfoxLogin) -> Result<Vec<Value>, SigfoxError> {
        self.list(login, &["contract-infos"], &[]).await
    }

    async fn devices(&self, login: &SigfoxLogin, group: &str) -> Result<Vec<Value>, SigfoxError> {
        self.list(login, &["devices"], &[("groupIds", group)]).await
    }

    async fn device(&self, login: &SigfoxLogin, id: &str) -> Result<Value, SigfoxError> {
        self.get(login, &["devices", id], &[]).await
    }

    async fn create_device(&self, login: &SigfoxLogin, device: &Value) -> Result<String, SigfoxError> {
        self.create(login, &["devices"], device).await
    }

    async fn update_device(&self, login: &SigfoxLogin, id: &str, changes: &Value) -> Result<(), SigfoxError> {
        self.write(login, Method::PUT, &["devices", id], changes).await.map(drop)
    }

    async fn change_device_type(&self, login: &SigfoxLogin, id: &str, device_type: &str) -> Result<(), SigfoxError> {
        let body = json!({"deviceTypeId": device_type, "data": [{"id": id, "keepHistory": true, "activable": true}]});
        self.write(login, Method::POST, &["devices", "bulk", "transfer"], &body).await.map(drop)
    }

    async fn device_types(&self, login: &SigfoxLogin, group: &str) -> Result<Value, SigfoxError> {
        let data = self.list(login, &["device-types"], &[("groupIds", group)]).await?;
        Ok(json!({"data": data}))
    }

    async fn device_type(&self, login: &SigfoxLogin, id: &str) -> Result<Value, SigfoxError> {
        self.get(login, &["device-types", id], &[]).await
    }

    async fn create_device_type(&self, login: &SigfoxLogin, draft: &Value) -> Result<String, SigfoxError> {
        self.create(login, &["device-types"], draft).await
    }

    async fn update_device_type(&self, login: &SigfoxLogin, id: &str, draft: &Value) -> Result<(), SigfoxError> {
        self.write(login, Method::PUT, &["device-types", id], draft).await.map(drop)
    }

    async fn set_callback(
        &self,
        login: &SigfoxLogin,
        device_type: &str,
        callback: &SigfoxCallback,
    ) -> Result<(), SigfoxError> {
        let path = ["device-types", device_type, "callbacks"];
        let body = json!({
            "channel": "URL", "callbackType": CALLBACK_DATA, "callbackSubtype": CALLBACK_BIDIR, "payloadConfig": "",
            "enabled": true, "url": callback.url, "httpMethod": "POST", "sendSni": true,
            "bodyTemplate": callback.body_template, "contentType": "application/json",
        });
        let known = self.call(login, Method::GET, self.url(&path, &[])?, None).await?;
        let ours = known["data"].as_array().into_iter().flatten().find(|known| {
            known["url"]
                .as_str()
                .is_some_and(|url| !callback.base_url.is_empty() && url.starts_with(&callback.base_url))
        });
        let id = match ours.and_then(|known| Some((known, known["id"].as_str()?))) {
            Some((known, id)) => {
                let differs = body
                    .as_object()
                    .into_iter()
                    .flatten()
                    .any(|(name, value)| name != "payloadConfig" && known[name] != *value);
                if differs {
                    self.write(login, Method::PUT, &["device-types", device_type, "callbacks", id], &body).await?;
                }
                id.to_owned()
            }
            None => self.create(login, &path, &body).await?,
        };
        let path = ["device-types", device_type, "callbacks", &id, "downlink"];
        self.write(login, Method::PUT, &path, &json!({})).await.map(drop)
    }
}
