//! The embedded log: what one record costs to append, to read back and to step over, by how many share a sync; the same bytes
//! written to a plain file, for comparison; and a sustained run that says which thread spends how much CPU per record.
//!
//! `cargo bench -p sluse-benches --bench log` (`LOG_BENCH_SECONDS` sets the length of the sustained run, default 5).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use sluse_engine::log::{EmbeddedLog, EmbeddedLogConfig};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Log, ReadLimit};
use sluse_schema::record::{HeaderName, Headers, NewRecord, Offset, Step, Topic};
use tokio::runtime::Runtime;

const NUM_PARTITIONS: u32 = 8;
const LIMIT: ReadLimit = ReadLimit { num_records_max: 1_000, num_bytes_max: 4 << 20 };

/// About 2 kB of JSON that differs from record to record as network servers' events do.
fn uplink(n: u64) -> NewRecord {
    let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let gateway = |i: u64| {
        let (rssi, snr) = (-(60 + (noise >> i) as i64 % 60), (noise >> (i + 5)) % 12);
        format!(
            r#"{{"gatewayId":"{:016x}","uplinkId":{},"nsTime":"2026-05-28T12:00:{:02}.{:06}Z","rssi":{rssi},"snr":{snr}.5,"channel":{},"location":{{"latitude":56.{:06},"longitude":10.{:06}}},"context":"{:08x}","metadata":{{"region_common_name":"EU868","region_config_id":"eu868"}},"crcStatus":"CRC_OK"}}"#,
            noise.rotate_left(i as u32 * 7) % 64,
            noise as u32,
            n % 60,
            n % 1_000_000,
            i % 8,
            (noise >> 7) % 1_000_000,
            (noise >> 9) % 1_000_000,
            noise as u32 ^ i as u32,
        )
    };
    let text = format!(
        r#"{{"deduplicationId":"{:032x}","time":"2026-05-28T12:00:{:02}.{:06}+00:00","deviceInfo":{{"tenantId":"52f14cd4-c6f1-4fbd-8f87-4025e1d49242","tenantName":"Aarhus","applicationId":"ca739e26-7b67-4f14-b69e-d568c22a5a75","applicationName":"air quality","deviceProfileId":"605d08d4-65f5-4d2c-8a5a-3d2457662f79","deviceProfileName":"ERS CO2","deviceName":"sensor {}","devEui":"{:016x}","tags":{{"street":"Park Alle","floor":"{}"}}}},"devAddr":"{:08x}","adr":true,"dr":5,"fCnt":{},"fPort":5,"confirmed":false,"data":"{:024x}{:016x}","rxInfo":[{},{},{}],"txInfo":{{"frequency":868100000,"modulation":{{"lora":{{"bandwidth":125000,"spreadingFactor":7,"codeRate":"CR_4_5"}}}}}}}}"#,
        u128::from(noise) * 77,
        n % 60,
        n % 1_000_000,
        n % 5_000,
        n % 5_000 + (1 << 40),
        n % 7,
        noise as u32,
        n / 5_000,
        u128::from(noise),
        noise,
        gateway(1),
        gateway(2),
        gateway(3),
    );
    let (device, event_id) = ((n % 5_000).to_string(), format!("{noise:032x}"));
    let headers = Headers::from_pairs([
        (HeaderName::Device, device.as_str()),
        (HeaderName::Organization, "3"),
        (HeaderName::Source, "chirpstack"),
        (HeaderName::Event, "up"),
        (HeaderName::ReceivedAt, "1780000000000"),
        (HeaderName::ContentType, "application/json"),
        (HeaderName::EventId, event_id.as_str()),
    ]);
    NewRecord { key: (n % 5_000) as i64, timestamp_ms: 1_780_000_000_000 + n as i64, headers, value: Bytes::from(text) }
}

/// About 300 bytes: what a decoder made of it.
fn delivery(uplink: &sluse_schema::record::Record) -> NewRecord {
    let value = Bytes::copy_from_slice(&uplink.value[..300.min(uplink.value.len())]);
    NewRecord { key: uplink.key % 20, timestamp_ms: uplink.timestamp_ms, headers: uplink.headers.clone(), value }
}

fn open(dir: &Path) -> Arc<EmbeddedLog> {
    let config = EmbeddedLogConfig {
        free_space_reserve_bytes: 1 << 30,
        retention_ms: u64::MAX,
        ..EmbeddedLogConfig::new(dir, NUM_PARTITIONS)
    };
    EmbeddedLog::open(config).expect("a fresh directory can be opened")
}

/// Appends `num` records to one partition, reads them back, and steps over them with one delivery each.
async fn pass(log: &EmbeddedLog, partition: PartitionId, records: Vec<NewRecord>) {
    let mut from = log.append(partition, records).await.expect("appends");
    let (_, end) = log.bounds(Topic::Uplinks, partition).await.expect("bounds");
    while from < end {
        let batch = log.read(Topic::Uplinks, partition, from, LIMIT).await.expect("reads");
        let outputs = batch.records.iter().map(|r| (PartitionId((r.key % 8) as u32), delivery(r))).collect();
        log.commit_step(Step { partition, from, next: batch.next, outputs }).await.expect("steps");
        from = batch.next;
    }
}

fn bench_append_read_step(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let dir = std::env::temp_dir().join(format!("sluse-bench-log-{}", std::process::id()));
    let log = open(&dir);
    let mut group = c.benchmark_group("log/append_read_step");
    let mut n = 0;
    for num_records in [1u64, 10, 100, 1_000] {
        group.throughput(Throughput::Elements(num_records));
        group.bench_with_input(BenchmarkId::from_parameter(num_records), &num_records, |b, num_records| {
            b.iter_batched(
                || {
                    n += num_records;
                    (n - num_records..n).map(uplink).collect()
                },
                |records| runtime.block_on(pass(&log, PartitionId(0), records)),
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    drop(log);
    std::fs::remove_dir_all(&dir).ok();
}

fn bench_plain_file(c: &mut Criterion) {
    let path = std::env::temp_dir().join(format!("sluse-bench-plain-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a file");
    let mut group = c.benchmark_group("log/plain_file_append_and_sync");
    for num_records in [1u64, 10, 100, 1_000] {
        let flat: Vec<u8> = (0..num_records).flat_map(|n| uplink(n).value.to_vec()).collect();
        group.throughput(Throughput::Elements(num_records));
        group.bench_with_input(BenchmarkId::from_parameter(num_records), &flat, |b, flat| {
            b.iter(|| {
                file.write_all(flat).expect("writes");
                file.sync_data().expect("syncs");
            });
        });
    }
    group.finish();
    std::fs::remove_file(&path).ok();
}

/// CPU time by thread name, in seconds.
fn cpu_by_thread() -> BTreeMap<String, f64> {
    let mut cpu = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let nanos: f64 = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        *cpu.entry(read("comm").trim().to_owned()).or_default() += nanos / 1e9;
    }
    cpu
}

/// Every partition appends, reads and steps for some seconds, in batches of this size, several under way at once.
fn sustained(batch_size: u64, in_flight: u64) {
    let seconds = std::env::var("LOG_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5.0);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dir = std::env::temp_dir().join(format!("sluse-bench-sustained-{}", std::process::id()));
    let log = open(&dir);
    let num_done = Arc::new(AtomicU64::new(0));
    // Made before, so that only the log is measured.
    let pool: Arc<Vec<NewRecord>> = Arc::new((0..20_000).map(uplink).collect());
    let num_bytes = pool.iter().map(|r| r.value.len()).sum::<usize>() / pool.len();
    let (before, started_at) = (cpu_by_thread(), Instant::now());
    let until = started_at + Duration::from_secs_f64(seconds);
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for partition in (0..NUM_PARTITIONS).map(PartitionId) {
            for lane in 0..in_flight {
                let (log, pool) = (Arc::clone(&log), Arc::clone(&pool));
                tasks.push(tokio::spawn(async move {
                    let mut at = (u64::from(partition.0) * 977 + lane * 313) as usize;
                    while Instant::now() < until {
                        let batch = (0..batch_size as usize).map(|i| pool[(at + i) % pool.len()].clone()).collect();
                        at += batch_size as usize;
                        log.append(partition, batch).await.expect("appends");
                    }
                }));
            }
            let (log, num_done) = (Arc::clone(&log), Arc::clone(&num_done));
            tasks.push(tokio::spawn(async move {
                let mut from = Offset::ZERO;
                while Instant::now() < until {
                    tokio::time::timeout(Duration::from_millis(50), log.wait_for(Topic::Uplinks, partition, from))
                        .await
                        .ok();
                    let batch = log.read(Topic::Uplinks, partition, from, LIMIT).await.expect("reads");
                    let outputs =
                        batch.records.iter().map(|r| (PartitionId((r.key % 8) as u32), delivery(r))).collect();
                    log.commit_step(Step { partition, from, next: batch.next, outputs }).await.expect("steps");
                    num_done.fetch_add(batch.records.len() as u64, Ordering::Relaxed);
                    from = batch.next;
                }
            }));
        }
        for task in tasks {
            task.await.expect("a task");
        }
    });
    let (elapsed, after) = (started_at.elapsed().as_secs_f64(), cpu_by_thread());
    let num_done = num_done.load(Ordering::Relaxed) as f64;
    print!("log/sustained: batches of {batch_size}, {in_flight} per partition under way, uplinks of {num_bytes} B: ");
    print!(
        "{:.0} uplinks/s appended, read and stepped over with a delivery of 300 B each; CPU per uplink:",
        num_done / elapsed
    );
    for (thread, cpu) in after {
        let spent = cpu - before.get(&thread).copied().unwrap_or_default();
        if spent / num_done * 1e6 > 0.05 {
            print!(" {thread} {:.1} us", spent / num_done * 1e6);
        }
    }
    let on_disk: u64 = walk(&dir);
    println!("; {:.0} B on disk per uplink", on_disk as f64 / num_done);
    drop(log);
    std::fs::remove_dir_all(&dir).ok();
}

fn walk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| if e.path().is_dir() { walk(&e.path()) } else { e.metadata().map_or(0, |m| m.blocks() * 512) })
        .sum()
}

criterion_group! {
    name = group;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = bench_append_read_step, bench_plain_file
}

fn main() {
    for (batch_size, in_flight) in [(1, 64), (20, 8), (100, 4)] {
        sustained(batch_size, in_flight);
    }
    group();
    Criterion::default().configure_from_args().final_summary();
}
