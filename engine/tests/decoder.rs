//! The decoder pool with real worker processes: the sandbox, batches and order, crashes, the watchdog, quarantine and fairness.
//!
//! The worker is this test program itself, started again: the test harness is told to run `worker_entry` alone, which becomes the
//! worker when it finds the marker among its arguments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use sluse_engine::decoder::{DecoderConfig, DecoderPool};
use sluse_schema::device::DecoderScript;
use sluse_schema::id::DecoderId;
use sluse_schema::port::{DecodeError, DecodeErrorKind, DecodeJob, Decoded, Decoder};

const MARKER: &str = "sluse-decoder-worker-entry";

#[test]
fn worker_entry() {
    if std::env::args().any(|argument| argument == MARKER) {
        let _ = sluse_engine::decoder::worker_main();
        std::process::exit(0);
    }
}

fn config() -> DecoderConfig {
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let arguments = ["worker_entry", MARKER, "--exact", "--nocapture", "--test-threads=1"];
    DecoderConfig::new(std::iter::once(program).chain(arguments.map(str::to_owned)).collect())
}

fn pool(config: DecoderConfig) -> Arc<DecoderPool> {
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    DecoderPool::start(config).unwrap()
}

fn script(id: i64, source: &str) -> Arc<DecoderScript> {
    Arc::new(DecoderScript::new(DecoderId(id), source, None))
}

fn job(script: &Arc<DecoderScript>, payload: &str) -> DecodeJob {
    DecodeJob {
        script: Arc::clone(script),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        metadata: r#"{"name":"Sensor"}"#.into(),
        received_at_ms: 1_700_000_000_000,
    }
}

async fn decode(pool: &DecoderPool, script: &Arc<DecoderScript>, payload: &str) -> Result<String, DecodeError> {
    let decoded = tokio::time::timeout(Duration::from_secs(20), pool.decode(job(script, payload)));
    decoded.await.expect("every job is answered").map(|decoded| match decoded {
        Decoded::Value { json, .. } => String::from_utf8(json.to_vec()).unwrap(),
        Decoded::Nothing => "undefined".into(),
    })
}

const ECHO: &str = "function decode(payload, metadata) { return { n: payload.n, name: metadata.name }; }";
/// A native loop that never asks the interrupt handler and that no guard charges.
const STUCK: &str = "function decode(payload, metadata) {
    if (!payload.bad) return payload.n;
    let big = 7n ** 200000n;
    for (let i = 0; i < 50; i++) big.toString();
}";

#[tokio::test]
async fn results_come_back_in_order_for_many_jobs_of_several_decoders() {
    let pool = pool(DecoderConfig { num_workers: 2, ..config() });
    let scripts: Vec<_> = (0..5).map(|id| script(id, ECHO)).collect();
    let jobs = (0..2_000).map(|n| {
        let script = scripts[n % 5].clone();
        let pool = &pool;
        async move { decode(pool, &script, &format!(r#"{{"n":{n}}}"#)).await }
    });
    for (n, result) in join_all(jobs).await.into_iter().enumerate() {
        assert_eq!(result.unwrap(), format!(r#"{{"n":{n},"name":"Sensor"}}"#));
    }
    pool.stop().await;
    assert_eq!(pool.worker_pids(), [0, 0]);
}

#[tokio::test]
async fn a_worker_can_reach_nothing_outside() {
    let pool = pool(config());
    let report = tokio::time::timeout(Duration::from_secs(30), pool.self_check()).await.unwrap().unwrap();
    println!("{report}");
    for line in report.lines() {
        let (name, outcome) = line.split_once('=').unwrap();
        let expected = if name == "2 GiB" { "errno 12" } else { "errno 1" };
        assert_eq!(outcome, expected, "{name}");
    }
    assert_eq!(report.lines().count(), 12);
    let pid = pool.worker_pids()[0];
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Seccomp:"), ["2"]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert!(!field("Uid:").contains(&"0".to_owned()), "{status}");
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (name, max) in [("Max file size", "0"), ("Max core file size", "0"), ("Max open files", "3")] {
        let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().next(), Some(max), "{line}");
    }
    assert!(!limits.lines().any(|l| l.starts_with("Max address space") && l.contains("unlimited")));
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    assert!(environment.is_empty() || environment == b"TZ=UTC\0", "{}", String::from_utf8_lossy(&environment));
    let fds: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(Vec::new(), |dir| dir.flatten().collect());
    assert!(fds.len() <= 3, "{fds:?}");
    pool.stop().await;
}

#[tokio::test]
async fn a_stuck_message_is_ended_by_the_watchdog_and_the_others_are_sent_again() {
    let pool = pool(config());
    let (stuck, fine) = (script(1, STUCK), script(2, ECHO));
    assert_eq!(decode(&pool, &stuck, r#"{"n":0}"#).await.unwrap(), "0");
    let pid = pool.worker_pids()[0];
    let jobs: Vec<_> = (0..60)
        .map(|n| match n {
            20 => (stuck.clone(), r#"{"bad":1}"#.to_owned()),
            n if n % 2 == 0 => (stuck.clone(), format!(r#"{{"n":{n}}}"#)),
            n => (fine.clone(), format!(r#"{{"n":{n}}}"#)),
        })
        .collect();
    let results = join_all(jobs.iter().map(|(script, payload)| decode(&pool, script, payload))).await;
    for (n, result) in results.into_iter().enumerate() {
        match n {
            20 => assert_eq!(result.unwrap_err().kind, DecodeErrorKind::Timeout),
            n if n % 2 == 0 => assert_eq!(result.unwrap(), n.to_string()),
            n => assert_eq!(result.unwrap(), format!(r#"{{"n":{n},"name":"Sensor"}}"#)),
        }
    }
    assert_ne!(pool.worker_pids()[0], pid, "another process answers now");
    pool.stop().await;
}

#[tokio::test]
async fn a_crash_of_the_worker_fails_only_the_message_in_flight() {
    let pool = pool(DecoderConfig { watchdog: Duration::from_secs(30), ..config() });
    let (stuck, fine) = (script(1, STUCK), script(2, ECHO));
    assert_eq!(decode(&pool, &fine, r#"{"n":1}"#).await.unwrap(), r#"{"n":1,"name":"Sensor"}"#);
    for signal in ["SEGV", "ABRT", "KILL"] {
        let pid = pool.worker_pids()[0];
        let in_flight = decode(&pool, &stuck, r#"{"bad":1}"#);
        let behind = decode(&pool, &fine, r#"{"n":2}"#);
        let shoot = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let status = std::process::Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
            assert!(status.success());
        };
        let (failed, answered, ()) = tokio::join!(in_flight, behind, shoot);
        let error = failed.unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Crash, "{error}");
        assert!(error.message.contains("signal"), "{error}");
        assert_eq!(answered.unwrap(), r#"{"n":2,"name":"Sensor"}"#, "{signal}");
        pool.forget(DecoderId(1));
    }
    // A worker that dies with nothing to do blames nobody.
    let pid = pool.worker_pids()[0];
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert_eq!(decode(&pool, &fine, r#"{"n":3}"#).await.unwrap(), r#"{"n":3,"name":"Sensor"}"#);
    pool.stop().await;
}

#[tokio::test]
async fn a_decoder_that_keeps_killing_its_worker_is_quarantined_until_it_is_mended() {
    let pool = pool(config());
    let (stuck, fine) = (script(1, STUCK), script(2, ECHO));
    for _ in 0..3 {
        assert_eq!(decode(&pool, &stuck, r#"{"bad":1}"#).await.unwrap_err().kind, DecodeErrorKind::Timeout);
    }
    let started_at = Instant::now();
    let error = decode(&pool, &stuck, r#"{"n":1}"#).await.unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Quarantined);
    assert!(error.message.contains("quarantined for another"), "{error}");
    assert!(started_at.elapsed() < Duration::from_millis(200), "it is not even tried");
    assert!(decode(&pool, &fine, r#"{"n":1}"#).await.is_ok());
    let mended = script(1, "function decode(payload, metadata) { return 'mended'; }");
    assert_eq!(decode(&pool, &mended, "{}").await.unwrap(), r#""mended""#);

    for _ in 0..3 {
        let _ = decode(&pool, &stuck, r#"{"bad":1}"#).await;
    }
    assert_eq!(decode(&pool, &stuck, r#"{"n":1}"#).await.unwrap_err().kind, DecodeErrorKind::Quarantined);
    pool.forget(DecoderId(1));
    assert_eq!(decode(&pool, &stuck, r#"{"n":1}"#).await.unwrap(), "1");
    pool.stop().await;
}

#[tokio::test]
async fn a_slow_decoder_holds_up_only_its_own_devices() {
    let pool = pool(config());
    let slow = script(1, "function decode(payload, metadata) { for (let i = 0; ; i++); }");
    let fine = script(2, ECHO);
    let slow_jobs = join_all((0..1_000).map(|_| decode(&pool, &slow, "{}")));
    let fine_jobs = async {
        let mut waits = Vec::new();
        for n in 0..50 {
            let started_at = Instant::now();
            assert!(decode(&pool, &fine, &format!(r#"{{"n":{n}}}"#)).await.is_ok());
            waits.push(started_at.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        waits.sort();
        waits[25]
    };
    let (slow_results, median) = tokio::join!(slow_jobs, fine_jobs);
    let num_tried = slow_results.iter().filter(|r| r.as_ref().unwrap_err().kind == DecodeErrorKind::Timeout).count();
    let num_refused =
        slow_results.iter().filter(|r| r.as_ref().unwrap_err().kind == DecodeErrorKind::Quarantined).count();
    assert_eq!(num_tried + num_refused, 1_000);
    assert!(num_tried > 0 && num_refused > 500, "{num_tried} tried, {num_refused} refused");
    // In one queue the fine ones would wait for thousands of slow messages' time; in turns, for one or two.
    assert!(median < Duration::from_secs(1), "{median:?}");
    pool.stop().await;
}

#[tokio::test]
async fn hostile_scripts_fail_alone() {
    let pool = pool(config());
    let fine = script(1, ECHO);
    for (id, body, kinds) in [
        (2, "for (;;);", &[DecodeErrorKind::Timeout][..]),
        (
            3,
            "const a = []; for (;;) a.push(new Array(100).fill(a.length));",
            &[DecodeErrorKind::Memory, DecodeErrorKind::Timeout],
        ),
        (4, "(function f() { return f() + 1; })();", &[DecodeErrorKind::Memory]),
        (5, "return Promise.resolve(1);", &[DecodeErrorKind::Result]),
        (6, "throw null;", &[DecodeErrorKind::Thrown]),
        (7, "return 'x'.repeat(10 << 20);", &[DecodeErrorKind::Memory, DecodeErrorKind::Result]),
        (8, "return Array.from({ length: 100000 }, (_, i) => i);", &[DecodeErrorKind::Result]),
        (9, "return 1n;", &[DecodeErrorKind::Result]),
        (10, "} }", &[DecodeErrorKind::Script]),
    ] {
        let hostile = script(id, &format!("function decode(payload, metadata) {{ {body} }}"));
        let (bad, good) = tokio::join!(decode(&pool, &hostile, "{}"), decode(&pool, &fine, r#"{"n":1}"#));
        let error = bad.unwrap_err();
        assert!(kinds.contains(&error.kind), "{body}: {error:?}");
        assert!(good.is_ok(), "{body}");
    }
    pool.stop().await;
}

#[tokio::test]
async fn a_new_version_is_used_at_once_and_a_forgotten_one_is_sent_again() {
    let pool = pool(config());
    for round in 0..3 {
        for version in ["one", "two"] {
            let script = script(1, &format!("function decode(payload, metadata) {{ return '{version}'; }}"));
            assert_eq!(decode(&pool, &script, "{}").await.unwrap(), format!(r#""{version}""#), "{round}");
        }
        pool.forget(DecoderId(1));
    }
    pool.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_disturb_the_others() {
    let pool = pool(DecoderConfig { num_waiting_max: 4, ..config() });
    let script = script(1, ECHO);
    for _ in 0..20 {
        let _ = tokio::time::timeout(Duration::from_micros(50), pool.decode(job(&script, r#"{"n":0}"#))).await;
    }
    let payloads: Vec<_> = (0..40).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let results = join_all(payloads.iter().map(|payload| decode(&pool, &script, payload))).await;
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap(), format!(r#"{{"n":{n},"name":"Sensor"}}"#));
    }
    pool.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_start_holds_jobs_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("worker");
    let mut config = config();
    let real = std::mem::replace(&mut config.worker_command[0], program.to_str().unwrap().to_owned());
    let pool = pool(config);
    let script = script(1, ECHO);
    let waiting = decode(&pool, &script, r#"{"n":1}"#);
    let repair = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        std::os::unix::fs::symlink(real, &program).unwrap();
    };
    let (result, ()) = tokio::join!(waiting, repair);
    assert_eq!(result.unwrap(), r#"{"n":1,"name":"Sensor"}"#);
    pool.stop().await;
}

#[tokio::test]
async fn workers_die_with_their_pool() {
    let pool = pool(config());
    assert!(decode(&pool, &script(1, ECHO), "{}").await.is_ok());
    let pid = pool.worker_pids()[0];
    drop(pool);
    for _ in 0..100 {
        if !std::path::Path::new(&format!("/proc/{pid}/status")).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("worker {pid} is still there");
}
