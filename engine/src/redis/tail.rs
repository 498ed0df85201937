//! The live tail between nodes: a watcher on one node sees what another one handles.
//!
//! Every node tells on [`FILTERS`] what is watched there, when that changes and every [`TELL_EVERY`]; the others believe it for
//! [`BELIEVED_FOR`]. A node publishes a line on [`LINES`] only when somebody elsewhere watches its device or application, so nothing is
//! sent while nobody watches. Lossy like the tail itself: what comes while Redis is away is not seen elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sluse_actors::tail::TailHub;
use sluse_schema::id::{ApplicationId, DeviceId, OrganizationId};
use sluse_schema::port::{TailDecoded, TailEvent, TailFilter};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connection::Redis;
use super::metrics::tail_lines;

/// Channels, after the installation's prefix.
const FILTERS: &str = "tail:filters";
const LINES: &str = "tail:lines";
const TELL_EVERY: Duration = Duration::from_secs(3);
const BELIEVED_FOR: Duration = Duration::from_secs(10);
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Lines published by one round trip.
const NUM_LINES_MAX: usize = 64;

/// What a node says is watched there.
#[derive(Debug, Deserialize, Serialize)]
struct Watched {
    node: String,
    devices: Vec<i64>,
    applications: Vec<i64>,
}

/// A line on its way. Like [`TailEvent`], with what that keeps to itself.
#[derive(Debug, Deserialize, Serialize)]
struct Line {
    node: String,
    device: i64,
    application: i64,
    organization: i64,
    device_name: String,
    event: String,
    received_at_ms: i64,
    payload: Option<Box<RawValue>>,
    decoded: Vec<DecodedLine>,
}

#[derive(Debug, Deserialize, Serialize)]
struct DecodedLine {
    decoder: i64,
    payload: Option<Box<RawValue>>,
    error: Option<String>,
}

impl Watched {
    fn of(node: &str, filters: &[TailFilter]) -> Self {
        let mut watched = Self { node: node.to_owned(), devices: Vec::new(), applications: Vec::new() };
        for filter in filters {
            match filter {
                TailFilter::Device(device) => watched.devices.push(device.0),
                TailFilter::Application(application) => watched.applications.push(application.0),
            }
        }
        watched
    }

    fn filters(&self) -> HashSet<TailFilter> {
        let devices = self.devices.iter().map(|id| TailFilter::Device(DeviceId(*id)));
        devices.chain(self.applications.iter().map(|id| TailFilter::Application(ApplicationId(*id)))).collect()
    }
}

impl Line {
    fn of(node: &str, event: &TailEvent) -> Self {
        let decoded = |d: &TailDecoded| DecodedLine {
            decoder: d.payload_decoder_id,
            payload: d.payload.clone(),
            error: d.error.clone(),
        };
        Self {
            node: node.to_owned(),
            device: event.device_id.0,
            application: event.application_id.0,
            organization: event.organization.0,
            device_name: event.device_name.clone(),
            event: event.event.clone(),
            received_at_ms: event.received_at_ms,
            payload: event.payload.clone(),
            decoded: event.decoded.iter().map(decoded).collect(),
        }
    }

    fn into_event(self) -> TailEvent {
        let decoded =
            |d: DecodedLine| TailDecoded { payload_decoder_id: d.decoder, payload: d.payload, error: d.error };
        TailEvent {
            device_id: DeviceId(self.device),
            application_id: ApplicationId(self.application),
            organization: OrganizationId(self.organization),
            device_name: self.device_name,
            event: self.event,
            received_at_ms: self.received_at_ms,
            payload: self.payload,
            decoded: self.decoded.into_iter().map(decoded).collect(),
            num_missed: 0,
        }
    }
}

/// What others watch, as long as it is believed.
#[derive(Debug, Default)]
struct Others {
    nodes: HashMap<String, (HashSet<TailFilter>, Instant)>,
}

impl Others {
    fn heard(&mut self, watched: &Watched, now: Instant) {
        let filters = watched.filters();
        if filters.is_empty() {
            self.nodes.remove(&watched.node);
        } else {
            self.nodes.insert(watched.node.clone(), (filters, now + BELIEVED_FOR));
        }
    }

    fn filters(&mut self, now: Instant) -> HashSet<TailFilter> {
        self.nodes.retain(|_, (_, until)| *until > now);
        self.nodes.values().flat_map(|(filters, _)| filters).copied().collect()
    }
}

impl Redis {
    /// Joins this node's tail with the others', for ever.
    pub async fn join_tails(self: Arc<Self>, hub: Arc<TailHub>, node: String) {
        tokio::join!(self.tell_what_is_watched(&hub, &node), self.send_lines(&hub, &node), self.listen(&hub, &node));
    }

    async fn tell_what_is_watched(&self, hub: &TailHub, node: &str) {
        let mut was_empty = true;
        loop {
            let filters = hub.watched_here();
            // Said once more when the last watcher has gone, and not while there never was one.
            if !(filters.is_empty() && was_empty) {
                was_empty = filters.is_empty();
                if let Ok(text) = serde_json::to_string(&Watched::of(node, &filters)) {
                    self.publish(FILTERS, vec![text]).await;
                }
            }
            let _ = timeout(TELL_EVERY, hub.watchers_changed()).await;
        }
    }

    async fn send_lines(&self, hub: &TailHub, node: &str) {
        let mut lines = hub.lines_for_others();
        let mut batch = Vec::with_capacity(NUM_LINES_MAX);
        while lines.recv_many(&mut batch, NUM_LINES_MAX).await > 0 {
            let texts = batch.drain(..).filter_map(|event| serde_json::to_string(&Line::of(node, &event)).ok());
            let texts: Vec<String> = texts.collect();
            let num_lines = texts.len() as u64;
            let is_sent = self.publish(LINES, texts).await;
            tail_lines(if is_sent { "sent" } else { "dropped" }, num_lines);
        }
    }

    async fn publish(&self, channel: &str, texts: Vec<String>) -> bool {
        let channel = format!("{}{channel}", self.prefix);
        let mut pipe = redis::pipe();
        for text in texts {
            pipe.publish(&channel, text).ignore();
        }
        self.ask("publish", async |connection| pipe.query_async::<()>(connection).await).await.is_some()
    }

    /// Hears what is watched elsewhere and what others send.
    async fn listen(&self, hub: &TailHub, node: &str) {
        let mut others = Others::default();
        let [filters, lines] = [FILTERS, LINES].map(|channel| format!("{}{channel}", self.prefix));
        loop {
            match timeout(CONNECT_WITHIN, self.client.get_async_pubsub()).await {
                Ok(Ok(mut connection)) => match connection.subscribe(&[&filters, &lines][..]).await {
                    Ok(()) => hear(connection, &filters, hub, node, &mut others).await,
                    Err(error) => tracing::debug!(error = error.category(), "cannot subscribe to the live tail"),
                },
                Ok(Err(error)) => tracing::debug!(error = error.category(), "cannot listen for the live tail"),
                Err(_) => tracing::debug!("no connection to listen for the live tail"),
            }
            // What others watch is heard again once there is a connection.
            others = Others::default();
            hub.watched_elsewhere(HashSet::new());
            sleep(RECONNECT_AFTER).await;
        }
    }
}

/// Until the connection ends.
async fn hear(connection: redis::aio::PubSub, filters: &str, hub: &TailHub, node: &str, others: &mut Others) {
    let mut messages = connection.into_on_message();
    let mut look_again_at = Instant::now() + BELIEVED_FOR;
    // Another node's watchers are told within TELL_EVERY; this one's are told anew as well.
    hub.tell_again();
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = sleep_until(look_again_at) => {
                look_again_at = Instant::now() + BELIEVED_FOR;
                hub.watched_elsewhere(others.filters(Instant::now()));
                continue;
            }
        };
        let Some(message) = message else { return };
        let Ok(text) = message.get_payload::<String>() else { continue };
        if message.get_channel_name() == filters {
            match serde_json::from_str::<Watched>(&text) {
                Ok(watched) if watched.node != node => {
                    others.heard(&watched, Instant::now());
                    hub.watched_elsewhere(others.filters(Instant::now()));
                }
                _ => {}
            }
        } else if hub.has_watchers_here()
            && let Ok(line) = serde_json::from_str::<Line>(&text)
            && line.node != node
        {
            tail_lines("received", 1);
            hub.show_here(line.into_event());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_watches_is_believed_for_a_while_and_until_it_says_otherwise() {
        let (mut others, now) = (Others::default(), Instant::now());
        let watched = Watched::of("b", &[TailFilter::Device(DeviceId(1)), TailFilter::Application(ApplicationId(2))]);
        let watched: Watched = serde_json::from_str(&serde_json::to_string(&watched).unwrap()).unwrap();
        others.heard(&watched, now);
        assert_eq!(others.filters(now).len(), 2);
        assert!(others.filters(now + BELIEVED_FOR).is_empty());
        others.heard(&watched, now);
        others.heard(&Watched::of("b", &[]), now);
        assert!(others.filters(now).is_empty());
    }

    #[test]
    fn a_line_is_the_same_on_the_other_side() {
        let payload = RawValue::from_string("{ \"t\": 1e400 }".to_owned()).unwrap();
        let event = TailEvent {
            device_id: DeviceId(1),
            application_id: ApplicationId(2),
            organization: OrganizationId(3),
            device_name: "Rum 1".into(),
            event: "up".into(),
            received_at_ms: 4,
            payload: Some(payload.clone()),
            decoded: vec![TailDecoded { payload_decoder_id: 5, payload: Some(payload), error: None }],
            num_missed: 0,
        };
        let text = serde_json::to_string(&Line::of("a", &event)).unwrap();
        let there = serde_json::from_str::<Line>(&text).unwrap().into_event();
        assert_eq!(there.organization, event.organization);
        assert_eq!(serde_json::to_string(&there).unwrap(), serde_json::to_string(&event).unwrap());
    }
}
