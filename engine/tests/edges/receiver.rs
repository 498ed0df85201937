//! An HTTP receiver that follows a script: it reads whole requests, keeps them, and answers with the bytes it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::certificates::Certificates;

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These bytes, the connection stays open.
    Bytes(Vec<u8>),
    /// A head, then this many bytes of body, in pieces.
    Flood(usize),
    /// Nothing, for ever.
    Hang,
    /// A 200 whose body never comes.
    HangInBody,
}

impl Reply {
    pub fn status(line: &str) -> Self {
        Self::Bytes(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub request_line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub struct Receiver {
    pub port: u16,
    pub got: Arc<Mutex<Vec<Got>>>,
    pub num_connections: Arc<AtomicUsize>,
    /// Bytes of a flood that were written before the other side was gone.
    pub num_flooded: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub async fn start(reply: Reply) -> Self {
        Self::start_at("127.0.0.1:0", reply, None).await
    }

    pub async fn start_tls(reply: Reply, certificates: &Certificates) -> Self {
        let chain = rustls_pemfile::certs(&mut certificates.certificate.as_bytes()).map(Result::unwrap).collect();
        let key: PrivateKeyDer<'static> =
            rustls_pemfile::private_key(&mut certificates.key.as_bytes()).unwrap().unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::start_at("127.0.0.1:0", reply, Some(Arc::new(config))).await
    }

    pub async fn start_at(address: &str, reply: Reply, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (got, num_connections, num_flooded) =
            <(Arc<Mutex<Vec<Got>>>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let task = tokio::spawn({
            let (got, num_connections, num_flooded) = (got.clone(), num_connections.clone(), num_flooded.clone());
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    num_connections.fetch_add(1, Ordering::SeqCst);
                    let (reply, got, num_flooded, tls) = (reply.clone(), got.clone(), num_flooded.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, reply, got, num_flooded).await,
                            Some(config) => {
                                if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
                                    serve(stream, reply, got, num_flooded).await
                                } else {
                                    None
                                }
                            }
                        }
                    });
                }
            }
        });
        Self { port, got, num_connections, num_flooded, task }
    }

    pub fn num_got(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    reply: Reply,
    got: Arc<Mutex<Vec<Got>>>,
    num_flooded: Arc<AtomicUsize>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
        let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
        let request_line = lines.next()?.to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
        while buffer.len() < head_end + length {
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        let body = buffer[head_end..head_end + length].to_vec();
        buffer.drain(..head_end + length);
        got.lock().unwrap().push(Got { request_line, headers, body });
        match &reply {
            Reply::Bytes(bytes) => stream.write_all(bytes).await.ok()?,
            Reply::Flood(num_bytes) => {
                let head = format!("HTTP/1.1 500 Oops\r\nContent-Length: {num_bytes}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                let piece = [b'x'; 1000];
                for _ in 0..num_bytes / piece.len() {
                    stream.write_all(&piece).await.ok()?;
                    num_flooded.fetch_add(piece.len(), Ordering::SeqCst);
                }
            }
            Reply::Hang => sleep(Duration::from_secs(600)).await,
            Reply::HangInBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await.ok()?;
                sleep(Duration::from_secs(600)).await;
            }
        }
    }
}
