//! Deterministic simulation of the data path: the real actors of two nodes (gate, partitions, devices, target stage, persistence,
//! supervision) on in-memory ports, in paused time, with faults drawn from a seed.
//!
//! ```text
//! sources ─► gate ─┐                                       ┌─► receivers, each in a mood
//!                  ├─ wire ─► one log, one database ─ wire ┤
//! group ─► node 1, node 2 (crash, freeze, lose, restart)   └─► oracle: looks at every write, and at the end
//! ```
//!
//! Between a node and every port lies a [`wire`]: there a call is delayed, fails, is done and its answer lost, or the node ends or
//! freezes before or after it. A [`plan`] says which faults a seed has; the [`oracle`] works out naively what the log obliges to.
//! Whatever a seed does, it does again:
//!
//! ```text
//! SLUSE_SEED=123 cargo test -p sluse-actors --test simulation replay -- --nocapture     every effect of seed 123, with its time
//! SLUSE_SEEDS_FROM=3000 SLUSE_SEEDS=100000 cargo test -p sluse-actors --test simulation seeds
//! ```
//!
//! What is checked, and when:
//! * every step: its deliveries are those of the uplinks it passes, each once, right in body and kind, in order (I1, I2, I4);
//! * every flush of states: no row and no position ahead of the committed one, every row counts what the log holds (I1);
//! * every flush of cursors: everything below a cursor that is no hole has ended, and the row adds up (I1, I4);
//! * every write: nobody but the owner who raised the epoch (I8);
//! * every try: one per device and target at a time, no more in flight than allowed (I2, I3); first arrivals in log order (I2);
//! * at the end: nothing missing, nothing pending, every term of conservation, dead letters deserved and complete, duplicates only
//!   where something explains them, uplinks by outcome complete (I4), and nobody hangs;
//! * where only one receiver is ill, the others' deliveries do not wait (I6). Panics are drawn too: the process survives them (I7).
//!
//! Mutations that were tried, to know that it sees: see [`mutation`] for those that are kept as tests. In the code itself, each
//! made by hand once and reverted:
//!
//! | broken in the code | seeds of 300 that noticed (first) | what the first said |
//! |---|---|---|
//! | I1: `steps::commit` takes an unclear step for an applied one | 11 (37) | the row of device 2 is at 12, committed is 11 |
//! | I1: a flush does not wait until its rows are committed (`persist::flush`) | 60 and more (10) | the row of device 2 is at 15, committed is 14 |
//! | I1: the cursor writer leaves out some holes | 60 and more (3) | the cursor of target 1 is at 36, 25 has not ended |
//! | I2: a device's actor reports whatever is decoded first (`DeviceActor::settle`) | 60 and more (2) | the row of device 1 counts 13 uplinks and 0 repeats, the log has 12 and 0 below 71 |
//! | I4: a refused delivery ends without its dead letter (`dispatch`) | 60 and more (2) | the cursor of target 1 is at 36, 31 has not ended |
//! | I8: a node raises an epoch without asking whether the partition is its own (`take`, `takeover`; this was a bug) | 20 (17) | node 2 wrote cursors of partition 0, which node 1 owns and took |
//!
//! Limits: one thread, so no data races; a frozen node's timers go on, only its calls stand still; nothing of the real log, the
//! database or the senders is in here (they have conformance suites, and `loadtest` has them under the same faults for real).

mod counted;
mod mutation;
mod oracle;
mod plan;
mod ports;
mod wire;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use counted::CountedUplinks;
use mutation::Mutation;
use plan::Plan;
use sluse_actors::testing::SeededThread;
use wire::Sim;
use world::{Ran, START_MS, World};

/// Seeds of a run of the whole suite; debug builds take about 25 ms each.
const NUM_SEEDS: u64 = 3_000;

fn run(seed: u64, mutation: Mutation, is_shown: bool) -> Ran {
    let counted = CountedUplinks::default();
    let _counting = metrics::set_default_local_recorder(&counted);
    let system = actix_rt::System::with_tokio_rt(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap_or_else(|error| panic!("no runtime: {error}"))
    });
    let mut ran = system.block_on(async move {
        let _seeded = SeededThread::begin(seed, START_MS);
        let sim = Sim::new(Plan::of_seed(seed), mutation, is_shown);
        World::new(&sim).run().await
    });
    if ran.counts_all && ran.violations.is_empty() && counted.num() != ran.num_uplinks as u64 {
        let line = format!("I4: {} uplinks were counted by outcome, the log has {}", counted.num(), ran.num_uplinks);
        ran.violations.push(line);
    }
    ran
}

/// What the simulation asks for is no news.
fn silence_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<&str>().copied().unwrap_or_default();
        if text != "a panic that the simulation asked for" {
            eprintln!("{info}");
        }
    }));
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// One seed, with everything it does. Does nothing unless `SLUSE_SEED` is set.
#[test]
fn replay() {
    let Some(seed) = number_of("SLUSE_SEED") else { return };
    silence_panics();
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_test_writer().init();
    println!("{:#?}", Plan::of_seed(seed));
    let ran = run(seed, Mutation::None, true);
    println!("{ran:#?}");
    assert!(ran.violations.is_empty(), "seed {seed}: {:#?}", ran.violations);
}

#[test]
fn whatever_happens_nothing_is_lost_and_everything_adds_up() {
    silence_panics();
    let from = number_of("SLUSE_SEEDS_FROM").unwrap_or(0);
    let until = from + number_of("SLUSE_SEEDS").unwrap_or(NUM_SEEDS);
    let (next, failed, sums) = (AtomicU64::new(from), Mutex::new(Vec::new()), Mutex::new([0; 6]));
    let num_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let begun_at = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..num_threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= until {
                        return;
                    }
                    let ran = run(seed, Mutation::None, false);
                    let (num_uplinks, num_owed) = (ran.num_uplinks as u64, ran.num_owed as u64);
                    let of_one =
                        [num_uplinks, num_owed, ran.num_effects, ran.num_duplicates, ran.num_panics, ran.settled_ms];
                    wire::lock(&sums).iter_mut().zip(of_one).for_each(|(sum, num)| *sum += num);
                    if let Some(line) = ran.violations.first() {
                        eprintln!("SLUSE_SEED={seed}: {line}");
                        wire::lock(&failed).push(seed);
                    }
                }
            });
        }
    });
    let ([uplinks, deliveries, effects, duplicates, panics, settled_ms], failed) =
        (*wire::lock(&sums), wire::lock(&failed));
    println!(
        "{} seeds in {:?}: {uplinks} uplinks, {deliveries} deliveries, {effects} effects, {panics} panics, \
         {duplicates} duplicates, {} ms of calm each",
        until - from,
        begun_at.elapsed(),
        settled_ms / (until - from).max(1)
    );
    assert!(failed.is_empty(), "replay these with SLUSE_SEED: {failed:?}");
    assert!(until - from < 100 || (panics > 0 && duplicates > 0), "the faults that were asked for did not happen");
}

#[test]
fn a_seed_does_the_same_every_time() {
    silence_panics();
    for seed in [1, 7, 20, 41, 54, 112, 131] {
        let (first, second) = (run(seed, Mutation::None, false), run(seed, Mutation::None, false));
        assert_eq!((first.trace, first.num_effects), (second.trace, second.num_effects), "seed {seed}");
    }
}

/// Runs seeds until the oracle says something, and gives all it said.
fn first_violation(mutation: Mutation) -> (u64, Vec<String>) {
    silence_panics();
    let found = (0..300).map(|seed| (seed, run(seed, mutation, false))).find(|(_, ran)| !ran.violations.is_empty());
    found.map(|(seed, ran)| (seed, ran.violations)).unwrap_or_else(|| panic!("{mutation:?} was not noticed"))
}

fn assert_noticed(mutation: Mutation, invariant: &str) {
    let (seed, violations) = first_violation(mutation);
    println!("{mutation:?}: seed {seed}: {}", violations[0]);
    assert!(violations.iter().any(|line| line.contains(invariant)), "{mutation:?}, seed {seed}: {violations:#?}");
}

#[test]
fn i1_a_log_whose_steps_are_not_atomic_is_noticed() {
    assert_noticed(Mutation::TornStep, "I1: uplink");
}

#[test]
fn i1_a_state_position_without_its_rows_is_noticed() {
    assert_noticed(Mutation::RowsForgotten, "I1: the state position");
}

#[test]
fn i2_a_log_that_turns_an_order_round_is_noticed() {
    assert_noticed(Mutation::StepReversed, "I2: ");
}

#[test]
fn i4_dead_letters_that_are_not_written_are_noticed() {
    assert_noticed(Mutation::LettersForgotten, "I1: the cursor of target");
}

#[test]
fn i4_holes_that_are_not_written_are_noticed() {
    assert_noticed(Mutation::HolesForgotten, "I1: the cursor of target");
}

#[test]
fn i8_a_log_and_a_database_without_fences_are_noticed() {
    assert_noticed(Mutation::NoFence, "I8: ");
}
