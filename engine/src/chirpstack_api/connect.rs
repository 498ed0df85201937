//! The channel to ChirpStack: plain HTTP/2, or TLS with the system's authorities and the operator's.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::ChirpstackApiConfig;
use crate::send::tls::{Authorities, TlsError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// A connection that broke without a word is found out by then.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the API cannot be called: the configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("CHIRPSTACK_API_URL: expected http://host:port or https://host:port")]
    Url,
    #[error("CHIRPSTACK_API_KEY: expected the text of an API key, without line breaks")]
    Key,
    #[error("TLS towards ChirpStack's API: {0}")]
    Tls(#[from] TlsError),
}

/// A channel that connects when it is needed.
pub(super) fn channel(config: &ChirpstackApiConfig) -> Result<Channel, ConnectError> {
    let url = url::Url::parse(&config.url).map_err(|_| ConnectError::Url)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ConnectError::Url)?.to_owned();
    let is_tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(ConnectError::Url),
    };
    let port = url.port_or_known_default().ok_or(ConnectError::Url)?;
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))
        .map_err(|_| ConnectError::Url)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .user_agent(concat!("sluse/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| ConnectError::Url)?;
    if !is_tls {
        return Ok(endpoint.connect_lazy());
    }
    let origin: Uri = format!("https://{host}:{port}").parse().map_err(|_| ConnectError::Url)?;
    let mut tls = Authorities::load(config.ca_file.as_deref())?.client_config(None, None)?;
    Arc::make_mut(&mut tls).alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| ConnectError::Url)?;
    let place = format!("{host}:{port}");
    let connector = Tls { connector: TlsConnector::from(tls), name, place };
    Ok(endpoint.origin(origin).connect_with_connector_lazy(connector))
}

/// Connects and shakes hands.
#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    place: String,
}

impl Service<Uri> for Tls {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { connector, name, place } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&place).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(connector.connect(name, stream).await?))
        })
    }
}
