//! Two `sluse` processes on one Kafka and one PostgreSQL: what is accepted arrives, in order per device and target, when one is killed,
//! when both are restarted one after the other, and when one sleeps through its session. And what is changed through one takes effect on
//! the other.

#[path = "edges/certificates.rs"]
#[allow(dead_code, reason = "only the receiver needs it")]
mod certificates;
#[path = "kafka_nodes/changes.rs"]
mod changes;
#[path = "../../loadtest/src/kafka_process.rs"]
mod kafka_process;
#[path = "edges/receiver.rs"]
#[allow(dead_code, reason = "shared with the tests of edges")]
mod receiver;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_process::Kafka;
use receiver::{Receiver, Reply};
use serde_json::{Value, json};
use sluse_engine::store::private_postgres::PrivatePostgres;

const EMAIL: &str = "admin@example.org";
const PASSWORD: &str = "correct horse battery";
const NUM_DEVICES: usize = 8;
const NUM_TARGETS: usize = 3;

/// One `sluse serve`; a test that fails leaves none behind.
struct Node {
    id: &'static str,
    port: u16,
    dir: PathBuf,
    child: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.signal("CONT");
        self.kill();
        if std::thread::panicking() {
            eprintln!("== node {}\n{}", self.id, self.log().lines().rev().take(60).collect::<Vec<_>>().join("\n"));
        }
    }
}

impl Node {
    fn new(id: &'static str, dir: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = dir.join(id);
        std::fs::create_dir_all(&dir).unwrap();
        Self { id, port, dir, child: None }
    }

    fn start(&mut self, brokers: &str, database_url: &str) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = self.command(brokers, database_url);
        let child = command.arg("serve").stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn();
        self.child = Some(child.unwrap());
    }

    fn command(&self, brokers: &str, database_url: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluse"));
        command
            .current_dir(&self.dir)
            .env_remove("REDIS_URL")
            .env_remove("CHIRPSTACK_MQTT_URL")
            .env("SLUSE_DATA_DIR", self.dir.join("data"))
            .env("SLUSE_NODE_ID", self.id)
            .env("SLUSE_HTTP_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("KAFKA_BROKERS", brokers)
            .env("DATABASE_URL", database_url)
            .env("SLUSE_SECRET_KEY", "0123456789abcdef0123456789abcdef")
            .env("SLUSE_JWT_SECRET", "fedcba9876543210fedcba9876543210")
            .env("SLUSE__LOG__NUM_PARTITIONS", "4")
            .env("SLUSE__DATABASE__NUM_CONNECTIONS_MAX", "8")
            .env("SLUSE_ALLOW_PRIVATE_TARGETS", "127.0.0.0/8")
            .env("SLUSE_ADMIN_EMAIL", EMAIL)
            .env("SLUSE_ADMIN_PASSWORD", PASSWORD);
        command
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            let _ = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it as a service manager does, and waits; it must call that clean.
    async fn stop(&mut self) {
        self.signal("TERM");
        let mut child = self.child.take().unwrap();
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{}: {status}\n{}", self.id, self.log());
    }

    fn base(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1", self.port)
    }
}

/// Everything that runs.
struct Stage {
    client: reqwest::Client,
    brokers: String,
    database_url: String,
    receiver: Receiver,
    keys: Vec<String>,
    /// Numbers go on from one fault to the next.
    first_number: Arc<AtomicUsize>,
    a: Node,
    b: Node,
    _kafka: Kafka,
    _postgres: PrivatePostgres,
    _dirs: [tempfile::TempDir; 2],
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// Two stages at once would be too much for a small machine.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Stage {
    /// Both nodes, with devices and targets.
    async fn set() -> Self {
        let mut stage = Self::bare().await;
        stage.register().await;
        stage
    }

    /// Both nodes, with nothing registered.
    async fn bare() -> Self {
        let turn = TURN.lock().await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut dir = tempfile::tempdir().unwrap();
        dir.disable_cleanup(std::env::var_os("KEEP").is_some());
        let path = dir.path().join("kafka");
        let kafka = tokio::task::spawn_blocking(move || Kafka::start(&path, 1).unwrap()).await.unwrap();
        let postgres_dir = tempfile::tempdir().unwrap();
        let postgres = PrivatePostgres::start(postgres_dir.path()).await.unwrap();
        let mut stage = Self {
            client: reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap(),
            brokers: kafka.bootstrap(),
            database_url: postgres.url().reveal().to_owned(),
            receiver: Receiver::start(Reply::status("200 OK")).await,
            keys: Vec::new(),
            first_number: Arc::default(),
            a: Node::new("a", dir.path()),
            b: Node::new("b", dir.path()),
            _kafka: kafka,
            _postgres: postgres,
            _dirs: [dir, postgres_dir],
            _turn: turn,
        };
        stage.a.start(&stage.brokers, &stage.database_url);
        stage.until_ready("a").await;
        stage.b.start(&stage.brokers, &stage.database_url);
        stage.until_ready("b").await;
        stage
    }

    fn node(&self, id: &str) -> &Node {
        if id == "a" { &self.a } else { &self.b }
    }

    async fn until_ready(&self, id: &str) {
        let node = self.node(id);
        let url = format!("http://127.0.0.1:{}/readyz", node.port);
        until(&format!("node {id} is ready"), async || {
            self.client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Value {
        self.ask("POST", token, path, body).await
    }

    /// Through node `a`.
    async fn ask(&self, method: &str, token: &str, path: &str, body: Value) -> Value {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.client.request(method, format!("{}{path}", self.a.base())).bearer_auth(token).json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Devices, and targets that all of them are connected with, raw.
    async fn register(&mut self) {
        let answer = self.post("", "/auth/login", json!({"username": EMAIL, "password": PASSWORD})).await;
        let token = answer["accessToken"].as_str().unwrap().to_owned();
        let organization = self.post(&token, "/organization", json!({"name": "Aarhus"})).await["id"].clone();
        let body = json!({"name": "Water", "organizationId": organization, "status": "IN-OPERATION"});
        let application = self.post(&token, "/application", body).await["id"].clone();
        let devices: Vec<Value> = (0..NUM_DEVICES)
            .map(|i| {
                json!({"name": format!("Meter {i}"), "applicationId": application, "type": "GENERIC_HTTP",
                "latitude": 56.1, "longitude": 10.2})
            })
            .collect();
        let made = self.post(&token, "/iot-device/createMany", json!({"data": devices})).await;
        let made = made.as_array().unwrap();
        self.keys = made.iter().map(|item| item["data"]["apiKey"].as_str().unwrap().to_owned()).collect();
        let ids: Vec<i64> = made.iter().map(|item| item["data"]["id"].as_i64().unwrap()).collect();
        for i in 0..NUM_TARGETS {
            let url = format!("http://127.0.0.1:{}/target-{i}", self.receiver.port);
            let body = json!({"name": format!("Target {i}"), "applicationId": application, "timeout": 10_000,
                "type": "HTTP_PUSH", "url": url});
            let target = self.post(&token, "/data-target", body).await["id"].clone();
            let body = json!({"iotDeviceIds": ids, "payloadDecoderId": null, "dataTargetId": target});
            self.post(&token, "/iot-device-payload-decoder-data-target-connection", body).await;
        }
    }

    /// Every device sends its numbers one after the other, each until a node has accepted it.
    fn begin_sending(&self) -> Sending {
        let is_over = Arc::new(AtomicBool::new(false));
        let num_accepted = Arc::new(AtomicUsize::new(0));
        let urls = [self.a.base(), self.b.base()];
        let tasks = self.keys.iter().enumerate().map(|(device, key)| {
            let (client, is_over, num_accepted) = (self.client.clone(), is_over.clone(), num_accepted.clone());
            let urls: Vec<String> = urls.iter().map(|base| format!("{base}/receive-data?apiKey={key}")).collect();
            let first = self.first_number.load(Ordering::Relaxed);
            tokio::spawn(async move {
                let mut number = first;
                let mut num_tries = device;
                while !is_over.load(Ordering::Acquire) {
                    num_tries += 1;
                    let request = client
                        .post(&urls[num_tries % 2])
                        .header("idempotency-key", format!("{device}-{number}"))
                        .json(&json!({"device": device, "number": number}));
                    match request.send().await {
                        Ok(answer) if answer.status().is_success() => {
                            number += 1;
                            num_accepted.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) if answer.status().is_server_error() => {
                            tokio::time::sleep(Duration::from_millis(100)).await
                        }
                        Ok(answer) => panic!("{}", answer.status()),
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                (first, number)
            })
        });
        Sending { tasks: tasks.collect(), is_over, num_accepted, first_number: self.first_number.clone() }
    }

    /// Waits until every target has every accepted number of every device, the first arrivals in order.
    async fn until_arrived(&self, sent: &[(usize, usize)]) {
        let missing = || {
            let arrivals = self.arrivals();
            let mut missing = Vec::new();
            for target in 0..NUM_TARGETS {
                for (device, (first, end)) in sent.iter().enumerate() {
                    let got = arrivals.get(&(target, device)).map(Vec::as_slice).unwrap_or_default();
                    missing.extend((*first..*end).filter(|n| !got.contains(n)).map(|n| (target, device, n)));
                }
            }
            missing
        };
        let give_up_at = Instant::now() + Duration::from_secs(90);
        while !missing().is_empty() {
            let left = missing();
            assert!(Instant::now() < give_up_at, "{} never arrived, as {:?}", left.len(), left.first());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for (place, numbers) in self.arrivals() {
            let mut firsts: Vec<usize> = Vec::new();
            for number in numbers {
                if !firsts.contains(&number) {
                    firsts.push(number);
                }
            }
            assert!(firsts.is_sorted(), "target and device {place:?}: {firsts:?}");
        }
    }

    /// Numbers as they came, by target and device.
    fn arrivals(&self) -> HashMap<(usize, usize), Vec<usize>> {
        let mut arrivals: HashMap<_, Vec<usize>> = HashMap::new();
        for got in self.receiver.got.lock().unwrap().iter() {
            let target = got.request_line.split("/target-").nth(1).and_then(|rest| rest[..1].parse().ok()).unwrap();
            let body: Value = serde_json::from_slice(&got.body).unwrap();
            let number = |name: &str| usize::try_from(body[name].as_u64().unwrap()).unwrap();
            arrivals.entry((target, number("device"))).or_default().push(number("number"));
        }
        arrivals
    }

    /// Sends during `fault` and some time before and after it; then everything has to be there.
    async fn through(&mut self, fault: impl AsyncFnOnce(&mut Self)) {
        let sending = self.begin_sending();
        sending.until_accepted(100).await;
        fault(self).await;
        sending.until_accepted(100).await;
        let sent = sending.end().await;
        self.until_arrived(&sent).await;
    }
}

struct Sending {
    tasks: Vec<tokio::task::JoinHandle<(usize, usize)>>,
    is_over: Arc<AtomicBool>,
    num_accepted: Arc<AtomicUsize>,
    first_number: Arc<AtomicUsize>,
}

impl Sending {
    async fn until_accepted(&self, num_more: usize) {
        let goal = self.num_accepted.load(Ordering::Relaxed) + num_more;
        until("uplinks are accepted", async || self.num_accepted.load(Ordering::Relaxed) >= goal).await;
    }

    async fn end(self) -> Vec<(usize, usize)> {
        self.is_over.store(true, Ordering::Release);
        let mut sent = Vec::new();
        for task in self.tasks {
            sent.push(task.await.unwrap());
        }
        self.first_number.store(sent.iter().map(|(_, end)| *end).max().unwrap_or_default(), Ordering::Relaxed);
        sent
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let give_up_at = Instant::now() + Duration::from_secs(90);
    while !is_so().await {
        assert!(Instant::now() < give_up_at, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_lose_nothing_and_keep_the_order_through_a_kill_a_rolling_restart_and_a_frozen_node() {
    let mut stage = Stage::set().await;
    until("both nodes have partitions", async || {
        [&stage.a, &stage.b].iter().all(|node| node.log().contains("uplinks partition taken"))
    })
    .await;

    stage
        .through(async |stage: &mut Stage| {
            let num_before = stage.a.log().matches("uplinks partition taken").count();
            stage.b.kill();
            until("the other node takes over", async || {
                stage.a.log().matches("uplinks partition taken").count() >= num_before + 2
            })
            .await;
            stage.b.start(&stage.brokers, &stage.database_url);
            stage.until_ready("b").await;
        })
        .await;

    stage
        .through(async |stage: &mut Stage| {
            stage.a.stop().await;
            stage.a.start(&stage.brokers, &stage.database_url);
            stage.until_ready("a").await;
            stage.b.stop().await;
            stage.b.start(&stage.brokers, &stage.database_url);
            stage.until_ready("b").await;
        })
        .await;

    // Frozen for longer than its session: the other owns everything when it wakes up.
    stage
        .through(async |stage: &mut Stage| {
            let num_before = stage.b.log().matches("uplinks partition taken").count();
            stage.a.signal("STOP");
            until("the other node takes over", async || {
                stage.b.log().matches("uplinks partition taken").count() >= num_before + 2
            })
            .await;
            stage.a.signal("CONT");
            until("the frozen node hears of it", async || stage.a.log().contains("partitions lost")).await;
        })
        .await;
    stage.a.stop().await;
    stage.b.stop().await;
}

/// Says what it said, and whether it went well.
async fn run(mut command: Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_beside_the_same_kafka_goes_on_from_the_backup_and_one_beside_another_log_is_refused() {
    let mut stage = Stage::set().await;
    let send = async |stage: &Stage| {
        let sending = stage.begin_sending();
        sending.until_accepted(40).await;
        let sent = sending.end().await;
        stage.until_arrived(&sent).await;
        sent
    };
    let before = send(&stage).await;
    stage.b.stop().await;
    stage.a.stop().await;
    let saved = stage.a.dir.join("saved");
    let mut backup = stage.a.command(&stage.brokers, &stage.database_url);
    backup.arg("backup").arg(&saved);
    let (is_done, said) = run(backup).await;
    assert!(is_done, "{said}");
    stage.a.start(&stage.brokers, &stage.database_url);
    stage.b.start(&stage.brokers, &stage.database_url);
    stage.until_ready("a").await;
    stage.until_ready("b").await;
    let after = send(&stage).await;
    stage.a.kill();
    stage.b.kill();

    // The database is gone, Kafka is there.
    let (client, connection) = tokio_postgres::connect(&stage.database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("CREATE DATABASE restored").await.unwrap();
    stage.database_url = stage.database_url.replace("/sluse?", "/restored?");
    let data = stage.a.dir.join("data");
    std::fs::remove_dir_all(&data).unwrap();
    let restore = |prefix: &str, saved: &Path| {
        let mut restore = stage.a.command(&stage.brokers, &stage.database_url);
        restore.env("SLUSE__KAFKA__PREFIX", prefix).arg("restore").arg(saved);
        run(restore)
    };
    // A backup that counts in another log, beside topics that hold something: all of that would be delivered.
    let foreign = stage.a.dir.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    for entry in std::fs::read_dir(&saved).unwrap().flatten() {
        std::fs::copy(entry.path(), foreign.join(entry.file_name())).unwrap();
    }
    let manifest = std::fs::read_to_string(saved.join("backup.json")).unwrap();
    assert!(manifest.contains("kafka:"), "{manifest}");
    std::fs::write(foreign.join("backup.json"), manifest.replace("kafka:", "embedded:")).unwrap();
    let (is_done, said) = restore("", &foreign).await;
    assert!(!is_done && said.contains("sluse.deliveries.v1") && said.contains("would be delivered"), "{said}");
    let (is_done, said) = restore("", &saved).await;
    assert!(is_done && said.contains("delivered again"), "{said}");

    stage.a.start(&stage.brokers, &stage.database_url);
    stage.until_ready("a").await;
    let num_arrivals = |sent: &[(usize, usize)]| -> Vec<usize> {
        let arrivals = stage.arrivals();
        let of =
            |(target, device): (usize, usize)| arrivals.get(&(target, device)).map(Vec::as_slice).unwrap_or_default();
        let places = (0..NUM_TARGETS).flat_map(|target| (0..NUM_DEVICES).map(move |device| (target, device)));
        places
            .flat_map(|(target, device)| (sent[device].0..sent[device].1).map(move |n| ((target, device), n)))
            .map(|(place, n)| of(place).iter().filter(|got| **got == n).count())
            .collect()
    };
    // Nothing is left out, what was delivered since the backup comes again, and what was delivered before it does not.
    until("what came after the backup is delivered again", async || num_arrivals(&after).iter().all(|n| *n >= 2)).await;
    let sent = send(&stage).await;
    assert!(num_arrivals(&sent).iter().all(|n| *n >= 1));
    let again: Vec<usize> = num_arrivals(&before).into_iter().filter(|n| *n > 1).collect();
    assert!(again.is_empty(), "{} deliveries of before the backup came again", again.len());
    stage.a.stop().await;
}
