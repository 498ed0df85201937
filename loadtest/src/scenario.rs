//! Scenarios: a TOML file says who sends how much, which receivers there are, how they behave when, and what breaks meanwhile.
//! Unknown keys are errors. Times are seconds since the load began.

mod built_in;
mod fault;

pub use built_in::BUILT_IN;
pub use fault::{Fault, Manner, Victim};

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::oracle::NUM_DUTIES_MAX;

/// A scenario as its file says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// One sentence for people.
    pub about: String,
    pub load: Load,
    /// Applications that devices are dealt to in turn.
    #[serde(default = "default_applications")]
    pub applications: Vec<String>,
    #[serde(default, rename = "target")]
    pub targets: Vec<Target>,
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// What the engine keeps its log in.
    #[serde(default)]
    pub log: LogKind,
    /// Engines, all on one database, one Kafka and one Redis.
    #[serde(default = "default_nodes")]
    pub nodes: usize,
    /// Brokers of the Kafka cluster.
    #[serde(default = "default_kafka_brokers")]
    pub kafka_brokers: usize,
    /// Whether the engines get a Redis.
    #[serde(default)]
    pub redis: bool,
    /// Whether the database is a server beside the engine, as several nodes need it, instead of the engine's own.
    #[serde(default)]
    pub database_server: bool,
    /// How long after the last uplink everything must have arrived.
    #[serde(default = "default_drain_seconds")]
    pub drain_seconds: f64,
}

/// What the engine keeps its log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    #[default]
    Embedded,
    Kafka,
}

/// Who sends how much.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Uplinks per second, all devices together.
    pub rate: f64,
    pub devices: u32,
    /// Absent: until stopped.
    pub seconds: Option<f64>,
    /// What is sent in the first so many seconds, while every device becomes active for the first time, counts for loss, order and
    /// cost, but not for latency.
    #[serde(default)]
    pub settle_seconds: f64,
    /// Share of the devices that post over HTTP instead of LoRaWAN.
    #[serde(default)]
    pub http_share: f64,
    /// Share of the uplinks that the network delivers twice, under the same deduplicationId.
    #[serde(default = "default_repeat_share")]
    pub repeat_share: f64,
    /// Share of the uplinks with a `status` event beside them.
    #[serde(default = "default_status_share")]
    pub status_share: f64,
    /// Share of the uplinks that the first device sends, besides its turn.
    #[serde(default)]
    pub hot_share: f64,
    /// Most gateways that hear one uplink.
    #[serde(default = "default_gateways_max")]
    pub gateways_max: u32,
    #[serde(default, rename = "burst")]
    pub bursts: Vec<Burst>,
    #[serde(default = "default_mqtt_connections")]
    pub mqtt_connections: usize,
    #[serde(default = "default_http_connections")]
    pub http_connections: usize,
}

/// A while with another rate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    pub from_s: f64,
    pub until_s: f64,
    pub factor: f64,
}

/// How a target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    Http,
    Mqtt,
}

/// What a target gets of each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// What the model's decoder makes of it.
    Decoded,
    /// The event as it came in.
    Raw,
    /// One delivery of each.
    Both,
}

/// A receiver.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub name: String,
    #[serde(default = "default_kind")]
    pub kind: TargetKind,
    #[serde(default = "default_form")]
    pub form: Form,
    /// Absent: the first application.
    pub application: Option<String>,
    /// Share of the application's devices that are connected.
    #[serde(default = "default_share")]
    pub share: f64,
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Its deliveries never settle within the run: they must be pending at the end, not missing.
    #[serde(default)]
    pub is_dead: bool,
    #[serde(default, rename = "script")]
    pub phases: Vec<Phase>,
}

/// A while in which a receiver behaves in some way; outside of all phases it answers at once.
#[derive(Clone, Debug, Deserialize)]
pub struct Phase {
    #[serde(default)]
    pub from_s: f64,
    /// Absent: to the end, the draining included.
    pub until_s: Option<f64>,
    #[serde(flatten)]
    pub behaviour: Behaviour,
}

/// What a receiver does with a request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Behaviour {
    /// 204 at once.
    Fast,
    /// 204 after so many milliseconds.
    Slow { ms: u64 },
    /// This status for one request in `one_in` (by device and count, so that a repeat gets the same answer), 204 for the others.
    Status {
        code: u16,
        #[serde(default = "default_one_in")]
        one_in: u32,
        retry_after_s: Option<u32>,
    },
    /// No answer until the phase is over.
    Hang,
    /// Nobody listens.
    Refuse,
    /// 200 with a body of so many bytes.
    BigAnswer { bytes: usize },
}

fn default_applications() -> Vec<String> {
    vec!["City".to_owned()]
}
const fn default_nodes() -> usize {
    1
}
const fn default_kafka_brokers() -> usize {
    1
}
const fn default_drain_seconds() -> f64 {
    90.0
}
const fn default_repeat_share() -> f64 {
    0.02
}
const fn default_status_share() -> f64 {
    0.005
}
const fn default_gateways_max() -> u32 {
    4
}
const fn default_mqtt_connections() -> usize {
    4
}
const fn default_http_connections() -> usize {
    32
}
const fn default_kind() -> TargetKind {
    TargetKind::Http
}
const fn default_form() -> Form {
    Form::Decoded
}
const fn default_share() -> f64 {
    1.0
}
const fn default_timeout_ms() -> u64 {
    30_000
}
const fn default_one_in() -> u32 {
    1
}

impl Scenario {
    /// A built-in scenario by name, or one from a file.
    pub fn load(name_or_path: &str) -> anyhow::Result<Self> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text).with_context(|| format!("built-in scenario {name_or_path}"));
        }
        let path = Path::new(name_or_path);
        let text = std::fs::read_to_string(path).with_context(|| {
            let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            format!("{name_or_path} is neither a readable file nor one of {}", names.join(", "))
        })?;
        Self::parse(&text).with_context(|| format!("scenario {}", path.display()))
    }

    /// Reads and checks a scenario.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Refuses what cannot be run.
    pub fn check(&self) -> anyhow::Result<()> {
        let load = &self.load;
        ensure!(load.rate.is_finite() && load.rate > 0.0, "load.rate must be above 0 uplinks per second");
        ensure!(load.settle_seconds >= 0.0, "load.settle_seconds must be 0 or more");
        ensure!((1..=1 << 24).contains(&load.devices), "load.devices must be 1 to {}", 1 << 24);
        ensure!((1..=16).contains(&load.gateways_max), "load.gateways_max must be 1 to 16");
        ensure!(load.mqtt_connections > 0 && load.http_connections > 0, "there must be connections to send over");
        for (name, share) in [
            ("http_share", load.http_share),
            ("repeat_share", load.repeat_share),
            ("status_share", load.status_share),
            ("hot_share", load.hot_share),
        ] {
            ensure!((0.0..=1.0).contains(&share), "load.{name} must be 0 to 1");
        }
        ensure!(!self.applications.is_empty(), "applications must name at least one");
        for target in &self.targets {
            ensure!((0.0..=1.0).contains(&target.share), "target {}: share must be 0 to 1", target.name);
            if let Some(name) = &target.application
                && !self.applications.contains(name)
            {
                bail!("target {}: there is no application {name}", target.name);
            }
            if target.kind == TargetKind::Mqtt && !target.phases.is_empty() {
                bail!("target {}: only http targets follow a script", target.name);
            }
        }
        ensure!((1..=8).contains(&self.nodes), "nodes must be 1 to 8");
        ensure!(self.nodes == 1 || self.log == LogKind::Kafka, "several nodes need log = \"kafka\"");
        ensure!(matches!(self.kafka_brokers, 1 | 3), "kafka_brokers must be 1 or 3");
        for fault in &self.faults {
            let is_possible = fault.whom != Victim::Kafka || fault.manner == Manner::Kill;
            ensure!(is_possible, "a Kafka broker can only be killed");
            ensure!(fault.number < self.num_of(fault.whom), "there is no {:?} {} to break", fault.whom, fault.number);
            let fits = match fault.manner {
                Manner::Rewind => fault.whom == Victim::Target,
                Manner::Step => fault.whom == Victim::Clock,
                Manner::Fill => fault.whom == Victim::Disk,
                Manner::Cut => {
                    let has_one_broker = self.log == LogKind::Kafka && self.kafka_brokers == 1;
                    fault.whom == Victim::Engine && has_one_broker && self.cut_node() == Some(fault.number)
                }
                Manner::Restart | Manner::Kill | Manner::Freeze => {
                    !matches!(fault.whom, Victim::Target | Victim::Clock | Victim::Disk)
                }
            };
            ensure!(fits, "nobody can {} that", fault.name());
        }
        let num_duties: usize = self.targets.iter().map(|t| t.forms().len()).sum();
        ensure!(num_duties <= NUM_DUTIES_MAX, "{num_duties} duties, at most {NUM_DUTIES_MAX} fit");
        Ok(())
    }

    /// Whether something is done to this one.
    pub fn breaks(&self, whom: Victim) -> bool {
        self.faults.iter().any(|fault| fault.whom == whom)
    }

    /// The engine whose line to Kafka is cut some time; only one has a line of its own.
    pub fn cut_node(&self) -> Option<usize> {
        self.faults.iter().find(|fault| fault.manner == Manner::Cut).map(|fault| fault.number)
    }

    /// Whether the broker loses what it had acknowledged: then only what the engine accepted is owed.
    pub fn broker_may_lose(&self) -> bool {
        self.faults.iter().any(|fault| fault.whom == Victim::Mosquitto && fault.manner == Manner::Kill)
    }

    /// Makes everything in it last so many times as long: load, phases, faults.
    pub fn stretch(&mut self, factor: f64) {
        let longer = |seconds: &mut f64| *seconds *= factor;
        self.load.seconds.iter_mut().for_each(longer);
        for burst in &mut self.load.bursts {
            longer(&mut burst.from_s);
            longer(&mut burst.until_s);
        }
        for phase in self.targets.iter_mut().flat_map(|t| &mut t.phases) {
            longer(&mut phase.from_s);
            phase.until_s.iter_mut().for_each(longer);
        }
        for fault in &mut self.faults {
            longer(&mut fault.at_s);
            longer(&mut fault.away_s);
        }
        longer(&mut self.drain_seconds);
    }

    /// Whether PostgreSQL runs beside the engine.
    pub fn has_database_server(&self) -> bool {
        self.database_server || self.log == LogKind::Kafka
    }

    /// How many of a kind there are.
    fn num_of(&self, victim: Victim) -> usize {
        match victim {
            Victim::Engine => self.nodes,
            Victim::Mosquitto => 1,
            Victim::Postgres => usize::from(self.has_database_server()),
            Victim::Redis => usize::from(self.redis),
            Victim::Target => self.targets.len(),
            Victim::Clock | Victim::Disk => 1,
            Victim::Kafka if self.log == LogKind::Kafka => self.kafka_brokers,
            Victim::Kafka => 0,
        }
    }

    /// Whether something in it makes repeats legitimate: an answer that is lost is asked for again.
    pub fn may_repeat(&self) -> bool {
        let breaks_answers =
            |p: &Phase| matches!(p.behaviour, Behaviour::Hang | Behaviour::Refuse | Behaviour::BigAnswer { .. });
        let cuts_short = |t: &Target| {
            t.phases
                .iter()
                .any(|p| breaks_answers(p) || matches!(p.behaviour, Behaviour::Slow { ms } if ms >= t.timeout_ms))
        };
        !self.faults.is_empty() || self.targets.iter().any(cuts_short)
    }
}

impl Load {
    /// The rate at some time into the load.
    pub fn rate_at(&self, elapsed_s: f64) -> f64 {
        let burst = self.bursts.iter().find(|b| (b.from_s..b.until_s).contains(&elapsed_s));
        self.rate * burst.map_or(1.0, |b| b.factor)
    }
}

impl Target {
    /// The forms it gets, one duty each: `false` decoded, `true` raw.
    pub fn forms(&self) -> &'static [bool] {
        match self.form {
            Form::Decoded => &[false],
            Form::Raw => &[true],
            Form::Both => &[false, true],
        }
    }

    /// Whether it does nothing but answer at once: its latency is the engine's.
    pub fn is_plain(&self) -> bool {
        self.phases.is_empty() && !self.is_dead
    }

    /// What it does at some time, and when that changes next.
    pub fn behaviour_at(&self, elapsed: Duration) -> (&Behaviour, Option<Duration>) {
        let now = elapsed.as_secs_f64();
        let is_on = |p: &&Phase| p.from_s <= now && p.until_s.is_none_or(|until| now < until);
        let behaviour = self.phases.iter().find(is_on).map_or(&Behaviour::Fast, |p| &p.behaviour);
        let changes = self.phases.iter().flat_map(|p| [Some(p.from_s), p.until_s]).flatten();
        let next = changes.filter(|at| *at > now).min_by(f64::total_cmp).map(Duration::from_secs_f64);
        (behaviour, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_is_read_and_named_like_its_file() {
        for (name, text) in BUILT_IN {
            let scenario = Scenario::parse(text).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert_eq!(&scenario.name, name);
            assert!(!scenario.targets.is_empty(), "{name} has nobody to deliver to");
        }
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        let good = "name='x'\nabout='y'\n[load]\nrate=1\ndevices=1\n";
        assert!(Scenario::parse(good).is_ok());
        for bad in [
            "raet=2",
            "gateways_max=0",
            "http_share=1.5",
            "[[target]]\nname='t'\napplication='nowhere'",
            "[[fault]]\nat_s=1\ndo='kill'\nwhom='redis'",
            "[[fault]]\nat_s=1\ndo='kill'\nnumber=1",
            "[[fault]]\nat_s=1\ndo='kill'\nwhom='clock'",
            "[[fault]]\nat_s=1\ndo='rewind'",
        ] {
            assert!(Scenario::parse(&format!("{good}{bad}\n")).is_err(), "{bad}");
        }
        assert!(Scenario::parse(&format!("nodes=2\n{good}")).is_err(), "the embedded log has one node");
        assert!(Scenario::parse(&format!("nodes=2\nlog='kafka'\n{good}")).is_ok());
    }

    #[test]
    fn stretching_makes_everything_longer() {
        let mut scenario = Scenario::load("postgres_away").unwrap();
        let (seconds, fault) = (scenario.load.seconds.unwrap(), scenario.faults[0].clone());
        scenario.stretch(6.0);
        assert_eq!(scenario.load.seconds, Some(6.0 * seconds));
        assert_eq!((scenario.faults[0].at_s, scenario.faults[0].away_s), (6.0 * fault.at_s, 6.0 * fault.away_s));
    }

    #[test]
    fn behaviour_follows_the_script_and_is_fast_outside_of_it() {
        let target: Target = toml::from_str(
            "name='t'\n[[script]]\nfrom_s=2\nuntil_s=4\ndo='status'\ncode=503\n[[script]]\nfrom_s=6\ndo='hang'\n",
        )
        .unwrap();
        let at = |s: f64| target.behaviour_at(Duration::from_secs_f64(s));
        assert_eq!(at(0.0), (&Behaviour::Fast, Some(Duration::from_secs(2))));
        assert_eq!(at(2.0).0, &Behaviour::Status { code: 503, one_in: 1, retry_after_s: None });
        assert_eq!(at(5.0), (&Behaviour::Fast, Some(Duration::from_secs(6))));
        assert_eq!(at(600.0), (&Behaviour::Hang, None));
    }

    #[test]
    fn a_burst_changes_the_rate_while_it_lasts() {
        let scenario = Scenario::parse(
            "name='x'\nabout='y'\n[load]\nrate=100\ndevices=1\n[[load.burst]]\nfrom_s=1\nuntil_s=2\nfactor=5\n",
        );
        let load = scenario.unwrap().load;
        assert_eq!([load.rate_at(0.5), load.rate_at(1.5), load.rate_at(2.0)], [100.0, 500.0, 100.0]);
    }
}
