//! What the edges cost: CPU of the thread that does the work, everybody else on other threads or in other processes. Not asserted;
//! `cargo test --release -p sluse-engine --test edges -- --ignored --nocapture --test-threads 1 cost` prints the figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use sluse_engine::source::{ChirpstackConfig, ChirpstackSource};
use sluse_schema::delivery::AttemptClass;
use sluse_schema::port::TargetSender;
use tokio::runtime::Builder;

use crate::broker::{Broker, Publisher};
use crate::intake::{RecordingGateways, RecordingIntake};
use crate::receiver::{Receiver, Reply};
use crate::targets::{delivery, http, http_sender, mqtt, mqtt_sender};

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours that outlives the call.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(answer, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A thread with a runtime for everybody who is not measured.
struct Others(tokio::runtime::Handle);

impl Others {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        Self(handle)
    }

    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (tell, told) = std::sync::mpsc::channel();
        self.0.spawn(async move { tell.send(work.await) });
        told.recv().unwrap()
    }
}

/// Runs `work` on a thread with a runtime of its own and prints what each of `num` things cost it.
fn measure<F: Future<Output = ()>>(what: &str, num: usize, work: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let (cpu_before, started_at) = (thread_cpu(), Instant::now());
            runtime.block_on(work());
            let (cpu, wall) = (thread_cpu() - cpu_before, started_at.elapsed());
            let each = |time: Duration| time.as_secs_f64() * 1e6 / num as f64;
            println!("{what}: {:.1} µs of CPU each, {:.1} µs of time each", each(cpu), each(wall));
        });
    });
}

async fn send_many(sender: Arc<dyn TargetSender>, num: usize, num_in_flight: usize) {
    let body = Bytes::from(vec![b'x'; 200]);
    futures_util::stream::iter(0..num)
        .map(|n| {
            let (sender, body) = (Arc::clone(&sender), body.clone());
            async move { assert_eq!(sender.send(&delivery(n as u128), body).await.class, AttemptClass::Delivered) }
        })
        .buffer_unordered(num_in_flight)
        .collect::<Vec<()>>()
        .await;
}

#[test]
#[ignore = "measures, decides nothing"]
fn cost_of_an_http_post() {
    let others = Others::start();
    let receiver = others.run(Receiver::start(Reply::status("204 No Content")));
    let url = format!("http://127.0.0.1:{}/in", receiver.port);
    for num_in_flight in [1, 16, 64] {
        let target = http(&url);
        measure(&format!("HTTP POST, {num_in_flight} in flight"), 20_000, || {
            send_many(http_sender("true", target), 20_000, num_in_flight)
        });
    }
}

#[test]
#[ignore = "measures, decides nothing"]
fn cost_of_an_mqtt_publish_through_the_relay() {
    let others = Others::start();
    let broker = others.run(Broker::start());
    for (qos, num_in_flight) in [(0, 64), (1, 16), (1, 64), (2, 64)] {
        let target = mqtt(broker.port, qos);
        measure(&format!("MQTT QoS {qos}, {num_in_flight} in flight"), 20_000, || {
            send_many(mqtt_sender("true", target), 20_000, num_in_flight)
        });
    }
}

/// Topic and payload of the first recorded uplink: two gateways, 1.3 kB.
fn recorded_uplink() -> (String, Vec<u8>) {
    let event = include_str!("chirpstack-events.jsonl").lines().next().unwrap();
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    (event["topic"].as_str().unwrap().to_owned(), event["payload"].as_str().unwrap().as_bytes().to_vec())
}

#[test]
#[ignore = "measures, decides nothing"]
fn cost_of_an_event_from_chirpstack() {
    let others = Others::start();
    let broker = others.run(Broker::start());
    let num = 50_000;
    let (topic, payload) = recorded_uplink();
    let config = ChirpstackConfig::new(broker.url(), "sluse-cost");
    let start = |config: &ChirpstackConfig, intake: &Arc<RecordingIntake>| {
        ChirpstackSource::start(config.clone(), intake.clone(), Arc::new(RecordingGateways::default())).unwrap()
    };
    // The session is made and left; the broker gathers; then the source takes it all in.
    others.run({
        let (config, port, topic, payload) = (config.clone(), broker.port, topic, payload.clone());
        async move {
            let source = start(&config, &RecordingIntake::new());
            while !source.health().is_connected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(source.stop(Duration::from_secs(5)).await);
            let mut publisher = Publisher::connect(port).await;
            publisher.publish_all((0..num).map(|_| (topic.clone(), payload.clone()))).await;
        }
    });
    measure(&format!("ChirpStack event of {} bytes, QoS 1", payload.len()), num, || async {
        let intake = RecordingIntake::slow(Duration::from_millis(3));
        let source = start(&config, &intake);
        while intake.num_accepted() < num {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(source.stop(Duration::from_secs(5)).await);
    });
}
