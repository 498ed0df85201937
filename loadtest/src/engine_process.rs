//! Sluse as a child: started as a user would start it (environment variables and `sluse serve`, nothing else), stopped in order,
//! killed or frozen when a scenario says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::servers::{last_words, log_file, signal};

/// How long an engine may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a clean end may take.
const END_WITHIN: Duration = Duration::from_secs(60);

/// Settings of Sluse whose names do not begin with `SLUSE_`.
const SETTINGS: [&str; 5] = ["DATABASE_URL", "KAFKA_BROKERS", "REDIS_URL", "CHIRPSTACK_MQTT_URL", "FRONTEND_BASEURL"];

/// How an engine is to be started.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The `sluse` binary.
    pub program: PathBuf,
    pub data_dir: PathBuf,
    pub http_port: u16,
    pub mqtt_port: u16,
    pub admin_email: String,
    pub admin_password: String,
    /// What else is set: database, Kafka, Redis, the node's name and keys.
    pub env: Vec<(&'static str, String)>,
    /// Where its log goes.
    pub log: PathBuf,
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
    child: Child,
}

impl Engine {
    /// Starts `sluse serve` and waits until it is ready.
    pub async fn start(options: EngineOptions) -> anyhow::Result<Self> {
        fs::create_dir_all(&options.data_dir)?;
        // The private PostgreSQL runs as another user when we are root: it must be able to pass through.
        if let Some(parent) = options.data_dir.parent() {
            let _ = fs::set_permissions(parent, fs::Permissions::from_mode(0o755));
        }
        let child = Self::spawn(&options)?;
        let mut engine = Self { options, child };
        engine.wait_until_ready().await?;
        Ok(engine)
    }

    fn spawn(options: &EngineOptions) -> anyhow::Result<Child> {
        let data_dir = options.data_dir.canonicalize()?;
        let mut command = Command::new(&options.program);
        // Embedded defaults: neither a `sluse.toml` nor settings of whoever runs this may change what is measured.
        for (name, _) in std::env::vars_os() {
            let is_setting = name.to_str().is_some_and(|n| n.starts_with("SLUSE_") || SETTINGS.contains(&n));
            if is_setting {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .current_dir(&data_dir)
            .env("SLUSE_DATA_DIR", &data_dir)
            .env("SLUSE_HTTP_LISTEN", format!("127.0.0.1:{}", options.http_port))
            .env("CHIRPSTACK_MQTT_URL", format!("mqtt://127.0.0.1:{}", options.mqtt_port))
            .env("SLUSE_ALLOW_PRIVATE_TARGETS", "127.0.0.0/8")
            .env("SLUSE_ADMIN_EMAIL", &options.admin_email)
            .env("SLUSE_ADMIN_PASSWORD", &options.admin_password)
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log_file(&options.log)?)
            .stderr(log_file(&options.log)?)
            // Its own group: a Ctrl-C is ours to handle, the engine is stopped after the drivers.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", options.program.display()))
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/readyz", self.base_url());
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let deadline = Instant::now() + READY_WITHIN;
        let mut last = String::from("no answer");
        loop {
            match client.get(&url).send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => last = response.text().await.unwrap_or_default(),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("sluse ended with {status} before it was ready; its last words:\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("sluse was not ready within {READY_WITHIN:?}: {last}\n{}", self.last_words());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn last_words(&self) -> String {
        last_words(&self.options.log)
    }

    /// Where it answers.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.options.http_port)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it ended by itself, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGTERM and wait. An error when it had to be killed or did not end with 0.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        signal(&self.child, "TERM").await?;
        match timeout(END_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("sluse ended with {status} after SIGTERM; its last words:\n{}", self.last_words()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                self.child.kill().await?;
                bail!("sluse did not end within {END_WITHIN:?} of SIGTERM and was killed");
            }
        }
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill sluse")
    }

    /// SIGSTOP: alive, and doing nothing.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        signal(&self.child, "STOP").await
    }

    /// SIGCONT.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        signal(&self.child, "CONT").await
    }

    /// Starts again after [`Engine::stop`] or [`Engine::kill`], with everything as before.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = Self::spawn(&self.options)?;
        self.wait_until_ready().await
    }
}
