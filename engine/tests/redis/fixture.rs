//! A redis-server on a free port, without persistence.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluse_engine::redis::{Redis, RedisConfig};
use sluse_schema::secret::Secret;

/// Ends with the test.
pub struct RedisServer {
    pub port: u16,
    child: Child,
    dir: tempfile::TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(port, dir.path(), &["--port", &port.to_string()]);
        Self { port, child, dir }
    }

    /// One that speaks nothing but TLS.
    pub fn start_with_tls(certificate: &Path, key: &Path, authority: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key, authority] = [certificate, key, authority].map(|path| path.to_str().unwrap());
        let port_text = port.to_string();
        let settings = [
            "--port",
            "0",
            "--tls-port",
            &port_text,
            "--tls-auth-clients",
            "no",
            "--tls-cert-file",
            certificate,
            "--tls-key-file",
            key,
            "--tls-ca-cert-file",
            authority,
        ];
        let child = spawn(port, dir.path(), &settings);
        Self { port, child, dir }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.port, self.dir.path(), &["--port", &self.port.to_string()]);
    }

    /// Another node's view of it.
    pub fn node(&self) -> Arc<Redis> {
        self.node_of("first")
    }

    /// That of a node of another installation.
    pub fn node_of(&self, installation: &str) -> Arc<Redis> {
        Redis::open(&config(&format!("redis://127.0.0.1:{}/1", self.port)), installation).unwrap()
    }

    /// What `redis-cli` answers in the nodes' database.
    pub fn command(&self, words: &str) -> String {
        let port = self.port.to_string();
        let mut cli = Command::new("redis-cli");
        let out = cli.args(["-p", &port, "-n", "1"]).args(words.split(' ')).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, dir: &Path, settings: &[&str]) -> Child {
    let child = Command::new("redis-server")
        .args(settings)
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server has to be installed: deploy/prerequisites.sh does it");
    let give_up_at = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < give_up_at, "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < give_up_at, "in vain waited until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn config(url: &str) -> RedisConfig {
    RedisConfig { url: Secret::new(url), ca_certificates: None }
}
