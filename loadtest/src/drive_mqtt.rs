//! Publishes to the broker as a network server does: MQTT v5, QoS 1, thousands unacknowledged at once.
//!
//! rumqttc's codec with a loop of our own: a batch of packets is one write, and a PUBACK leads straight to its uplink. (rumqttc's
//! event loop flushes every packet by itself and tells no packet identifier back, and the simulator must leave the machine to the
//! engine.) A device always uses the same connection, so its order is kept; after a lost connection everything unacknowledged is
//! sent again first, in its order.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Packet, PingReq, PubAckReason, Publish,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::oracle::{Oracle, UplinkRef};

/// Publishes in flight on one connection.
const NUM_IN_FLIGHT_MAX: u16 = 4_000;
/// Publishes written at once.
const BATCH_MAX: usize = 128;
/// Publishes that wait for a connection.
const QUEUE_MAX: usize = 8_192;
/// A ping after so long without a publish; the broker gives up after one and a half times the keep-alive.
const PING_AFTER: Duration = Duration::from_secs(30);
const KEEP_ALIVE_S: u16 = 60;
const PACKET_BYTES_MAX: u32 = 1024 * 1024;

/// A message for the broker.
#[derive(Debug)]
pub struct Outgoing {
    pub topic: Bytes,
    pub payload: Bytes,
    /// What becomes owed once the broker has it; `None` for repeats and events that are not delivered.
    pub uplink: Option<UplinkRef>,
}

/// What is unacknowledged.
#[derive(Debug)]
struct Window {
    /// By packet identifier; the number tells the order of sending.
    slots: Vec<Option<(u64, Publish, Option<UplinkRef>)>>,
    free: VecDeque<u16>,
    num_sent: u64,
}

impl Window {
    fn new() -> Self {
        Self {
            slots: vec![None; usize::from(NUM_IN_FLIGHT_MAX) + 1],
            free: (1..=NUM_IN_FLIGHT_MAX).collect(),
            num_sent: 0,
        }
    }

    /// Takes a message in; `None` when the window is full.
    fn open(&mut self, message: &Outgoing) -> Option<Publish> {
        let pkid = self.free.pop_front()?;
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: message.topic.clone(),
            pkid,
            payload: message.payload.clone(),
            properties: None,
        };
        self.num_sent += 1;
        self.slots[usize::from(pkid)] = Some((self.num_sent, publish.clone(), message.uplink));
        Some(publish)
    }

    /// The broker has it. `None` for an identifier that is not in use.
    fn close(&mut self, pkid: u16) -> Option<Option<UplinkRef>> {
        let (_, _, uplink) = self.slots.get_mut(usize::from(pkid))?.take()?;
        self.free.push_back(pkid);
        Some(uplink)
    }

    /// Everything unacknowledged in the order in which it was sent, marked as a repeat.
    fn unacknowledged(&self) -> Vec<Publish> {
        let mut open: Vec<_> = self.slots.iter().flatten().collect();
        open.sort_unstable_by_key(|(number, ..)| *number);
        open.into_iter().map(|(_, publish, _)| Publish { dup: true, ..publish.clone() }).collect()
    }

    fn num_open(&self) -> usize {
        usize::from(NUM_IN_FLIGHT_MAX) - self.free.len()
    }
}

#[derive(Debug)]
struct Shared {
    window: Mutex<Window>,
    room: Notify,
    oracle: Arc<Oracle>,
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection to the broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MqttDriver {
    queue: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
}

impl MqttDriver {
    /// Starts a connection that is kept up until the driver is dropped.
    pub fn start(client_id: String, port: u16, oracle: Arc<Oracle>) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared { window: Mutex::new(Window::new()), room: Notify::new(), oracle });
        let connection = Connection { client_id, port, shared: Arc::clone(&shared), receiver };
        tokio::spawn(connection.run());
        Self { queue, shared }
    }

    /// Hands a message over; waits while the queue is full.
    pub async fn publish(&self, message: Outgoing) {
        // The connection ends only after the last driver is dropped, so there is somebody to take it.
        let _ = self.queue.send(message).await;
    }

    /// Messages that the broker has not acknowledged, the waiting ones included.
    pub fn num_unacknowledged(&self) -> usize {
        self.shared.window().num_open() + (self.queue.max_capacity() - self.queue.capacity())
    }
}

struct Connection {
    client_id: String,
    port: u16,
    shared: Arc<Shared>,
    receiver: mpsc::Receiver<Outgoing>,
}

impl Connection {
    async fn run(mut self) {
        let mut waiting = Vec::with_capacity(BATCH_MAX);
        loop {
            match self.session(&mut waiting).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(client = self.client_id, %error, "connection to the broker is lost, trying again");
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// One connection from CONNECT to its end; `Ok` when nobody will publish any more and everything is acknowledged.
    async fn session(&mut self, waiting: &mut Vec<Outgoing>) -> io::Result<()> {
        let (reader, writer) = connect(&self.client_id, self.port).await?;
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            result = read_acks(reader, &shared) => result,
            result = write_publishes(writer, &shared, &mut self.receiver, waiting) => result,
        }
    }
}

/// Publishes `probe` until the broker says that somebody subscribes to its topic: what comes before that is nobody's duty.
pub async fn wait_for_subscriber(port: u16, client_id: &str, probe: &Outgoing, within: Duration) -> anyhow::Result<()> {
    let (mut reader, mut writer) = connect(client_id, port).await?;
    let mut inbound = BytesMut::new();
    let asking = async {
        loop {
            let mut outbound = BytesMut::new();
            let publish = Publish { pkid: 1, ..Publish::default() };
            let publish = Publish {
                qos: QoS::AtLeastOnce,
                topic: probe.topic.clone(),
                payload: probe.payload.clone(),
                ..publish
            };
            write_packet(&Packet::Publish(publish), &mut outbound)?;
            writer.write_all_buf(&mut outbound).await?;
            let reason = loop {
                match Packet::read(&mut inbound, Some(PACKET_BYTES_MAX)) {
                    Ok(Packet::PubAck(ack)) => break ack.reason,
                    Ok(_) => {}
                    Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {
                        if reader.read_buf(&mut inbound).await? == 0 {
                            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                        }
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
            };
            if reason == PubAckReason::Success {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    match timeout(within, asking).await {
        Ok(result) => Ok(result?),
        Err(_) => anyhow::bail!("nobody subscribed to {:?} within {within:?}", probe.topic),
    }
}

async fn connect(client_id: &str, port: u16) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(600);
    let connect = Connect {
        keep_alive: KEEP_ALIVE_S,
        client_id: client_id.to_owned(),
        clean_start: false,
        properties: Some(properties),
    };
    let mut buffer = BytesMut::new();
    write_packet(&Packet::Connect(connect, None, None), &mut buffer)?;
    stream.write_all_buf(&mut buffer).await?;
    loop {
        match Packet::read(&mut buffer, Some(PACKET_BYTES_MAX)) {
            Ok(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success => return Ok(stream.into_split()),
            Ok(other) => return Err(io::Error::other(format!("the broker refused the connection: {other:?}"))),
            Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn write_packet(packet: &Packet, out: &mut BytesMut) -> io::Result<()> {
    packet.write(out, Some(PACKET_BYTES_MAX)).map(|_| ()).map_err(io::Error::other)
}

async fn read_acks(mut reader: OwnedReadHalf, shared: &Shared) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    loop {
        if reader.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            match Packet::read(&mut buffer, Some(PACKET_BYTES_MAX)) {
                Ok(Packet::PubAck(ack)) => {
                    let Some(uplink) = shared.window().close(ack.pkid) else { continue };
                    match uplink {
                        Some(uplink) if ack.reason == PubAckReason::Success => shared.oracle.accept(uplink),
                        Some(uplink) => tracing::warn!(?uplink, reason = ?ack.reason, "the broker refused an uplink"),
                        None => {}
                    }
                }
                Ok(Packet::Disconnect(reason)) => {
                    return Err(io::Error::other(format!("the broker ended the session: {reason:?}")));
                }
                Ok(_) => {}
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => break,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        shared.room.notify_one();
    }
}

/// Writes what is unacknowledged from before, then what comes. `waiting` holds what was taken from the queue and has no room in
/// the window; it survives the session.
async fn write_publishes(
    mut writer: OwnedWriteHalf,
    shared: &Shared,
    receiver: &mut mpsc::Receiver<Outgoing>,
    waiting: &mut Vec<Outgoing>,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(256 * 1024);
    let unacknowledged = shared.window().unacknowledged();
    for publish in unacknowledged {
        write_packet(&Packet::Publish(publish), &mut buffer)?;
    }
    writer.write_all_buf(&mut buffer).await?;
    let mut is_ending = false;
    loop {
        if waiting.is_empty() && !is_ending {
            match timeout(PING_AFTER, receiver.recv_many(waiting, BATCH_MAX)).await {
                Ok(0) => is_ending = true,
                Ok(_) => {}
                Err(_) => write_packet(&Packet::PingReq(PingReq), &mut buffer)?,
            }
        }
        let num_taken = {
            let mut window = shared.window();
            if is_ending && waiting.is_empty() && window.num_open() == 0 {
                return Ok(());
            }
            let mut num_taken = 0;
            for message in waiting.iter() {
                let Some(publish) = window.open(message) else { break };
                write_packet(&Packet::Publish(publish), &mut buffer)?;
                num_taken += 1;
            }
            num_taken
        };
        waiting.drain(..num_taken);
        writer.write_all_buf(&mut buffer).await?;
        if !waiting.is_empty() || is_ending {
            // The permit of a notification that came before is kept, so none is missed.
            let _ = timeout(PING_AFTER, shared.room.notified()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str, uplink: Option<UplinkRef>) -> Outgoing {
        Outgoing { topic: Bytes::from_static(b"t"), payload: Bytes::from_static(text.as_bytes()), uplink }
    }

    #[test]
    fn a_puback_leads_to_its_uplink_once() {
        let mut window = Window::new();
        let uplink = UplinkRef { device: 3, seq: 9 };
        let first = window.open(&message("a", Some(uplink))).unwrap();
        let repeat = window.open(&message("a", None)).unwrap();
        assert_eq!(window.close(repeat.pkid), Some(None));
        assert_eq!(window.close(first.pkid), Some(Some(uplink)));
        assert_eq!(window.close(first.pkid), None, "an identifier that is not in use means nothing");
        assert_eq!(window.num_open(), 0);
    }

    #[test]
    fn what_is_unacknowledged_is_sent_again_in_its_order_and_marked() {
        let mut window = Window::new();
        let pkids: Vec<u16> = ["a", "b", "c"].map(|t| window.open(&message(t, None)).unwrap().pkid).to_vec();
        window.close(pkids[0]);
        // Wrap around, so that the newest has the lowest identifier.
        while window.free.front() != Some(&pkids[0]) {
            let pkid = window.free.pop_front().unwrap();
            window.free.push_back(pkid);
        }
        window.open(&message("d", None)).unwrap();
        let again = window.unacknowledged();
        assert_eq!(again.iter().map(|p| &p.payload[..]).collect::<Vec<_>>(), [b"b", b"c", b"d"]);
        assert!(again.iter().all(|p| p.dup));
    }

    #[test]
    fn a_full_window_takes_nothing_and_loses_nothing() {
        let mut window = Window::new();
        for _ in 0..NUM_IN_FLIGHT_MAX {
            assert!(window.open(&message("x", None)).is_some());
        }
        assert!(window.open(&message("y", None)).is_none());
        assert_eq!(window.unacknowledged().len(), usize::from(NUM_IN_FLIGHT_MAX));
    }

    // With a real Mosquitto.

    use crate::oracle::{Arrival, DutyId};
    use crate::servers::{Server, free_port, mosquitto};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};

    /// Subscribes with a persistent session and tells the oracle of every message, whose payload is its count.
    async fn subscribe(port: u16, oracle: Arc<Oracle>) {
        let mut options = MqttOptions::new("test-subscriber", "127.0.0.1", port);
        options.set_clean_start(false).set_session_expiry_interval(Some(600)).set_receive_maximum(Some(1000));
        let (client, mut events) = AsyncClient::new(options, 8);
        let (ready, mut is_ready) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => client.try_subscribe("t", QoS::AtLeastOnce).unwrap(),
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.try_send(())),
                    Ok(Event::Incoming(Packet::Publish(p))) => {
                        let seq = String::from_utf8_lossy(&p.payload).parse().unwrap();
                        oracle.arrive(DutyId(0), UplinkRef { device: 0, seq }, 0);
                    }
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        });
        timeout(Duration::from_secs(20), is_ready.recv()).await.unwrap();
    }

    async fn publish(driver: &MqttDriver, oracle: &Oracle, num_messages: u32) {
        for _ in 0..num_messages {
            let uplink = oracle.send(0, 0);
            let payload = Bytes::from(uplink.seq.to_string());
            driver.publish(Outgoing { topic: Bytes::from_static(b"t"), payload, uplink: Some(uplink) }).await;
        }
    }

    async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..3000 {
            if is_so() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("timed out waiting until {what}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everything_published_is_acknowledged_and_arrives_in_order_across_a_restart_of_the_broker() {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port().unwrap();
        let mut broker = Server::start(mosquitto(dir.path(), port).unwrap()).await.unwrap();
        let oracle = Arc::new(Oracle::new(1, 1, |_| 1));
        subscribe(port, Arc::clone(&oracle)).await;
        let driver = MqttDriver::start("test-driver".into(), port, Arc::clone(&oracle));
        publish(&driver, &oracle, 10_000).await;
        wait_until("all is acknowledged", || oracle.totals() == (10_000, 10_000)).await;
        wait_until("all has arrived", || oracle.figures(DutyId(0)).num_first == 10_000).await;
        let f = oracle.figures(DutyId(0));
        assert_eq!((f.num_repeated, f.num_out_of_order, f.num_unexpected, f.num_open), (0, 0, 0, 0));

        publish(&driver, &oracle, 3_000).await;
        broker.stop().await.unwrap();
        publish(&driver, &oracle, 3_000).await;
        let mut broker = Server::start(mosquitto(dir.path(), port).unwrap()).await.unwrap();
        wait_until("all is acknowledged", || oracle.totals() == (16_000, 16_000)).await;
        wait_until("all has arrived", || oracle.figures(DutyId(0)).num_open == 0).await;
        assert_eq!(driver.num_unacknowledged(), 0);
        broker.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_subscribes_to_is_not_accepted_and_a_subscriber_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Server::start(mosquitto(dir.path(), free_port().unwrap()).unwrap()).await.unwrap();
        let oracle = Arc::new(Oracle::new(1, 1, |_| 1));
        let driver = MqttDriver::start("test-driver".into(), broker.port(), Arc::clone(&oracle));
        publish(&driver, &oracle, 10).await;
        wait_until("all is answered", || driver.num_unacknowledged() == 0).await;
        assert_eq!(oracle.totals(), (10, 0));
        let probe = message("9", None);
        let short = Duration::from_millis(300);
        assert!(wait_for_subscriber(broker.port(), "probe", &probe, short).await.is_err());
        subscribe(broker.port(), Arc::clone(&oracle)).await;
        wait_for_subscriber(broker.port(), "probe", &probe, Duration::from_secs(5)).await.unwrap();
        wait_until("the probe arrives", || oracle.figures(DutyId(0)).num_first == 1).await;
        assert_eq!(oracle.arrive(DutyId(0), UplinkRef { device: 0, seq: 9 }, 0), Arrival::Repeat);
        broker.stop().await.unwrap();
    }
}
