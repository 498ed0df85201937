//! The server: listeners, middleware, routes, and stopping in phases.
//!
//! What devices send goes past the administrative middleware (tokens, CORS, compression), since it is the hot path. A request that
//! matches nothing gets the reference's 404. Stopping: first [`HttpServer::stop_intake`] (devices get 503, the rest goes on), then
//! [`HttpServer::stop`] (no new connections; requests in flight have until the deadline).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_cors::Cors;
use actix_web::dev::ServerHandle;
use actix_web::middleware::{Compress, NormalizePath, from_fn};
use actix_web::{App, HttpRequest, web};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::config::HttpConfig;
use crate::context::{AppState, Ports};
use crate::error::{ApiError, ApiResult};
use crate::tls::{Certificates, TlsError};
use crate::{admin, audit, authn, docs_page, health, ingest, metrics, request_id, unread};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 2048;
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Headers have to be there by then; bodies within [`crate::body::READ_WITHIN`].
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; free the address or set another one")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Certificate or key of the TLS listener.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A running server.
#[derive(Debug)]
pub struct HttpServer {
    /// Where the API listens; the port is the real one when 0 was asked for.
    pub addrs: Vec<SocketAddr>,
    /// Where the metrics page is when it has a listener of its own.
    pub metrics_addrs: Vec<SocketAddr>,
    /// Where the API listens for TLS.
    pub tls_addrs: Vec<SocketAddr>,
    certificates: Option<Arc<Certificates>>,
    state: Arc<AppState>,
    handles: Vec<ServerHandle>,
}

impl HttpServer {
    /// From now on devices get 503; everything else goes on.
    pub fn stop_intake(&self) {
        self.state.stop_intake();
    }

    /// Reads the TLS listener's certificate and key again.
    pub fn reload_certificates(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.reload_and_tell();
        }
    }

    /// Stops listening and waits for requests in flight, at most until `deadline` is over; what is left is cut off. `true` when
    /// nothing was.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.stop_intake();
        let graceful = futures_util::future::join_all(self.handles.iter().map(|handle| handle.stop(true)));
        if tokio::time::timeout(deadline, graceful).await.is_ok() {
            return true;
        }
        futures_util::future::join_all(self.handles.iter().map(|handle| handle.stop(false))).await;
        false
    }
}

/// Every route of the main listener.
pub fn routes(has_metrics: bool) -> impl FnOnce(&mut ServiceConfig<'_>) {
    move |cfg| {
        ingest::routes(cfg);
        health::routes(cfg);
        if has_metrics {
            health::metrics_routes(cfg);
        }
    }
}

/// Every route below the API's prefix but the hot path.
pub fn api_routes(cfg: &mut ServiceConfig<'_>) {
    health::api_routes(cfg);
    ingest::api_routes(cfg);
    admin::routes(cfg);
}

async fn nothing_there(request: HttpRequest) -> ApiResult {
    let path = request.uri().path_and_query().map_or_else(|| request.path().to_owned(), ToString::to_string);
    Err(ApiError::no_route(request.method(), &path))
}

/// Only the web client's origin may read answers in a browser.
fn cors(frontend_base_url: &str) -> Cors {
    let origin = url::Url::parse(frontend_base_url)
        .map_or_else(|_| frontend_base_url.trim_end_matches('/').to_owned(), |url| url.origin().ascii_serialization());
    Cors::default()
        .allowed_origin(&origin)
        .allowed_methods(["GET", "POST", "PUT", "DELETE"])
        .allowed_headers(["authorization", "content-type", "x-api-key", "x-request-id", "accept", "idempotency-key"])
        .expose_headers(["x-request-id", "retry-after"])
        .max_age(3600)
}

/// Starts listening. Answers with 503 or 404 where a port says so from the first moment on.
///
/// # Errors
/// [`StartError::Bind`].
pub fn start(config: HttpConfig, ports: Ports) -> Result<HttpServer, StartError> {
    metrics::describe();
    let state = Arc::new(AppState::new(config.clone(), ports));
    let certificates = config.tls.as_ref().map(Certificates::load).transpose()?;
    let (addrs, tls_addrs, handle) = start_main(&config, Arc::clone(&state), certificates.as_ref())?;
    if let Some(certificates) = &certificates {
        tokio::spawn(Arc::clone(certificates).watch());
    }
    let mut handles = vec![handle];
    let mut metrics_addrs = Vec::new();
    if let Some(address) = config.metrics_listen {
        match start_metrics(address, Arc::clone(&state)) {
            Ok((addrs, handle)) => {
                metrics_addrs = addrs;
                handles.push(handle);
            }
            Err(error) => {
                drop(handles.remove(0).stop(false));
                return Err(error);
            }
        }
    }
    Ok(HttpServer { addrs, metrics_addrs, tls_addrs, certificates, state, handles })
}

/// Plain addresses, TLS addresses, and how to stop it.
type Started = (Vec<SocketAddr>, Vec<SocketAddr>, ServerHandle);

fn start_main(
    config: &HttpConfig,
    state: Arc<AppState>,
    certificates: Option<&Arc<Certificates>>,
) -> Result<Started, StartError> {
    let has_metrics = config.metrics_listen.is_none();
    let frontend = config.frontend_base_url.clone();
    let data = web::Data::from(state);
    let mut server = actix_web::HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .wrap(NormalizePath::trim())
            .wrap(from_fn(unread::close_after_refusal))
            .configure(|cfg| routes(has_metrics)(&mut ServiceConfig::new(cfg)))
            .service(
                web::scope("/api/v1")
                    .wrap(from_fn(audit::note_failures))
                    .wrap(from_fn(authn::authenticate))
                    .wrap(Compress::default())
                    .wrap(cors(&frontend))
                    .wrap(from_fn(request_id::around))
                    .configure(|cfg| api_routes(&mut ServiceConfig::new(cfg)))
                    .configure(docs_page::routes)
                    .default_service(web::to(nothing_there)),
            )
            .default_service(web::to(nothing_there))
    })
    .backlog(BACKLOG)
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(HEADERS_TIMEOUT)
    .shutdown_timeout(config.stop_timeout.as_secs().max(1))
    .disable_signals();
    if let Some(num_workers) = config.num_workers {
        server = server.workers(num_workers.max(1));
    }
    let failed = |address| move |source| StartError::Bind { address, source };
    let bound = server.bind(config.listen).map_err(failed(config.listen))?;
    let addrs = bound.addrs();
    let (bound, tls_addrs) = match (&config.tls, certificates) {
        (Some(tls), Some(certificates)) => {
            let both = bound
                .tls_handshake_timeout(HEADERS_TIMEOUT)
                .bind_rustls_0_23(tls.listen, certificates.server_config()?)
                .map_err(failed(tls.listen))?;
            let tls_addrs = both.addrs().split_off(addrs.len());
            (both, tls_addrs)
        }
        _ => (bound, Vec::new()),
    };
    let running = bound.run();
    let handle = running.handle();
    tokio::spawn(running);
    Ok((addrs, tls_addrs, handle))
}

fn start_metrics(address: SocketAddr, state: Arc<AppState>) -> Result<(Vec<SocketAddr>, ServerHandle), StartError> {
    let data = web::Data::from(state);
    let server = actix_web::HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .wrap(NormalizePath::trim())
            .configure(|cfg| health::metrics_routes(&mut ServiceConfig::new(cfg)))
            .configure(|cfg| health::routes(&mut ServiceConfig::new(cfg)))
            .default_service(web::to(nothing_there))
    })
    .workers(1)
    .shutdown_timeout(1)
    .disable_signals();
    let bound = server.bind(address).map_err(|source| StartError::Bind { address, source })?;
    let addrs = bound.addrs();
    let running = bound.run();
    let handle = running.handle();
    tokio::spawn(running);
    Ok((addrs, handle))
}
