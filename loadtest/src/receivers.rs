//! Scripted receivers: one HTTP listener per target (so that it can refuse connections by itself), and MQTT subscribers.
//! What they take they tell the oracle; what they answer is the scenario's script.
//!
//! A receiver counts a message as taken when it answers 2xx, never before: what a timeout cut off was not taken.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use sluse_schema::id::DevEui;

use crate::clock::RunClock;
use crate::fleet::Fleet;
use crate::oracle::{DutyId, Oracle, UplinkRef};
use crate::scenario::{Behaviour, Target};
use crate::serve_http::{Answer, Answering, Seen, serve};

/// Largest body that is read.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What a body says about where it comes from.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    node: Option<u32>,
    seq: Option<u32>,
    /// Only in what an HTTP device posts, not in what its decoder returns.
    firmware: Option<IgnoredAny>,
    #[serde(rename = "deviceInfo")]
    device_info: Option<BodyDevice>,
    #[serde(rename = "fCnt")]
    f_cnt: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct BodyDevice {
    #[serde(rename = "devEui")]
    dev_eui: DevEui,
}

/// What a delivery turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub uplink: UplinkRef,
    /// The event as it came in, not what a decoder made of it.
    pub is_raw: bool,
}

/// Reads a delivery; `None` when it is none of ours.
pub fn read_delivery(fleet: &Fleet, body: &[u8]) -> Option<Reading> {
    let body: Body = serde_json::from_slice(body).ok()?;
    if let Some(device) = body.device_info {
        let uplink = UplinkRef { device: fleet.device_of(device.dev_eui)?, seq: body.f_cnt? };
        return Some(Reading { uplink, is_raw: true });
    }
    Some(Reading { uplink: UplinkRef { device: body.node?, seq: body.seq? }, is_raw: body.firmware.is_some() })
}

/// What the receivers of a run share.
#[derive(Debug)]
pub struct Ledger {
    pub oracle: Arc<Oracle>,
    pub fleet: Fleet,
    pub clock: Arc<RunClock>,
}

/// One receiver.
#[derive(Debug)]
pub struct Receiver {
    pub target: Target,
    /// Duty of what a decoder made, where the target has that.
    pub decoded: Option<DutyId>,
    /// Duty of what came in, where the target has that.
    pub raw: Option<DutyId>,
    pub ledger: Arc<Ledger>,
    /// Requests that came, whatever was answered.
    pub num_requests: AtomicU64,
    /// Requests without the `Idempotency-Key`, `Content-Type` or `Authorization` they should have.
    pub num_bad_headers: AtomicU64,
}

impl Receiver {
    /// A receiver for a target with these duties.
    pub fn new(target: Target, decoded: Option<DutyId>, raw: Option<DutyId>, ledger: Arc<Ledger>) -> Self {
        Self { target, decoded, raw, ledger, num_requests: AtomicU64::new(0), num_bad_headers: AtomicU64::new(0) }
    }

    /// The `Authorization` that the target is registered with.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.target.name.replace(' ', "-"))
    }

    /// Its duties.
    pub fn duties(&self) -> impl Iterator<Item = DutyId> {
        self.decoded.into_iter().chain(self.raw)
    }

    fn duty_of(&self, reading: &Reading) -> Option<DutyId> {
        if reading.is_raw { self.raw } else { self.decoded }
    }

    /// Tells the oracle of something that was taken.
    pub fn take(&self, body: &[u8]) {
        let Ledger { oracle, fleet, clock } = &*self.ledger;
        let reading = read_delivery(fleet, body);
        match reading.and_then(|r| Some((self.duty_of(&r)?, r.uplink))) {
            Some((duty, uplink)) => {
                oracle.arrive(duty, uplink, clock.now_us());
            }
            None => {
                let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
                tracing::warn!(target = self.target.name, body = %text, "something arrived that nobody sent");
                if let Some(duty) = self.duties().next() {
                    oracle.arrive_unreadable(duty);
                }
            }
        }
    }

    fn refuse(&self, reading: &Reading) {
        if let Some(duty) = self.duty_of(reading) {
            self.ledger.oracle.refuse(duty, reading.uplink, self.ledger.clock.now_us());
        }
    }

    /// Listens until it is dropped. `listener` is the first one; after a refusing phase the same port is bound again.
    pub async fn listen(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let port = listener.local_addr()?.port();
        let mut listener = Some(listener);
        loop {
            let (behaviour, change) = self.target.behaviour_at(self.ledger.clock.load_elapsed());
            if *behaviour == Behaviour::Refuse {
                listener = None;
                self.wait_for_change(change).await;
                continue;
            }
            let open = match listener.take() {
                Some(open) => open,
                None => bind_again(port).await,
            };
            let mut connections = JoinSet::new();
            // Ends with its connections when a refusing phase begins.
            tokio::select! {
                result = Arc::clone(&self).accept(&open, &mut connections) => result?,
                () = self.refusing_begins() => {}
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: &TcpListener, connections: &mut JoinSet<()>) -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let receiver = Arc::clone(&self);
            connections.spawn(async move {
                let authorization = receiver.authorization();
                // A connection that breaks is the other side's business.
                let _ = serve(stream, &authorization, BODY_BYTES_MAX, &*receiver).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn refusing_begins(&self) {
        loop {
            let (behaviour, change) = self.target.behaviour_at(self.ledger.clock.load_elapsed());
            if *behaviour == Behaviour::Refuse {
                return;
            }
            self.wait_for_change(change).await;
        }
    }

    /// Waits until the script says something else; for ever when it never will.
    async fn wait_for_change(&self, change: Option<Duration>) {
        let Some(change) = change else { return pending().await };
        while self.ledger.clock.load_elapsed() < change {
            let left = change - self.ledger.clock.load_elapsed();
            // The load may not have begun: look again soon.
            sleep(left.min(Duration::from_millis(50))).await;
        }
    }

    /// Subscribes to the target's topic until it is dropped. `ready` is told of every successful subscription.
    pub async fn subscribe(
        self: Arc<Self>,
        port: u16,
        topic: String,
        ready: tokio::sync::mpsc::Sender<()>,
    ) -> Infallible {
        let mut options = MqttOptions::new(format!("receiver-{}", topic.replace('/', "-")), "127.0.0.1", port);
        options.set_clean_start(false).set_session_expiry_interval(Some(600)).set_receive_maximum(Some(4_000));
        options.set_keep_alive(Duration::from_secs(20)).set_max_packet_size(Some(BODY_BYTES_MAX as u32));
        let (client, mut events) = AsyncClient::new(options, 16);
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    // The queue of 16 requests has room: nothing else is asked of this client.
                    let _ = client.try_subscribe(topic.clone(), QoS::AtLeastOnce);
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    let _ = ready.try_send(());
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    self.num_requests.fetch_add(1, Relaxed);
                    self.take(&publish.payload);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(target = self.target.name, %error, "the subscription is lost, trying again");
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

impl Answering for Receiver {
    async fn answer(&self, seen: Seen, body: &[u8]) -> io::Result<Answer> {
        self.num_requests.fetch_add(1, Relaxed);
        if !seen.is_right {
            self.num_bad_headers.fetch_add(1, Relaxed);
        }
        let (behaviour, change) = self.target.behaviour_at(self.ledger.clock.load_elapsed());
        match behaviour {
            Behaviour::Fast => self.take(body),
            Behaviour::Slow { ms } => {
                sleep(Duration::from_millis(*ms)).await;
                self.take(body);
            }
            Behaviour::Status { code, one_in, retry_after_s } => {
                let reading = read_delivery(&self.ledger.fleet, body);
                if reading.is_some_and(|r| !is_chosen(r.uplink, *one_in)) {
                    self.take(body);
                } else {
                    if let (Some(reading), 400 | 409 | 413 | 415 | 422) = (&reading, code) {
                        self.refuse(reading);
                    }
                    return Ok(Answer {
                        status: *code,
                        retry_after_s: *retry_after_s,
                        body: Bytes::from_static(b"{\"reason\":\"scripted\"}"),
                    });
                }
            }
            Behaviour::Hang | Behaviour::Refuse => {
                self.wait_for_change(change).await;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Behaviour::BigAnswer { bytes } => {
                self.take(body);
                return Ok(Answer { status: 200, retry_after_s: None, body: Bytes::from(vec![b'x'; *bytes]) });
            }
        }
        Ok(Answer::empty(204))
    }
}

/// Whether a script of "one in n" means this uplink; the same for every repeat of it.
fn is_chosen(uplink: UplinkRef, one_in: u32) -> bool {
    let mixed = (u64::from(uplink.device) << 32 | u64::from(uplink.seq)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    mixed % u64::from(one_in.max(1)) == 0
}

async fn bind_again(port: u16) -> TcpListener {
    loop {
        match timeout(Duration::from_secs(1), TcpListener::bind(("127.0.0.1", port))).await {
            Ok(Ok(listener)) => return listener,
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::chirpstack_event::{EventWriter, Frame, Sender};
    use crate::oracle::DutyFigures;
    use crate::payloads::{Measured, Model, encode};

    const FLEET: Fleet = Fleet { run: 5, num_devices: 100, first_http: 90, num_applications: 1 };

    fn raw_event(device: u32, seq: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let sender = Sender { dev_eui: FLEET.dev_eui(device), index: device, profile: "p" };
        let frame = Frame { f_cnt: seq, f_port: 1, data: &[1], num_gateways: 2 };
        EventWriter::default().up(&sender, &frame, 0, &mut StdRng::seed_from_u64(0), &mut out);
        out
    }

    #[test]
    fn a_delivery_is_recognised_decoded_and_raw() {
        let uplink = UplinkRef { device: 42, seq: 7 };
        let decoded = br#"{"node":42,"seq":7,"temperature_c":-1.5}"#;
        assert_eq!(read_delivery(&FLEET, decoded), Some(Reading { uplink, is_raw: false }));
        assert_eq!(read_delivery(&FLEET, &raw_event(42, 7)), Some(Reading { uplink, is_raw: true }));
        let mut posted = Vec::new();
        encode(Model::PowerMeter, 95, 3, &Measured::from_bits(1), &mut posted);
        let uplink = UplinkRef { device: 95, seq: 3 };
        assert_eq!(read_delivery(&FLEET, &posted), Some(Reading { uplink, is_raw: true }));
        for bad in [&b"not json"[..], b"[]", b"{}", br#"{"node":1}"#] {
            assert_eq!(read_delivery(&FLEET, bad), None);
        }
    }

    fn receiver(script: &str) -> (Arc<Receiver>, Arc<Oracle>) {
        let oracle = Arc::new(Oracle::new(100, 1, |_| 1));
        let clock = Arc::new(RunClock::new());
        clock.begin_load();
        let ledger = Arc::new(Ledger { oracle: Arc::clone(&oracle), fleet: FLEET, clock });
        let target = toml::from_str(&format!("name='hub'\n{script}")).unwrap();
        (Arc::new(Receiver::new(target, Some(DutyId(0)), None, ledger)), oracle)
    }

    async fn start(receiver: &Arc<Receiver>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(Arc::clone(receiver).listen(listener));
        url
    }

    async fn post(url: &str, uplink: UplinkRef) -> Option<u16> {
        // As every plain-HTTP client of this program: the provider is asked for even when no TLS is spoken.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let response = reqwest::Client::new()
            .post(url)
            .header("idempotency-key", "k")
            .header("content-type", "application/json")
            .header("authorization", "Bearer hub")
            .timeout(Duration::from_millis(400))
            .body(format!(r#"{{"node":{},"seq":{}}}"#, uplink.device, uplink.seq))
            .send()
            .await;
        response.ok().map(|r| r.status().as_u16())
    }

    #[tokio::test]
    async fn a_fast_receiver_tells_the_oracle_what_it_took() {
        let (receiver, oracle) = receiver("");
        let url = start(&receiver).await;
        let uplink = oracle.send(1, 0);
        oracle.accept(uplink);
        assert_eq!(post(&url, uplink).await, Some(204));
        assert_eq!(oracle.figures(DutyId(0)), DutyFigures { num_first: 1, ..DutyFigures::default() });
        assert_eq!(receiver.num_bad_headers.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_failing_receiver_takes_nothing_and_a_refusing_one_settles() {
        let (receiver, oracle) = receiver("[[script]]\ndo='status'\ncode=503");
        let url = start(&receiver).await;
        let uplink = oracle.send(1, 0);
        oracle.accept(uplink);
        assert_eq!(post(&url, uplink).await, Some(503));
        assert_eq!(oracle.figures(DutyId(0)).num_open, 1);

        let (receiver, oracle) = self::receiver("[[script]]\ndo='status'\ncode=422");
        let url = start(&receiver).await;
        let uplink = oracle.send(1, 0);
        oracle.accept(uplink);
        assert_eq!(post(&url, uplink).await, Some(422));
        assert_eq!(oracle.figures(DutyId(0)), DutyFigures { num_refused: 1, ..DutyFigures::default() });
    }

    #[tokio::test]
    async fn a_hanging_receiver_never_takes_and_a_refusing_port_comes_back() {
        let (receiver, oracle) = receiver("[[script]]\ndo='hang'");
        let url = start(&receiver).await;
        let uplink = oracle.send(1, 0);
        oracle.accept(uplink);
        assert_eq!(post(&url, uplink).await, None);
        assert_eq!(oracle.figures(DutyId(0)).num_open, 1);

        let (receiver, oracle) = self::receiver("[[script]]\nfrom_s=0\nuntil_s=0.6\ndo='refuse'");
        let url = start(&receiver).await;
        let uplink = oracle.send(1, 0);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(post(&url, uplink).await, None);
        sleep(Duration::from_millis(900)).await;
        assert_eq!(post(&url, uplink).await, Some(204));
    }

    #[test]
    fn one_in_n_is_about_one_in_n_and_stays_the_same() {
        let chosen = |one_in| {
            (0..100)
                .flat_map(|device| (0..100).map(move |seq| UplinkRef { device, seq }))
                .filter(|u| is_chosen(*u, one_in))
                .count()
        };
        assert_eq!(chosen(1), 10_000);
        assert!((800..1200).contains(&chosen(10)), "{}", chosen(10));
    }
}
