//! Membership in the consumer group: one thread that polls, and answers when partitions come and go.
//!
//! The group shares out the uplinks topic; deliveries partitions go with their numbers. The member reads nothing: its partitions are
//! paused, readers of their own do the reading. It is a static member, so a restart within the session timeout moves nothing, and it
//! does not leave when it ends.
//!
//! Protocol of a revocation: stages are told (they stop intake, finish or abort the step, write cursors) → their answer, or the deadline
//! below the session timeout → the transaction under way ends → the callback returns, and only then does Kafka move the partition.
//! Partitions that were lost with the session are dropped without writing. Everything is fenced besides: steps by the generation,
//! rows by the epoch.
//!
//! librdkafka gives a seat up for good when Kafka calls it fenced, whoever took its place: another process, or this node's own later
//! joining. [`claim`](super::claim) says which. Ours: what we owned is lost, and another seat is taken under the same name. Another's: this
//! node writes nothing any more.
//!
//! A partition can be left with nobody: see [`orphans`](super::orphans).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::counter;
use rdkafka::consumer::{Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::LogError;
use sluse_schema::record::{Offset, Topic};

use super::claim::Claim;
use super::config::{KafkaLogConfig, OpenKafkaError};
use super::link::Condition;
use super::membership::Membership;
use super::metrics::{ORPHANS_FOUND, SEATS_RENEWED};
use super::native;
use super::orphans::{OrphanWatch, Picture, partitions_of_assignment};
use super::rebalance::{Seat, SeatMaker};

/// One turn of the thread, at most.
const POLL: Duration = Duration::from_millis(100);
/// The lease is renewed this often in a session timeout.
const RENEWALS_PER_SESSION: u32 = 4;
/// The group is looked at this often in a session timeout.
const LOOKS_PER_SESSION: u32 = 2;
/// How long the threads are waited for at the end, and then the seat.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Pause before a seat is taken anew; doubled each time, up to the second, until one was held for as long as the third.
const SIT_AGAIN_AFTER: Duration = Duration::from_millis(500);
const SIT_AGAIN_AFTER_MAX: Duration = Duration::from_secs(15);
const SEAT_IS_GOOD_AFTER: Duration = Duration::from_secs(60);
/// What the clocks of this node and of the group's coordinator may run apart in one session.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// The member and its threads.
pub struct Group {
    /// Until the end.
    seat: Option<Arc<ArcSwap<Seat>>>,
    config: Arc<KafkaLogConfig>,
    is_closing: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("group", &self.config.group()).finish_non_exhaustive()
    }
}

impl Group {
    /// Joins the group in the background, under the name that `claim` holds. `deliveries_position` says how far targets have been fed, for
    /// people who look at the group.
    pub fn start(
        config: &Arc<KafkaLogConfig>,
        condition: &Arc<Condition>,
        membership: &Arc<Membership>,
        claim: &Arc<Claim>,
        deliveries_position: impl Fn(PartitionId) -> Option<Offset> + Send + 'static,
    ) -> Result<Self, OpenKafkaError> {
        let is_closing = Arc::new(AtomicBool::new(false));
        let maker = SeatMaker {
            config: Arc::clone(config),
            condition: Arc::clone(condition),
            membership: Arc::clone(membership),
            is_closing: Arc::clone(&is_closing),
        };
        let seat = maker.make().map_err(|error| OpenKafkaError::Config(error.to_string()))?;
        let seat = Arc::new(ArcSwap::from_pointee(seat));
        let member = Member {
            seat: Arc::clone(&seat),
            claim: Arc::clone(claim),
            maker: maker.clone(),
            since: Instant::now(),
            pause: SIT_AGAIN_AFTER,
        };
        let keeper = LeaseKeeper {
            seat: Arc::clone(&seat),
            claim: Arc::clone(claim),
            maker,
            shown: BTreeMap::new(),
            // A revocation ends within a session.
            orphans: OrphanWatch::new(&config.member_client_id(), config.num_partitions, config.session_timeout),
            deliveries_position: Box::new(deliveries_position),
        };
        let threads = vec![
            std::thread::Builder::new().name("sluse-group".into()).spawn(move || member.run())?,
            std::thread::Builder::new().name("sluse-lease".into()).spawn(move || keeper.run())?,
        ];
        Ok(Self { seat: Some(seat), config: Arc::clone(config), is_closing, threads: Mutex::new(threads) })
    }

    /// What a transaction names its group by; `None` while the group knows this node in no generation.
    pub fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        native::group_metadata(&*self.seat.as_ref()?.load_full())
    }

    /// The committed position of a partition, once no transaction that could move it is under way any more.
    pub fn committed(&self, partition: PartitionId, within: Duration) -> Result<Option<Offset>, LogError> {
        let topic = self.config.topic(Topic::Uplinks);
        let seat = self.seat.as_ref().ok_or_else(|| LogError::Unavailable("the log is closed".into()))?.load_full();
        let positions = committed(&seat, &topic, &[partition], within)
            .map_err(|error| LogError::Unavailable(format!("committed positions cannot be read: {error}")))?;
        Ok(positions.get(&partition).copied())
    }

    /// Ends the thread; the group keeps what this node owned until its session runs out, or it comes back.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = Instant::now() + CLOSE_WITHIN;
        for thread in threads {
            // One that waits for a broker that is away is left to itself: it ends when librdkafka gives up.
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of the Kafka group has panicked");
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.close();
        let Some(seat) = self.seat.take().map(|seat| seat.load_full()) else { return };
        let deadline = Instant::now() + CLOSE_WITHIN;
        let retired = retire(seat);
        // While the broker is away, librdkafka may never say that it is done.
        while retired.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn committed(
    seat: &Seat,
    topic: &str,
    partitions: &[PartitionId],
    within: Duration,
) -> Result<BTreeMap<PartitionId, Offset>, KafkaError> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        asked.add_partition(topic, partition.0 as i32);
    }
    let answered = seat.committed_offsets(asked, within)?;
    let mut positions = BTreeMap::new();
    for element in answered.elements() {
        element.error()?;
        if let KafkaOffset::Offset(offset) = element.offset() {
            positions.insert(PartitionId(element.partition() as u32), Offset(offset as u64));
        }
    }
    Ok(positions)
}

/// The thread that polls.
struct Member {
    seat: Arc<ArcSwap<Seat>>,
    claim: Arc<Claim>,
    maker: SeatMaker,
    /// When the seat was taken, and how long the next is waited for.
    since: Instant,
    pause: Duration,
}

impl Member {
    fn run(mut self) {
        while !self.is_closing() {
            let seat = self.seat.load_full();
            // Rebalances are answered inside.
            if let Some(Err(error)) = seat.poll(POLL) {
                tracing::debug!(%error, "kafka group");
            }
            if let Some((code, reason)) = seat.client().fatal_error() {
                drop(seat);
                self.sit_again(&format!("{code}: {reason}"));
            } else if self.maker.condition.replaced().is_some() {
                self.lose_all();
                std::thread::sleep(POLL);
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.maker.is_closing.load(Ordering::Acquire)
    }

    fn lose_all(&self) {
        let owned = self.maker.membership.owned();
        if !owned.is_empty() {
            self.maker.membership.lose(&owned);
        }
    }

    /// The seat is of no more use: nothing is written for what came with it, and another is taken, unless somebody else bears our name.
    fn sit_again(&mut self, reason: &str) {
        self.seat.load().context().give_up_seat();
        self.lose_all();
        if self.since.elapsed() > SEAT_IS_GOOD_AFTER {
            self.pause = SIT_AGAIN_AFTER;
        }
        loop {
            if self.wait_and_see_the_end() || self.maker.condition.replaced().is_some() {
                return;
            }
            match self.claim.is_ours() {
                Ok(true) => {}
                Ok(false) => return self.maker.condition.replaced_by_another(reason),
                Err(error) => {
                    tracing::info!(%error, "who bears this node's name cannot be asked");
                    continue;
                }
            }
            match self.maker.make() {
                Ok(seat) => {
                    tracing::warn!(
                        reason,
                        "the group shut this node out, and nobody else bears its name: it joins again"
                    );
                    counter!(SEATS_RENEWED).increment(1);
                    self.since = Instant::now();
                    retire(self.seat.swap(Arc::new(seat)));
                    return;
                }
                Err(error) => tracing::error!(%error, "the group cannot be joined again"),
            }
        }
    }

    /// Pauses. `true` when this node is ending.
    fn wait_and_see_the_end(&mut self) -> bool {
        let until = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(SIT_AGAIN_AFTER_MAX);
        while !self.is_closing() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        self.is_closing()
    }
}

/// Lets go of a seat on a thread of its own, once nobody uses it: librdkafka takes its time, above all while its broker is away.
fn retire(seat: Arc<Seat>) -> Option<JoinHandle<()>> {
    let ending = std::thread::Builder::new().name("sluse-group-end".into()).spawn(move || {
        while Arc::strong_count(&seat) > 1 {
            std::thread::sleep(POLL);
        }
        drop(seat);
    });
    ending.inspect_err(|error| tracing::error!(%error, "a thread cannot be started")).ok()
}

/// The thread that asks the group things and waits for its answers, also while the thread that polls answers a rebalance.
///
/// It renews the lease: a commit that the group answers is the proof that it still counts on us; what is committed is for people to look at.
/// And it looks for partitions that nobody has.
struct LeaseKeeper {
    seat: Arc<ArcSwap<Seat>>,
    claim: Arc<Claim>,
    maker: SeatMaker,
    /// What the group shows as our positions in the deliveries topic.
    shown: BTreeMap<PartitionId, Offset>,
    orphans: OrphanWatch,
    deliveries_position: Box<dyn Fn(PartitionId) -> Option<Offset> + Send>,
}

impl LeaseKeeper {
    fn run(mut self) {
        let membership = Arc::clone(&self.maker.membership);
        let session_timeout = self.maker.config.session_timeout;
        let interval = session_timeout / RENEWALS_PER_SESSION;
        let mut renewed_at: Option<Instant> = None;
        let mut looked_at = Instant::now();
        while !self.maker.is_closing.load(Ordering::Acquire) {
            let is_due = !membership.lease.is_held() || renewed_at.is_none_or(|at| at.elapsed() >= interval);
            let owned = membership.owned();
            if is_due && !owned.is_empty() && self.maker.condition.replaced().is_none() {
                let sent_at = Instant::now();
                match self.commit(&owned) {
                    Ok(()) => {
                        if membership.renew_lease(&owned, sent_at, session_timeout.saturating_sub(LEASE_MARGIN)) {
                            renewed_at = Some(sent_at);
                            self.claim.keep();
                        }
                    }
                    Err(error) => tracing::debug!(%error, "the lease is not renewed"),
                }
            }
            if looked_at.elapsed() >= session_timeout / LOOKS_PER_SESSION && self.maker.condition.replaced().is_none() {
                looked_at = Instant::now();
                if let Err(error) = self.look_for_orphans() {
                    tracing::debug!(%error, "the group was not looked at");
                }
            }
            std::thread::sleep(POLL);
        }
    }

    fn look_for_orphans(&mut self) -> Result<(), KafkaError> {
        let (config, seat) = (&self.maker.config, self.seat.load_full());
        let (topic, within) = (config.topic(Topic::Uplinks), config.session_timeout / 3);
        let (is_stable, described) = native::describe_group(&seat, &config.group(), within)?;
        let members = described
            .into_iter()
            .map(|(client_id, assignment)| Some((client_id, partitions_of_assignment(&assignment, &topic)?)));
        // Who has what is not known unless every assignment can be read: a group that is well must not be moved.
        let Some(members) = members.collect() else { return Ok(()) };
        let picture = Picture { is_stable, members };
        let Some(orphans) = self.orphans.look(picture, Instant::now()) else { return Ok(()) };
        tracing::warn!(partitions = ?orphans, "the group gave these partitions to nobody: this node leaves it and joins again, which shares them out");
        counter!(ORPHANS_FOUND).increment(orphans.len() as u64);
        self.maker.rejoin(&seat)
    }

    fn commit(&mut self, owned: &[PartitionId]) -> Result<(), KafkaError> {
        let topic = self.maker.config.topic(Topic::Deliveries);
        let seat = self.seat.load_full();
        let unknown: Vec<PartitionId> = owned.iter().copied().filter(|p| !self.shown.contains_key(p)).collect();
        if !unknown.is_empty() {
            let stored = committed(&seat, &topic, &unknown, Duration::from_secs(2))?;
            self.shown.extend(unknown.iter().map(|p| (*p, stored.get(p).copied().unwrap_or_default())));
        }
        let mut list = TopicPartitionList::with_capacity(owned.len());
        for partition in owned {
            let shown = self.shown.entry(*partition).or_default();
            *shown = (*shown).max((self.deliveries_position)(*partition).unwrap_or_default());
            list.add_partition_offset(&topic, partition.0 as i32, KafkaOffset::Offset(shown.0 as i64))?;
        }
        // What is not ours any more is looked up again when it comes back.
        self.shown.retain(|partition, _| owned.contains(partition));
        native::commit(&seat, &list, self.maker.config.session_timeout / 3)
    }
}
