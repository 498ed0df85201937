//! A server over a fresh database, with stand-ins for what lies behind the API.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use serde_json::{Value, json};
use sluse_actors::reload::Reloader;
use sluse_engine::callers::CallersSubscriber;
use sluse_engine::chirpstack_api::{ChirpstackApi, ChirpstackApiConfig};
use sluse_engine::identity::Identities;
use sluse_engine::mail::NoMailer;
use sluse_engine::probe::Probes;
use sluse_engine::send::{EgressPolicy, Senders};
use sluse_engine::sigfox::SigfoxClient;
use sluse_engine::store::admin::PgAdminStore;
use sluse_engine::store::private_postgres::PrivatePostgres;
use sluse_engine::store::{Cipher, Store, StoreConfig};
use sluse_http::login::LogInProviders;
use sluse_http::{HttpConfig, HttpServer, Ports};
use sluse_schema::id::{DecoderId, DeviceId, DeviceKey};
use sluse_schema::port::{
    Accepted, Arrival, CallersEpoch, DecodeError, DecodeJob, Decoded, Decoder, Intake, LiveTail, Mailer, NetworkServer,
    Readiness, RefusedArrival, SharedLimits, TailEvent, TailFilter,
};
use sluse_schema::secret::Secret;
use sluse_schema::uplink::SourceKind;

use crate::document;
use crate::network_server::{self, FakeChirpstack};

pub const ADMIN_EMAIL: &str = "admin@example.org";
pub const ADMIN_PASSWORD: &str = "correct horse battery";
pub const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef";
/// Where browsers find the API, and the web client: only words here.
pub const BACKEND: &str = "https://api.example.org";
pub const FRONTEND: &str = "http://localhost:8081";
/// The key of the one device that the intake knows.
pub const DEVICE_KEY: &str = "31dab038-6a3c-4a70-9a3e-0f7d7f6f0a11";

/// A running PostgreSQL; the last test that uses it stops it.
struct Server {
    postgres: PrivatePostgres,
    _dir: tempfile::TempDir,
}

async fn server() -> Arc<Server> {
    static SHARED: OnceLock<tokio::sync::Mutex<Weak<Server>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(tokio::sync::Mutex::default).lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let dir = tempfile::tempdir().unwrap();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    let server = Arc::new(Server { postgres, _dir: dir });
    *shared = Arc::downgrade(&server);
    server
}

/// Takes in what the known device sends, and remembers it.
#[derive(Debug, Default)]
pub struct FakeIntake {
    pub arrivals: Mutex<Vec<Arrival>>,
    pub is_away: AtomicBool,
}

#[async_trait]
impl Intake for FakeIntake {
    async fn recognise(&self, _source: SourceKind, sender: &DeviceKey) -> Result<(), RefusedArrival> {
        if *sender == DeviceKey::of_api_key(DEVICE_KEY) { Ok(()) } else { Err(RefusedArrival::UnknownSender) }
    }

    async fn accept(&self, arrival: Arrival) -> Result<Accepted, RefusedArrival> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(RefusedArrival::Later { reason: "the disk is full".into(), retry_after_ms: 1500 });
        }
        if arrival.sender != DeviceKey::of_api_key(DEVICE_KEY) {
            return Err(RefusedArrival::UnknownSender);
        }
        self.arrivals.lock().unwrap().push(arrival);
        Ok(Accepted { device: DeviceId(1) })
    }

    async fn accept_all(&self, arrivals: Vec<Arrival>) -> Vec<Result<Accepted, RefusedArrival>> {
        let mut answers = Vec::new();
        for arrival in arrivals {
            answers.push(self.accept(arrival).await);
        }
        answers
    }
}

/// Panics: whoever calls it must bear that.
#[derive(Debug)]
struct PanickingDecoder;

#[async_trait]
impl Decoder for PanickingDecoder {
    async fn decode(&self, _job: DecodeJob) -> Result<Decoded, DecodeError> {
        panic!("a bug, on purpose");
    }

    fn forget(&self, _decoder: DecoderId) {}
}

#[derive(Debug)]
struct SilentTail;

impl LiveTail for SilentTail {
    fn watch(&self, _filter: TailFilter) -> Pin<Box<dyn Stream<Item = TailEvent> + Send>> {
        Box::pin(futures_util::stream::empty())
    }
}

/// Ready as long as nobody says otherwise.
#[derive(Debug, Default)]
pub struct FakeReadiness {
    pub is_log_away: AtomicBool,
}

#[async_trait]
impl Readiness for FakeReadiness {
    async fn check(&self) -> Vec<(String, Result<(), String>)> {
        let log = if self.is_log_away.load(Ordering::Relaxed) { Err("disk full".to_owned()) } else { Ok(()) };
        vec![("database".to_owned(), Ok(())), ("log".to_owned(), log)]
    }
}

pub async fn connect(url: Secret) -> Arc<Store> {
    let cipher = Arc::new(Cipher::new(&Secret::new(SECRET_KEY)).unwrap());
    Store::connect(StoreConfig::new(url), cipher, 8).await.unwrap()
}

/// What lies behind the API.
#[derive(Clone)]
pub struct Behind {
    pub log_in: LogInProviders,
    pub mailer: Arc<dyn Mailer>,
    pub network: Option<Arc<dyn NetworkServer>>,
    pub sigfox_url: String,
    /// Limits over all nodes.
    pub limits: Option<Arc<dyn SharedLimits>>,
}

impl Default for Behind {
    fn default() -> Self {
        Self {
            log_in: LogInProviders::default(),
            mailer: Arc::new(NoMailer),
            network: None,
            // Nobody listens there.
            sigfox_url: "http://127.0.0.1:9/v2".to_owned(),
            limits: None,
        }
    }
}

impl Behind {
    /// A ChirpStack.
    pub async fn with_network(self) -> (Self, FakeChirpstack) {
        let chirpstack = FakeChirpstack::start().await;
        let key = Secret::new(network_server::KEY);
        let config = ChirpstackApiConfig { url: chirpstack.url(), key, ca_file: None };
        (Self { network: Some(Arc::new(ChirpstackApi::new(&config).unwrap())), ..self }, chirpstack)
    }
}

/// A node: the API over a store, which hears of the changes that other nodes make.
async fn serve(
    listen: SocketAddr,
    store: &Arc<Store>,
    intake: Arc<FakeIntake>,
    readiness: Arc<FakeReadiness>,
    behind: Behind,
) -> HttpServer {
    let senders = Senders::new(EgressPolicy::public_only(), None, "sluse").unwrap();
    let callers = Arc::new(CallersEpoch::default());
    let reloader = Reloader::new(Arc::clone(store) as _).await.unwrap();
    tokio::spawn(reloader.with(Arc::new(CallersSubscriber(Arc::clone(&callers)))).run());
    let ports = Ports {
        intake,
        admin: Arc::new(PgAdminStore::new(store)),
        decoder: Arc::new(PanickingDecoder),
        tail: Arc::new(SilentTail),
        readiness,
        network: behind.network,
        limits: behind.limits,
        log_in: behind.log_in,
        identities: Arc::new(Identities::new(store)),
        sigfox: Arc::new(SigfoxClient::new(&behind.sigfox_url).unwrap()),
        probe: Arc::new(Probes::new(store, &senders)),
        mailer: behind.mailer,
        callers,
        render_metrics: Arc::new(|| "# HELP x y\n".to_owned()),
    };
    let mut config = HttpConfig::new(listen, Secret::new("a secret of more than thirty-two characters"));
    config.num_workers = Some(1);
    config.backend_base_url = BACKEND.to_owned();
    config.frontend_base_url = FRONTEND.to_owned();
    sluse_http::start(config, ports).unwrap()
}

/// The API over a fresh database.
pub struct Api {
    pub base: String,
    pub addr: SocketAddr,
    pub store: Arc<Store>,
    pub intake: Arc<FakeIntake>,
    pub readiness: Arc<FakeReadiness>,
    pub http: HttpServer,
    pub client: reqwest::Client,
    /// Follows no redirects, so that a test sees them.
    pub browser: reqwest::Client,
    pub admin: String,
    /// Of its database.
    pub url: Secret,
    pub network: Option<Arc<dyn NetworkServer>>,
    behind: Behind,
    _server: Arc<Server>,
}

/// Status and body of an answer; text that is no JSON comes as a string.
pub type Answer = (u16, Value);

impl Api {
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    /// With this instead of no mail server.
    pub async fn start_with_mail(mailer: Arc<dyn Mailer>) -> Self {
        Self::start_with(Behind { mailer, ..Behind::default() }).await
    }

    /// With a ChirpStack behind it.
    pub async fn start_with_network() -> (Self, FakeChirpstack) {
        let (behind, chirpstack) = Behind::default().with_network().await;
        (Self::start_with(behind).await, chirpstack)
    }

    pub async fn start_on(listen: SocketAddr) -> Self {
        Self::build(listen, Behind::default()).await
    }

    /// With all of this behind it.
    pub async fn start_with(behind: Behind) -> Self {
        Self::build("127.0.0.1:0".parse().unwrap(), behind).await
    }

    /// With somebody who vouches for people.
    pub async fn start_with_log_in(log_in: LogInProviders) -> Self {
        Self::start_with(Behind { log_in, ..Behind::default() }).await
    }

    async fn build(listen: SocketAddr, behind: Behind) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = server().await;
        let name = format!("api_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let url = server.postgres.url();
        let (client, connection) = tokio_postgres::connect(url.reveal(), tokio_postgres::NoTls).await.unwrap();
        let driving = tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        drop(client);
        driving.await.unwrap().unwrap();
        let url = Secret::new(url.reveal().replace("/sluse?", &format!("/{name}?")));
        let store = connect(url.clone()).await;
        store.bootstrap(ADMIN_EMAIL, Some(&Secret::new(ADMIN_PASSWORD))).await.unwrap();

        let intake = Arc::new(FakeIntake::default());
        let readiness = Arc::new(FakeReadiness::default());
        let http = serve(listen, &store, intake.clone(), readiness.clone(), behind.clone()).await;
        let addr = http.addrs[0];
        let client = reqwest::Client::new();
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let mut api = Self {
            base: format!("http://{addr}/api/v1"),
            addr,
            store,
            intake,
            readiness,
            http,
            client,
            browser,
            admin: String::new(),
            url,
            network: behind.network.clone(),
            behind,
            _server: server,
        };
        api.admin = api.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
        api
    }

    /// Another node over the same database; its base address.
    pub async fn another_node(&self) -> String {
        self.node_over(self.url.clone()).await
    }

    /// Another node that reaches the database by this address.
    pub async fn node_over(&self, url: Secret) -> String {
        let store = connect(url).await;
        let listen = "127.0.0.1:0".parse().unwrap();
        let http = serve(listen, &store, Arc::default(), Arc::default(), self.behind.clone()).await;
        format!("http://{}/api/v1", http.addrs[0])
    }

    pub async fn log_in(&self, email: &str, password: &str) -> String {
        let (status, body) =
            self.call("POST", "/auth/login", None, Some(json!({"username": email, "password": password}))).await;
        assert_eq!(status, 201, "{body}");
        body["accessToken"].as_str().unwrap().to_owned()
    }

    pub async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let request = self.request(method, path);
        self.answer(
            match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            },
            body,
        )
        .await
    }

    /// With an API key.
    pub async fn call_with_key(&self, method: &str, path: &str, key: &str, body: Option<Value>) -> Answer {
        self.answer(self.request(method, path).header("X-API-KEY", key), body).await
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.base)).timeout(Duration::from_secs(30))
    }

    async fn answer(&self, mut request: reqwest::RequestBuilder, body: Option<Value>) -> Answer {
        if let Some(body) = body {
            request = request.json(&body);
        }
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.client.execute(request).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
        let text = response.text().await.unwrap();
        let problems = document::problems(method.as_str(), &path, status, &kind, &text);
        assert!(problems.is_empty(), "{method} {path} {status} against the document: {problems:#?} in {text:.600}");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// As the global administrator.
    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Some(&self.admin), None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(&self.admin), Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, Some(&self.admin), Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, Some(&self.admin), None).await
    }

    /// Runs a statement against the database.
    pub async fn sql(&self, sql: &str) {
        self.store.pool().get().await.unwrap().batch_execute(sql).await.unwrap();
    }

    /// What `post` made.
    pub async fn made(&self, path: &str, body: Value) -> Value {
        let (status, made) = self.post(path, body).await;
        assert_eq!(status, 201, "{path}: {made}");
        made
    }

    /// An organisation with a user in a group of these roles over these applications; returns organisation, group, user, token.
    pub async fn tenant(&self, name: &str, roles: &[&str]) -> Tenant {
        let organization = self.made("/organization", json!({"name": name})).await["id"].clone();
        let application = self
            .made("/application", json!({"name": format!("{name} app"), "organizationId": organization}))
            .await["id"]
            .clone();
        let levels: Vec<Value> = roles.iter().map(|r| json!({"type": r})).collect();
        let group = self
            .made(
                "/permission",
                json!({"levels": levels, "name": "staff", "organizationId": organization, "userIds": [],
                       "applicationIds": [application]}),
            )
            .await["id"]
            .clone();
        let email = format!("{}@example.org", name.to_lowercase());
        let user = self
            .made(
                "/user",
                json!({"name": name, "email": email, "password": "Sesame-11", "active": true, "permissionIds": [group]}),
            )
            .await["id"]
            .clone();
        let token = self.log_in(&email, "Sesame-11").await;
        Tenant { organization, application, group, user, token }
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.store.pool().get().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// What belongs to one tenant.
pub struct Tenant {
    pub organization: Value,
    pub application: Value,
    pub group: Value,
    pub user: Value,
    pub token: String,
}
