//! What decoding costs: `cargo bench -p sluse-benches --bench decode`.
//!
//! * `engine/…`: inside the worker, one message. `restore` is the price of isolation alone: putting the decoder's memory image back.
//!   `warm` is what every message costs, whatever the script keeps in its variables. `top level each time` is a script whose top
//!   level reads the clock; `fresh` compiles for every message, which nothing here has to do.
//! * `pool/…`: from the engine through the socket pair to a worker process and back, alone and in batches.
//!
//! This program is also its own worker: `decode decoder-worker`.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use sluse_engine::decoder::worker::engine::{Call, Engine};
use sluse_engine::decoder::{DecoderConfig, DecoderPool, Limits, worker_main};
use sluse_schema::device::DecoderScript;
use sluse_schema::id::DecoderId;
use sluse_schema::port::{DecodeJob, Decoder};

const FRAME: &str = "function decodeUplink(input) {
  var b = input.bytes;
  return { data: {
    temperature: ((b[1] << 24 >> 16) | b[2]) / 10, humidity: b[4], light: (b[6] << 8) | b[7],
    motion: b[9], battery: ((b[11] << 8) | b[12]) / 1000, count: (b[13] << 16) | (b[14] << 8) | b[15]
  } };
}";
const EVENT: &str = "function decode(payload, metadata) {
  return { name: metadata.name, rssi: payload.rxInfo[0].rssi, data: payload.data };
}";
const STATEFUL: &str = "let seen = 0; const cache = {};
function decode(payload, metadata) {
  seen += 1; total = (typeof total === 'undefined' ? 0 : total) + 1; cache[payload.fCnt] = payload.data;
  return { seen, total, cached: Object.keys(cache).length };
}";
const CLOCK: &str = "const startedAt = Date.now();
function decode(payload, metadata) { return { age: Date.now() - startedAt, data: payload.data }; }";
const METADATA: &str = r#"{"id":2,"createdAt":"2026-11-22T13:25:33.088Z","updatedAt":"2026-11-22T13:25:33.088Z","name":"Sensor","location":{"type":"Point","coordinates":[10.2,56.1]},"commentOnLocation":null,"comment":null,"metadata":"{\"k\":\"v\"}","type":"LORAWAN","deviceEUI":"A81758FFFE0000A1","application":{"id":1,"createdAt":"2026-11-22T13:25:33.055Z","updatedAt":"2026-11-22T13:25:33.055Z","name":"City","description":null,"status":null,"startDate":null,"endDate":null,"permissionIds":[]},"deviceModel":null}"#;

/// An uplink event as ChirpStack v4 sends it for a frame of 16 bytes heard by four gateways: 1.9 kB.
fn event() -> String {
    let gateways: Vec<String> = (0..4)
        .map(|n| {
            format!(
                r#"{{"gatewayId":"0016c001f151000{n}","uplinkId":{},"gwTime":"2026-11-22T12:38:09.559263153+00:00","nsTime":"2026-11-22T12:38:09.603056705+00:00","rssi":-{},"snr":{}.5,"location":{{"latitude":56.15,"longitude":10.2}},"context":"6GN6kA==","crcStatus":"CRC_OK"}}"#,
                3_723_485_542u64 - n,
                60 + 9 * n,
                n
            )
        })
        .collect();
    format!(
        r#"{{"deduplicationId":"df0eae92-3b6e-442c-ad58-7afe2bcdb858","time":"2026-11-22T12:38:09.559263153+00:00","deviceInfo":{{"tenantId":"fd2fd6c4-6e9b-4598-89e5-004d49ef921f","tenantName":"ChirpStack","applicationId":"13785ea4-2e62-4887-a9ea-9e6fd7b3de82","applicationName":"os2iot-Radio","deviceProfileId":"72d1714e-aa2b-40ef-97a6-f5027ecb47bd","deviceProfileName":"rec abp","deviceName":"os2iot-radio 1","devEui":"a81758fffe0000a1","deviceClassEnabled":"CLASS_A","tags":{{"internalOrganizationId":"1","os2iot-created-by":"1","os2iot-updated-by":"1"}}}},"devAddr":"01020304","adr":true,"dr":5,"fCnt":12,"fPort":2,"confirmed":false,"data":"AQDrAi8EAPkFAAcDogAAAA==","rxInfo":[{}],"txInfo":{{"frequency":868100000,"modulation":{{"lora":{{"bandwidth":125000,"spreadingFactor":7,"codeRate":"CR_4_5"}}}}}},"regionConfigId":"eu868"}}"#,
        gateways.join(",")
    )
}

fn engine(c: &mut Criterion) {
    let engine = Engine::new(Limits::default()).expect("an engine");
    let event = event();
    let call = Call { payload: event.as_bytes(), metadata: METADATA, received_at_ms: 1_700_000_000_000 };
    let mut out = Vec::new();
    let mut group = c.benchmark_group("engine");
    for (name, source) in [
        ("warm, ts013, 16 bytes, 6 fields", FRAME),
        ("warm, os2iot, 3 fields of 1.9 kB", EVENT),
        ("warm, os2iot, script with state", STATEFUL),
        ("top level each time, os2iot", CLOCK),
    ] {
        let compiled = engine.compile(source, None).expect("a script");
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                engine.run(&compiled, call, &mut out).expect("a result");
                black_box(&out);
            });
        });
        group.bench_function(format!("restore only ({} kB), {name}", compiled.num_bytes() / 1_000), |b| {
            b.iter(|| engine.restore_only(&compiled));
        });
    }
    for (name, source) in [("fresh, ts013", FRAME), ("fresh, os2iot", EVENT)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let compiled = engine.compile(source, None).expect("a script");
                engine.run(&compiled, call, &mut out).expect("a result");
            });
        });
    }
    group.finish();
}

fn pool(c: &mut Criterion) {
    let program = std::env::current_exe().expect("this program").to_string_lossy().into_owned();
    let pool = DecoderPool::start(DecoderConfig::new(vec![program, "decoder-worker".into()])).expect("a pool");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let payload = Bytes::from(event());
    let metadata: Arc<str> = METADATA.into();
    let mut group = c.benchmark_group("pool");
    for (name, source) in [("nothing", "function decode(payload, metadata) {}"), ("ts013", FRAME), ("os2iot", EVENT)] {
        let script = Arc::new(DecoderScript::new(DecoderId(1), source, None));
        let job = || DecodeJob {
            script: Arc::clone(&script),
            payload: payload.clone(),
            metadata: Arc::clone(&metadata).into(),
            received_at_ms: 1_700_000_000_000,
        };
        for num in [1u64, 32, 256] {
            group.throughput(Throughput::Elements(num));
            group.bench_function(format!("{name}, {num} at once"), |b| {
                b.to_async(&runtime).iter(|| async {
                    let pending: Vec<_> = (0..num)
                        .map(|_| {
                            let (pool, job) = (Arc::clone(&pool), job());
                            async move { pool.decode(job).await.expect("a result") }
                        })
                        .collect();
                    futures_util::future::join_all(pending).await
                });
            });
        }
    }
    group.finish();
    runtime.block_on(pool.stop());
}

criterion_group!(benches, engine, pool);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("decoder-worker") {
        return worker_main();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    ExitCode::SUCCESS
}
