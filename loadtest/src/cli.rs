//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::scenario::Scenario;

/// Simulates a city's sensors and their data's receivers around a Sluse of its own, and tells whether anything was lost.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluse-loadtest", version)]
pub struct Cli {
    /// A built-in scenario (see --list) or a TOML file.
    #[arg(long, default_value = "city", value_name = "NAME|FILE")]
    pub scenario: String,
    /// Uplinks per second, instead of the scenario's.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Number of devices, instead of the scenario's.
    #[arg(long)]
    pub devices: Option<u32>,
    /// Further devices that are registered and never transmit.
    #[arg(long, default_value_t = 0)]
    pub silent_devices: u32,
    /// Makes everything in the scenario last so many times as long: load, phases of receivers, faults.
    #[arg(long)]
    pub stretch: Option<f64>,
    /// How long to send; without it (and without --json) a scenario that names no end runs until Ctrl-C.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Print one JSON object as the last line; use a temporary data directory unless one is given.
    #[arg(long)]
    pub json: bool,
    /// Where Sluse, Mosquitto and their logs keep their files [default: ./data, or a temporary directory with --json].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The engine's binary [default: `sluse` beside this program].
    #[arg(long, value_name = "FILE")]
    pub sluse: Option<PathBuf>,
    /// Port for the engine's HTTP; another one is taken if it is in use.
    #[arg(long, default_value_t = 3000)]
    pub http_port: u16,
    /// Port for Mosquitto; another one is taken if it is in use.
    #[arg(long, default_value_t = 1883)]
    pub mqtt_port: u16,
    /// List the built-in scenarios and end.
    #[arg(long)]
    pub list: bool,
}

/// How long a scenario without an end runs with --json.
const JSON_SECONDS: f64 = 20.0;

impl Cli {
    /// The scenario with what the command line says over it.
    pub fn scenario(&self) -> anyhow::Result<Scenario> {
        let mut scenario = Scenario::load(&self.scenario)?;
        if let Some(factor) = self.stretch {
            anyhow::ensure!(factor.is_finite() && factor > 0.0, "--stretch must be above 0");
            scenario.stretch(factor);
        }
        let load = &mut scenario.load;
        load.rate = self.rate.unwrap_or(load.rate);
        load.devices = self.devices.unwrap_or(load.devices);
        load.seconds = self.seconds.or(load.seconds).or(self.json.then_some(JSON_SECONDS));
        if let Some(seconds) = load.seconds {
            load.settle_seconds = load.settle_seconds.min(seconds / 2.0);
        }
        scenario.check()?;
        Ok(scenario)
    }

    /// The engine's binary.
    pub fn sluse(&self) -> anyhow::Result<PathBuf> {
        let program = match &self.sluse {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("sluse"),
        };
        anyhow::ensure!(program.is_file(), "{} is not there: build it, or name it with --sluse", program.display());
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_over_the_scenario_and_is_checked() {
        let cli = Cli::parse_from(["x", "--rate", "7", "--devices", "9", "--json"]);
        let load = cli.scenario().unwrap().load;
        assert_eq!((load.rate, load.devices, load.seconds), (7.0, 9, Some(JSON_SECONDS)));
        assert!(Cli::parse_from(["x", "--rate", "0"]).scenario().is_err());
        assert!(Cli::parse_from(["x", "--scenario", "nowhere"]).scenario().is_err());
        assert_eq!(Cli::parse_from(["x"]).scenario().unwrap().load.seconds, None, "the city runs until Ctrl-C");
    }
}
