//! An HTTP CONNECT relay inside this process, for clients that resolve names themselves (rumqttc): its `proxy` setting points
//! here, and here the name is resolved and checked by the egress rule and the very address that passed is connected to.
//!
//! One relay serves one connection to one fixed place: it listens on a free loopback port, lets in only who knows its random
//! password, and ends with whoever holds it. What the client writes in its CONNECT line does not matter.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::egress::EgressPolicy;
use super::resolve::{ResolveError, resolve};

/// Longest CONNECT head; rumqttc's is about 300 bytes.
const HEAD_BYTES_MAX: usize = 4 * 1024;
/// How long a client may take over its head; ours takes no time.
const HEAD_MAX: Duration = Duration::from_secs(2);
const BUFFER_BYTES: usize = 16 * 1024;
/// What the client must give as user name; the password is the secret.
pub const USERNAME: &str = "sluse";

/// Why the relay could not connect.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("cannot connect to {host}:{port}: {source}")]
    Connect {
        /// The host as it is configured.
        host: String,
        port: u16,
        source: io::Error,
    },
}

/// A relay to one place. Dropping it closes the connection through it.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    password: String,
    failure: Arc<OnceLock<RelayError>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens for the one client that will be relayed to `host:port`.
    ///
    /// # Errors
    /// No loopback port can be had.
    pub async fn open(policy: Arc<EgressPolicy>, host: String, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let own_port = listener.local_addr()?.port();
        let password = uuid::Uuid::new_v4().simple().to_string();
        let failure = Arc::new(OnceLock::new());
        let task = tokio::spawn({
            let (password, failure) = (password.clone(), Arc::clone(&failure));
            async move {
                if let Err(error) = serve(listener, &password, &policy, &host, port, &failure).await {
                    tracing::debug!(%host, port, %error, "relay ended");
                }
            }
        });
        Ok(Self { port: own_port, password, failure, task })
    }

    /// The loopback port it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The password that goes with [`USERNAME`].
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Why it could not connect, if that is why the client's connection failed.
    pub fn failure(&self) -> Option<&RelayError> {
        self.failure.get()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    password: &str,
    policy: &EgressPolicy,
    host: &str,
    port: u16,
    failure: &OnceLock<RelayError>,
) -> io::Result<()> {
    let mut client = loop {
        let (mut stream, _) = listener.accept().await?;
        match timeout(HEAD_MAX, is_let_in(&mut stream, password)).await {
            Ok(Ok(true)) => break stream,
            _ => tracing::warn!("somebody else on this machine knocked at the MQTT relay and was turned away"),
        }
    };
    drop(listener);
    client.set_nodelay(true)?;
    let mut server = match connect(policy, host, port).await {
        Ok(server) => server,
        Err(error) => {
            // Set before it is answered: the client's error is looked up here.
            let _ = failure.set(error);
            return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        }
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await.map(|_| ())
}

/// Reads a CONNECT head up to its empty line and says whether it brings the password.
async fn is_let_in(stream: &mut TcpStream, password: &str) -> io::Result<bool> {
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{USERNAME}:{password}"));
    let wanted = format!("Proxy-Authorization: Basic {credentials}");
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(false);
        }
    }
    Ok(head.starts_with(b"CONNECT ") && head.split(|b| *b == b'\n').any(|line| line.trim_ascii() == wanted.as_bytes()))
}

async fn connect(policy: &EgressPolicy, host: &str, port: u16) -> Result<TcpStream, RelayError> {
    let failed = |source| RelayError::Connect { host: host.to_owned(), port, source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in resolve(policy, host, port).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn knock(relay: &Relay, head: String) -> Vec<u8> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(1), stream.read_buf(&mut answer)).await;
        answer
    }

    fn head(relay: &Relay, password: &str) -> String {
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{USERNAME}:{password}"));
        format!("CONNECT x:1 HTTP/1.1\r\nHost: x:{}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n", relay.port())
    }

    #[tokio::test]
    async fn only_who_knows_the_password_is_relayed_and_only_to_the_fixed_place() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let open = Arc::new(EgressPolicy::from_setting("127.0.0.0/8").unwrap());
        let relay = Relay::open(open, "localhost".into(), port).await.unwrap();
        assert_eq!(knock(&relay, head(&relay, "wrong")).await, b"");
        let right = head(&relay, relay.password());
        let (answer, accepted) = tokio::join!(knock(&relay, right), server.accept());
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        assert!(accepted.is_ok());
    }

    #[tokio::test]
    async fn a_refused_place_is_never_connected_to_and_says_why() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let relay = Relay::open(Arc::new(EgressPolicy::public_only()), "localhost".into(), port).await.unwrap();
        let answer = knock(&relay, head(&relay, relay.password())).await;
        assert!(answer.starts_with(b"HTTP/1.1 502"), "{answer:?}");
        assert!(matches!(relay.failure(), Some(RelayError::Resolve(ResolveError::Refused(_)))), "{relay:?}");
        assert!(timeout(Duration::from_millis(100), server.accept()).await.is_err());
    }
}
