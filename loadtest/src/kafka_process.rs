//! Apache Kafka as children of this process, in KRaft mode: brokers that are controllers too, on free loopback ports with their data
//! below one directory. They can be killed and started again on the same data, and they end when this process does, however it ends.
//!
//! Standard library only: the engine's tests include this file by its path, and the load test uses it as a module.
#![allow(dead_code, reason = "each of its two users needs only a part of it")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a broker may take to be there.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often a start is tried.
const NUM_STARTS_MAX: usize = 4;
/// What the server says when it serves.
const READY_LINE: &str = "Kafka Server started";
/// Starts a program beside a `cat` that ends with us, and ends the program when the `cat` does.
const LEASH: &str = r#""$@" </dev/null & echo $!; cat >/dev/null; kill -9 $! 2>/dev/null; wait"#;

/// User and password of the SASL listener.
pub const SASL_USER: &str = "sluse";
/// See [`SASL_USER`].
pub const SASL_PASSWORD: &str = "not-so-secret";

#[derive(Debug)]
struct Broker {
    dir: PathBuf,
    port: u16,
    sasl_port: u16,
    controller_port: u16,
    /// Of the listener that is advertised as the proxy's, where there is one.
    proxied_port: u16,
    /// The leash and its pipe, and the server's own process id.
    running: Option<(Child, ChildStdin, u32)>,
}

/// What some tests want besides.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Key and certificate (for `localhost`) of the SASL listener, as one PEM text; `None`: it speaks without TLS.
    pub tls_pem: Option<String>,
    /// A port before the one broker: whoever begins there is sent there again, see [`Kafka::proxied_port`].
    pub proxy_port: Option<u16>,
}

/// A Kafka cluster of our own.
#[derive(Debug)]
pub struct Kafka {
    brokers: Vec<Broker>,
    extras: Extras,
    jars: PathBuf,
    cluster_id: String,
}

fn free_ports(num: usize) -> io::Result<Vec<u16>> {
    let listeners = (0..num).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Where the server's jars are: `KAFKA_TEST_DIR`, else what `need_kafka` in deploy/prerequisites.sh fetched.
fn jars() -> io::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("KAFKA_TEST_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .unwrap_or_default()
        .join("sluse");
    let complete = fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut complete: Vec<PathBuf> = complete.filter(|path| path.join("complete").exists()).collect();
    complete.sort_by_key(|path| fs::metadata(path.join("complete")).and_then(|m| m.modified()).ok());
    complete.pop().ok_or_else(|| {
        io::Error::other("there is no Kafka to start: run `. deploy/prerequisites.sh && need_kafka`, as ./test does")
    })
}

impl Kafka {
    /// Starts `num_brokers` brokers (1 or 3) with their files below `dir`, and waits until all serve.
    ///
    /// # Errors
    /// Java or the server's jars are missing, or a broker does not start; the text says where its log is.
    pub fn start(dir: &Path, num_brokers: usize) -> io::Result<Self> {
        Self::start_with(dir, num_brokers, Extras::default())
    }

    /// As [`Kafka::start`].
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_with(dir: &Path, num_brokers: usize, extras: Extras) -> io::Result<Self> {
        // A port that was free may be taken before the server binds it: then everything again, with others.
        let mut started = Self::try_start(&dir.join("1"), num_brokers, extras.clone());
        for attempt in 2..=NUM_STARTS_MAX {
            if started.as_ref().is_err_and(|error| error.to_string().contains("Address already in use")) {
                started = Self::try_start(&dir.join(attempt.to_string()), num_brokers, extras.clone());
            }
        }
        started
    }

    fn try_start(dir: &Path, num_brokers: usize, extras: Extras) -> io::Result<Self> {
        let ports = free_ports(4 * num_brokers)?;
        let brokers = (0..num_brokers)
            .map(|i| Broker {
                dir: dir.join(format!("kafka-{}", i + 1)),
                port: ports[4 * i],
                sasl_port: ports[4 * i + 1],
                controller_port: ports[4 * i + 2],
                proxied_port: ports[4 * i + 3],
                running: None,
            })
            .collect();
        let mut kafka = Self { brokers, extras, jars: jars()?, cluster_id: random_uuid()? };
        for i in 0..num_brokers {
            kafka.format(i)?;
        }
        let starting = (0..num_brokers).map(|i| kafka.spawn(i)).collect::<io::Result<Vec<_>>>()?;
        for (i, log_from) in starting.into_iter().enumerate() {
            kafka.wait_until_ready(i, log_from)?;
        }
        Ok(kafka)
    }

    /// `host:port,…` of every broker.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(|b| format!("127.0.0.1:{}", b.port)).collect();
        addresses.join(",")
    }

    /// The same on the listener that wants SASL/PLAIN with [`SASL_USER`] and [`SASL_PASSWORD`].
    pub fn sasl_bootstrap(&self) -> String {
        let addresses: Vec<String> =
            self.brokers.iter().map(|b| format!("{}:{}", self.sasl_host(), b.sasl_port)).collect();
        addresses.join(",")
    }

    /// Where a proxy at [`Extras::proxy_port`] is to lead.
    pub fn proxied_port(&self) -> u16 {
        self.brokers[0].proxied_port
    }

    /// What the listener is known by: a certificate is for a name.
    fn sasl_host(&self) -> &'static str {
        if self.extras.tls_pem.is_some() { "localhost" } else { "127.0.0.1" }
    }

    /// The server process of broker `i`, while it runs.
    pub fn pid(&self, i: usize) -> Option<u32> {
        self.brokers[i].running.as_ref().map(|(_, _, pid)| *pid)
    }

    /// The server processes that run.
    pub fn pids(&self) -> Vec<u32> {
        (0..self.brokers.len()).filter_map(|i| self.pid(i)).collect()
    }

    /// SIGKILL for all.
    pub fn kill_all(&mut self) {
        (0..self.brokers.len()).for_each(|i| self.kill(i));
    }

    /// SIGKILL for broker `i`; returns when it is gone.
    pub fn kill(&mut self, i: usize) {
        if let Some((mut leash, pipe, _)) = self.brokers[i].running.take() {
            drop(pipe);
            let _ = leash.wait();
        }
    }

    /// Starts broker `i` again on its port and data, and waits until it serves.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_again(&mut self, i: usize) -> io::Result<()> {
        let log_from = self.spawn(i)?;
        self.wait_until_ready(i, log_from)
    }

    /// The log of broker `i`.
    pub fn log_file(&self, i: usize) -> PathBuf {
        self.brokers[i].dir.join("server.log")
    }

    fn properties(&self, i: usize) -> String {
        let (broker, num_brokers) = (&self.brokers[i], self.brokers.len());
        let voters: Vec<String> = self
            .brokers
            .iter()
            .enumerate()
            .map(|(i, b)| format!("{}@127.0.0.1:{}", i + 1, b.controller_port))
            .collect();
        let replicas = num_brokers.min(3);
        let (sasl_protocol, tls) = match &self.extras.tls_pem {
            None => ("SASL_PLAINTEXT", String::new()),
            Some(_) => {
                let pem = broker.dir.join("tls.pem");
                let prefix = "listener.name.sasl.ssl.keystore";
                ("SASL_SSL", format!("{prefix}.type=PEM\n{prefix}.location={}\n", pem.display()))
            }
        };
        let (proxied, proxy) = match self.extras.proxy_port {
            None => (String::new(), String::new()),
            Some(port) => {
                (format!(",PROXIED://127.0.0.1:{}", broker.proxied_port), format!(",PROXIED://127.0.0.1:{port}"))
            }
        };
        format!(
            "process.roles=broker,controller\nnode.id={node_id}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl_port},CONTROLLER://127.0.0.1:{controller_port}{proxied}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL://{sasl_host}:{sasl_port}{proxy}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:{sasl_protocol},CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT\n\
             listener.name.sasl.sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
             user_{SASL_USER}=\"{SASL_PASSWORD}\";\n{tls}\
             controller.listener.names=CONTROLLER\ncontroller.quorum.voters={voters}\n\
             inter.broker.listener.name=PLAINTEXT\nlog.dirs={data}\n\
             offsets.topic.replication.factor={replicas}\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr={min_isr}\n\
             transaction.state.log.num.partitions=4\n\
             # Topics are made by Sluse, and a group need not wait for members that do not come.\n\
             auto.create.topics.enable=false\ngroup.initial.rebalance.delay.ms=0\n\
             # Dead transactions are looked for every second, not every ten.\n\
             transaction.abort.timed.out.transaction.cleanup.interval.ms=1000\n\
             log.cleaner.dedupe.buffer.size=4194304\nlog.cleaner.enable=true\n\
             num.network.threads=2\nnum.io.threads=4\nbroker.session.timeout.ms=6000\n",
            node_id = i + 1,
            port = broker.port,
            sasl_port = broker.sasl_port,
            sasl_host = self.sasl_host(),
            controller_port = broker.controller_port,
            voters = voters.join(","),
            data = broker.dir.join("data").display(),
            min_isr = replicas.min(2),
        )
    }

    fn java(&self, broker: &Broker) -> Command {
        let mut java = Command::new("java");
        // A broker that is killed leaves there what it has unpacked.
        java.arg(format!("-Djava.io.tmpdir={}", broker.dir.display()));
        java.args(["-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"])
            .arg("-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info")
            // What became of transactions and members when a broker was killed is told there only.
            .arg("-Dorg.slf4j.simpleLogger.log.kafka.coordinator=info")
            .arg("-Dorg.slf4j.simpleLogger.log.org.apache.kafka.coordinator=info")
            .arg("-cp")
            .arg(format!("{}/*", self.jars.display()));
        java
    }

    fn format(&self, i: usize) -> io::Result<()> {
        let broker = &self.brokers[i];
        fs::create_dir_all(&broker.dir)?;
        let config = broker.dir.join("server.properties");
        fs::write(&config, self.properties(i))?;
        if let Some(pem) = &self.extras.tls_pem {
            fs::write(broker.dir.join("tls.pem"), pem)?;
        }
        let formatted = self
            .java(broker)
            .args(["kafka.tools.StorageTool", "format", "-t", &self.cluster_id, "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| io::Error::other(format!("cannot start java (Debian: default-jre-headless): {error}")))?;
        if formatted.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "kafka's storage cannot be formatted: {}",
            String::from_utf8_lossy(&formatted.stderr)
        )))
    }

    /// Starts broker `i`; gives the length of its log before.
    fn spawn(&mut self, i: usize) -> io::Result<u64> {
        let (java, log_file) = (self.java(&self.brokers[i]), self.log_file(i));
        let broker = &mut self.brokers[i];
        let log: File = OpenOptions::new().create(true).append(true).open(log_file)?;
        let log_from = log.metadata()?.len();
        let mut leash = Command::new("sh");
        leash.arg("-c").arg(LEASH).arg("sh").arg(java.get_program()).args(java.get_args());
        let mut leash = leash
            .arg("kafka.Kafka")
            .arg(broker.dir.join("server.properties"))
            .current_dir(&broker.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let (Some(pipe), Some(said)) = (leash.stdin.take(), leash.stdout.take()) else {
            return Err(io::Error::other("the shell has no pipes"));
        };
        let mut said = BufReader::new(said);
        let mut pid = String::new();
        said.read_line(&mut pid)?;
        let pid = pid.trim().parse().map_err(|_| io::Error::other("the shell did not say Kafka's process id"))?;
        // Its standard output is the server's too: whoever closes it would break the server.
        std::thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        broker.running = Some((leash, pipe, pid));
        Ok(log_from)
    }

    fn wait_until_ready(&mut self, i: usize, log_from: u64) -> io::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let log_file = self.log_file(i);
        loop {
            let log = fs::read(&log_file)?;
            let news = String::from_utf8_lossy(log.get(log_from as usize..).unwrap_or_default()).into_owned();
            if news.contains(READY_LINE) {
                return Ok(());
            }
            let is_gone = self.pid(i).is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            if is_gone || Instant::now() > deadline {
                let end: Vec<&str> = news.lines().filter(|line| !line.starts_with("\tat ")).rev().take(20).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                return Err(io::Error::other(format!(
                    "kafka did not start, see {}:\n{}",
                    log_file.display(),
                    end.join("\n")
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        for i in 0..self.brokers.len() {
            self.kill(i);
        }
    }
}

/// A cluster id as Kafka wants it: 16 random bytes in URL-safe base64 without padding.
fn random_uuid() -> io::Result<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0u8; 22];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    let mut text: Vec<u8> = bytes.iter().map(|byte| ALPHABET[usize::from(byte % 64)]).collect();
    // A leading hyphen is taken for an option; the last character holds two bits only.
    text[0] = b'S';
    text[21] = b"AQgw"[usize::from(bytes[21] % 4)];
    Ok(String::from_utf8_lossy(&text).into_owned())
}
