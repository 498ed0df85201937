//! A small HTTP server on a thread of its own: it keeps what it got and answers what its handler says. It outlives the runtime of
//! the test that started it, as long as it is held.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    /// With its query.
    pub path: String,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

type Handler = dyn Fn(&Got) -> (u16, String) + Send + Sync;

/// Ends when it is dropped.
pub struct Server {
    pub port: u16,
    pub got: Arc<Mutex<Vec<Got>>>,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Answers everything with what `handler` says: a status and a body.
    pub fn start(handler: impl Fn(&Got) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel::<()>();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (handler, kept): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&got));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, handler, kept) => {}
                    // Also when the sender was dropped.
                    _ = stopped => {}
                }
            });
        });
        Self { port, got, _stop: stop }
    }

    /// A receiver that takes everything.
    pub fn receiver() -> Self {
        Self::start(|_| (200, String::new()))
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn num_got(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// The bodies it got on a path, as JSON.
    pub fn bodies(&self, path: &str) -> Vec<Value> {
        self.got.lock().unwrap().iter().filter(|got| got.path == path).map(Got::json).collect()
    }
}

async fn accept(listener: TcpListener, handler: Arc<Handler>, kept: Arc<Mutex<Vec<Got>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (handler, kept) = (Arc::clone(&handler), Arc::clone(&kept));
        let service = service_fn(move |request| answer(request, Arc::clone(&handler), Arc::clone(&kept)));
        tokio::spawn(async move {
            // An error is the other side going away.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    kept: Arc<Mutex<Vec<Got>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let got =
        Got { method: head.method.to_string(), path: head.uri.to_string(), authorization: text("authorization"), body };
    let (status, body) = handler(&got);
    kept.lock().unwrap().push(got);
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}
