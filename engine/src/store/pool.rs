//! Connections to PostgreSQL: a bounded pool whose connections live on one thread of their own, and leases with a time limit.
//!
//! Connections are driven on the thread `sluse-postgres-io`, not on whatever arbiter happened to open them: an arbiter that
//! computes does not hold up others' queries, and one that has stopped does not take connections with it.
//! A unit of work that ran out of time, or was dropped, closes its connection: nobody gets it in an unknown state.
//! Limits: [`CONNECT_TIMEOUT`] to get a connection, the caller's limit for the work, `statement_timeout` behind both.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Connect, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use sluse_schema::port::StoreError;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::database_url::DatabaseUrl;
use super::error::WorkError;
use super::tls::{self, TlsError};

/// Longest wait for a connection, new or used.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What every session is set to. JIT never pays for statements of this kind, and costs tens of milliseconds.
/// `statement_timeout` ends on the server what its caller gave up on.
const SESSION: &str = "SET timezone = 'UTC'; SET statement_timeout = '30s'; SET lock_timeout = '5s'; \
     SET idle_in_transaction_session_timeout = '60s'; SET jit = off; SET application_name = 'sluse'";

/// Look-ups by id, of the data path, are planned once: their plan is always the same, one index after the other, and a new plan costs
/// more than the look-up (1.0 of 1.2 ms for a batch of four devices). Without the last three settings the plan could be one that was
/// made when the tables were still empty: reading them whole.
const LOOK_UPS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off";

/// What a pool's connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Anything.
    General,
    /// Only look-ups of some rows by their ids.
    LookUps,
}

/// The thread that drives connections; ends when the last handle is dropped.
#[derive(Debug)]
pub struct IoThread {
    handle: Handle,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl IoThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread or no poller.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new().name("sluse-postgres-io".to_owned()).spawn(move || {
            // An error means that the sender was dropped, which is how this thread is told to end.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Arc::new(Self { handle, _stop: stop }))
    }

    /// Where tasks of this thread are started.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Connects on the I/O thread.
pub struct Connector {
    io: Arc<IoThread>,
    tls: MakeRustlsConnect,
}

impl Connector {
    /// A connector for this server.
    ///
    /// # Errors
    /// When certificate authorities cannot be read.
    pub fn new(io: Arc<IoThread>, url: &DatabaseUrl) -> Result<Self, TlsError> {
        Ok(Self { tls: tls::connector(&url.verification)?, io })
    }

    /// Opens a connection and hands out its driver too, for one that listens.
    pub async fn connect_raw(
        &self,
        config: &tokio_postgres::Config,
    ) -> Result<(tokio_postgres::Client, Driver), tokio_postgres::Error> {
        // A Unix socket needs no TLS, and tokio-postgres would refuse to ask for it there.
        let is_socket = config.get_hosts().iter().all(|host| matches!(host, tokio_postgres::config::Host::Unix(_)));
        if is_socket {
            let (client, connection) = config.connect(NoTls).await?;
            Ok((client, Driver::Plain(Box::new(connection))))
        } else {
            let (client, connection) = config.connect(self.tls.clone()).await?;
            Ok((client, Driver::Tls(Box::new(connection))))
        }
    }
}

type TlsStream = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream;

/// What has to be polled for a connection to make progress.
pub enum Driver {
    Plain(Box<tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>>),
    Tls(Box<tokio_postgres::Connection<tokio_postgres::Socket, TlsStream>>),
}

impl Driver {
    /// Next notice or notification; `None` when the connection has ended.
    pub fn poll_message(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<tokio_postgres::AsyncMessage, tokio_postgres::Error>>> {
        match self {
            Self::Plain(connection) => connection.poll_message(cx),
            Self::Tls(connection) => connection.poll_message(cx),
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}

type Connected = Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for Connector {
    fn connect(&self, config: &tokio_postgres::Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let (config, tls, io) = (config.clone(), self.tls.clone(), self.io.clone());
        Box::pin(async move {
            let (tell, told) = oneshot::channel();
            let connector = Self { io: io.clone(), tls };
            let driving = io.handle.spawn(async move {
                match connector.connect_raw(&config).await {
                    Ok((client, mut driver)) => {
                        // Holds no `Arc` of the I/O thread while it drives: that would keep the thread alive for ever.
                        drop(connector);
                        if tell.send(Ok(client)).is_err() {
                            return;
                        }
                        while let Some(message) = std::future::poll_fn(|cx| driver.poll_message(cx)).await {
                            if let Err(error) = message {
                                tracing::debug!(error = %super::error::describe(&error), "a database connection ended");
                                return;
                            }
                        }
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                    }
                }
            });
            match told.await {
                Ok(connected) => Ok((connected?, driving)),
                // The I/O thread is gone. The pool's create timeout turns this into its error.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

/// A bounded pool of connections to this server. Connects to nothing yet.
///
/// # Errors
/// When certificate authorities cannot be read.
pub fn open(url: &DatabaseUrl, io: Arc<IoThread>, num_connections_max: usize, purpose: Use) -> Result<Pool, TlsError> {
    let mut config = url.config.clone();
    config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(Duration::from_secs(10));
    config.keepalives_idle(Duration::from_secs(30));
    let connector = Connector::new(io, url)?;
    let manager = Manager::from_connect(config, connector, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    let set_up = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        Box::pin(async move {
            client.batch_execute(SESSION).await.map_err(HookError::Backend)?;
            match purpose {
                Use::General => Ok(()),
                Use::LookUps => client.batch_execute(LOOK_UPS).await.map_err(HookError::Backend),
            }
        })
    });
    let pool = Pool::builder(manager)
        .max_size(num_connections_max)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(CONNECT_TIMEOUT))
        .post_create(set_up)
        .build()
        .expect("a runtime is given, which is all that building a pool can lack");
    Ok(pool)
}

/// A connection that goes back to the pool only when its work is [`Lease::done`]; otherwise it is closed.
#[derive(Debug)]
pub struct Lease {
    client: Option<Client>,
}

impl Lease {
    /// The work ended in a known state: the connection may serve others.
    pub fn done(mut self) {
        // Dropping a pooled client returns it.
        drop(self.client.take());
    }
}

impl Deref for Lease {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("only done() and drop() take the client, and both end the lease")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("only done() and drop() take the client, and both end the lease")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Client::take(client));
        }
    }
}

/// A connection for one unit of work.
///
/// # Errors
/// [`StoreError::Unavailable`] after [`CONNECT_TIMEOUT`] at the latest.
pub async fn lease(pool: &Pool) -> Result<Lease, StoreError> {
    use deadpool_postgres::PoolError;
    match pool.get().await {
        Ok(client) => Ok(Lease { client: Some(client) }),
        Err(PoolError::Backend(error)) => Err(StoreError::Unavailable(super::error::describe(&error))),
        Err(PoolError::Timeout(step)) => Err(StoreError::Unavailable(format!(
            "no connection within {} s ({})",
            CONNECT_TIMEOUT.as_secs(),
            match step {
                deadpool_postgres::TimeoutType::Wait => "all are in use",
                deadpool_postgres::TimeoutType::Create => "the server does not answer",
                deadpool_postgres::TimeoutType::Recycle => "a used one does not answer",
            }
        ))),
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}

/// Runs one unit of work within `limit`, waiting for a connection included.
///
/// # Errors
/// The work's own, or [`StoreError::Unavailable`] when the time is over; its connection is closed then.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, WorkError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(StoreError::from),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", limit.as_secs()))),
    }
}
