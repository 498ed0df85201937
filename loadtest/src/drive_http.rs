//! Posts as HTTP devices do: kept-alive connections, one request at a time on each, an `Idempotency-Key` per uplink.
//! A device always uses the same connection, so its order is kept. What is not accepted is posted again until it is, as a device
//! with a memory would; refusals for good (4xx) are counted and given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::oracle::{Oracle, UplinkRef};

/// Posts that wait for one connection.
const QUEUE_MAX: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Wait after a failure without a Retry-After.
const RETRY_AFTER_FAILURE: Duration = Duration::from_millis(250);
const RETRY_AFTER_S_MAX: u64 = 5;

/// A body to post.
#[derive(Clone, Debug)]
pub struct Post {
    /// `/api/v1/receive-data?apiKey=…`
    pub path_and_query: Arc<str>,
    pub idempotency_key: String,
    pub body: Bytes,
    /// What becomes owed at a 2xx; `None` for a repeat.
    pub uplink: Option<UplinkRef>,
}

/// What became of posts besides being accepted.
#[derive(Debug, Default)]
pub struct HttpFigures {
    /// Attempts that failed and were made again.
    pub num_retried: AtomicU64,
    /// Posts refused for good.
    pub num_refused: AtomicU64,
    /// Posts not yet accepted or refused.
    pub num_open: AtomicU64,
}

/// One kept-alive connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpDriver {
    queue: mpsc::Sender<Post>,
    figures: Arc<HttpFigures>,
}

impl HttpDriver {
    /// Starts a connection that is kept up until the driver is dropped.
    ///
    /// It prefers the node at `ports[first]` and goes to the next one when that does not answer.
    pub fn start(ports: &[u16], first: usize, oracle: Arc<Oracle>, figures: Arc<HttpFigures>) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let hosts = ports.iter().cycle().skip(first % ports.len().max(1)).take(ports.len());
        let hosts = hosts.map(|port| format!("127.0.0.1:{port}")).collect();
        let lane = Lane { hosts, connection: None, oracle, figures: Arc::clone(&figures) };
        tokio::spawn(lane.run(receiver));
        Self { queue, figures }
    }

    /// Hands a post over; waits while the queue is full.
    pub async fn post(&self, post: Post) {
        self.figures.num_open.fetch_add(1, Relaxed);
        // The lane ends only after the last driver is dropped, so there is somebody to take it.
        let _ = self.queue.send(post).await;
    }
}

struct Lane {
    /// Nodes in the order in which they are tried; the first is the one in use.
    hosts: VecDeque<String>,
    connection: Option<SendRequest<Full<Bytes>>>,
    oracle: Arc<Oracle>,
    figures: Arc<HttpFigures>,
}

enum Answer {
    Accepted,
    Refused(StatusCode),
    Later(Duration),
}

impl Lane {
    async fn run(mut self, mut receiver: mpsc::Receiver<Post>) {
        while let Some(post) = receiver.recv().await {
            loop {
                match self.attempt(&post).await {
                    Ok(Answer::Accepted) => {
                        if let Some(uplink) = post.uplink {
                            self.oracle.accept(uplink);
                        }
                        break;
                    }
                    Ok(Answer::Refused(status)) => {
                        self.figures.num_refused.fetch_add(1, Relaxed);
                        tracing::warn!(%status, path = post.path_and_query.split('?').next(), "a post was refused");
                        break;
                    }
                    Ok(Answer::Later(wait)) => {
                        self.figures.num_retried.fetch_add(1, Relaxed);
                        sleep(wait).await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a post failed, trying again");
                        self.figures.num_retried.fetch_add(1, Relaxed);
                        self.connection = None;
                        self.hosts.rotate_left(1);
                        sleep(RETRY_AFTER_FAILURE).await;
                    }
                }
            }
            self.figures.num_open.fetch_sub(1, Relaxed);
        }
    }

    async fn attempt(&mut self, post: &Post) -> anyhow::Result<Answer> {
        let Some(host) = self.hosts.front() else { anyhow::bail!("no node to post to") };
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(host)).await??;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        let Some(connection) = self.connection.as_mut() else { anyhow::bail!("no connection") };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&*post.path_and_query)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", &post.idempotency_key)
            .body(Full::new(post.body.clone()))?;
        let exchange = async {
            connection.ready().await?;
            let response = connection.send_request(request).await?;
            let (head, body) = response.into_parts();
            body.collect().await?;
            Ok::<_, hyper::Error>(head)
        };
        let head = timeout(ANSWER_TIMEOUT, exchange).await??;
        Ok(match head.status {
            status if status.is_success() => Answer::Accepted,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Answer::Later(RETRY_AFTER_FAILURE),
            status if status.is_client_error() => Answer::Refused(status),
            _ => {
                let asked = head.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
                Answer::Later(asked.map_or(RETRY_AFTER_FAILURE, |s| Duration::from_secs(s.min(RETRY_AFTER_S_MAX))))
            }
        })
    }
}
