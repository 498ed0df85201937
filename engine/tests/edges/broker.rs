//! A Mosquitto of the test's own, as the README asks for it: persistent, with `max_queued_messages 0`. It can be stopped and started
//! again on the same port and data. Also plain clients to publish and to listen with.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// A running, or stopped, Mosquitto.
pub struct Broker {
    dir: TempDir,
    pub port: u16,
    child: Option<Child>,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Broker {
    pub async fn start() -> Self {
        Self::start_with(|_| String::new()).await
    }

    /// With further lines of configuration, made with the directory at hand.
    pub async fn start_with(extra: impl Fn(&std::path::Path) -> String) -> Self {
        let mut dir = TempDir::new().unwrap();
        dir.disable_cleanup(std::env::var_os("KEEP").is_some());
        // Mosquitto gives up root and must still reach its data.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let port = free_port();
        let extra = extra(dir.path());
        let access = if extra.contains("allow_anonymous") { "" } else { "allow_anonymous true" };
        let config = format!(
            "listener {port} 127.0.0.1\n{access}\npersistence true\npersistence_location {}/\nautosave_interval 1\n\
             max_queued_messages 0\nmax_packet_size 1000000\nlog_dest stderr\nlog_type all\n{extra}\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let mut broker = Self { dir, port, child: None };
        broker.go_on().await;
        broker
    }

    /// Starts it (again) and waits until it answers.
    pub async fn go_on(&mut self) {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .expect("install mosquitto to run these tests (Debian package mosquitto)");
        let log = std::fs::File::create(self.dir.path().join("mosquitto.log")).unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(25)).await;
        }
        let log = std::fs::read_to_string(self.dir.path().join("mosquitto.log")).unwrap_or_default();
        panic!("mosquitto did not start: {log}");
    }

    /// Ends it the way an operator does: it saves its sessions.
    pub async fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = child.id().unwrap() as i32;
        // SAFETY: a signal to a child that we hold and have not waited for.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(pid, libc::SIGTERM);
        }
        child.wait().await.unwrap();
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

/// A client that publishes at QoS 1 and knows when the broker has it all.
pub struct Publisher {
    client: AsyncClient,
    acked: mpsc::UnboundedReceiver<()>,
}

impl Publisher {
    pub async fn connect(port: u16) -> Self {
        let mut options = MqttOptions::new(format!("publisher-{}", uuid::Uuid::new_v4()), "127.0.0.1", port);
        options.set_max_packet_size(Some(1_000_000));
        let (client, mut event_loop) = AsyncClient::new(options, 100);
        let (to_acked, acked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(event) = event_loop.poll().await {
                if matches!(event, Event::Incoming(Incoming::PubAck(_))) && to_acked.send(()).is_err() {
                    return;
                }
            }
        });
        Self { client, acked }
    }

    /// Publishes and returns when the broker has acknowledged all.
    pub async fn publish_all(&mut self, messages: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let mut num_open = 0;
        for (topic, payload) in messages {
            self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
            num_open += 1;
            while num_open > 15 {
                self.wait_for_ack().await;
                num_open -= 1;
            }
        }
        for _ in 0..num_open {
            self.wait_for_ack().await;
        }
    }

    pub async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.publish_all([(topic.to_owned(), payload.into())]).await;
    }

    pub async fn publish_retained(&mut self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.publish(topic, QoS::AtLeastOnce, true, payload.into()).await.unwrap();
        self.wait_for_ack().await;
    }

    async fn wait_for_ack(&mut self) {
        timeout(Duration::from_secs(20), self.acked.recv()).await.expect("the broker acknowledges").unwrap();
    }
}

/// What a client that subscribed to `topic` hears.
pub async fn listen(port: u16, topic: &str) -> mpsc::UnboundedReceiver<Publish> {
    let mut options = MqttOptions::new(format!("listener-{}", uuid::Uuid::new_v4()), "127.0.0.1", port);
    options.set_max_packet_size(Some(1_000_000)).set_receive_maximum(Some(1000));
    let (client, mut event_loop) = AsyncClient::new(options, 10);
    client.subscribe(topic, QoS::ExactlyOnce).await.unwrap();
    let (heard, listener) = mpsc::unbounded_channel();
    let (subscribed, is_subscribed) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut subscribed = Some(subscribed);
        loop {
            match event_loop.poll().await {
                Ok(Event::Incoming(Incoming::SubAck(_))) => {
                    subscribed.take().map(|tell| tell.send(()));
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    if heard.send(publish).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
            // Keeps the client, and with it the loop, alive.
            let _ = &client;
        }
    });
    timeout(Duration::from_secs(10), is_subscribed).await.expect("the broker takes the subscription").unwrap();
    listener
}
