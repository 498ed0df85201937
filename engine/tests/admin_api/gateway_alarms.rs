//! Alarms about gateways end to end: jobs on several nodes over one database, mails to a real mail server. One node at a time does a job,
//! everybody is told once, and when the node that is at it is killed, another one tells the rest.

use std::future::pending;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use sluse_engine::chirpstack_api::{ChirpstackApi, ChirpstackApiConfig};
use sluse_engine::config::{MailConfig, MailTls};
use sluse_engine::lorawan_jobs::{GATEWAYS, LorawanJobs, PACKETS};
use sluse_engine::mail::SmtpMailer;
use sluse_engine::store::Store;
use sluse_engine::store::admin::PgAdminStore;
use sluse_engine::store::leader::Attempt;
use sluse_schema::port::{Mail, MailError, Mailer};
use sluse_schema::secret::Secret;

use crate::fixture::{Api, FRONTEND, Tenant, connect};
use crate::lorawan::{ROLES, post};
use crate::network_server::{FakeChirpstack, KEY};
use crate::smtp::SmtpServer;

/// What a child process of [`child_that_is_killed`] is told: database, ChirpStack, the mail server's port.
const CHILD: &str = "GATEWAY_ALARMS_CHILD";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A node as far as its jobs go.
struct Node {
    store: Arc<Store>,
    jobs: LorawanJobs,
}

impl Node {
    async fn new(url: &Secret, chirpstack: &str, mailer: Arc<dyn Mailer>) -> Self {
        let store = connect(url.clone()).await;
        let config = ChirpstackApiConfig { url: chirpstack.to_owned(), key: Secret::new(KEY), ca_file: None };
        let network = Arc::new(ChirpstackApi::new(&config).unwrap());
        let admin = PgAdminStore::new(&store);
        Self { jobs: LorawanJobs { admin, network, mailer, frontend_base_url: FRONTEND.to_owned() }, store }
    }

    async fn gateways(&self, now: DateTime<Utc>) -> Attempt {
        self.store.attempt_job(GATEWAYS, self.jobs.gateways(now)).await.unwrap()
    }

    async fn packets(&self, now: DateTime<Utc>) -> Attempt {
        self.store.attempt_job(PACKETS, self.jobs.unusual_packets(now)).await.unwrap()
    }
}

struct Rig {
    api: Api,
    chirpstack: FakeChirpstack,
    tenant: Tenant,
    smtp: SmtpServer,
}

impl Rig {
    async fn start() -> Self {
        let (api, chirpstack) = Api::start_with_network().await;
        let tenant = api.tenant("Aarhus", &ROLES).await;
        Self { api, chirpstack, tenant, smtp: SmtpServer::start() }
    }

    async fn node(&self) -> Node {
        Node::new(&self.api.url, &self.chirpstack.url(), self.smtp.mailer()).await
    }

    /// A gateway of the name `gw-<number>`, heard then.
    async fn add_gateway(&self, number: u8, heard_at: DateTime<Utc>, alarms: Value) {
        let id = format!("0016c001f15000{number:02x}");
        let mut gateway = json!({"gatewayId": id, "name": format!("gw-{number}"), "location": {"latitude": 56, "longitude": 10},
                                 "alarmMail": format!("alarm-{number}@example.org")});
        gateway.as_object_mut().unwrap().extend(alarms.as_object().unwrap().clone());
        let body = json!({"organizationId": self.tenant.organization, "gateway": gateway});
        let (status, answer) = post(&self.api, &self.tenant, "/chirpstack/gateway", body).await;
        assert_eq!(status, 201, "{answer}");
        self.heard(number, heard_at);
    }

    fn heard(&self, number: u8, at: DateTime<Utc>) {
        let mut world = self.chirpstack.world();
        let gateway = world.gateways.get_mut(&format!("0016c001f15000{number:02x}")).unwrap();
        gateway.metadata.insert("last_seen".into(), at.timestamp().to_string());
    }

    async fn make_due(&self) {
        self.api.sql("DELETE FROM setting WHERE name LIKE 'job.%'").await;
    }

    /// The mail that comes next: whom it is to, its subject, its text and its HTML.
    fn mail(&self) -> (String, String, String, String) {
        let mail = self.smtp.next();
        let [to] = mail.to()[..] else { panic!("one recipient: {:?}", mail.to()) };
        let part = |name: &str| mail.0[name].as_str().unwrap().replace("\r\n", "\n");
        (to.to_owned(), part("subject"), part("plain"), part("html"))
    }

    /// Recipients of everything that has come and comes at once, in order.
    fn recipients(&self, num: usize) -> Vec<String> {
        let mut all: Vec<String> = (0..num).map(|_| self.mail().0).collect();
        assert!(self.smtp.is_empty(), "one more than {all:?}");
        all.sort_unstable();
        all
    }
}

const OFFLINE: &str = "OS2iot alarm

Gateway’en gw-1 er offline.

Der udsendes først besked igen, når gateway’en kommer online.

Link: http://localhost:8081/gateways/gateway-detail/0016c001f1500001

";
const BACK: &str = "OS2iot alarm

Gateway’en gw-1 er kommet online igen 2.6.2026 12.30.00.

Der udsendes besked igen, hvis gateway’en går offline i det angivne tidsrum.

Link: http://localhost:8081/gateways/gateway-detail/0016c001f1500001

";
const UNUSUAL: &str = "OS2iot alarm

Gateway’en gw-1 har et uregelmæssigt pakkemønster.

Antal modtagne pakker det seneste døgn: 5

Der udsendes besked hvert døgn indtil pakkemønsteret igen er regelmæssigt.

Link: http://localhost:8081/gateways/gateway-detail/0016c001f1500001

";

#[tokio::test]
async fn alarms_arrive_in_the_references_words_and_once() {
    let rig = Rig::start().await;
    let alarms = json!({"notifyOffline": true, "offlineAlarmThresholdMinutes": 10, "notifyUnusualPackages": true,
                        "minimumPackages": 10, "maximumPackages": 20});
    rig.add_gateway(1, time("2026-06-02T09:00:00Z"), alarms).await;
    let node = rig.node().await;
    for now in ["2026-06-02T09:10:00Z", "2026-06-02T09:11:00Z"] {
        rig.make_due().await;
        assert_eq!(node.gateways(time(now)).await, Attempt::Done);
    }
    let (to, subject, plain, html) = rig.mail();
    assert_eq!((to.as_str(), subject.as_str()), ("alarm-1@example.org", "OS2iot alarm: gw-1 er offline"));
    assert_eq!(plain, OFFLINE);
    let link = "<a href=\"http://localhost:8081/gateways/gateway-detail/0016c001f1500001\">";
    assert!(html.contains(link) && html.contains("<p>Gateway’en gw-1 er offline.</p>"), "{html}");

    // By the Danish clock.
    rig.heard(1, time("2026-06-02T10:30:00Z"));
    for now in ["2026-06-02T10:31:00Z", "2026-06-02T10:32:00Z"] {
        rig.make_due().await;
        assert_eq!(node.gateways(time(now)).await, Attempt::Done);
    }
    let (_, subject, plain, _) = rig.mail();
    assert_eq!((subject.as_str(), plain.as_str()), ("OS2iot alarm: gw-1 er online igen", BACK));

    for now in ["2026-06-03T04:00:00Z", "2026-06-03T04:15:00Z"] {
        rig.make_due().await;
        assert_eq!(node.packets(time(now)).await, Attempt::Done);
    }
    let (to, subject, plain, _) = rig.mail();
    assert_eq!(to, "alarm-1@example.org");
    assert_eq!((subject.as_str(), plain.as_str()), ("OS2iot alarm: gw-1 har et uregelmæssigt pakkemønster", UNUSUAL));
    assert!(rig.smtp.is_empty());
}

#[tokio::test]
async fn two_nodes_that_look_at_the_same_moment_tell_everybody_once() {
    const NUM_GATEWAYS: u8 = 5;
    let rig = Rig::start().await;
    let mut now = time("2026-06-02T09:00:00Z");
    for number in 0..NUM_GATEWAYS {
        let alarms = json!({"notifyOffline": true, "offlineAlarmThresholdMinutes": 10, "notifyUnusualPackages": true,
                            "minimumPackages": 10, "maximumPackages": 20});
        rig.add_gateway(number, now, alarms).await;
    }
    let (a, b) = (rig.node().await, rig.node().await);
    let everybody: Vec<String> = (0..NUM_GATEWAYS).map(|number| format!("alarm-{number}@example.org")).collect();
    let one_did = |attempts: [Attempt; 2]| {
        assert_eq!(attempts.iter().filter(|attempt| **attempt == Attempt::Done).count(), 1, "{attempts:?}");
    };
    for round in 0..6 {
        // Away, and back, and away.
        if round % 2 == 1 {
            (0..NUM_GATEWAYS).for_each(|number| rig.heard(number, now));
        } else {
            now += Duration::hours(1);
        }
        rig.make_due().await;
        one_did(tokio::join!(a.gateways(now), b.gateways(now)).into());
        assert_eq!(rig.recipients(everybody.len()), everybody, "round {round}");
    }
    for day in 0..3 {
        rig.make_due().await;
        let four = time("2026-06-03T04:00:00Z") + Duration::days(day);
        one_did(tokio::join!(a.packets(four), b.packets(four)).into());
        assert_eq!(rig.recipients(everybody.len()), everybody, "day {day}");
    }
}

/// Lets one mail through, and then stands still for ever.
#[derive(Debug)]
struct OneMail {
    mailer: SmtpMailer,
    has_sent: AtomicBool,
}

#[async_trait]
impl Mailer for OneMail {
    async fn send(&self, mail: &Mail) -> Result<(), MailError> {
        if self.has_sent.swap(true, Ordering::Relaxed) {
            println!("{STUCK}");
            return pending().await;
        }
        self.mailer.send(mail).await
    }
}

const STUCK: &str = "the second mail is not sent";
const JUDGED_AT: &str = "2026-06-03T04:00:00Z";

/// Another process that holds the job.
struct Other(Child);

impl Other {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "a node of its own process, started by the next test"]
async fn child_that_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let told: Vec<&str> = told.split_ascii_whitespace().collect();
    let config = MailConfig {
        host: "127.0.0.1".into(),
        port: told[2].parse().unwrap(),
        credentials: None,
        from: "Sluse <sluse@example.org>".into(),
        tls: MailTls::None,
        ca_certificates: None,
    };
    let mailer = Arc::new(OneMail { mailer: SmtpMailer::new(&config).unwrap(), has_sent: AtomicBool::new(false) });
    let node = Node::new(&Secret::new(told[0]), told[1], mailer).await;
    node.packets(time(JUDGED_AT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_node_that_is_at_it_is_killed_another_tells_the_rest() {
    let rig = Rig::start().await;
    for number in 0..3 {
        let alarms = json!({"notifyUnusualPackages": true, "minimumPackages": 10, "maximumPackages": 20});
        rig.add_gateway(number, time("2026-06-02T09:00:00Z"), alarms).await;
    }
    let node = rig.node().await;
    assert_eq!(node.gateways(time("2026-06-02T09:01:00Z")).await, Attempt::Done);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["gateway_alarms::child_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, format!("{} {} {}", rig.api.url.reveal(), rig.chirpstack.url(), rig.smtp.port))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut other = Other(child);
    let lines = BufReader::new(other.0.stdout.take().unwrap()).lines();
    let is_stuck = tokio::task::spawn_blocking(|| lines.map_while(Result::ok).any(|line| line.contains(STUCK)));
    assert!(is_stuck.await.unwrap(), "it ended");
    let first = rig.mail().0;
    assert_eq!(node.packets(time(JUDGED_AT)).await, Attempt::Elsewhere, "while the other one is at it");
    other.kill();
    // PostgreSQL gives the lock back when it notices that the connection is gone.
    let mut attempt = Attempt::Elsewhere;
    for _ in 0..200 {
        attempt = node.packets(time(JUDGED_AT)).await;
        if attempt != Attempt::Elsewhere {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(attempt, Attempt::Done);
    let mut told = rig.recipients(2);
    told.push(first);
    told.sort_unstable();
    assert_eq!(told, ["alarm-0@example.org", "alarm-1@example.org", "alarm-2@example.org"]);
}
