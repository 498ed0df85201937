//! A run from beginning to end: broker and engine up, the stage set through the API, the load on, faults as the scenario says,
//! everything drained, the verdict. Reads top to bottom in [`run`].

mod figures;
mod watch;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use self::watch::Watch;
use crate::admin_api::{Address, AdminApi, Stage, TargetState, is_connected};
use crate::chirpstack_event::{EventWriter, Sender};
use crate::cli::Cli;
use crate::clock::RunClock;
use crate::drive_http::{HttpDriver, HttpFigures};
use crate::drive_mqtt::{MqttDriver, Outgoing, wait_for_subscriber};
use crate::faults::FaultPlayer;
use crate::fleet::Fleet;
use crate::generator::{Extras, Generator};
use crate::home::{Files, Login};
use crate::oracle::{DutyFigures, DutyId, Oracle};
use crate::receivers::{Ledger, Receiver};
use crate::recovery::RecoveryWatch;
use crate::report::Report;
use crate::scenario::{Manner, Scenario, TargetKind};
use crate::verdict::TargetEnd;
use crate::world::World;

/// How often the oldest owed uplink is looked for, in runs with faults.
const LOOK_FOR_LATE_EVERY: Duration = Duration::from_millis(100);
/// How long the engine's counters may lag behind the receivers at the end; they are written once per second.
const COUNTERS_WITHIN: Duration = Duration::from_secs(15);
/// How long after a Ctrl-C is waited for what is on its way.
const DRAIN_AFTER_STOP: Duration = Duration::from_secs(10);
/// After a broker was killed: what nobody has got when nothing moved for this long, it lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Runs what the command line asks for; the report says what became of it.
pub async fn run(cli: &Cli) -> anyhow::Result<Report> {
    let scenario = cli.scenario()?;
    let files = Files::prepare(cli)?;
    let say = |text: &str| {
        if !cli.json {
            println!("{text}");
        }
    };
    say(&format!("Scenario {}: {}", scenario.name, scenario.about));
    say("Starting the servers and Sluse …");
    let login = Login::load_or_make(&files.dir)?;
    let world = Arc::new(World::start(cli, &scenario, &files, &login).await?);
    say(&format!("Registering {} devices, their decoders and receivers …", scenario.load.devices));
    let report = match City::found(&scenario, Arc::clone(&world), &login).await {
        Ok(mut city) => match register_silent(cli, &world, say).await {
            Ok(()) => {
                say(&welcome(&world.base_urls(), world.mqtt_port, &login, &files.dir));
                city.live(cli, &scenario, &files.dir).await
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let unclean = world.stop().await;
    let mut report = report?;
    report.failures.extend(unclean);
    Ok(report)
}

async fn register_silent(cli: &Cli, world: &World, say: impl Fn(&str)) -> anyhow::Result<()> {
    if cli.silent_devices == 0 {
        return Ok(());
    }
    say(&format!("Registering {} devices that stay silent …", cli.silent_devices));
    crate::silent::register(&world.database, cli.silent_devices).await
}

fn welcome(base_urls: &[String], mqtt_port: u16, login: &Login, dir: &Path) -> String {
    let apis: String = base_urls
        .iter()
        .map(|url| format!("\n  API and health   {url}/api/v1/  {url}/readyz  {url}/metrics"))
        .collect();
    format!(
        "{apis}\n  \
         log in as        {} with password {}\n  \
         MQTT broker      mqtt://127.0.0.1:{mqtt_port} (point a ChirpStack at it: qos=1, json=true)\n  \
         files and logs   {}\n",
        login.email,
        login.password,
        dir.display()
    )
}

/// Everything that stands while the load is on.
struct City {
    world: Arc<World>,
    api: AdminApi,
    login: (Vec<String>, String, String),
    stage: Stage,
    fleet: Fleet,
    clock: Arc<RunClock>,
    oracle: Arc<Oracle>,
    receivers: Vec<Arc<Receiver>>,
    /// Targets that the scenario rewinds.
    rewound: Vec<usize>,
    /// Listeners and subscribers; end with the city.
    _tasks: JoinSet<()>,
}

impl City {
    /// Opens the receivers and registers everything.
    async fn found(scenario: &Scenario, world: Arc<World>, login: &Login) -> anyhow::Result<Self> {
        let fleet = Fleet::new(rand::rng().random_range(1..=u16::MAX), &scenario.load, scenario.applications.len());
        let clock = Arc::new(RunClock::new());
        let (oracle, duties) = books(scenario, &fleet);
        let ledger = Arc::new(Ledger { oracle: Arc::clone(&oracle), fleet, clock: Arc::clone(&clock) });
        let mut tasks = JoinSet::new();
        let (mut receivers, mut addresses) = (Vec::new(), Vec::new());
        let (subscribed, mut subscriptions) = mpsc::channel(scenario.targets.len().max(1));
        let mut num_subscribers = 0;
        for (i, target) in scenario.targets.iter().enumerate() {
            let (decoded, raw) = duties[i];
            let receiver = Arc::new(Receiver::new(target.clone(), decoded, raw, Arc::clone(&ledger)));
            match target.kind {
                TargetKind::Http => {
                    let listener = TcpListener::bind("127.0.0.1:0").await?;
                    let url = format!("http://{}/in", listener.local_addr()?);
                    addresses.push(Address::Http { url, authorization: receiver.authorization() });
                    let listening = Arc::clone(&receiver);
                    tasks.spawn(async move {
                        if let Err(error) = listening.listen(listener).await {
                            tracing::error!(%error, "a receiver stopped listening");
                        }
                    });
                }
                TargetKind::Mqtt => {
                    let topic = format!("out/{:04x}/{i}", fleet.run);
                    addresses.push(Address::Mqtt { port: world.mqtt_port, topic: topic.clone() });
                    num_subscribers += 1;
                    let (subscriber, port, ready) = (Arc::clone(&receiver), world.mqtt_port, subscribed.clone());
                    tasks.spawn(async move {
                        subscriber.subscribe(port, topic, ready).await;
                    });
                }
            }
            receivers.push(receiver);
        }
        for _ in 0..num_subscribers {
            timeout(Duration::from_secs(10), subscriptions.recv()).await.context("a receiver could not subscribe")?;
        }
        let login = (world.base_urls(), login.email.clone(), login.password.clone());
        let api = AdminApi::log_in(&login.0, &login.1, &login.2).await?;
        let stage = api.set_stage(scenario, &fleet, &addresses).await?;
        if fleet.first_http > 0 {
            wait_for_intake(&fleet, world.mqtt_port).await?;
        }
        let rewinds = scenario.faults.iter().filter(|fault| fault.manner == Manner::Rewind);
        let rewound = rewinds.map(|fault| fault.number).collect();
        Ok(Self { world, api, login, stage, fleet, clock, oracle, receivers, rewound, _tasks: tasks })
    }

    /// Load, faults, drain, verdict.
    async fn live(&mut self, cli: &Cli, scenario: &Scenario, dir: &Path) -> anyhow::Result<Report> {
        let stop = Arc::new(AtomicBool::new(false));
        watch_for_stop(Arc::clone(&stop));
        let http_figures = Arc::new(HttpFigures::default());
        let extras = Arc::new(Extras::default());
        let (mqtt_port, http_ports) = (self.world.mqtt_port, self.world.http_ports());
        let (load, oracle) = (&scenario.load, &self.oracle);
        let run = self.fleet.run;
        let mqtt: Vec<_> = (0..load.mqtt_connections)
            .map(|i| MqttDriver::start(format!("chirpstack-{run:04x}-{i}"), mqtt_port, Arc::clone(oracle)))
            .collect();
        let http: Vec<_> = (0..load.http_connections)
            .map(|i| HttpDriver::start(&http_ports, i, Arc::clone(oracle), Arc::clone(&http_figures)))
            .collect();
        let generator = Generator {
            load: load.clone(),
            fleet: self.fleet,
            devices: self.stage.devices.clone().into(),
            clock: Arc::clone(&self.clock),
            oracle: Arc::clone(oracle),
            mqtt: mqtt.clone(),
            http,
            extras: Arc::clone(&extras),
            stop: Arc::clone(&stop),
        };
        let mut watch = Watch::new(cli, scenario, dir);
        let before = watch.meter.read(&self.world.pids());
        watch.engine_cpu_seconds = before.engine.cpu_seconds;
        self.clock.begin_load();
        let settle = Duration::from_secs_f64(load.settle_seconds);
        oracle.keep_latency_from(self.clock.now_us() + u64::try_from(settle.as_micros()).unwrap_or(u64::MAX));
        let sending = tokio::spawn(generator.run());
        let recovery = Arc::new(Mutex::new(RecoveryWatch::default()));
        let player = FaultPlayer {
            world: Arc::clone(&self.world),
            clock: Arc::clone(&self.clock),
            recovery: Arc::clone(&recovery),
            login: self.login.clone(),
            targets: self.stage.targets.clone(),
            stop: Arc::clone(&stop),
        };
        let faults = tokio::spawn(player.play(scenario.faults.clone()));
        let looking_for_late = (!scenario.faults.is_empty()).then(|| self.look_for_late(Arc::clone(&recovery)));

        while !sending.is_finished() {
            self.look(&mut watch, false).await?;
        }
        sending.await?;
        let load_seconds = self.clock.load_elapsed().as_secs_f64();
        let fault_outcome = faults.await?;
        watch.is_stopped_early = stop.load(Relaxed);
        let drain_began = Instant::now();
        let drain_max =
            if watch.is_stopped_early { DRAIN_AFTER_STOP } else { Duration::from_secs_f64(scenario.drain_seconds) };
        let (mut num_waiting_before, mut moved_at, mut num_lost_by_broker) = (0, drain_began, 0);
        while drain_began.elapsed() < drain_max {
            let num_unaccepted = mqtt.iter().map(MqttDriver::num_unacknowledged).sum::<usize>() as u64;
            let num_waiting = num_unaccepted + http_figures.num_open.load(Relaxed) + self.num_owed();
            if num_waiting == 0 || fault_outcome.is_err() {
                break;
            }
            if num_waiting != num_waiting_before {
                (num_waiting_before, moved_at) = (num_waiting, Instant::now());
            } else if scenario.broker_may_lose() && moved_at.elapsed() > LOST_AFTER {
                num_lost_by_broker += self.oracle.take_back_unseen(self.fleet.first_http);
            }
            self.look(&mut watch, true).await?;
        }
        let drain_seconds = drain_began.elapsed().as_secs_f64();
        let after = watch.meter.read(&self.world.pids());
        let ends = self.settled_ends(&mut watch).await;

        let mut report = self.report(scenario, &ends, &before, &after, watch.engine_rss_bytes_max);
        looking_for_late.inspect(JoinHandle::abort);
        report.recoveries = recovery.lock().unwrap_or_else(PoisonError::into_inner).recoveries();
        report.catch_ups = watch.catch_up.account();
        report.load_seconds = (load_seconds * 100.0).round() / 100.0;
        report.drain_seconds = (drain_seconds * 100.0).round() / 100.0;
        report.rate_accepted = (report.uplinks_accepted as f64 / load_seconds.max(0.001)).round();
        report.network_repeats = extras.num_repeats.load(Relaxed);
        report.other_events = extras.num_others.load(Relaxed);
        report.http_retries = http_figures.num_retried.load(Relaxed);
        if num_lost_by_broker > 0 {
            report.warnings.push(format!("Mosquitto lost {num_lost_by_broker} uplinks that it had acknowledged"));
        }
        if let Err(error) = fault_outcome {
            report.failures.push(format!("{error:#}"));
        }
        let num_refused = http_figures.num_refused.load(Relaxed);
        if num_refused > 0 {
            report.failures.push(format!("{num_refused} posts of registered devices were refused"));
        }
        report.failures.extend(self.world.ended().await);
        Ok(report)
    }

    /// Keeps the account of how long deliveries are late to receivers that answer at once.
    fn look_for_late(&self, recovery: Arc<Mutex<RecoveryWatch>>) -> JoinHandle<()> {
        let (oracle, clock) = (Arc::clone(&self.oracle), Arc::clone(&self.clock));
        let plain: Vec<DutyId> =
            self.receivers.iter().filter(|r| r.target.is_plain()).flat_map(|r| r.duties()).collect();
        tokio::spawn(async move {
            loop {
                sleep(LOOK_FOR_LATE_EVERY).await;
                let oldest = oracle.oldest_owed_us(plain.iter().copied());
                recovery.lock().unwrap_or_else(PoisonError::into_inner).look(oldest, clock.now_us());
            }
        })
    }

    /// Obligations that are not met, without those of targets that are dead by design.
    fn num_owed(&self) -> u64 {
        self.receivers.iter().filter(|r| !r.target.is_dead).map(|r| self.figures(r).num_open).sum()
    }

    fn figures(&self, receiver: &Receiver) -> DutyFigures {
        receiver.duties().map(|d| self.oracle.figures(d)).fold(DutyFigures::default(), |a, b| DutyFigures {
            num_first: a.num_first + b.num_first,
            num_repeated: a.num_repeated + b.num_repeated,
            num_out_of_order: a.num_out_of_order + b.num_out_of_order,
            num_unexpected: a.num_unexpected + b.num_unexpected,
            num_refused: a.num_refused + b.num_refused,
            num_open: a.num_open + b.num_open,
        })
    }

    /// The targets' states; `None` while the engine does not answer.
    async fn states(&mut self) -> Option<Vec<TargetState>> {
        match self.api.target_states(&self.stage.targets).await {
            Ok(states) => Some(states),
            Err(error) => {
                tracing::debug!(%error, "cannot read the targets' states");
                // Tokens end; the next look uses the new one.
                let (base, email, password) = &self.login;
                if error.to_string().contains("answered 401")
                    && let Ok(api) = AdminApi::log_in(base, email, password).await
                {
                    self.api = api;
                }
                None
            }
        }
    }

    /// What is known of every target, once the engine's counters have caught up or cannot any more.
    async fn settled_ends(&mut self, watch: &mut Watch) -> Vec<TargetEnd> {
        let deadline = Instant::now() + COUNTERS_WITHIN;
        loop {
            let states = self.states().await;
            let ends: Vec<TargetEnd> = (self.receivers.iter().enumerate())
                .map(|(i, receiver)| TargetEnd {
                    name: receiver.target.name.clone(),
                    figures: self.figures(receiver),
                    status: states.as_ref().and_then(|s| s.get(i).cloned()),
                    is_dead: receiver.target.is_dead,
                    was_rewound: self.rewound.contains(&i),
                    num_bad_headers: receiver.num_bad_headers.load(Relaxed),
                })
                .collect();
            let is_hopeless = ends.iter().any(|e| e.num_missing() > 0 && !e.is_dead);
            if ends.iter().all(TargetEnd::is_settled)
                || Instant::now() > deadline
                || (is_hopeless && watch.is_stopped_early)
            {
                return ends;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Duties of a target: decoded, raw.
type Duties = (Option<DutyId>, Option<DutyId>);

/// The oracle's books, and the duties of every target (decoded, raw).
fn books(scenario: &Scenario, fleet: &Fleet) -> (Arc<Oracle>, Vec<Duties>) {
    let mut num_duties = 0_u8;
    let mut duties: Vec<Duties> = Vec::new();
    for target in &scenario.targets {
        let mut ids: Duties = (None, None);
        for is_raw in target.forms() {
            let slot = if *is_raw { &mut ids.1 } else { &mut ids.0 };
            *slot = Some(DutyId(num_duties));
            num_duties += 1;
        }
        duties.push(ids);
    }
    let duties_of = |device: u32| {
        let connected = scenario.targets.iter().zip(&duties).filter(|(t, _)| is_connected(scenario, fleet, t, device));
        connected.flat_map(|(_, (decoded, raw))| [*decoded, *raw]).flatten().fold(0, |bits, duty| bits | 1 << duty.0)
    };
    (Arc::new(Oracle::new(fleet.num_devices, usize::from(num_duties), duties_of)), duties)
}

/// Waits until the engine holds its subscription at the broker.
async fn wait_for_intake(fleet: &Fleet, mqtt_port: u16) -> anyhow::Result<()> {
    let mut payload = Vec::new();
    let sender = Sender { dev_eui: fleet.dev_eui(0), index: 0, profile: "probe" };
    EventWriter::default().status(&sender, RunClock::new().unix_ns(), &mut rand::rng(), &mut payload);
    let topic = Bytes::from(EventWriter::topic(sender.dev_eui, "status"));
    let probe = Outgoing { topic, payload: Bytes::from(payload), uplink: None };
    let client_id = format!("probe-{:04x}", fleet.run);
    wait_for_subscriber(mqtt_port, &client_id, &probe, Duration::from_secs(30)).await
}

/// Ctrl-C and SIGTERM end the load, not the program: what was sent is waited for, and everything is stopped in order.
fn watch_for_stop(stop: Arc<AtomicBool>) {
    tokio::spawn(async move {
        let terminated = async {
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(mut signal) => signal.recv().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated => {}
        }
        stop.store(true, Relaxed);
    });
}
