//! What is deployed beside Sluse names only metrics that there are: dashboards and alert rules against the registry.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Collects the names that are described.
#[derive(Clone, Debug, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Names {
    fn add(&self, name: &str) {
        self.0.lock().unwrap().insert(name.to_owned());
    }
}

impl Recorder for Names {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(name.as_str());
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(name.as_str());
    }

    /// Prometheus sees a histogram under three names.
    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        for suffix in ["_bucket", "_sum", "_count"] {
            self.add(&format!("{}{suffix}", name.as_str()));
        }
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn registry() -> BTreeSet<String> {
    let names = Names::default();
    metrics::with_local_recorder(&names, || {
        sluse_engine::metrics::describe_all();
        metrics_process::Collector::default().describe();
    });
    names.0.lock().unwrap().clone()
}

/// Every word of a text that looks like one of our metrics.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("sluse_") || word.starts_with("process_")).map(str::to_owned).collect()
}

fn deployed(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn dashboards_and_alert_rules_name_metrics_that_there_are() {
    let registry = registry();
    for path in ["prometheus/alerts.yml", "grafana/dashboards/sluse.json"] {
        let named = metrics_in(&deployed(path));
        assert!(named.len() > 10, "{path} names only {named:?}");
        let unknown: Vec<_> = named.difference(&registry).collect();
        assert!(unknown.is_empty(), "{path} names metrics that there are not: {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_json_with_a_title_and_a_query_on_every_panel() {
    let dashboard: serde_json::Value = serde_json::from_str(&deployed("grafana/dashboards/sluse.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && targets.iter().all(|target| target["expr"].is_string()), "{panel}");
    }
}

/// Seconds in `text` after `name`.
fn seconds_after(text: &str, name: &str) -> u64 {
    let rest = text.split(name).nth(1).unwrap_or_else(|| panic!("{name} is not said"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
fn service_managers_wait_for_as_long_as_a_clean_stop_may_take() {
    let needed = sluse_engine::engine::STOPS_WITHIN.as_secs();
    assert!(seconds_after(&deployed("sluse.service"), "TimeoutStopSec=") > needed);
    assert!(seconds_after(&deployed("../docker-compose.yml"), "stop_grace_period: ") > needed);
}

#[test]
fn the_readme_names_every_setting() {
    let readme = deployed("../README.md");
    let table = readme.split("## Configuration").nth(1).unwrap().split("### ").next().unwrap();
    // Of `a.b`, `.c` and `d.*` in one cell, the section stays the same.
    let mut named = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let cell = row.split('|').nth(2).unwrap_or_default();
        let mut section = "";
        for key in cell.split('`').skip(1).step_by(2) {
            match key.rsplit_once('.') {
                Some(("", key)) => named.insert(format!("{section}.{key}")),
                Some((of, _)) => {
                    section = of;
                    named.insert(key.to_owned())
                }
                None => named.insert(key.to_owned()),
            };
        }
    }
    let mut section = String::new();
    let mut missing = Vec::new();
    for line in sluse_engine::config::DEFAULTS_TOML.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        }
        let Some((key, _)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")) else { continue };
        if !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            continue;
        }
        let (full, whole) = (format!("{section}{key}"), format!("{section}*"));
        if !named.contains(&full) && !named.contains(&whole) {
            missing.push(full);
        }
    }
    assert!(missing.is_empty(), "README's table does not name {missing:?}");
}
