//! Breaks what the scenario breaks, when it says so, and mends it again: one fault after the other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::admin_api::AdminApi;
use crate::clock::RunClock;
use crate::recovery::RecoveryWatch;
use crate::scenario::{Fault, Manner, Victim};
use crate::servers::Server;
use crate::world::World;

/// Nodes that are away for longer than this lose their partitions: Sluse's session timeout with Kafka.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(10);

/// What the player of faults needs.
#[derive(Debug)]
pub struct FaultPlayer {
    pub world: Arc<World>,
    pub clock: Arc<RunClock>,
    pub recovery: Arc<Mutex<RecoveryWatch>>,
    /// Addresses of the API, and who asks.
    pub login: (Vec<String>, String, String),
    /// Ids of the targets.
    pub targets: Vec<i64>,
    /// Ends the wait for faults that have not begun.
    pub stop: Arc<AtomicBool>,
}

impl FaultPlayer {
    /// Plays all of them in their order. An error when something did not come back.
    pub async fn play(self, faults: Vec<Fault>) -> anyhow::Result<()> {
        for fault in faults {
            while self.clock.load_elapsed().as_secs_f64() < fault.at_s {
                if self.stop.load(Relaxed) {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
            let name = fault.name();
            let load_s = self.clock.load_elapsed().as_secs_f64();
            tracing::info!(fault = name, load_s, "a fault begins");
            self.note(name.clone(), load_s);
            self.play_one(&fault).await.with_context(|| name)?;
        }
        Ok(())
    }

    fn note(&self, name: String, load_s: f64) {
        let mut recovery = self.recovery.lock().unwrap_or_else(PoisonError::into_inner);
        recovery.begin(name, load_s, self.clock.now_us());
    }

    async fn play_one(&self, fault: &Fault) -> anyhow::Result<()> {
        let away = Duration::from_secs_f64(fault.away_s);
        let world = &self.world;
        let server = match fault.whom {
            Victim::Engine => return self.break_engine(fault, away).await,
            Victim::Target => return self.rewind(fault.number).await,
            Victim::Clock => return world.step_clock(fault.step_s),
            Victim::Disk => return self.fill_disk(away).await,
            Victim::Mosquitto => Some(&world.mosquitto),
            Victim::Postgres => world.postgres.as_ref(),
            Victim::Redis => world.redis.as_ref(),
            Victim::Kafka => return self.break_kafka(fault, away).await,
        };
        let server = server.context("the scenario breaks what this run does not have")?;
        break_server(&mut *server.lock().await, fault.manner, away).await
    }

    /// Kafka knows one way to go here: its brokers are killed. What a clean stop would do, it has to survive without.
    async fn break_kafka(&self, fault: &Fault, away: Duration) -> anyhow::Result<()> {
        let kafka = self.world.kafka.as_ref().context("the scenario breaks a Kafka that is not there")?;
        let mut kafka = kafka.lock().await;
        block_in_place(|| kafka.kill(fault.number));
        sleep(away).await;
        block_in_place(|| kafka.start_again(fault.number)).context("the broker does not start again")
    }

    async fn rewind(&self, number: usize) -> anyhow::Result<()> {
        let target = *self.targets.get(number).context("the scenario rewinds a target that is not there")?;
        let (bases, email, password) = &self.login;
        AdminApi::log_in(bases, email, password).await?.rewind(target).await
    }

    async fn fill_disk(&self, away: Duration) -> anyhow::Result<()> {
        let disk = self.world.disk.as_ref().context("the log has no disk of its own")?;
        let ballast = disk.fill()?;
        sleep(away).await;
        std::fs::remove_file(&ballast).with_context(|| format!("cannot remove {}", ballast.display()))
    }

    async fn break_engine(&self, fault: &Fault, away: Duration) -> anyhow::Result<()> {
        let node = self.world.nodes.get(fault.number).context("the scenario breaks a node that is not there")?;
        let mut engine = node.engine.lock().await;
        match fault.manner {
            Manner::Freeze => {
                engine.freeze().await?;
                sleep(away).await;
                if away > TAKEN_OVER_AFTER {
                    self.note(format!("engine {} wakes", fault.number), self.clock.load_elapsed().as_secs_f64());
                }
                return engine.thaw().await;
            }
            Manner::Cut => {
                let line = self.world.line.as_ref().context("the engine has no line to Kafka of its own")?;
                line.set_cut(true);
                sleep(away).await;
                if away > TAKEN_OVER_AFTER {
                    self.note(
                        format!("engine {} is reached again", fault.number),
                        self.clock.load_elapsed().as_secs_f64(),
                    );
                }
                line.set_cut(false);
                return Ok(());
            }
            Manner::Restart => engine.stop().await.context("a restart under load")?,
            Manner::Kill => engine.kill().await?,
            Manner::Rewind | Manner::Step | Manner::Fill => bail!("that cannot be done to an engine"),
        }
        node.pid.store(0, Relaxed);
        sleep(away).await;
        if away > TAKEN_OVER_AFTER {
            // The others have taken over by then; what its return costs is another account.
            self.note(format!("engine {} comes back", fault.number), self.clock.load_elapsed().as_secs_f64());
        }
        engine.start_again().await.context("the engine does not start again")?;
        node.pid.store(engine.pid().unwrap_or(0), Relaxed);
        Ok(())
    }
}

async fn break_server(server: &mut Server, manner: Manner, away: Duration) -> anyhow::Result<()> {
    match manner {
        Manner::Freeze => {
            server.freeze().await?;
            sleep(away).await;
            return server.thaw().await;
        }
        Manner::Restart => server.stop().await?,
        Manner::Kill => server.kill().await?,
        Manner::Rewind | Manner::Step | Manner::Fill | Manner::Cut => bail!("that cannot be done to a server"),
    }
    sleep(away).await;
    server.start_again().await
}
