//! HTTP push: one POST per delivery over kept-alive connections (HTTP/1.1, or HTTP/2 where TLS negotiates it). The body, its
//! `Content-Type` and `Authorization` go out as the reference sends them; `User-Agent` and `Idempotency-Key` are our own.
//! `http://` has a client of its own ([`super::http_plain`]), because there the client is most of what a delivery costs; TLS, whose
//! cost is elsewhere, goes through reqwest.
//!
//! Decided here: redirects, proxies and cookies are off; what an outcome means (see [`AttemptClass`]); a 2xx counts from its
//! status line, whatever becomes of its body. Limits: the target's timeout bounds the whole exchange, 1 kB of an answer is kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, StatusCode, Url};
use rustls::ClientConfig;
use sluse_schema::delivery::{Attempt, AttemptClass, DeliveryMeta};
use sluse_schema::port::{SenderError, TargetSender};
use sluse_schema::target::HttpTarget;
use tokio::time::{Instant, timeout_at};

use super::egress::{EgressPolicy, EgressRefused};
use super::http_plain::{IDLE_MAX, Interest, PlainClient, PostError};
use super::metrics::AttemptMetrics;
use super::resolve::{self, EgressResolver, ResolveError};
use super::retry_after;
use super::tls::{Authorities, cause};

/// The reference's timeout, for targets that have none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How much of a successful answer is read away so that its connection can be used again.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
/// How long that may take: the delivery is done, only the connection is at stake.
const DRAIN_MAX: Duration = Duration::from_millis(250);
const INTEREST: Interest =
    Interest { num_kept_max: Attempt::ANSWER_BYTES_MAX, num_drained_max: DRAIN_BYTES_MAX, drain_max: DRAIN_MAX };
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Sends to one `HTTP_PUSH` target.
#[derive(Debug)]
pub struct HttpSender {
    client: AnyClient,
    /// Host and port, for messages: never the user information, path or query of the URL.
    place: String,
    timeout: Duration,
    policy: Arc<EgressPolicy>,
    /// The URL's host when it is a literal address: no resolver sees it.
    literal: Option<IpAddr>,
    metrics: AttemptMetrics,
}

/// By the URL's scheme.
#[derive(Debug)]
enum AnyClient {
    Plain(PlainClient),
    Tls(Box<TlsClient>),
}

#[derive(Debug)]
struct TlsClient {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

impl HttpSender {
    /// A sender for `target`; connects when there is something to send.
    ///
    /// # Errors
    /// The URL, the authorization or a certificate authority is not usable.
    pub fn new(
        target: &HttpTarget,
        num_in_flight_max: u32,
        policy: &Arc<EgressPolicy>,
        authorities: &Authorities,
        user_agent: &HeaderValue,
    ) -> Result<Self, SenderError> {
        let mut url = parse_url(&target.url)?;
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/plain, */*"));
        headers.insert(reqwest::header::USER_AGENT, user_agent.clone());
        if let Some(value) = authorization(target.authorization.reveal(), &url)? {
            headers.insert(AUTHORIZATION, value);
        }
        // Nothing below may see it: errors and logs show URLs. It can only fail for URLs without a host, which were refused.
        let (_, _) = (url.set_username(""), url.set_password(None));
        url.set_fragment(None);

        // Asked for in any case: a certificate authority that is none is said when the target is made.
        let tls = authorities
            .client_config(target.ca_certificates.as_deref(), None)
            .map_err(|e| SenderError(e.to_string()))?;
        let num_idle_max = num_in_flight_max.max(1) as usize;
        let place = place_of(&url);
        let client = if url.scheme() == "http" {
            AnyClient::Plain(PlainClient::new(&url, &place, &headers, policy, num_idle_max))
        } else {
            AnyClient::Tls(Box::new(TlsClient::new(url.clone(), headers, &tls, policy, num_idle_max)?))
        };
        let timeout = if target.timeout_ms == 0 { TIMEOUT_DEFAULT } else { Duration::from_millis(target.timeout_ms) };
        Ok(Self {
            client,
            place,
            literal: literal_of(&url),
            timeout,
            policy: Arc::clone(policy),
            metrics: AttemptMetrics::of_kind("HTTP_PUSH"),
        })
    }

    async fn attempt(&self, meta: &DeliveryMeta, body: Bytes, deadline: Instant) -> Attempt {
        if let Some(address) = self.literal
            && let Err(refused) = resolve::check(&self.policy, &self.place, address)
        {
            return refusal(&refused);
        }
        match &self.client {
            AnyClient::Plain(client) => self.attempt_plain(client, meta, &body, deadline).await,
            AnyClient::Tls(client) => self.attempt_tls(client, meta, body, deadline).await,
        }
    }

    async fn attempt_plain(
        &self,
        client: &PlainClient,
        meta: &DeliveryMeta,
        body: &[u8],
        deadline: Instant,
    ) -> Attempt {
        let answer = client.post(&content_type(meta), &meta.idempotency_key(), body, INTEREST, deadline).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(PostError::Resolve(error)) => return unresolved(&error),
            Err(PostError::TimedOut) => return self.no_answer(),
            Err(PostError::Connect(error)) => return self.broken("cannot connect to", &error),
            Err(PostError::Broken(error)) => return self.broken("the exchange broke with", &error),
            Err(PostError::Malformed(error)) => return self.broken("the exchange broke with", &error),
        };
        outcome(answer.status, answer.retry_after.as_deref(), answer.content.into())
    }

    async fn attempt_tls(&self, client: &TlsClient, meta: &DeliveryMeta, body: Bytes, deadline: Instant) -> Attempt {
        let response = match timeout_at(deadline, client.client.execute(client.request(meta, body))).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return failure(&error, &self.place),
            Err(_) => return self.no_answer(),
        };
        let status = response.status().as_u16();
        if AttemptClass::of_http_status(status) == AttemptClass::Delivered {
            drain(response).await;
            return Attempt::delivered(Some(status));
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let answer = first_kilobyte(response, deadline).await;
        outcome(status, retry_after.as_deref(), answer)
    }

    fn no_answer(&self) -> Attempt {
        let message = format!("no answer from {} within {} ms", self.place, self.timeout.as_millis());
        Attempt::failed(AttemptClass::Transient, message)
    }

    fn broken(&self, doing: &str, error: &dyn std::error::Error) -> Attempt {
        Attempt::failed(AttemptClass::Transient, format!("{doing} {}: {error}", self.place))
    }
}

impl TlsClient {
    fn new(
        url: Url,
        headers: HeaderMap,
        tls: &ClientConfig,
        policy: &Arc<EgressPolicy>,
        num_idle_max: usize,
    ) -> Result<Self, SenderError> {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(EgressResolver::new(Arc::clone(policy))))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(num_idle_max)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .build()
            .map_err(|e| SenderError(format!("no HTTP client can be made: {}", e.without_url())))?;
        Ok(Self { client, url, headers })
    }

    fn request(&self, meta: &DeliveryMeta, body: Bytes) -> Request {
        let mut request = Request::new(Method::POST, self.url.clone());
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, content_type(meta));
        if let Ok(key) = HeaderValue::try_from(meta.idempotency_key()) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        request
    }
}

fn content_type(meta: &DeliveryMeta) -> HeaderValue {
    match meta.content_type.as_str() {
        "application/json" => JSON,
        other => HeaderValue::from_str(other).unwrap_or(JSON),
    }
}

/// What an answer means; `content` is the beginning of its body.
fn outcome(status: u16, retry_after: Option<&str>, content: Bytes) -> Attempt {
    let class = AttemptClass::of_http_status(status);
    if class == AttemptClass::Delivered {
        return Attempt::delivered(Some(status));
    }
    let retry_after_ms =
        retry_after.and_then(|text| retry_after::parse_ms(text, chrono::Utc::now().timestamp_millis()));
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let message = reason.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
    Attempt { class, status_code: Some(status), message, answer: content, retry_after_ms }
}

#[async_trait]
impl TargetSender for HttpSender {
    async fn send(&self, meta: &DeliveryMeta, body: Bytes) -> Attempt {
        let (started_at, num_body_bytes) = (Instant::now(), body.len());
        let attempt = self.attempt(meta, body, started_at + self.timeout).await;
        self.metrics.finished(attempt.class, started_at.elapsed(), num_body_bytes);
        attempt
    }
}

fn parse_url(text: &str) -> Result<Url, SenderError> {
    let url = Url::parse(text.trim()).map_err(|e| SenderError(format!("the target's URL is not valid: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(SenderError("the target's URL must begin with http:// or https://".to_owned()));
    }
    Ok(url)
}

/// `Authorization` verbatim; without one, user information in the URL becomes Basic, as every HTTP client has it.
fn authorization(verbatim: &str, url: &Url) -> Result<Option<HeaderValue>, SenderError> {
    let text = if !verbatim.is_empty() {
        verbatim.to_owned()
    } else if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    } else {
        let decode = |part| percent_encoding::percent_decode_str(part).collect::<Vec<u8>>();
        let user = [decode(url.username()), decode(url.password().unwrap_or_default())].join(&b':');
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| SenderError("the target's authorization holds a character that no header may hold".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn place_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn literal_of(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        url::Host::Ipv4(v4) => Some(v4.into()),
        url::Host::Ipv6(v6) => Some(v6.into()),
        url::Host::Domain(_) => None,
    }
}

/// Reads a small answer away so that its connection goes back to the pool; a big or slow one costs the connection.
async fn drain(mut response: Response) {
    let length = response.content_length();
    if length == Some(0) || length.is_some_and(|num_bytes| num_bytes > DRAIN_BYTES_MAX as u64) {
        return;
    }
    let deadline = Instant::now() + DRAIN_MAX;
    let mut num_bytes = 0;
    while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
        num_bytes += chunk.len();
        if num_bytes > DRAIN_BYTES_MAX {
            return;
        }
    }
}

/// What came of the answer up to its first kilobyte or the deadline; the rest is not waited for.
async fn first_kilobyte(mut response: Response, deadline: Instant) -> Bytes {
    let mut head = Vec::new();
    while head.len() < Attempt::ANSWER_BYTES_MAX {
        let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await else { break };
        let num_wanted = Attempt::ANSWER_BYTES_MAX - head.len();
        head.extend_from_slice(chunk.get(..num_wanted).unwrap_or(&chunk));
    }
    head.into()
}

fn refusal(refused: &EgressRefused) -> Attempt {
    Attempt::failed(AttemptClass::Misconfigured, refused.to_string())
}

fn unresolved(error: &ResolveError) -> Attempt {
    match error {
        ResolveError::Refused(refused) => refusal(refused),
        ResolveError::Lookup { .. } => Attempt::failed(AttemptClass::Transient, error.to_string()),
    }
}

/// What a request that got no answer means.
fn failure(error: &reqwest::Error, place: &str) -> Attempt {
    if let Some(error) = cause::<ResolveError>(error) {
        return unresolved(error);
    }
    if let Some(tls) = cause::<rustls::Error>(error) {
        return Attempt::failed(AttemptClass::Misconfigured, format!("TLS with {place} failed: {tls}"));
    }
    if error.is_builder() {
        return Attempt::failed(AttemptClass::Misconfigured, "the request cannot be made from the target's settings");
    }
    let doing = if error.is_connect() { "cannot connect to" } else { "the exchange broke with" };
    Attempt::failed(AttemptClass::Transient, format!("{doing} {place}: {}", root_cause(error)))
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn odd_spellings_of_addresses_are_literals() {
        for text in ["http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/", "http://[::ffff:127.0.0.1]:80/"] {
            let literal = literal_of(&url(text)).unwrap();
            assert!(EgressPolicy::public_only().check("h", literal).is_err(), "{text}");
        }
        assert_eq!(literal_of(&url("http://example.org/")), None);
    }

    #[test]
    fn a_place_shows_no_secret() {
        assert_eq!(place_of(&url("https://me:secret@example.org:8443/in?key=secret")), "example.org:8443");
        assert_eq!(place_of(&url("https://example.org/in")), "example.org");
    }

    #[test]
    fn authorization_is_verbatim_and_user_information_becomes_basic() {
        let header =
            |verbatim, text| authorization(verbatim, &url(text)).unwrap().map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("Token  x", "http://me:pw@h/").as_deref(), Some("Token  x"));
        assert_eq!(header("", "http://me:p%40w@h/").as_deref(), Some("Basic bWU6cEB3"));
        assert_eq!(header("", "http://h/"), None);
        assert!(authorization("a\nb", &url("http://h/")).is_err());
    }

    #[test]
    fn urls_of_other_schemes_are_refused_when_the_sender_is_made() {
        assert!(parse_url("ftp://example.org/").is_err());
        assert!(parse_url("example.org/in").is_err());
        assert!(parse_url(" https://example.org/in ").is_ok());
    }
}
