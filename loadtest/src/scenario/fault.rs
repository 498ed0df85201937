//! What breaks in a scenario, how, and when. Times are seconds.

use serde::Deserialize;

/// Something that breaks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub at_s: f64,
    #[serde(rename = "do")]
    pub manner: Manner,
    #[serde(default)]
    pub whom: Victim,
    /// Which one, where there are several, from 0.
    #[serde(default)]
    pub number: usize,
    /// How long it stays away, seconds.
    #[serde(default)]
    pub away_s: f64,
    /// How far the clock jumps, seconds; back when negative.
    #[serde(default)]
    pub step_s: i64,
}

/// How it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manner {
    /// The signal of a clean end, wait for it, start again.
    Restart,
    /// SIGKILL at any moment, start again.
    Kill,
    /// SIGSTOP, and SIGCONT when it comes back.
    Freeze,
    /// A target is asked to begin again with everything the log holds.
    Rewind,
    /// The time of day jumps.
    Step,
    /// The line between an engine and the Kafka broker drops everything until it is over.
    Cut,
    /// Not a byte is left on the log's disk until it is over.
    Fill,
}

/// What breaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Victim {
    #[default]
    Engine,
    Mosquitto,
    /// Only where `database_server` is set.
    Postgres,
    Redis,
    Kafka,
    /// A target, by its place in the file.
    Target,
    /// The engine's clock (libfaketime).
    Clock,
    /// The disk under the engine's log, a small one of its own (needs root).
    Disk,
}

impl Fault {
    /// For people: what is done to whom.
    pub fn name(&self) -> String {
        format!("{:?} {:?} {}", self.manner, self.whom, self.number).to_lowercase()
    }
}
