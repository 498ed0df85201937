//! Mosquitto and Sluse as children: started on free or given ports with a data directory, stopped in order, killed when a scenario
//! says so. Sluse is started as a user would start it: environment variables and `sluse serve`, nothing else.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a broker or an engine may take to be there.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a clean end may take.
const END_WITHIN: Duration = Duration::from_secs(60);

/// Mosquitto's configuration, with the reason for each line.
pub const MOSQUITTO_CONF: &str = "\
# Written by sluse-loadtest at every start.
per_listener_settings false
allow_anonymous true
# By default Mosquitto drops what waits for a subscriber beyond 1000 messages. What it acknowledged must wait instead.
max_queued_messages 0
max_queued_bytes 0
# By default 20 unacknowledged messages per client: far too few for a durable consumer.
max_inflight_messages 0
set_tcp_nodelay true
persistence true
autosave_interval 30
log_dest stderr
log_type error
log_type warning
";

/// Settings of Sluse whose names do not begin with `SLUSE_`.
const SETTINGS: [&str; 5] = ["DATABASE_URL", "KAFKA_BROKERS", "REDIS_URL", "CHIRPSTACK_MQTT_URL", "FRONTEND_BASEURL"];

/// A port that nobody listens on right now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The port if nobody listens on it, otherwise a free one.
pub fn port_or_free(port: u16) -> anyhow::Result<u16> {
    TcpListener::bind(("127.0.0.1", port)).map_or_else(|_| free_port(), |_| Ok(port))
}

fn log_file(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Sends a signal by name, as a person would.
async fn signal(child: &Child, name: &str) -> anyhow::Result<()> {
    let Some(pid) = child.id() else { return Ok(()) };
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await;
    status.with_context(|| format!("cannot send SIG{name}"))?;
    Ok(())
}

/// A broker of our own.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    pub port: u16,
}

impl Broker {
    /// Starts Mosquitto with its files below `dir`.
    pub async fn start(dir: &Path, port: u16) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let conf = dir.join("mosquitto.conf");
        let user = if is_root() { "user root\n" } else { "" };
        let text = format!(
            "{MOSQUITTO_CONF}{user}listener {port} 127.0.0.1\npersistence_location {}/\n",
            dir.canonicalize()?.display()
        );
        fs::write(&conf, text)?;
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"]
            .into_iter()
            .find(|p| Path::new(p).exists())
            .unwrap_or("mosquitto");
        let log = dir.join("mosquitto.log");
        let mut child = Command::new(program)
            .arg("-c")
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(log_file(&log)?)
            .stderr(log_file(&log)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {program}: is the Debian package mosquitto installed?"))?;
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("mosquitto ended with {status}; see {}", log.display());
            }
            if Instant::now() > deadline {
                bail!("mosquitto does not listen on port {port}; see {}", log.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { child, port })
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it.
    pub async fn stop(mut self) {
        let _ = signal(&self.child, "TERM").await;
        let _ = timeout(END_WITHIN, self.child.wait()).await;
    }
}

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

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.options.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Where it answers.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.options.http_port)
    }

    /// How it was started.
    pub const fn options(&self) -> &EngineOptions {
        &self.options
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

    /// Starts again after [`Engine::stop`] or [`Engine::kill`], with everything as before.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = Self::spawn(&self.options)?;
        self.wait_until_ready().await
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}
