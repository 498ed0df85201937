//! The running program, shared by all tests, and tenants in it.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::Server;
use crate::sigfox_server;
use crate::smtp::Smtp;

pub const ADMIN_EMAIL: &str = "admin@example.org";
pub const ADMIN_PASSWORD: &str = "correct horse battery";
pub const CONNECTIONS: &str = "/iot-device-payload-decoder-data-target-connection";
/// Far more than anything takes: a wait that never ends is a failure, a slow machine is none.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `sluse serve` with a private PostgreSQL, ended when the last test lets go of it.
pub struct Engine {
    child: Child,
    base: String,
    pub sigfox: Server,
    pub smtp: Smtp,
    pub admin: String,
    client: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Both fail when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of an answer; text that is no JSON comes as a string, an empty body as null.
pub type Answer = (u16, Value);

/// The shared one, started by whoever is first.
pub async fn engine() -> Arc<Engine> {
    static SHARED: OnceLock<tokio::sync::Mutex<Weak<Engine>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(tokio::sync::Mutex::default).lock().await;
    if let Some(engine) = shared.upgrade() {
        return engine;
    }
    let engine = Arc::new(start().await);
    *shared = Arc::downgrade(&engine);
    engine
}

async fn start() -> Engine {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    // The private PostgreSQL runs as another user when this test runs as root.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sigfox = sigfox_server::start();
    let smtp = Smtp::start();
    let log = File::create(dir.path().join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluse"));
    for name in ["DATABASE_URL", "KAFKA_BROKERS", "REDIS_URL", "CHIRPSTACK_MQTT_URL", "SLUSE_CONFIG", "EMAIL_USER"] {
        command.env_remove(name);
    }
    let child = command
        .arg("serve")
        .env("SLUSE_DATA_DIR", dir.path().join("data"))
        .env("SLUSE_HTTP_LISTEN", format!("127.0.0.1:{port}"))
        // So that a test can tell that no secret is in it.
        .env("SLUSE_LOG", "trace")
        .env("SLUSE_ADMIN_EMAIL", ADMIN_EMAIL)
        .env("SLUSE_ADMIN_PASSWORD", ADMIN_PASSWORD)
        .env("SLUSE_ALLOW_PRIVATE_TARGETS", "127.0.0.0/8")
        .env("SLUSE_SIGFOX_API_URL", format!("{}/v2", sigfox.url()))
        .env("EMAIL_HOST", "127.0.0.1")
        .env("EMAIL_PORT", smtp.port.to_string())
        .env("EMAIL_FROM", "Sluse <sluse@example.org>")
        .env("SLUSE__MAIL__TLS", "none")
        .env("BACKEND_BASEURL", "https://iot.example.org")
        .env("MQTT_BROKER_HOSTNAME", "mqtt.example.org")
        .current_dir(dir.path())
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    let mut engine = Engine {
        child,
        base: format!("http://127.0.0.1:{port}"),
        sigfox,
        smtp,
        admin: String::new(),
        // A kept connection would end with the runtime of the test that opened it.
        client: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
        _dir: dir,
    };
    let give_up_at = Instant::now() + PATIENCE;
    let ready = format!("{}/readyz", engine.base);
    while !engine.client.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
        assert!(Instant::now() < give_up_at, "not ready: {}", engine.log());
        assert!(engine.child.try_wait().unwrap().is_none(), "ended: {}", engine.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.admin = engine.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    engine
}

/// What belongs to one tenant.
pub struct Tenant {
    pub organization: i64,
    pub application: i64,
    /// Of a user with the roles that were asked for.
    pub token: String,
}

impl Engine {
    /// Everything that it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self._dir.path().join("log")).unwrap_or_default()
    }

    pub async fn log_in(&self, email: &str, password: &str) -> String {
        let body = json!({"username": email, "password": password});
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.call("POST", "/auth/login", None, Some(body.clone())).await;
            // All tests share this engine and an address: on a fast machine they log in more often than one address may.
            if status == 429 && Instant::now() < give_up_at {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            assert_eq!(status, 201, "{answer}");
            return answer["accessToken"].as_str().unwrap().to_owned();
        }
    }

    pub async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.base)).timeout(PATIENCE);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let body =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        (status, body)
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.call("GET", path, Some(token), None).await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(token), Some(body)).await
    }

    pub async fn put(&self, token: &str, path: &str, body: Value) -> Answer {
        self.call("PUT", path, Some(token), Some(body)).await
    }

    pub async fn delete(&self, token: &str, path: &str) -> Answer {
        self.call("DELETE", path, Some(token), None).await
    }

    /// What a 200 holds.
    pub async fn got(&self, token: &str, path: &str) -> Value {
        let (status, body) = self.get(token, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// What a 201 holds.
    pub async fn made(&self, token: &str, path: &str, body: Value) -> Value {
        let (status, made) = self.post(token, path, body).await;
        assert_eq!(status, 201, "{path}: {made}");
        made
    }

    /// An organisation with an application, and a user in a group of these roles that is mapped to it.
    pub async fn tenant(&self, name: &str, roles: &[&str]) -> Tenant {
        let organization = id(&self.made(&self.admin, "/organization", json!({"name": name})).await);
        let application = json!({"name": format!("{name} app"), "organizationId": organization});
        let application = id(&self.made(&self.admin, "/application", application).await);
        let token = self.member(organization, application, name, roles).await;
        Tenant { organization, application, token }
    }

    /// Another user there; returns his token.
    pub async fn member(&self, organization: i64, application: i64, name: &str, roles: &[&str]) -> String {
        let levels: Vec<Value> = roles.iter().map(|role| json!({"type": role})).collect();
        let group = json!({"levels": levels, "name": name, "organizationId": organization, "userIds": [],
                           "applicationIds": [application]});
        let group = id(&self.made(&self.admin, "/permission", group).await);
        let email = format!("{}@example.org", name.to_lowercase().replace(' ', "."));
        let user =
            json!({"name": name, "email": email, "password": "Sesame-11", "active": true, "permissionIds": [group]});
        self.made(&self.admin, "/user", user).await;
        self.log_in(&email, "Sesame-11").await
    }

    /// What an HTTP device sends.
    pub async fn receive(&self, api_key: &str, body: Value) {
        let (status, answer) = self.call("POST", &format!("/receive-data?apiKey={api_key}"), None, Some(body)).await;
        assert_eq!(status, 204, "{answer}");
    }

    /// Asks until `is_right`, which has to come about sooner or later.
    pub async fn eventually(&self, token: &str, path: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let (_, body) = self.get(token, path).await;
            if is_right(&body) {
                return body;
            }
            assert!(Instant::now() < give_up_at, "{path}: {body}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub fn id(row: &Value) -> i64 {
    row["id"].as_i64().unwrap_or_else(|| panic!("no id: {row}"))
}

/// Waits for what has to come about sooner or later.
pub async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let give_up_at = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up_at, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for a change to take effect: less than the minute after which a full scan would find it, so that it came by its event.
pub async fn wait_for_change(what: &str, is_so: impl Fn() -> bool) {
    let give_up_at = Instant::now() + PATIENCE / 3;
    while !is_so() {
        assert!(Instant::now() < give_up_at, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An HTTP device of an application.
pub fn http_device(name: &str, application: i64) -> Value {
    json!({"name": name, "type": "GENERIC_HTTP", "applicationId": application})
}

/// An HTTP target.
pub fn http_target(name: &str, application: i64, url: &str) -> Value {
    json!({"name": name, "type": "HTTP_PUSH", "applicationId": application, "url": url, "timeout": 5000,
           "authorizationHeader": "Bearer s3cret"})
}

/// A decoder whose source is `source`.
pub fn decoder(name: &str, organization: i64, source: &str) -> Value {
    json!({"name": name, "organizationId": organization, "decodingFunction": serde_json::to_string(source).unwrap()})
}
