//! `kill -9` at any moment: a child appends and steps, says on a pipe what was acknowledged, and is killed; what it said must be
//! there, in order, with every step whole. The child is this test program itself.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig, OpenLogError};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::Log;
use sluse_schema::record::{Offset, Position, Record, Resolution, Step, Topic};

use crate::common::{WIDE, of_dir, read_all, record, texts};

const DIR_VARIABLE: &str = "SLUSE_TEST_LOG_DIR";
const NUM_PARTITIONS: u32 = 3;
const NUM_KILLS: u64 = 12;

fn config(dir: &std::path::Path) -> EmbeddedLogConfig {
    of_dir(dir, NUM_PARTITIONS)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("said {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Runs only as the child of the tests below.
#[tokio::test(flavor = "current_thread")]
#[ignore = "is started by the other tests of this file, and killed"]
async fn child_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let log = EmbeddedLog::open(config(dir.as_ref())).unwrap();
    say("open");
    let partitions = (0..NUM_PARTITIONS).map(PartitionId);
    let writers =
        partitions.map(|p| futures_util::future::join(append(Arc::clone(&log), p), consume(Arc::clone(&log), p)));
    futures_util::future::join_all(writers).await;
}

/// Uplink `n` of partition `p` says `p/n`, so that its place is known.
async fn append(log: Arc<EmbeddedLog>, partition: PartitionId) {
    let mut next = log.bounds(Topic::Uplinks, partition).await.unwrap().1.0;
    loop {
        let until = next + 1 + next % 7;
        let padding = "x".repeat(next as usize % 3_000);
        let records = (next..until).map(|n| record(n as i64 % 5, n as i64, format!("{partition}/{n}/{padding}")));
        assert_eq!(log.append(partition, records.collect()).await.unwrap(), Offset(next));
        next = until;
        say(&format!("appended {partition} {next}"));
    }
}

/// One delivery per uplink, to the deliveries partition and target that its number names.
async fn consume(log: Arc<EmbeddedLog>, partition: PartitionId) {
    let mut from = log.committed(partition).await.unwrap().unwrap_or(Offset::ZERO);
    loop {
        log.wait_for(Topic::Uplinks, partition, from).await;
        let batch = log.read(Topic::Uplinks, partition, from, WIDE).await.unwrap();
        let outputs = batch.records.iter().map(|uplink| {
            let text = name(uplink);
            (
                PartitionId((uplink.offset.0 % u64::from(NUM_PARTITIONS)) as u32),
                record(uplink.key, uplink.timestamp_ms, text),
            )
        });
        let step = Step { partition, from, next: batch.next, outputs: outputs.collect() };
        log.commit_step(step).await.unwrap();
        from = batch.next;
        say(&format!("stepped {partition} {from}"));
    }
}

/// `p/n` of a record's text.
fn name(record: &Record) -> String {
    let text = std::str::from_utf8(&record.value).unwrap();
    text.split('/').take(2).collect::<Vec<_>>().join("/")
}

fn start_child(dir: &std::path::Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child_writes_until_it_is_killed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR_VARIABLE, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the child said was acknowledged: ends of uplinks and positions, by partition.
#[derive(Default)]
struct Said {
    is_open: bool,
    appended: [u64; NUM_PARTITIONS as usize],
    stepped: [u64; NUM_PARTITIONS as usize],
}

impl Said {
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let Some(at) = words.iter().position(|w| *w == "said") else { return };
        match words[at + 1..] {
            ["open"] => self.is_open = true,
            [what, partition, offset] => {
                // The last line may have been cut by the kill.
                let (Ok(partition), Ok(offset)) = (partition.parse::<usize>(), offset.parse::<u64>()) else { return };
                let said = if what == "appended" { &mut self.appended } else { &mut self.stepped };
                said[partition] = said[partition].max(offset);
            }
            _ => {}
        }
    }
}

/// Lets a child write for so long, kills it, and gives what it had said. A line without its end does not count.
fn write_and_kill(dir: &std::path::Path, after: Duration) -> Said {
    let mut child = start_child(dir);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut said = Said::default();
    let mut line = String::new();
    while !said.is_open && lines.read_line(&mut line).unwrap() > 0 {
        said.note(line.trim_end());
        line.clear();
    }
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') {
                said.note(line.trim_end());
            }
            line.clear();
        }
        said
    });
    std::thread::sleep(after);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    reader.join().unwrap()
}

async fn check(log: &EmbeddedLog, said: &Said) -> u64 {
    let mut delivered: Vec<Vec<u64>> = vec![Vec::new(); NUM_PARTITIONS as usize];
    for partition in (0..NUM_PARTITIONS).map(PartitionId) {
        let records = read_all(log, Topic::Deliveries, partition).await;
        let mut last_by_source = [None; NUM_PARTITIONS as usize];
        for name in texts(&records) {
            let (source, n) = name.split_once('/').unwrap();
            let (source, n): (usize, u64) = (source.parse().unwrap(), n.parse().unwrap());
            assert!(last_by_source[source] < Some(n), "deliveries of one source stand in the order of its uplinks");
            last_by_source[source] = Some(n);
            delivered[source].push(n);
        }
    }
    let mut num_uplinks = 0;
    for partition in (0..NUM_PARTITIONS).map(PartitionId) {
        let index = partition.0 as usize;
        let uplinks = read_all(log, Topic::Uplinks, partition).await;
        assert!(uplinks.len() as u64 >= said.appended[index], "everything acknowledged is there");
        for (n, uplink) in uplinks.iter().enumerate() {
            assert_eq!((uplink.offset, name(uplink)), (Offset(n as u64), format!("{partition}/{n}")));
        }
        // I1: exactly the outputs of everything below the position, each once.
        let committed = log.committed(partition).await.unwrap().unwrap_or(Offset::ZERO);
        assert!(committed.0 >= said.stepped[index] && committed.0 <= uplinks.len() as u64);
        delivered[index].sort_unstable();
        assert_eq!(delivered[index], (0..committed.0).collect::<Vec<_>>(), "partition {partition}");
        num_uplinks += uplinks.len() as u64;
    }
    num_uplinks
}

#[tokio::test]
async fn i1_a_kill_at_any_moment_loses_nothing_acknowledged_and_splits_no_step() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let mut position: Option<Position> = None;
    let mut num_uplinks = 0;
    for round in 0..NUM_KILLS {
        // Spread over opening, the first batches and steady writing, different in every run.
        let jitter =
            u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_micros());
        let said = write_and_kill(&dir, Duration::from_micros(jitter % (1 + 40_000 * round)));
        let log = EmbeddedLog::open(config(&dir)).unwrap();
        let incarnation = log.identity().incarnation;
        if said.is_open {
            assert_eq!(incarnation, position.as_ref().map_or(1, |p| p.log.incarnation) + 1, "an unclean end raises it");
        }
        if let Some(position) = &position {
            let resolved = log.resolve(Topic::Uplinks, PartitionId(0), position).await.unwrap();
            assert_eq!(resolved, Resolution::At(position.offset), "a position from before the kill still holds");
        }
        num_uplinks = check(&log, &said).await;
        let (_, end) = log.bounds(Topic::Uplinks, PartitionId(0)).await.unwrap();
        position = Some(Position { log: log.identity(), offset: end });
        log.close().await.unwrap();
    }
    assert!(num_uplinks > 100, "the children wrote something: {num_uplinks}");
}

#[test]
fn another_process_that_holds_the_log_is_named_as_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start_child(dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("said open") {}
    let refused = EmbeddedLog::open(config(dir.path()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(refused, Err(OpenLogError::Locked { .. })), "{refused:?}");
    EmbeddedLog::open(config(dir.path())).unwrap();
}
