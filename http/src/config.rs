//! What the HTTP layer needs to be told. Read from file and environment by `engine`.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use sluse_schema::secret::Secret;

use crate::tls::TlsListen;

/// Largest body of an administrative request.
pub const ADMIN_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest body of what a device sends, after decompression as well.
pub const INGEST_BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest page of a list.
pub const PAGE_LIMIT_MAX: i64 = 1000;

/// Configuration of the HTTP layer.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where the API listens for TLS as well.
    pub tls: Option<TlsListen>,
    /// Where `/metrics` is served instead of on `listen`.
    pub metrics_listen: Option<SocketAddr>,
    /// Origin of the web client: the only one that CORS allows.
    pub frontend_base_url: String,
    /// Where this API is, as browsers and other systems reach it; without a slash at its end, and without `/api/v1`.
    pub backend_base_url: String,
    /// The host of our own MQTT broker, as devices are told.
    pub mqtt_broker_hostname: String,
    /// Signs tokens.
    pub jwt_secret: Secret,
    /// How long a token is good for.
    pub token_lifetime: Duration,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Worker threads; `None`: one per core.
    pub num_workers: Option<usize>,
    /// How long a graceful stop waits for requests in flight, at most.
    pub stop_timeout: Duration,
}

impl HttpConfig {
    /// Defaults around an address and a secret.
    pub fn new(listen: SocketAddr, jwt_secret: Secret) -> Self {
        Self {
            listen,
            tls: None,
            metrics_listen: None,
            frontend_base_url: "http://localhost:8081".to_owned(),
            backend_base_url: "http://localhost:3000".to_owned(),
            mqtt_broker_hostname: "localhost".to_owned(),
            jwt_secret,
            token_lifetime: Duration::from_secs(9 * 3600),
            trusted_proxies: Vec::new(),
            num_workers: None,
            stop_timeout: Duration::from_secs(10),
        }
    }
}
