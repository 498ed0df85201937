//! What every handler shares: the ports, and what the HTTP layer remembers between requests.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::HttpRequest;
use actix_web::dev::RequestHead;
use actix_web::http::header::HeaderMap;
use sluse_schema::port::admin::AdminStore;
use sluse_schema::port::{
    CallersEpoch, Decoder, DeviceIdentities, Intake, LiveTail, Mailer, NetworkServer, Readiness, SharedLimits,
    SigfoxApi, TargetProbe,
};

use crate::admin::live_tail::Watchers;
use crate::admin::open_data::Shares;
use crate::admin::test_decoder::TestBench;
use crate::audit::FailureLimits;
use crate::authn::Authenticator;
use crate::config::HttpConfig;
use crate::error::ApiResult;
use crate::login::LogInProviders;
use crate::login::attempt::Attempts;
use crate::metrics::IngestMetrics;
use crate::network::error::not_configured;
use crate::password::Passwords;
use crate::throttle::LogInThrottle;

/// What the HTTP layer calls.
#[derive(Clone)]
pub struct Ports {
    pub intake: Arc<dyn Intake>,
    pub admin: Arc<dyn AdminStore>,
    pub decoder: Arc<dyn Decoder>,
    pub tail: Arc<dyn LiveTail>,
    pub readiness: Arc<dyn Readiness>,
    /// ChirpStack's API; `None`: radio devices are rows alone.
    pub network: Option<Arc<dyn NetworkServer>>,
    pub log_in: LogInProviders,
    pub identities: Arc<dyn DeviceIdentities>,
    pub sigfox: Arc<dyn SigfoxApi>,
    pub probe: Arc<dyn TargetProbe>,
    pub mailer: Arc<dyn Mailer>,
    /// Raised when a change was heard of after which callers have to be looked up again.
    pub callers: Arc<CallersEpoch>,
    /// Limits over all nodes, where there are several.
    pub limits: Option<Arc<dyn SharedLimits>>,
    /// The metrics page, in Prometheus' text format.
    pub render_metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ports")
    }
}

/// Shared by all workers; cheap to clone through `web::Data`.
#[derive(Debug)]
pub struct AppState {
    pub ports: Ports,
    pub config: HttpConfig,
    pub authenticator: Authenticator,
    pub attempts: Attempts,
    pub passwords: Passwords,
    pub throttle: LogInThrottle,
    pub failure_limits: FailureLimits,
    pub ingest_metrics: IngestMetrics,
    pub test_bench: TestBench,
    pub watchers: Watchers,
    pub shares: Shares,
    is_intake_stopped: AtomicBool,
}

impl AppState {
    /// The state of a server that takes things in.
    pub fn new(config: HttpConfig, ports: Ports) -> Self {
        Self {
            authenticator: Authenticator::new(&config, Arc::clone(&ports.callers)),
            attempts: Attempts::new(&config),
            passwords: Passwords::new(),
            throttle: LogInThrottle::new(ports.limits.clone()),
            failure_limits: FailureLimits::default(),
            ingest_metrics: IngestMetrics::new(),
            test_bench: TestBench::default(),
            watchers: Watchers::default(),
            shares: Shares::default(),
            is_intake_stopped: AtomicBool::new(false),
            config,
            ports,
        }
    }

    /// The administrative store.
    pub fn admin(&self) -> &dyn AdminStore {
        self.ports.admin.as_ref()
    }

    /// The network server, if there is one.
    pub fn network(&self) -> Option<&dyn NetworkServer> {
        self.ports.network.as_deref()
    }

    /// The network server.
    ///
    /// # Errors
    /// 400 when there is none.
    pub fn network_needed(&self) -> ApiResult<&dyn NetworkServer> {
        self.network().ok_or_else(not_configured)
    }

    /// From now on nothing is taken in from devices.
    pub fn stop_intake(&self) {
        self.is_intake_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether devices are sent away.
    pub fn is_intake_stopped(&self) -> bool {
        self.is_intake_stopped.load(Ordering::Relaxed)
    }

    /// Where a request comes from: the peer, or what trusted proxies say before it.
    pub fn remote_address(&self, request: &HttpRequest) -> Option<IpAddr> {
        self.remote_address_of(request.head())
    }

    /// The same for what is not a full request yet.
    pub fn remote_address_of(&self, head: &RequestHead) -> Option<IpAddr> {
        let peer = head.peer_addr?.ip();
        Some(forwarded(peer, &head.headers, |ip| self.config.trusted_proxies.iter().any(|net| net.contains(&ip))))
    }
}

/// Walks `X-Forwarded-For` from the nearest hop on, as long as the hop that wrote it is trusted.
fn forwarded(peer: IpAddr, headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    // A listener for both kinds sees IPv4 in IPv6's clothes.
    let mut nearest = peer.to_canonical();
    let hops = headers
        .get_all("x-forwarded-for")
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect::<Vec<_>>();
    for hop in hops.into_iter().rev() {
        if !is_trusted(nearest) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(address) => nearest = address.to_canonical(),
            Err(_) => break,
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(text: &'static str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(HeaderName::from_static("x-forwarded-for"), HeaderValue::from_static(text));
        map
    }

    #[test]
    fn forwarded_addresses_count_only_behind_trusted_proxies() {
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let spoofed = headers("1.2.3.4, 192.0.2.7, 10.0.0.2");
        let is_trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        assert_eq!(forwarded(proxy, &spoofed, |_| false), proxy);
        assert_eq!(forwarded(proxy, &spoofed, is_trusted).to_string(), "192.0.2.7");
        assert_eq!(forwarded(proxy, &headers("nonsense"), is_trusted), proxy);
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(forwarded(mapped, &headers("::ffff:192.0.2.7"), is_trusted).to_string(), "192.0.2.7");
    }
}
