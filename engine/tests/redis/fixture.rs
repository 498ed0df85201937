//! A redis-server on a free port, without persistence.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluse_engine::redis::Redis;
use sluse_schema::secret::Secret;

/// Ends with the test.
pub struct RedisServer {
    port: u16,
    child: Child,
    dir: tempfile::TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(port, dir.path());
        Self { port, child, dir }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.port, self.dir.path());
    }

    /// Another node's view of it.
    pub fn node(&self) -> Arc<Redis> {
        Redis::open(&Secret::new(format!("redis://127.0.0.1:{}/1", self.port))).unwrap()
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

fn spawn(port: u16, dir: &std::path::Path) -> Child {
    let port_text = port.to_string();
    let child = Command::new("redis-server")
        .args(["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
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
