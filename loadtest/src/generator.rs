//! Makes the load: takes what is due from the schedule, writes events, hands them to the connections, and repeats some as networks do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin_api::RegisteredDevice;
use crate::chirpstack_event::{EventWriter, Frame, Sender, write_uuid};
use crate::clock::RunClock;
use crate::drive_http::{HttpDriver, Post};
use crate::drive_mqtt::{MqttDriver, Outgoing};
use crate::fleet::{Fleet, Schedule};
use crate::oracle::Oracle;
use crate::payloads::{Measured, encode};
use crate::scenario::Load;

/// How often the schedule is asked.
const TICK: Duration = Duration::from_millis(2);
/// How much later a network delivers the same event again.
const REPEAT_AFTER_US: u64 = 150_000;
/// One device in so many sends a `join` before its first uplink.
const JOINS_ONE_IN: u32 = 10;

/// What goes out of the generator besides owed uplinks.
#[derive(Debug, Default)]
pub struct Extras {
    /// Events published again under the same id.
    pub num_repeats: AtomicU64,
    /// `status` and `join` events.
    pub num_others: AtomicU64,
}

/// Everything the load needs.
#[derive(Debug)]
pub struct Generator {
    pub load: Load,
    pub fleet: Fleet,
    pub devices: Arc<[RegisteredDevice]>,
    pub clock: Arc<RunClock>,
    pub oracle: Arc<Oracle>,
    pub mqtt: Vec<MqttDriver>,
    pub http: Vec<HttpDriver>,
    pub extras: Arc<Extras>,
    /// Set from outside to end early.
    pub stop: Arc<AtomicBool>,
}

enum Repeat {
    Mqtt(usize, Outgoing),
    Http(usize, Post),
}

impl Generator {
    /// Sends until the load is over or `stop` is set; the drivers are dropped at the end.
    pub async fn run(self) {
        let mut rng = StdRng::seed_from_u64(u64::from(self.fleet.run));
        let mut schedule = Schedule::new(&self.load, &mut rng);
        let mut writer = EventWriter::default();
        let mut repeats: VecDeque<(u64, Repeat)> = VecDeque::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now_s = self.clock.load_elapsed().as_secs_f64();
            let is_over = schedule.is_over(now_s) || self.stop.load(Relaxed);
            let num_due = if self.stop.load(Relaxed) { 0 } else { schedule.advance(now_s) };
            for _ in 0..num_due {
                let device = schedule.next_device(&mut rng);
                let repeat = if self.fleet.is_http(device) {
                    self.post(device, &mut rng).await
                } else {
                    self.publish(device, &mut writer, &mut rng).await
                };
                if rng.random_bool(self.load.repeat_share) {
                    repeats.push_back((self.clock.now_us() + REPEAT_AFTER_US, repeat));
                }
                if self.stop.load(Relaxed) {
                    break;
                }
            }
            while repeats.front().is_some_and(|(due, _)| *due <= self.clock.now_us()) {
                let Some((_, repeat)) = repeats.pop_front() else { break };
                self.extras.num_repeats.fetch_add(1, Relaxed);
                match repeat {
                    Repeat::Mqtt(lane, message) => self.mqtt[lane].publish(message).await,
                    Repeat::Http(lane, post) => self.http[lane].post(post).await,
                }
            }
            if is_over && repeats.is_empty() {
                return;
            }
        }
    }

    async fn publish(&self, device: u32, writer: &mut EventWriter, rng: &mut StdRng) -> Repeat {
        let lane = device as usize % self.mqtt.len();
        let model = self.fleet.model(device);
        let sender = Sender { dev_eui: self.fleet.dev_eui(device), index: device, profile: model.name() };
        let uplink = self.oracle.send(device, self.clock.now_us());
        if uplink.seq == 0 && device.is_multiple_of(JOINS_ONE_IN) {
            let mut event = Vec::with_capacity(640);
            writer.join(&sender, self.clock.unix_ns(), rng, &mut event);
            self.publish_other(lane, &sender, "join", event).await;
        }
        let mut frame = Vec::with_capacity(32);
        encode(model, device, uplink.seq, &Measured::from_bits(rng.random()), &mut frame);
        let num_gateways = rng.random_range(1..=self.load.gateways_max);
        let frame = Frame { f_cnt: uplink.seq, f_port: model.f_port(), data: &frame, num_gateways };
        let mut event = Vec::with_capacity(900 + 330 * num_gateways as usize);
        writer.up(&sender, &frame, self.clock.unix_ns(), rng, &mut event);
        let topic = Bytes::from(EventWriter::topic(sender.dev_eui, "up"));
        let payload = Bytes::from(event);
        let message = Outgoing { topic: topic.clone(), payload: payload.clone(), uplink: Some(uplink) };
        self.mqtt[lane].publish(message).await;
        if rng.random_bool(self.load.status_share) {
            let mut event = Vec::with_capacity(640);
            writer.status(&sender, self.clock.unix_ns(), rng, &mut event);
            self.publish_other(lane, &sender, "status", event).await;
        }
        Repeat::Mqtt(lane, Outgoing { topic, payload, uplink: None })
    }

    async fn publish_other(&self, lane: usize, sender: &Sender<'_>, event: &str, payload: Vec<u8>) {
        self.extras.num_others.fetch_add(1, Relaxed);
        let topic = Bytes::from(EventWriter::topic(sender.dev_eui, event));
        self.mqtt[lane].publish(Outgoing { topic, payload: Bytes::from(payload), uplink: None }).await;
    }

    async fn post(&self, device: u32, rng: &mut StdRng) -> Repeat {
        let lane = device as usize % self.http.len();
        let uplink = self.oracle.send(device, self.clock.now_us());
        let mut body = Vec::with_capacity(128);
        encode(self.fleet.model(device), device, uplink.seq, &Measured::from_bits(rng.random()), &mut body);
        let mut key = Vec::with_capacity(36);
        write_uuid(rng, &mut key);
        let post = Post {
            path_and_query: self.devices[device as usize].receive_path.clone().unwrap_or_default(),
            idempotency_key: String::from_utf8_lossy(&key).into_owned(),
            body: Bytes::from(body),
            uplink: Some(uplink),
        };
        self.http[lane].post(post.clone()).await;
        Repeat::Http(lane, Post { uplink: None, ..post })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    use sluse_schema::wire::chirpstack::EventHead;
    use tokio::sync::mpsc;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::oracle::{DutyId, UplinkRef};
    use crate::receivers::{Ledger, Receiver, read_delivery};
    use crate::scenario::Scenario;
    use crate::servers::{Server, free_port, mosquitto};

    /// A toy engine: takes events from the broker, drops repeats by their id, and hands every `up` to the receiver as it came in,
    /// except that it loses each `loses_one_in`th.
    async fn toy_engine(
        port: u16,
        receiver: Arc<Receiver>,
        loses_one_in: usize,
        lost: mpsc::UnboundedSender<UplinkRef>,
    ) {
        let mut options = MqttOptions::new("toy-engine", "127.0.0.1", port);
        options.set_clean_start(true).set_receive_maximum(Some(1000)).set_max_packet_size(Some(1 << 20));
        let (client, mut events) = AsyncClient::new(options, 8);
        let (ready, mut is_ready) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut seen = HashSet::new();
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        client.try_subscribe("application/+/device/+/event/+", QoS::AtLeastOnce).unwrap();
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.try_send(())),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let (head, _) = EventHead::parse(&publish.payload).unwrap();
                        let is_up = publish.topic.ends_with(b"/event/up");
                        if !is_up || !seen.insert(head.deduplication_id.unwrap().into_owned()) {
                            continue;
                        }
                        if seen.len() % loses_one_in == 0 {
                            let reading = read_delivery(&receiver.ledger.fleet, &publish.payload).unwrap();
                            lost.send(reading.uplink).unwrap();
                        } else {
                            receiver.take(&publish.payload);
                        }
                    }
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        });
        timeout(Duration::from_secs(20), is_ready.recv()).await.unwrap();
    }

    /// Runs the load of `load_text` through the toy engine, and returns the oracle with what the toy lost.
    async fn play(load_text: &str, loses_one_in: usize) -> (Arc<Oracle>, Arc<Extras>, HashSet<UplinkRef>) {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Server::start(mosquitto(dir.path(), free_port().unwrap()).unwrap()).await.unwrap();
        let text = format!("name='x'\nabout='y'\n[load]\n{load_text}\n[[target]]\nname='hub'\nform='raw'\n");
        let scenario = Scenario::parse(&text).unwrap();
        let fleet = Fleet::new(9, &scenario.load, 1);
        let clock = Arc::new(RunClock::new());
        let oracle = Arc::new(Oracle::new(fleet.num_devices, 1, |_| 1));
        let ledger = Arc::new(Ledger { oracle: Arc::clone(&oracle), fleet, clock: Arc::clone(&clock) });
        let receiver = Arc::new(Receiver::new(scenario.targets[0].clone(), None, Some(DutyId(0)), ledger));
        let (lost, mut losses) = mpsc::unbounded_channel();
        toy_engine(broker.port(), receiver, loses_one_in, lost).await;
        let extras = Arc::new(Extras::default());
        let mqtt =
            (0..2).map(|i| MqttDriver::start(format!("driver-{i}"), broker.port(), Arc::clone(&oracle))).collect();
        let generator = Generator {
            load: scenario.load.clone(),
            fleet,
            devices: vec![RegisteredDevice::default(); fleet.num_devices as usize].into(),
            clock: Arc::clone(&clock),
            oracle: Arc::clone(&oracle),
            mqtt,
            http: Vec::new(),
            extras: Arc::clone(&extras),
            stop: Arc::new(AtomicBool::new(false)),
        };
        clock.begin_load();
        generator.run().await;
        // Everything is accepted and handled once nothing changes any more.
        let mut last = (0, 0, 0);
        loop {
            let (sent, accepted) = oracle.totals();
            let now = (sent, accepted, oracle.figures(DutyId(0)).num_first);
            if now == last && sent == accepted {
                break;
            }
            last = now;
            sleep(Duration::from_millis(500)).await;
        }
        let mut lost = HashSet::new();
        while let Ok(uplink) = losses.try_recv() {
            lost.insert(uplink);
        }
        broker.stop().await.unwrap();
        (oracle, extras, lost)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_oracle_names_exactly_what_a_toy_engine_lost() {
        let (oracle, extras, lost) =
            play("rate=2000\ndevices=50\nseconds=1.5\nrepeat_share=0.2\nstatus_share=0.1\nhot_share=0.3", 100).await;
        let (sent, accepted) = oracle.totals();
        assert!((2_900..=3_000).contains(&sent), "{sent}");
        assert_eq!(sent, accepted);
        let figures = oracle.figures(DutyId(0));
        assert_eq!(figures.num_first + lost.len() as u64, accepted);
        assert_eq!((figures.num_repeated, figures.num_unexpected, figures.num_out_of_order), (0, 0, 0));
        let missing: HashSet<UplinkRef> = oracle.missing(usize::MAX).into_iter().map(|m| m.uplink).collect();
        assert!(!lost.is_empty());
        assert_eq!(missing, lost);
        assert!(extras.num_repeats.load(Relaxed) > 400 && extras.num_others.load(Relaxed) > 200);
    }
}
