//! POST over plain HTTP/1.1 to one receiver, on kept-alive connections: the head is written once when the sender is made, a request
//! is one write, an answer usually one read, on the task that waits for it. (`https://` goes through reqwest, see [`super::http`].)
//!
//! Measured on 2 cores with 64 requests in flight: see `cost_of_an_http_post` in `engine/tests/edges/cost.rs`.
//!
//! Decided here: the egress rule holds for every address that is connected to; a connection that was idle for a moment is looked at
//! before it is used again; one that the receiver closed before a byte of its answer came is made anew once, which may send a request
//! again under its key. Limit: as many idle connections as the target may have requests in flight, for [`IDLE_MAX`] at most.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::egress::EgressPolicy;
use super::http1::{Body, Head, Malformed};
use super::resolve::{ResolveError, resolve};

/// Shorter than the idle timeouts of common servers (60 s and more), so that we close first and no POST meets a closing socket.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(50);
/// A connection that was idle for longer is looked at before it is used.
const TRUSTED_FOR: Duration = Duration::from_millis(500);
/// One of several addresses that does not answer for this long is passed by.
const ADDRESS_MAX: Duration = Duration::from_secs(3);
/// What one read of an answer may bring.
const READ_BYTES: usize = 4 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum PostError {
    Resolve(ResolveError),
    Connect(io::Error),
    Broken(io::Error),
    Malformed(Malformed),
    TimedOut,
}

/// How much of an answer's body is of interest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interest {
    /// Bytes of a refusal that are kept.
    pub num_kept_max: usize,
    /// Of a 2xx, so much is read away for the sake of its connection, and for so long.
    pub num_drained_max: usize,
    pub drain_max: Duration,
}

/// What a receiver answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    /// The beginning of the body, unless it was a 2xx.
    pub content: Vec<u8>,
}

/// A client of one receiver.
#[derive(Debug)]
pub(super) struct PlainClient {
    /// A name, or an address without brackets.
    host: String,
    port: u16,
    policy: Arc<EgressPolicy>,
    /// Request line and the headers that never change.
    head: Box<[u8]>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    idle: Mutex<Idle>,
    num_idle_max: usize,
}

#[derive(Debug, Default)]
struct Idle {
    /// Oldest first.
    connections: VecDeque<(Connection, Instant)>,
    is_swept: bool,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    /// Holds a request, then its answer; kept, so that nothing is allocated per request.
    buffer: BytesMut,
}

impl PlainClient {
    /// A client for `url`, which begins with `http://`; `place` is its host and port as the `Host` header has them.
    pub(super) fn new(
        url: &Url,
        place: &str,
        headers: &HeaderMap,
        policy: &Arc<EgressPolicy>,
        num_idle_max: usize,
    ) -> Self {
        let mut head = Vec::with_capacity(256);
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        head.extend_from_slice(format!("POST {target} HTTP/1.1\r\nhost: {place}\r\n").as_bytes());
        for (name, value) in headers {
            put_header(&mut head, name.as_str(), value.as_bytes());
        }
        let host = url.host_str().unwrap_or_default();
        Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
            policy: Arc::clone(policy),
            head: head.into_boxed_slice(),
            pool: Arc::new(Pool { idle: Mutex::default(), num_idle_max }),
        }
    }

    /// Posts `body` and reads the answer as far as it is of interest.
    ///
    /// # Errors
    /// There is no answer by `deadline`.
    pub(super) async fn post(
        &self,
        content_type: &HeaderValue,
        idempotency_key: &str,
        body: &[u8],
        interest: Interest,
        deadline: Instant,
    ) -> Result<Answer, PostError> {
        let exchange = async {
            if let Some(mut connection) = self.pool.take() {
                self.write_request(&mut connection.buffer, content_type, idempotency_key, body);
                match connection.exchange().await {
                    // The receiver had closed it: most likely before it saw the request, and the key tells if not.
                    Err(PostError::Broken(_)) if connection.buffer.is_empty() => {}
                    head => return Ok((connection, head?)),
                }
            }
            let mut connection = Connection { socket: self.connect().await?, buffer: BytesMut::new() };
            self.write_request(&mut connection.buffer, content_type, idempotency_key, body);
            let head = connection.exchange().await?;
            Ok((connection, head))
        };
        let (mut connection, mut head) = timeout_at(deadline, exchange).await.map_err(|_| PostError::TimedOut)??;
        let mut content = Vec::new();
        let is_success = (200..300).contains(&head.status);
        if head.body != Body::Done {
            let (num_max, deadline) = if is_success {
                (interest.num_drained_max, Instant::now() + interest.drain_max)
            } else {
                (interest.num_kept_max, deadline)
            };
            let reading = connection.read_body(&mut head.body, num_max, (!is_success).then_some(&mut content));
            // What was read until then counts; the rest costs the connection alone.
            let _ = timeout_at(deadline, reading).await;
        }
        if head.may_reuse && head.body == Body::Done && connection.buffer.is_empty() {
            self.pool.put(connection);
        }
        Ok(Answer { status: head.status, retry_after: head.retry_after, content })
    }

    fn write_request(&self, buffer: &mut BytesMut, content_type: &HeaderValue, idempotency_key: &str, body: &[u8]) {
        buffer.clear();
        buffer.reserve(self.head.len() + body.len() + 160);
        buffer.put_slice(&self.head);
        put_header(buffer, "content-type", content_type.as_bytes());
        put_header(buffer, "idempotency-key", idempotency_key.as_bytes());
        put_header(buffer, "content-length", body.len().to_string().as_bytes());
        buffer.put_slice(b"\r\n");
        buffer.put_slice(body);
    }

    async fn connect(&self) -> Result<TcpStream, PostError> {
        let addresses = resolve(&self.policy, &self.host, self.port).await.map_err(PostError::Resolve)?;
        let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let num_addresses = addresses.len();
        for (i, address) in addresses.into_iter().enumerate() {
            let connecting = TcpStream::connect(address);
            let connected = if i + 1 == num_addresses {
                connecting.await
            } else {
                timeout(ADDRESS_MAX, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            };
            match connected.and_then(|socket| socket.set_nodelay(true).map(|()| socket)) {
                Ok(socket) => {
                    acknowledge_with_the_next_request(&socket);
                    return Ok(socket);
                }
                Err(error) => last_error = error,
            }
        }
        Err(PostError::Connect(last_error))
    }
}

/// An answer is acknowledged together with the next request, or after the usual 40 ms, instead of by a segment of its own as soon as it
/// is read. Where the system refuses, nothing changes.
fn acknowledge_with_the_next_request(socket: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, false);
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

fn put_header(out: &mut impl BufMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

impl Connection {
    /// Writes the request in the buffer and reads until there is the head of an answer. The buffer is empty when nothing came.
    async fn exchange(&mut self) -> Result<Head, PostError> {
        let written = self.socket.write_all(&self.buffer).await;
        self.buffer.clear();
        // A receiver may refuse before it has read everything: its answer counts, not that it stopped reading.
        let mut not_written = written.err();
        loop {
            self.buffer.reserve(READ_BYTES);
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => {
                    return Err(PostError::Broken(not_written.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())));
                }
                Ok(_) => {}
                Err(error) => return Err(PostError::Broken(not_written.take().unwrap_or(error))),
            }
            if let Some(mut head) = Head::take(&mut self.buffer).map_err(PostError::Malformed)? {
                head.may_reuse &= not_written.is_none();
                return Ok(head);
            }
        }
    }

    /// Reads the body to its end, but no more than `num_max` bytes of it.
    async fn read_body(&mut self, body: &mut Body, num_max: usize, mut kept: Option<&mut Vec<u8>>) -> Option<()> {
        let mut num_bytes = 0;
        loop {
            let keep = |bytes: &[u8]| {
                let num_wanted = num_max.saturating_sub(num_bytes).min(bytes.len());
                num_bytes += bytes.len();
                if let Some(kept) = &mut kept {
                    kept.extend_from_slice(&bytes[..num_wanted]);
                }
            };
            body.take(&mut self.buffer, keep).ok()?;
            if *body == Body::Done || num_bytes >= num_max {
                return Some(());
            }
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Whether the receiver has neither closed it nor said something that nobody asked for.
    fn is_quiet(&self) -> bool {
        matches!(self.socket.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if it can be used again.
    fn take(&self) -> Option<Connection> {
        loop {
            let (connection, since) = self.lock().connections.pop_back()?;
            let idle_for = since.elapsed();
            if idle_for < IDLE_MAX && (idle_for < TRUSTED_FOR || connection.is_quiet()) {
                return Some(connection);
            }
        }
    }

    fn put(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.lock();
        if idle.connections.len() < self.num_idle_max {
            idle.connections.push_back((connection, Instant::now()));
        }
        if !std::mem::replace(&mut idle.is_swept, true) {
            drop(idle);
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Closes connections that were idle for too long, while there are any.
async fn sweep(pool: std::sync::Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_MAX / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.lock();
        while idle.connections.front().is_some_and(|(_, since)| since.elapsed() >= IDLE_MAX) {
            idle.connections.pop_front();
        }
        if idle.connections.is_empty() {
            idle.is_swept = false;
            return;
        }
    }
}
