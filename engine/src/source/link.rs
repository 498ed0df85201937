//! One connection with a broker as the source uses it: packets in as they were read, acknowledgements out in runs.
//!
//! rumqttc's packets without its event loop, which writes and flushes every acknowledgement by itself: at 10 000 events a second
//! those were 10 000 calls into the kernel, and as many wake-ups of the broker. Here everything that is due goes out with one write,
//! and what came while it was written is read with one read.
//!
//! Limits: a packet of more than `packet_bytes_max` ends the connection; bytes read and not yet taken are bounded by one read and
//! one packet, because nothing is read before they are taken.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, Login, Packet,
    PingReq, PubAck, Subscribe, SubscribeReasonCode,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sluse_schema::secret::Secret;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

use super::low_water::LowWater;

/// What one read may bring.
const READ_BYTES: usize = 128 * 1024;
/// Reads that bring less than [`WORTH_A_READ_BYTES`] follow each other at least this far apart: a busy broker writes every event by
/// itself, and reading each by itself would cost as many wake-ups. The first event after a pause is read at once.
const GATHER: Duration = Duration::from_millis(5);
/// A read that brought so much is followed by the next one at once: what came meanwhile may not fit into the kernel's buffer.
const WORTH_A_READ_BYTES: usize = READ_BYTES / 4;
/// The packet id of the only SUBSCRIBE of a connection.
const SUBSCRIBE_ID: u16 = 1;

/// How to connect.
#[derive(Clone, Debug)]
pub(super) struct LinkOptions {
    pub host: String,
    pub port: u16,
    pub client_id: String,
    /// Empty: no credentials are sent.
    pub username: String,
    pub password: Secret,
    pub tls: Option<Arc<ClientConfig>>,
    pub keep_alive: Duration,
    pub session_expiry_s: u32,
    pub receive_max: u16,
    pub packet_bytes_max: u32,
}

/// Why a connection was not made, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0} is no name that a certificate can have")]
    ServerName(String),
    #[error("the broker refused us: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the broker ended the connection: {0:?}")]
    EndedByBroker(DisconnectReasonCode),
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker does not answer pings")]
    Silent,
    #[error("the broker refused the subscription to {topic}: {reason:?}")]
    NotSubscribed { topic: &'static str, reason: SubscribeReasonCode },
    #[error("the broker speaks no MQTT 5: {0}")]
    Protocol(PacketError),
    #[error("the broker sent {0}, which means nothing here")]
    Unexpected(&'static str),
}

impl From<PacketError> for LinkError {
    fn from(error: PacketError) -> Self {
        Self::Protocol(error)
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An open connection.
pub(super) struct Link {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    inbound: BytesMut,
    outbound: BytesMut,
    /// Written to the TLS layer and perhaps not beyond it.
    is_unflushed: bool,
    packet_bytes_max: u32,
    keep_alive: Duration,
    ping_at: Instant,
    is_pong_due: bool,
    read_not_before: Instant,
    low_water: LowWater,
}

impl Link {
    /// Connects, and returns what the broker said to that.
    ///
    /// # Errors
    /// The broker cannot be reached, is not to be trusted, or refuses us.
    pub(super) async fn connect(options: &LinkOptions) -> Result<(Self, ConnAck), LinkError> {
        let tcp = TcpStream::connect((options.host.as_str(), options.port)).await?;
        tcp.set_nodelay(true)?;
        let low_water = LowWater::of(&tcp);
        let socket: Box<dyn Socket> = match &options.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from(options.host.clone())
                    .map_err(|_| LinkError::ServerName(options.host.clone()))?;
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?)
            }
        };
        let (reader, writer) = tokio::io::split(socket);
        let mut link = Self {
            reader,
            writer,
            inbound: BytesMut::with_capacity(READ_BYTES),
            outbound: BytesMut::with_capacity(4096),
            is_unflushed: false,
            packet_bytes_max: options.packet_bytes_max,
            keep_alive: options.keep_alive,
            ping_at: Instant::now() + options.keep_alive,
            is_pong_due: false,
            read_not_before: Instant::now(),
            low_water,
        };
        link.put(&connect_packet(options))?;
        loop {
            link.exchange(true).await?;
            match link.next()? {
                None => {}
                Some(Packet::ConnAck(connack)) if connack.code == ConnectReturnCode::Success => {
                    let server_keep_alive = connack.properties.as_ref().and_then(|p| p.server_keep_alive);
                    if let Some(seconds) = server_keep_alive.filter(|seconds| *seconds > 0) {
                        link.keep_alive = Duration::from_secs(seconds.into());
                        link.ping_at = Instant::now() + link.keep_alive;
                    }
                    return Ok((link, connack));
                }
                Some(Packet::ConnAck(connack)) => return Err(LinkError::Refused(connack.code)),
                Some(_) => return Err(LinkError::Unexpected("a packet before its CONNACK")),
            }
        }
    }

    fn put(&mut self, packet: &Packet) -> Result<(), LinkError> {
        packet.write(&mut self.outbound, None)?;
        Ok(())
    }

    /// The next packet that was read, if it is there whole.
    ///
    /// # Errors
    /// What was read is no MQTT, or the broker says that it ends the connection.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, LinkError> {
        loop {
            match Packet::read(&mut self.inbound, Some(self.packet_bytes_max)) {
                Ok(Packet::PingResp(_)) => self.is_pong_due = false,
                Ok(Packet::Disconnect(said)) => return Err(LinkError::EndedByBroker(said.reason_code)),
                Ok(packet) => return Ok(Some(packet)),
                Err(PacketError::InsufficientBytes(num_missing)) => {
                    self.inbound.reserve(num_missing);
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Acknowledges an event, with the next write.
    ///
    /// # Errors
    /// Never, in practice: the packet has a fixed size.
    pub(super) fn ack(&mut self, pkid: u16) -> Result<(), LinkError> {
        self.put(&Packet::PubAck(PubAck::new(pkid, None)))
    }

    /// Asks for these topics, once per connection.
    ///
    /// # Errors
    /// A filter is too long to be written.
    pub(super) fn subscribe(&mut self, filters: impl IntoIterator<Item = Filter>) -> Result<(), LinkError> {
        let mut subscribe = Subscribe::new_many(filters, None);
        subscribe.pkid = SUBSCRIBE_ID;
        self.put(&Packet::Subscribe(subscribe))
    }

    /// Says goodbye, behind everything that is to be written before.
    ///
    /// # Errors
    /// Never, in practice: the packet has a fixed size.
    pub(super) fn disconnect(&mut self) -> Result<(), LinkError> {
        self.put(&Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)))
    }

    /// Whether everything that was to be written is written.
    pub(super) fn is_written(&self) -> bool {
        self.outbound.is_empty() && !self.is_unflushed
    }

    /// Writes what waits, or reads (if it may), whatever can be done first; pings when it is time. Dropped half-way, nothing is lost.
    ///
    /// # Errors
    /// The connection broke; what was read before can still be taken with [`Link::next`].
    pub(super) async fn exchange(&mut self, may_read: bool) -> Result<(), LinkError> {
        let has_output = !self.is_written();
        tokio::select! {
            written = write(&mut self.writer, &mut self.outbound, &mut self.is_unflushed), if has_output => Ok(written?),
            num_bytes = read(&mut self.reader, &mut self.inbound, self.read_not_before, &mut self.low_water),
                if may_read => {
                let num_bytes = num_bytes?;
                if num_bytes == 0 {
                    return Err(LinkError::Closed);
                }
                if num_bytes < WORTH_A_READ_BYTES {
                    self.read_not_before = Instant::now() + GATHER;
                }
                Ok(())
            }
            () = sleep_until(self.ping_at) => {
                // While nothing is read, an answer would not be seen.
                if self.is_pong_due && may_read {
                    return Err(LinkError::Silent);
                }
                self.is_pong_due = may_read;
                self.ping_at = Instant::now() + self.keep_alive;
                self.put(&Packet::PingReq(PingReq))
            }
        }
    }
}

async fn write(
    writer: &mut WriteHalf<Box<dyn Socket>>,
    outbound: &mut BytesMut,
    is_unflushed: &mut bool,
) -> io::Result<()> {
    while !outbound.is_empty() {
        *is_unflushed = true;
        if writer.write_buf(outbound).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    writer.flush().await?;
    *is_unflushed = false;
    Ok(())
}

async fn read(
    reader: &mut ReadHalf<Box<dyn Socket>>,
    inbound: &mut BytesMut,
    not_before: Instant,
    low_water: &mut LowWater,
) -> io::Result<usize> {
    if not_before > Instant::now() {
        low_water.set(READ_BYTES);
        sleep_until(not_before).await;
    }
    low_water.set(1);
    // The events taken from the last buffer may still hold it: then this is a new one, and what is left moves into it.
    if inbound.capacity() - inbound.len() < READ_BYTES / 4 {
        inbound.reserve(READ_BYTES);
    }
    reader.read_buf(inbound).await
}

fn connect_packet(options: &LinkOptions) -> Packet {
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(options.session_expiry_s);
    properties.receive_maximum = Some(options.receive_max);
    properties.max_packet_size = Some(options.packet_bytes_max);
    let connect = Connect {
        keep_alive: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: options.client_id.clone(),
        clean_start: false,
        properties: Some(properties),
    };
    let login = (!options.username.is_empty()).then(|| Login::new(&options.username, options.password.reveal()));
    Packet::Connect(connect, None, login)
}
