//! What a run stands on: the servers and the engines, started in the order in which they need each other, stopped in the opposite
//! one. Each is behind a lock of its own, so that a fault holds up nobody else.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::Mutex;

use crate::cli::Cli;
use crate::engine_process::{Engine, EngineOptions};
use crate::home::{Files, Login, pick_port};
use crate::meter::Pids;
use crate::scenario::Scenario;
use crate::servers::{self, Server, free_port};

/// One engine, and its process for the meter.
#[derive(Debug)]
pub struct Node {
    pub engine: Mutex<Engine>,
    /// 0 while it is away.
    pub pid: AtomicU32,
    pub http_port: u16,
}

/// Everything that runs.
#[derive(Debug)]
pub struct World {
    pub mosquitto: Mutex<Server>,
    pub mqtt_port: u16,
    pub postgres: Option<Mutex<Server>>,
    pub redis: Option<Mutex<Server>>,
    pub kafka: Vec<Mutex<Server>>,
    pub nodes: Vec<Node>,
}

impl World {
    /// Starts what the scenario needs, and waits until every engine is ready.
    pub async fn start(cli: &Cli, scenario: &Scenario, files: &Files, login: &Login) -> anyhow::Result<Self> {
        let mqtt_port = pick_port(cli, cli.mqtt_port)?;
        let mosquitto = Server::start(servers::mosquitto(&files.dir.join("mosquitto"), mqtt_port)?).await?;
        let mut env = Vec::new();
        let mut postgres = None;
        if scenario.has_database_server() {
            let port = free_port()?;
            let program = servers::initialised(&files.dir.join("postgres"), port).await?;
            postgres = Some(Mutex::new(Server::start(program).await?));
            env.push(("DATABASE_URL", servers::postgres_url(port)));
        }
        let mut redis = None;
        if scenario.redis {
            let port = free_port()?;
            redis = Some(Mutex::new(Server::start(servers::redis(&files.dir.join("redis"), port)?).await?));
            env.push(("REDIS_URL", format!("redis://127.0.0.1:{port}")));
        }
        let kafka = Vec::new();
        let mut nodes = Vec::new();
        for number in 0..scenario.nodes {
            let http_port = if number == 0 { pick_port(cli, cli.http_port)? } else { free_port()? };
            let name = if scenario.nodes == 1 { "sluse".to_owned() } else { format!("sluse-{number}") };
            let mut env = env.clone();
            if scenario.nodes > 1 {
                env.push(("SLUSE_NODE_ID", name.clone()));
            }
            let options = EngineOptions {
                program: cli.sluse()?,
                data_dir: files.dir.join(&name),
                http_port,
                mqtt_port,
                admin_email: login.email.clone(),
                admin_password: login.password.clone(),
                env,
                log: files.dir.join(format!("{name}.log")),
            };
            let engine = Engine::start(options).await?;
            let pid = AtomicU32::new(engine.pid().unwrap_or(0));
            nodes.push(Node { engine: Mutex::new(engine), pid, http_port });
        }
        let mqtt_port = mosquitto.port();
        Ok(Self { mosquitto: Mutex::new(mosquitto), mqtt_port, postgres, redis, kafka, nodes })
    }

    /// Where the engines answer.
    pub fn base_urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("http://127.0.0.1:{}", node.http_port)).collect()
    }

    /// Ports of the engines.
    pub fn http_ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.http_port).collect()
    }

    /// Whose cost the meter reads. What a fault has its hands on is left out for the moment.
    pub fn pids(&self) -> Pids {
        let of = |server: &Mutex<Server>| server.try_lock().ok().and_then(|server| server.pid());
        Pids {
            engines: self.nodes.iter().map(|node| node.pid.load(Relaxed)).filter(|pid| *pid != 0).collect(),
            broker: of(&self.mosquitto),
            kafka: self.kafka.iter().filter_map(of).collect(),
        }
    }

    /// Every engine or server that ended by itself, and how.
    pub async fn ended(&self) -> Vec<String> {
        let mut ended = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            if let Some(status) = node.engine.lock().await.ended() {
                ended.push(format!("engine {number} ended by itself with {status}"));
            }
        }
        let servers = [Some(&self.mosquitto), self.postgres.as_ref(), self.redis.as_ref()].into_iter().flatten();
        for server in servers.chain(&self.kafka) {
            let mut server = server.lock().await;
            if let Some(status) = server.ended() {
                ended.push(format!("{} ended by itself with {status}", server.name()));
            }
        }
        ended
    }

    /// Stops the engines, then the servers; every end that was not clean.
    pub async fn stop(&self) -> Vec<String> {
        let mut unclean = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            if let Err(error) = node.engine.lock().await.stop().await {
                unclean.push(format!("engine {number} did not end cleanly: {error:#}"));
            }
        }
        let servers = [Some(&self.mosquitto), self.redis.as_ref(), self.postgres.as_ref()].into_iter().flatten();
        for server in servers.chain(&self.kafka) {
            if let Err(error) = server.lock().await.stop().await {
                tracing::warn!(error = format!("{error:#}"), "a server did not end cleanly");
            }
        }
        unclean
    }
}
