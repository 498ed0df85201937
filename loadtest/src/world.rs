//! What a run stands on: the servers and the engines, started in the order in which they need each other, stopped in the opposite
//! one. Each is behind a lock of its own, so that a fault holds up nobody else.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio::task::{block_in_place, spawn_blocking};

use crate::cli::Cli;
use crate::engine_process::{Engine, EngineOptions};
use crate::fake_world::{FakeClock, RESERVE_BYTES, SmallDisk};
use crate::home::{Files, Login, pick_port};
use crate::kafka_process::{Extras, Kafka};
use crate::meter::Pids;
use crate::scenario::{LogKind, Scenario, Victim};
use crate::servers::{self, Server, free_port};
use crate::tcp_proxy::TcpProxy;

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
    pub kafka: Option<Mutex<Kafka>>,
    pub nodes: Vec<Node>,
    /// What the scenario cuts: one engine's line to Kafka.
    pub line: Option<TcpProxy>,
    /// The engine's database as `psql` is told it.
    pub database: String,
    /// Where the scenario lets the clock jump.
    pub clock: Option<FakeClock>,
    /// Where the scenario fills the log's disk. Unmounted last.
    pub disk: Option<SmallDisk>,
}

impl World {
    /// Starts what the scenario needs, and waits until every engine is ready.
    pub async fn start(cli: &Cli, scenario: &Scenario, files: &Files, login: &Login) -> anyhow::Result<Self> {
        let mqtt_port = pick_port(cli, cli.mqtt_port)?;
        let mosquitto = Server::start(servers::mosquitto(&files.dir.join("mosquitto"), mqtt_port)?).await?;
        let mut env = Vec::new();
        let mut postgres = None;
        let private = files.dir.canonicalize()?.join("sluse/postgres/run");
        let mut database = format!("host={} user=sluse dbname=sluse", private.display());
        if scenario.has_database_server() {
            let port = free_port()?;
            let program = servers::initialised(&files.dir.join("postgres"), port).await?;
            postgres = Some(Mutex::new(Server::start(program).await?));
            database = servers::postgres_url(port);
            env.push(("DATABASE_URL", database.clone()));
        }
        let mut redis = None;
        if scenario.redis {
            let port = free_port()?;
            redis = Some(Mutex::new(Server::start(servers::redis(&files.dir.join("redis"), port)?).await?));
            env.push(("REDIS_URL", format!("redis://127.0.0.1:{port}")));
        }
        let (mut kafka, mut line) = (None, None);
        if scenario.log == LogKind::Kafka {
            let (dir, num_brokers) = (files.dir.canonicalize()?, scenario.kafka_brokers);
            if scenario.cut_node().is_some() {
                line = Some(TcpProxy::listen().await?);
            }
            let extras = Extras { proxy_port: line.as_ref().map(TcpProxy::port), ..Extras::default() };
            let starting = spawn_blocking(move || Kafka::start_with(&dir, num_brokers, extras));
            let cluster = starting.await?.context("cannot start Kafka")?;
            line.iter().for_each(|line| line.lead_to(cluster.proxied_port()));
            env.push(("KAFKA_BROKERS", cluster.bootstrap()));
            // What all nodes share.
            env.push(("SLUSE_SECRET_KEY", login.password.repeat(2)));
            env.push(("SLUSE_JWT_SECRET", login.password.repeat(2)));
            kafka = Some(Mutex::new(cluster));
        }
        let clock = scenario.breaks(Victim::Clock).then(|| FakeClock::new(&files.dir)).transpose()?;
        if let Some(clock) = &clock {
            env.extend(clock.env()?);
        }
        let mut disk = None;
        if scenario.breaks(Victim::Disk) {
            disk = Some(SmallDisk::mount(&files.dir.join("sluse/log"))?);
            env.push(("SLUSE__LOG__FREE_BYTES_RESERVE", RESERVE_BYTES.to_string()));
        }
        let mut nodes = Vec::new();
        for number in 0..scenario.nodes {
            let http_port = if number == 0 { pick_port(cli, cli.http_port)? } else { free_port()? };
            let name = if scenario.nodes == 1 { "sluse".to_owned() } else { format!("sluse-{number}") };
            let mut env = env.clone();
            if scenario.log == LogKind::Kafka {
                env.push(("SLUSE_NODE_ID", name.clone()));
            }
            if let (Some(line), true) = (&line, scenario.cut_node() == Some(number)) {
                env.push(("KAFKA_BROKERS", format!("127.0.0.1:{}", line.port())));
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
        Ok(Self {
            database,
            mosquitto: Mutex::new(mosquitto),
            mqtt_port,
            postgres,
            redis,
            kafka,
            nodes,
            line,
            clock,
            disk,
        })
    }

    /// The engines' time of day jumps.
    pub fn step_clock(&self, seconds: i64) -> anyhow::Result<()> {
        self.clock.as_ref().context("the engines have the machine's clock")?.step(seconds)
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
            kafka: self.kafka.iter().filter_map(|kafka| kafka.try_lock().ok()).flat_map(|kafka| kafka.pids()).collect(),
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
        for server in servers {
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
        for server in servers {
            if let Err(error) = server.lock().await.stop().await {
                tracing::warn!(error = format!("{error:#}"), "a server did not end cleanly");
            }
        }
        if let Some(kafka) = &self.kafka {
            let mut kafka = kafka.lock().await;
            block_in_place(|| kafka.kill_all());
        }
        unclean
    }
}
