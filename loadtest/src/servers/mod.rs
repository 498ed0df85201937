//! The servers that Sluse works with, as children: real programs on free ports with their files in the run's directory. Each can be
//! stopped, killed, frozen and started again as it was, which is what faults are made of.

mod mosquitto;
mod postgres;
mod redis;

pub use mosquitto::mosquitto;
pub use postgres::{initialised, url as postgres_url};
pub use redis::redis;

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take to be there.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a clean end may take.
const END_WITHIN: Duration = Duration::from_secs(60);

/// A port that nobody listens on right now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The port if nobody listens on it, otherwise a free one.
pub fn port_or_free(port: u16) -> anyhow::Result<u16> {
    TcpListener::bind(("127.0.0.1", port)).map_or_else(|_| free_port(), |_| Ok(port))
}

/// Opens a log for appending.
pub fn log_file(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// The last lines of a log.
pub fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Whether we may become others.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Sends a signal by name, as a person would.
pub async fn signal(child: &Child, name: &str) -> anyhow::Result<()> {
    let Some(pid) = child.id() else { return Ok(()) };
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await;
    status.with_context(|| format!("cannot send SIG{name}"))?;
    Ok(())
}

/// The first of these files that is there, or the last path component for the shell's search.
pub fn find_program(candidates: &[&str]) -> PathBuf {
    let found = candidates.iter().map(Path::new).find(|path| path.exists());
    let by_name = || candidates.first().and_then(|path| Path::new(path).file_name()).unwrap_or_default();
    found.map_or_else(|| PathBuf::from(by_name()), Path::to_path_buf)
}

/// How a server is started, every time.
#[derive(Clone, Debug)]
pub struct Program {
    /// For messages.
    pub name: &'static str,
    pub path: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(&'static str, String)>,
    /// It is there when something listens here on 127.0.0.1.
    pub port: u16,
    pub log: PathBuf,
    /// Signal of a clean end.
    pub stop_signal: &'static str,
    /// User and group to run as.
    pub run_as: Option<(u32, u32)>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    program: Program,
    child: Child,
}

impl Server {
    /// Starts it and waits until it listens.
    pub async fn start(program: Program) -> anyhow::Result<Self> {
        let child = spawn(&program)?;
        let mut server = Self { program, child };
        server.wait_until_ready().await?;
        Ok(server)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let Program { name, port, log, .. } = &self.program;
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", *port)).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{name} ended with {status}; its last words:\n{}", last_words(log));
            }
            if Instant::now() > deadline {
                bail!("{name} does not listen on port {port}; its last words:\n{}", last_words(log));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// For messages.
    pub const fn name(&self) -> &'static str {
        self.program.name
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.program.port
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        signal(&self.child, self.program.stop_signal).await?;
        let name = self.program.name;
        match timeout(END_WITHIN, self.child.wait()).await {
            Ok(ended) => ended.map(drop).with_context(|| format!("cannot wait for {name}")),
            Err(_) => {
                self.child.kill().await?;
                bail!("{name} did not end within {END_WITHIN:?} and was killed")
            }
        }
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.program.name))
    }

    /// SIGSTOP: alive, and silent.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        signal(&self.child, "STOP").await
    }

    /// SIGCONT.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        signal(&self.child, "CONT").await
    }

    /// Starts again after [`Server::stop`] or [`Server::kill`], with everything as before.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.program)?;
        self.wait_until_ready().await
    }

    /// Whether it ended by itself, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

fn spawn(program: &Program) -> anyhow::Result<Child> {
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log_file(&program.log)?)
        .stderr(log_file(&program.log)?)
        // Its own group: a Ctrl-C is ours to handle, servers are stopped after what needs them.
        .process_group(0)
        .kill_on_drop(true);
    if let Some((uid, gid)) = program.run_as {
        command.uid(uid).gid(gid);
    }
    let path = program.path.display();
    command.spawn().with_context(|| format!("cannot start {path}: is {} installed?", program.name))
}
