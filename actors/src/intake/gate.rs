//! The gate between sources and the log: it knows the sender, stamps received-at, appends, and answers when it is durable.
//!
//! Order: arrivals of one device that are handed over in order are logged in that order. Known senders go straight to the log;
//! unknown ones take turns at PostgreSQL, and a sender becomes known only after its arrivals are in the log's queue, so nothing
//! of it can overtake them. Received-at never goes back within a partition, as far as this node is concerned: another one stamps by its
//! own clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, join_all};
use futures_util::poll;
use metrics::{counter, histogram};
use sluse_schema::device::DeviceRef;
use sluse_schema::id::DeviceKey;
use sluse_schema::partition::{PartitionId, partition_of_device};
use sluse_schema::port::{Accepted, Arrival, DeviceDirectory, Intake, Log, LogError, ReadLimit, RefusedArrival};
use sluse_schema::record::{NewRecord, Offset, Topic};
use sluse_schema::uplink::{EventType, SourceKind, UplinkMeta};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::directory::{Directory, Known};
use super::limit::EntranceLimit;
use super::metrics::{ACCEPTED, APPEND_SECONDS, LOOKUPS, OVER_LIMIT, REFUSED};
use super::unknown::UnknownLister;
use crate::clock::now_ms;

/// Senders asked for by one query.
const NUM_LOOKUP_MAX: usize = 1_000;
const LOOKUP_AWAY: &str = "PostgreSQL is not available to look the sender up";

/// Settings of the gate.
#[derive(Clone, Copy, Debug)]
pub struct GateConfig {
    /// What a sender is told to wait when something is away.
    pub retry_after: Duration,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self { retry_after: Duration::from_secs(2) }
    }
}

/// The intake of this node.
#[derive(Debug)]
pub struct Gate {
    log: Arc<dyn Log>,
    senders: Arc<dyn DeviceDirectory>,
    directory: Arc<Directory>,
    strangers: UnknownLister,
    /// Received-at of the newest record of each partition.
    newest_ms: Box<[AtomicI64]>,
    /// Taking turns at PostgreSQL, in order of arrival.
    lookup_turn: Mutex<()>,
    config: GateConfig,
    /// How often one sender may be heard; `None`: as often as it likes.
    limit: Option<Arc<EntranceLimit>>,
}

type Answer = Result<Accepted, RefusedArrival>;
/// Where the answers of an append go.
type Places = Vec<(usize, Accepted)>;

/// What an append to several partitions answers.
type Outcomes = Vec<Result<Offset, LogError>>;

/// Arrivals on their way into the log.
struct Appending<'a> {
    /// Of each partition, in the order of the append's parts.
    places: Vec<Places>,
    append: BoxFuture<'a, Outcomes>,
    /// Set when the first poll already answered.
    outcomes: Option<Outcomes>,
}

impl Gate {
    /// A gate before `log`. Reads the newest record of each partition, so that received-at goes on from there.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn open(
        log: Arc<dyn Log>,
        senders: Arc<dyn DeviceDirectory>,
        directory: Arc<Directory>,
        strangers: UnknownLister,
        config: GateConfig,
    ) -> Result<Self, LogError> {
        let mut newest_ms = Vec::new();
        for partition in (0..log.num_partitions()).map(PartitionId) {
            newest_ms.push(AtomicI64::new(newest_in(log.as_ref(), partition).await?));
        }
        let newest_ms = newest_ms.into_boxed_slice();
        Ok(Self { log, senders, directory, strangers, newest_ms, lookup_turn: Mutex::new(()), config, limit: None })
    }

    /// The same gate with a limit per sender.
    #[must_use]
    pub fn with_limit(self, limit: Option<Arc<EntranceLimit>>) -> Self {
        Self { limit, ..self }
    }

    fn later(&self, reason: impl ToString) -> RefusedArrival {
        RefusedArrival::Later {
            reason: reason.to_string(),
            retry_after_ms: u64::try_from(self.config.retry_after.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The time of an arrival: now, but never before what the partition already holds.
    fn received_at_ms(&self, partition: PartitionId) -> i64 {
        let now = now_ms();
        match self.newest_ms.get(partition.0 as usize) {
            Some(newest) => newest.fetch_max(now, Ordering::AcqRel).max(now),
            None => now,
        }
    }

    /// Puts arrivals of known senders into the log's queue: when this returns, their order is decided.
    async fn enqueue<'a>(&'a self, arrivals: Vec<(usize, Arrival, DeviceRef)>) -> Option<Appending<'a>> {
        let mut by_partition: BTreeMap<PartitionId, (Places, Vec<NewRecord>)> = BTreeMap::new();
        for (place, arrival, sender) in arrivals {
            let partition = partition_of_device(sender.device, self.log.num_partitions());
            let meta = UplinkMeta {
                device: sender.device,
                organization: sender.organization,
                source: arrival.source,
                event: arrival.event,
                received_at_ms: self.received_at_ms(partition),
                event_id: arrival.event_id,
                content_type: arrival.content_type,
                figures: arrival.figures,
            };
            let (places, records) = by_partition.entry(partition).or_default();
            places.push((place, Accepted { device: sender.device }));
            records.push(meta.into_record(arrival.payload));
        }
        if by_partition.is_empty() {
            return None;
        }
        let (mut places, mut parts) = (Vec::with_capacity(by_partition.len()), Vec::with_capacity(by_partition.len()));
        for (partition, (of_partition, records)) in by_partition {
            places.push(of_partition);
            parts.push((partition, records));
        }
        let mut append = self.log.append_all(parts);
        let outcomes = match poll!(&mut append) {
            Poll::Ready(outcomes) => Some(outcomes),
            Poll::Pending => None,
        };
        Some(Appending { places, append, outcomes })
    }

    async fn finish(&self, appending: impl Iterator<Item = Appending<'_>>, answers: &mut [Option<Answer>]) {
        let started_at = Instant::now();
        let finished = join_all(appending.map(|a| async move {
            let outcomes = match a.outcomes {
                Some(outcomes) => outcomes,
                None => a.append.await,
            };
            (a.places, outcomes)
        }))
        .await;
        histogram!(APPEND_SECONDS).record(started_at.elapsed().as_secs_f64());
        let parts = finished.into_iter().flat_map(|(places, outcomes)| places.into_iter().zip(outcomes));
        for (places, outcome) in parts {
            if let Err(error) = &outcome {
                warn!(%error, num_arrivals = places.len(), "cannot append arrivals");
            }
            for (place, accepted) in places {
                answers[place] = Some(match &outcome {
                    Ok(_) => Ok(accepted),
                    Err(error) => Err(self.later(error)),
                });
            }
        }
    }

    /// Asks PostgreSQL who one is, taking turns like [`Gate::look_up`]: what was handed over before is in the log's queue by then.
    async fn look_up_one(&self, sender: &DeviceKey) -> Result<Known, RefusedArrival> {
        let _turn = self.lookup_turn.lock().await;
        if let Some(known) = self.directory.get(sender, Instant::now()) {
            return Ok(known);
        }
        let num_changes = self.directory.num_changes();
        counter!(LOOKUPS).increment(1);
        let found = self.senders.find_devices(std::slice::from_ref(sender)).await.map_err(|error| {
            warn!(%error, "cannot look a sender up");
            self.later(LOOKUP_AWAY)
        })?;
        let known = found.into_iter().next().flatten().map_or(Known::Stranger, Known::Device);
        self.directory.learn(sender.clone(), known, num_changes, Instant::now());
        Ok(known)
    }

    /// Asks PostgreSQL who these are, taking turns; returns with their arrivals in the log's queue.
    async fn look_up<'a>(
        &'a self,
        arrivals: Vec<(usize, Arrival)>,
        answers: &mut [Option<Answer>],
    ) -> Option<Appending<'a>> {
        let _turn = self.lookup_turn.lock().await;
        let mut found: HashMap<DeviceKey, Known> = HashMap::new();
        let senders: HashSet<&DeviceKey> = arrivals.iter().map(|(_, arrival)| &arrival.sender).collect();
        let mut asked: Vec<DeviceKey> = Vec::new();
        for sender in senders {
            // Whoever had the turn before may have learned it.
            match self.directory.get(sender, Instant::now()) {
                Some(known) => drop(found.insert(sender.clone(), known)),
                None => asked.push(sender.clone()),
            }
        }
        let num_changes = self.directory.num_changes();
        let mut failure = None;
        for keys in asked.chunks(NUM_LOOKUP_MAX) {
            counter!(LOOKUPS).increment(keys.len() as u64);
            match self.senders.find_devices(keys).await {
                Ok(devices) => {
                    for (key, device) in keys.iter().zip(devices) {
                        found.insert(key.clone(), device.map_or(Known::Stranger, Known::Device));
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = &failure {
            warn!(num_senders = asked.len(), %error, "cannot look senders up");
        }
        let mut known = Vec::new();
        for (place, arrival) in arrivals {
            match found.get(&arrival.sender) {
                Some(Known::Device(device)) => known.push((place, arrival, *device)),
                Some(Known::Stranger) => {
                    answers[place] = Some(Err(self.refuse_stranger(arrival.source, &arrival.sender)));
                }
                None => answers[place] = Some(Err(self.later(LOOKUP_AWAY))),
            }
        }
        let appending = self.enqueue(known).await;
        // Only now may others find them in the cache: their first arrivals are in the queue.
        for key in asked {
            if let Some(known) = found.remove(&key) {
                self.directory.learn(key, known, num_changes, Instant::now());
            }
        }
        appending
    }

    /// The refusal of a sender that is heard too often, the same for the rest of a run once there was one.
    ///
    /// Only who sends by HTTP can be told to come again. A broker hands over in order: one event that is not acknowledged would hold
    /// up every other device behind it. So what comes by MQTT is counted and taken in.
    fn over_limit(
        &self,
        arrival: &Arrival,
        limited: &mut HashMap<DeviceKey, RefusedArrival>,
    ) -> Option<RefusedArrival> {
        let (limit, sender) = (self.limit.as_ref()?, &arrival.sender);
        if let Some(refused) = limited.get(sender) {
            return Some(refused.clone());
        }
        let wait = limit.admit(sender).err()?;
        counter!(OVER_LIMIT, "source" => arrival.source.as_str()).increment(1);
        if arrival.source != SourceKind::Http {
            return None;
        }
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let refused = RefusedArrival::TooOften { retry_after_ms };
        limited.insert(sender.clone(), refused.clone());
        Some(refused)
    }

    fn refuse_stranger(&self, source: SourceKind, sender: &DeviceKey) -> RefusedArrival {
        self.strangers.heard(source, sender, now_ms());
        RefusedArrival::UnknownSender
    }

    fn count(&self, answers: &[Answer], labels: &[(&'static str, &'static str)]) {
        let mut counts: BTreeMap<(&'static str, &'static str, &'static str), u64> = BTreeMap::new();
        for (answer, (source, event)) in answers.iter().zip(labels) {
            let (metric, detail) = match answer {
                Ok(_) => (ACCEPTED, *event),
                Err(RefusedArrival::UnknownSender) => (REFUSED, "unknown_sender"),
                Err(RefusedArrival::Later { .. }) => (REFUSED, "later"),
                Err(RefusedArrival::TooOften { .. }) => (REFUSED, "too_often"),
            };
            *counts.entry((metric, source, detail)).or_default() += 1;
        }
        for ((metric, source, detail), num) in counts {
            if metric == ACCEPTED {
                counter!(ACCEPTED, "source" => source, "event" => detail).increment(num);
            } else {
                counter!(REFUSED, "source" => source, "reason" => detail).increment(num);
            }
        }
    }
}

/// Timestamp of the newest record of a partition, 0 for an empty one.
async fn newest_in(log: &dyn Log, partition: PartitionId) -> Result<i64, LogError> {
    let (start, end) = log.bounds(Topic::Uplinks, partition).await?;
    if end <= start {
        return Ok(0);
    }
    let from = Offset(end.0 - 1).max(start);
    let limit = ReadLimit { num_records_max: 16, num_bytes_max: 1 << 20 };
    let batch = log.read(Topic::Uplinks, partition, from, limit).await?;
    Ok(batch.records.last().map_or(0, |r| r.timestamp_ms))
}

#[async_trait]
impl Intake for Gate {
    async fn recognise(&self, source: SourceKind, sender: &DeviceKey) -> Result<(), RefusedArrival> {
        let known = match self.directory.get(sender, Instant::now()) {
            Some(known) => Ok(known),
            None => self.look_up_one(sender).await,
        };
        let refused = match known {
            Ok(Known::Device(_)) => return Ok(()),
            Ok(Known::Stranger) => self.refuse_stranger(source, sender),
            Err(later) => later,
        };
        self.count(&[Err(refused.clone())], &[(source.as_str(), EventType::Up.as_str())]);
        Err(refused)
    }

    async fn accept(&self, arrival: Arrival) -> Answer {
        let mut answers = self.accept_all(vec![arrival]).await;
        answers.pop().unwrap_or_else(|| Err(self.later("no answer")))
    }

    async fn accept_all(&self, arrivals: Vec<Arrival>) -> Vec<Answer> {
        let labels: Vec<_> = arrivals.iter().map(|a| (a.source.as_str(), a.event.as_str())).collect();
        let mut answers: Vec<Option<Answer>> = arrivals.iter().map(|_| None).collect();
        let now = Instant::now();
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        // A sender that is unknown once is unknown for this whole run: its later arrivals must not overtake its first.
        let mut waiting: HashSet<DeviceKey> = HashSet::new();
        // Likewise for one that is heard too often: what comes after its first refusal must not overtake it.
        let mut limited: HashMap<DeviceKey, RefusedArrival> = HashMap::new();
        for (place, arrival) in arrivals.into_iter().enumerate() {
            let cached =
                if waiting.contains(&arrival.sender) { None } else { self.directory.get(&arrival.sender, now) };
            match cached {
                Some(Known::Stranger) => {
                    answers[place] = Some(Err(self.refuse_stranger(arrival.source, &arrival.sender)));
                }
                _ if let Some(refused) = self.over_limit(&arrival, &mut limited) => {
                    answers[place] = Some(Err(refused));
                }
                Some(Known::Device(device)) => known.push((place, arrival, device)),
                None => {
                    waiting.insert(arrival.sender.clone());
                    unknown.push((place, arrival));
                }
            }
        }
        let of_known = self.enqueue(known).await;
        let of_unknown = if unknown.is_empty() { None } else { self.look_up(unknown, &mut answers).await };
        self.finish([of_known, of_unknown].into_iter().flatten(), &mut answers).await;
        let answers: Vec<Answer> =
            answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.later("no answer")))).collect();
        self.count(&answers, &labels);
        answers
    }
}
