//! A run from beginning to end: broker and engine up, the stage set through the API, the load on, faults as the scenario says,
//! everything drained, the verdict. Reads top to bottom in [`run`].

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::admin_api::{Address, AdminApi, Stage, TargetState, is_connected};
use crate::chirpstack_event::{EventWriter, Sender};
use crate::cli::Cli;
use crate::clock::RunClock;
use crate::drive_http::{HttpDriver, HttpFigures};
use crate::drive_mqtt::{MqttDriver, Outgoing, wait_for_subscriber};
use crate::engine_process::{Broker, Engine, EngineOptions};
use crate::fleet::Fleet;
use crate::generator::{Extras, Generator};
use crate::home::{Files, Login, pick_port};
use crate::meter::{Meter, Usages};
use crate::oracle::{DutyFigures, DutyId, Oracle};
use crate::receivers::{Ledger, Receiver};
use crate::report::{LiveTable, Moment, Report, Row, TargetReport, megabytes, quantile_ms, us_per_uplink};
use crate::scenario::{Fault, FaultKind, Scenario, TargetKind};
use crate::verdict::TargetEnd;

/// How long the engine's counters may lag behind the receivers at the end; they are written once per second.
const COUNTERS_WITHIN: Duration = Duration::from_secs(15);
/// How long after a Ctrl-C is waited for what is on its way.
const DRAIN_AFTER_STOP: Duration = Duration::from_secs(10);

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
    say("Starting Mosquitto and Sluse …");
    let broker = Broker::start(&files.dir.join("mosquitto"), pick_port(cli, cli.mqtt_port)?).await?;
    let login = Login::load_or_make(&files.dir)?;
    let options = EngineOptions {
        program: cli.sluse()?,
        data_dir: files.dir.join("sluse"),
        http_port: pick_port(cli, cli.http_port)?,
        mqtt_port: broker.port,
        admin_email: login.email.clone(),
        admin_password: login.password.clone(),
        log: files.dir.join("sluse.log"),
    };
    let engine = Engine::start(options).await?;
    let base_url = engine.base_url();
    say(&format!("Registering {} devices, their decoders and receivers …", scenario.load.devices));
    let mut city = City::found(&scenario, engine, &broker, &login).await?;
    say(&welcome(&base_url, broker.port, &login, &files.dir));
    let report = city.live(cli, &scenario, &broker).await;
    let ended = city.engine.lock().await.stop().await;
    broker.stop().await;
    let mut report = report?;
    if let Err(error) = ended {
        report.failures.push(format!("the engine did not end cleanly: {error:#}"));
    }
    Ok(report)
}

fn welcome(base_url: &str, mqtt_port: u16, login: &Login, dir: &Path) -> String {
    format!(
        "\n  API and health   {base_url}/api/v1/  {base_url}/readyz  {base_url}/metrics\n  \
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
    engine: Arc<Mutex<Engine>>,
    engine_pid: Arc<AtomicU32>,
    api: AdminApi,
    login: (String, String, String),
    stage: Stage,
    fleet: Fleet,
    clock: Arc<RunClock>,
    oracle: Arc<Oracle>,
    receivers: Vec<Arc<Receiver>>,
    /// Listeners and subscribers; end with the city.
    _tasks: JoinSet<()>,
}

impl City {
    /// Opens the receivers and registers everything.
    async fn found(scenario: &Scenario, engine: Engine, broker: &Broker, login: &Login) -> anyhow::Result<Self> {
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
                    addresses.push(Address::Mqtt { port: broker.port, topic: topic.clone() });
                    num_subscribers += 1;
                    let (subscriber, port, ready) = (Arc::clone(&receiver), broker.port, subscribed.clone());
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
        let login = (engine.base_url(), login.email.clone(), login.password.clone());
        let api = AdminApi::log_in(&login.0, &login.1, &login.2).await?;
        let stage = api.set_stage(scenario, &fleet, &addresses).await?;
        if fleet.first_http > 0 {
            wait_for_intake(&fleet, broker.port).await?;
        }
        let engine_pid = Arc::new(AtomicU32::new(engine.pid().unwrap_or(0)));
        let engine = Arc::new(Mutex::new(engine));
        Ok(Self { engine, engine_pid, api, login, stage, fleet, clock, oracle, receivers, _tasks: tasks })
    }

    /// Load, faults, drain, verdict.
    async fn live(&mut self, cli: &Cli, scenario: &Scenario, broker: &Broker) -> anyhow::Result<Report> {
        let stop = Arc::new(AtomicBool::new(false));
        watch_for_stop(Arc::clone(&stop));
        let http_figures = Arc::new(HttpFigures::default());
        let extras = Arc::new(Extras::default());
        let http_port = self.engine.lock().await.options().http_port;
        let (load, oracle) = (&scenario.load, &self.oracle);
        let run = self.fleet.run;
        let mqtt: Vec<_> = (0..load.mqtt_connections)
            .map(|i| MqttDriver::start(format!("chirpstack-{run:04x}-{i}"), broker.port, Arc::clone(oracle)))
            .collect();
        let http: Vec<_> = (0..load.http_connections)
            .map(|_| HttpDriver::start(http_port, Arc::clone(oracle), Arc::clone(&http_figures)))
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
        let mut watch = Watch::new(cli, scenario, self.engine.lock().await.options().data_dir.as_path());
        let before = watch.meter.read(self.pid(), broker.pid());
        watch.engine_cpu_seconds = before.engine.cpu_seconds;
        self.clock.begin_load();
        let sending = tokio::spawn(generator.run());
        let faults = self.start_faults(scenario.faults.clone(), Arc::clone(&stop));

        while !sending.is_finished() {
            self.look(&mut watch, broker, false).await?;
        }
        sending.await?;
        let load_seconds = self.clock.load_elapsed().as_secs_f64();
        let fault_outcome = faults.await?;
        watch.is_stopped_early = stop.load(Relaxed);
        let drain_began = Instant::now();
        let drain_max =
            if watch.is_stopped_early { DRAIN_AFTER_STOP } else { Duration::from_secs_f64(scenario.drain_seconds) };
        while drain_began.elapsed() < drain_max {
            let num_unaccepted = mqtt.iter().map(MqttDriver::num_unacknowledged).sum::<usize>() as u64;
            let num_waiting = num_unaccepted + http_figures.num_open.load(Relaxed) + self.num_owed();
            if num_waiting == 0 || fault_outcome.is_err() {
                break;
            }
            self.look(&mut watch, broker, true).await?;
        }
        let drain_seconds = drain_began.elapsed().as_secs_f64();
        let after = watch.meter.read(self.pid(), broker.pid());
        let ends = self.settled_ends(&mut watch).await;

        let mut report = self.report(scenario, &ends, &before, &after, watch.engine_rss_bytes_max);
        report.load_seconds = (load_seconds * 100.0).round() / 100.0;
        report.drain_seconds = (drain_seconds * 100.0).round() / 100.0;
        report.rate_accepted = (report.uplinks_accepted as f64 / load_seconds.max(0.001)).round();
        report.network_repeats = extras.num_repeats.load(Relaxed);
        report.other_events = extras.num_others.load(Relaxed);
        report.http_retries = http_figures.num_retried.load(Relaxed);
        if let Err(error) = fault_outcome {
            report.failures.push(format!("{error:#}"));
        }
        let num_refused = http_figures.num_refused.load(Relaxed);
        if num_refused > 0 {
            report.failures.push(format!("{num_refused} posts of registered devices were refused"));
        }
        if let Some(status) = self.engine.lock().await.ended() {
            report.failures.push(format!("the engine ended by itself with {status}"));
        }
        Ok(report)
    }

    fn pid(&self) -> Option<u32> {
        Some(self.engine_pid.load(Relaxed)).filter(|pid| *pid != 0)
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

    /// One look: waits for the next moment and shows it.
    async fn look(&mut self, watch: &mut Watch, broker: &Broker, is_draining: bool) -> anyhow::Result<()> {
        if is_draining && watch.is_quiet {
            sleep(Duration::from_millis(50)).await;
            return Ok(());
        }
        sleep(watch.period.saturating_sub(watch.looked_at.elapsed())).await;
        let since = watch.looked_at.elapsed().as_secs_f64();
        watch.looked_at = Instant::now();
        let usages = watch.meter.read(self.pid(), broker.pid());
        watch.engine_rss_bytes_max = watch.engine_rss_bytes_max.max(usages.engine.rss_bytes);
        if watch.is_quiet {
            return Ok(());
        }
        let states = self.states().await;
        let mut rows = Vec::new();
        let mut plain = hdrhistogram::Histogram::<u64>::new(3)?;
        for (i, receiver) in self.receivers.iter().enumerate() {
            let latencies = self.oracle.take_recent_latencies_us(receiver.duties());
            if receiver.target.is_plain() {
                plain.add(&latencies)?;
            }
            rows.push(Row {
                name: receiver.target.name.clone(),
                status: states.as_ref().and_then(|s| s.get(i).cloned()),
                figures: self.figures(receiver),
                p50_ms: quantile_ms(&latencies, 0.5),
                p99_ms: quantile_ms(&latencies, 0.99),
            });
        }
        let (sent, accepted) = self.oracle.totals();
        let moment = Moment {
            elapsed_s: self.clock.load_elapsed().as_secs_f64(),
            seconds: watch.seconds,
            is_draining,
            sent,
            accepted,
            rate: (accepted - watch.accepted) as f64 / since.max(0.001),
            p50_ms: quantile_ms(&plain, 0.5),
            p99_ms: quantile_ms(&plain, 0.99),
            engine_cores: (usages.engine.cpu_seconds - watch.engine_cpu_seconds) / since.max(0.001),
            usages,
            rows: &rows,
        };
        watch.accepted = accepted;
        watch.engine_cpu_seconds = usages.engine.cpu_seconds;
        let text = watch.table.draw(&moment);
        std::io::stdout().write_all(text.as_bytes())?;
        std::io::stdout().flush()?;
        Ok(())
    }

    /// Breaks what the scenario breaks. An error when the engine did not come back.
    fn start_faults(&self, faults: Vec<Fault>, stop: Arc<AtomicBool>) -> JoinHandle<anyhow::Result<()>> {
        let (engine, pid, clock) = (Arc::clone(&self.engine), Arc::clone(&self.engine_pid), Arc::clone(&self.clock));
        tokio::spawn(async move {
            for fault in faults {
                while clock.load_elapsed().as_secs_f64() < fault.at_s {
                    if stop.load(Relaxed) {
                        return Ok(());
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                let mut engine = engine.lock().await;
                match fault.kind {
                    FaultKind::RestartEngine => engine.stop().await.context("a restart under load")?,
                    FaultKind::KillEngine => engine.kill().await?,
                }
                pid.store(0, Relaxed);
                sleep(Duration::from_secs_f64(fault.away_s)).await;
                engine.start_again().await.context("the engine does not start again")?;
                pid.store(engine.pid().unwrap_or(0), Relaxed);
            }
            Ok(())
        })
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

    fn report(&self, scenario: &Scenario, ends: &[TargetEnd], before: &Usages, after: &Usages, rss: u64) -> Report {
        let (uplinks_sent, uplinks_accepted) = self.oracle.totals();
        let may_repeat = scenario.may_repeat();
        let targets: Vec<TargetReport> =
            ends.iter().zip(&self.receivers).map(|(e, r)| self.target_report(e, r)).collect();
        let plain: Vec<DutyId> =
            self.receivers.iter().filter(|r| r.target.is_plain()).flat_map(|r| r.duties()).collect();
        let latencies = self.oracle.latencies_us(if plain.is_empty() { self.oracle.duties().collect() } else { plain });
        let sum = |figure: fn(&TargetReport) -> u64| targets.iter().map(figure).sum();
        let cost = |before: f64, after: f64| us_per_uplink(after - before, uplinks_accepted);
        let mut failures: Vec<String> = ends.iter().flat_map(|e| e.failures(may_repeat)).collect();
        for missing in self.oracle.missing(5).iter().filter(|_| ends.iter().any(|e| e.num_missing() > 0)) {
            let eui = self.fleet.dev_eui(missing.uplink.device);
            failures.push(format!("for example device {eui}, uplink {} (duty {})", missing.uplink.seq, missing.duty.0));
        }
        Report {
            scenario: scenario.name.clone(),
            uplinks_sent,
            uplinks_accepted,
            deliveries_accepted: sum(|t| t.accepted),
            offered_again: sum(|t| t.offered_again),
            delivered: sum(|t| t.delivered),
            dead: sum(|t| t.dead),
            expired: sum(|t| t.expired),
            discarded: sum(|t| t.discarded),
            pending: sum(|t| t.pending),
            missing: sum(|t| t.missing),
            duplicated: sum(|t| t.duplicated),
            out_of_order: sum(|t| t.out_of_order),
            unexpected: ends.iter().map(|e| e.figures.num_unexpected).sum(),
            p50_ms: quantile_ms(&latencies, 0.5),
            p99_ms: quantile_ms(&latencies, 0.99),
            max_ms: quantile_ms(&latencies, 1.0),
            engine_cpu_us_per_uplink: cost(before.engine.cpu_seconds, after.engine.cpu_seconds),
            engine_rss_mb: megabytes(rss.max(after.engine.rss_bytes)),
            database_cpu_us_per_uplink: cost(before.database.cpu_seconds, after.database.cpu_seconds),
            database_rss_mb: megabytes(after.database.rss_bytes),
            broker_cpu_us_per_uplink: cost(before.broker.cpu_seconds, after.broker.cpu_seconds),
            loadtest_cpu_us_per_uplink: cost(before.loadtest.cpu_seconds, after.loadtest.cpu_seconds),
            rate_wanted: scenario.load.rate,
            rate_accepted: 0.0,
            devices: scenario.load.devices,
            load_seconds: 0.0,
            drain_seconds: 0.0,
            network_repeats: 0,
            other_events: 0,
            http_retries: 0,
            targets,
            failures,
            warnings: ends.iter().flat_map(|e| e.warnings(may_repeat)).collect(),
        }
    }

    fn target_report(&self, end: &TargetEnd, receiver: &Receiver) -> TargetReport {
        let latencies = self.oracle.latencies_us(receiver.duties());
        let counters = end.status.as_ref().map(|s| s.counters).unwrap_or_default();
        TargetReport {
            name: end.name.clone(),
            accepted: counters.accepted,
            offered_again: counters.offered_again,
            delivered: counters.delivered,
            dead: counters.dead,
            expired: counters.expired,
            discarded: counters.discarded,
            pending: counters.pending,
            missing: end.num_missing(),
            duplicated: end.figures.num_repeated,
            out_of_order: end.figures.num_out_of_order,
            requests: receiver.num_requests.load(Relaxed),
            p50_ms: quantile_ms(&latencies, 0.5),
            p99_ms: quantile_ms(&latencies, 0.99),
        }
    }
}

/// What a run remembers between looks.
struct Watch {
    table: LiveTable,
    meter: Meter,
    is_quiet: bool,
    is_stopped_early: bool,
    seconds: Option<f64>,
    period: Duration,
    looked_at: Instant,
    accepted: u64,
    engine_cpu_seconds: f64,
    engine_rss_bytes_max: u64,
}

impl Watch {
    fn new(cli: &Cli, scenario: &Scenario, data_dir: &Path) -> Self {
        Self {
            table: LiveTable::new(std::io::stdout().is_terminal()),
            meter: Meter::new(data_dir),
            is_quiet: cli.json,
            is_stopped_early: false,
            seconds: scenario.load.seconds,
            period: Duration::from_millis(if cli.json { 250 } else { 1000 }),
            looked_at: Instant::now(),
            accepted: 0,
            engine_cpu_seconds: 0.0,
            engine_rss_bytes_max: 0,
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
