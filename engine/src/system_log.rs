//! The system log: warnings and errors of this node, besides the log lines on standard output, as rows that can be searched.
//!
//! A layer of the tracing subscriber picks them up; a task writes them in batches. Bounds: a place in the program gives at most
//! [`NUM_PER_WINDOW`] lines a minute, the next one says how many were left out; [`NUM_WAITING_MAX`] lines wait, further ones are only
//! counted; texts are cut at [`TEXT_BYTES_MAX`]. Values of fields that are secret by their name, and passwords in addresses, are masked.
//! With the database away, lines are dropped after one attempt: standard output has them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use metrics::counter;
use serde_json::{Map, Value};
use sluse_http::validate::{MASK, is_secret_name};
use sluse_schema::port::admin::SystemLogEntry;
use sluse_schema::text::{printable, without_user_info};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::store::Store;

/// Lines of the system log, by what became of them.
pub const SYSTEM_LOG_LINES_TOTAL: &str = "sluse_system_log_lines_total";
const WINDOW: Duration = Duration::from_secs(60);
const NUM_PER_WINDOW: i64 = 10;
const NUM_WAITING_MAX: usize = 1000;
const NUM_FIELDS_MAX: usize = 20;
const TEXT_BYTES_MAX: usize = 1024;
const WRITE_EVERY: Duration = Duration::from_millis(500);
const NUM_WRITTEN_AT_ONCE: usize = 200;

/// Registers help texts and units.
pub fn describe() {
    metrics::describe_counter!(
        SYSTEM_LOG_LINES_TOTAL,
        metrics::Unit::Count,
        "Warnings and errors: written to the system log, left out for there were too many alike, dropped"
    );
}

/// A warning or an error, without the node's name.
#[derive(Debug)]
struct Line {
    level: &'static str,
    target: String,
    message: String,
    fields: Value,
    num_times: i64,
}

/// How often one place in the program spoke in its window.
#[derive(Debug)]
struct Place {
    began_at: Instant,
    num_in_window: i64,
    num_left_out: i64,
}

/// Which lines are kept.
#[derive(Debug)]
struct Places<K>(HashMap<K, Place>);

impl<K: std::hash::Hash + Eq> Places<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// How many lines this one stands for; `None`: it is left out. There are as many places as the program has, and no more.
    fn admit(&mut self, place: K, now: Instant) -> Option<i64> {
        let place = self.0.entry(place).or_insert(Place { began_at: now, num_in_window: 0, num_left_out: 0 });
        if now.duration_since(place.began_at) >= WINDOW {
            (place.began_at, place.num_in_window) = (now, 0);
        }
        place.num_in_window += 1;
        if place.num_in_window > NUM_PER_WINDOW {
            place.num_left_out += 1;
            return None;
        }
        Some(1 + std::mem::take(&mut place.num_left_out))
    }
}

/// The layer that picks lines up.
#[derive(Debug)]
pub struct SystemLogLayer {
    lines: mpsc::Sender<Line>,
    places: Mutex<Places<tracing::callsite::Identifier>>,
}

/// The lines that were picked up, for the task that writes them.
#[derive(Debug)]
pub struct SystemLogFeed(mpsc::Receiver<Line>);

/// A layer and what comes out of it.
pub fn layer() -> (SystemLogLayer, SystemLogFeed) {
    let (lines, feed) = mpsc::channel(NUM_WAITING_MAX);
    (SystemLogLayer { lines, places: Mutex::new(Places::new()) }, SystemLogFeed(feed))
}

impl<S: Subscriber> Layer<S> for SystemLogLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            _ => return,
        };
        let admitted = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.admit(event.metadata().callsite(), Instant::now())
        };
        let Some(num_times) = admitted else {
            counter!(SYSTEM_LOG_LINES_TOTAL, "outcome" => "alike").increment(1);
            return;
        };
        let mut visitor = Texts::default();
        event.record(&mut visitor);
        let line = Line {
            level,
            target: clean(event.metadata().target()),
            message: visitor.message,
            fields: Value::Object(visitor.fields),
            num_times,
        };
        if self.lines.try_send(line).is_err() {
            counter!(SYSTEM_LOG_LINES_TOTAL, "outcome" => "dropped").increment(1);
        }
    }
}

fn clean(text: &str) -> String {
    printable(without_user_info(text).as_bytes(), TEXT_BYTES_MAX)
}

/// An event's fields as texts.
#[derive(Default)]
struct Texts {
    message: String,
    fields: Map<String, Value>,
}

impl Texts {
    fn add(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.message = clean(text);
        } else if self.fields.len() < NUM_FIELDS_MAX {
            let shown = if is_secret_name(field.name()) { MASK.to_owned() } else { clean(text) };
            self.fields.insert(field.name().to_owned(), shown.into());
        }
    }
}

impl Visit for Texts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

impl SystemLogFeed {
    /// Writes what is picked up, for as long as it is polled.
    pub async fn run(mut self, store: Arc<Store>, node_id: String) {
        let mut lines = Vec::new();
        while self.0.recv_many(&mut lines, NUM_WRITTEN_AT_ONCE).await > 0 {
            let entries: Vec<_> = lines
                .drain(..)
                .map(|line| SystemLogEntry {
                    happened_at: Utc::now(),
                    node_id: node_id.clone(),
                    level: line.level,
                    target: line.target,
                    message: line.message,
                    fields: line.fields,
                    num_times: line.num_times,
                })
                .collect();
            let outcome = match store.record_system_log(&entries).await {
                Ok(()) => "written",
                Err(error) => {
                    // Not a warning: it would come back here.
                    tracing::debug!(%error, "lines of the system log were not written");
                    "dropped"
                }
            };
            counter!(SYSTEM_LOG_LINES_TOTAL, "outcome" => outcome).increment(entries.len() as u64);
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn lines_of(speak: impl FnOnce()) -> Vec<Line> {
        let (layer, mut feed) = layer();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), speak);
        std::iter::from_fn(|| feed.0.try_recv().ok()).collect()
    }

    #[test]
    fn warnings_and_errors_are_picked_up_without_their_secrets() {
        let lines = lines_of(|| {
            tracing::info!("not this");
            tracing::warn!(password = "hunter2", url = "mqtt://rita:hunter2@broker", num = 3, "cannot reach \0 it");
            tracing::error!(error = %"https://a:hunter2@host failed", "worse");
        });
        let shown: Vec<_> = lines.iter().map(|l| (l.level, l.message.as_str())).collect();
        assert_eq!(shown, [("WARN", "cannot reach \u{fffd} it"), ("ERROR", "worse")]);
        assert_eq!(lines[0].fields["num"], "3");
        assert_eq!(lines[0].fields["password"], MASK);
        assert!(!format!("{lines:?}").contains("hunter2"), "{lines:?}");
    }

    #[test]
    fn a_place_that_keeps_speaking_is_counted_and_not_written_each_time() {
        let lines = lines_of(|| {
            for _ in 0..100 {
                tracing::warn!("again");
            }
            tracing::warn!("another place");
        });
        assert_eq!(lines.len(), NUM_PER_WINDOW as usize + 1);
    }

    #[test]
    fn the_first_line_of_the_next_minute_says_how_many_were_left_out() {
        let mut places = Places::new();
        let now = Instant::now();
        let admitted = (0..25).filter(|_| places.admit("here", now).is_some()).count();
        assert_eq!(admitted, NUM_PER_WINDOW as usize);
        assert_eq!(places.admit("here", now + WINDOW), Some(16));
        assert_eq!(places.admit("here", now + WINDOW), Some(1));
    }
}
