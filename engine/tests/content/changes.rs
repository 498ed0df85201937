//! Administration while readings flow: a change takes effect without a restart, and nothing is lost or made twice by it.
//!
//! Each test sends numbered readings without a pause while it changes something, and then counts what the receivers got. How fast a
//! change takes effect is not asserted: it is waited for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::engine::{
    CONNECTIONS, Engine, Tenant, decoder, engine, http_device, http_target, id, wait_for_change, wait_until,
};
use crate::server::Server;

/// Sends `{"n": 0}`, `{"n": 1}` … until it is stopped.
struct Sending {
    is_stopped: Arc<AtomicBool>,
    num_sent: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Sending {
    fn start(engine: &Arc<Engine>, key: &Value) -> Self {
        let (is_stopped, num_sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let task = tokio::spawn({
            let (engine, key) = (Arc::clone(engine), key.as_str().unwrap().to_owned());
            let (is_stopped, num_sent) = (Arc::clone(&is_stopped), Arc::clone(&num_sent));
            async move {
                while !is_stopped.load(Ordering::Relaxed) {
                    engine.receive(&key, json!({"n": num_sent.load(Ordering::Relaxed)})).await;
                    num_sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { is_stopped, num_sent, task }
    }

    /// Stops, and says how many were accepted.
    async fn stop(self) -> u64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.num_sent.load(Ordering::Relaxed)
    }
}

/// How often each number arrived.
fn counted(bodies: &[Value]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for body in bodies {
        *counts.entry(body["n"].as_u64().unwrap_or_else(|| panic!("{body}"))).or_default() += 1;
    }
    counts
}

/// Every number below `num_sent` arrived, and once.
fn assert_each_once(bodies: &[Value], num_sent: u64) {
    let counts = counted(bodies);
    let missing: Vec<u64> = (0..num_sent).filter(|n| !counts.contains_key(n)).collect();
    let twice: Vec<_> = counts.iter().filter(|(_, num)| **num != 1).collect();
    assert!(missing.is_empty() && twice.is_empty(), "missing {missing:?}, more than once {twice:?}");
}

struct Flow {
    tenant: Tenant,
    device: Value,
    decoder: i64,
    target: i64,
    connection: i64,
}

const FIRST: &str = "function decode(p) { return {n: p.n, version: 1}; }";
const SECOND: &str = "function decode(p) { return {n: p.n, version: 2}; }";

async fn flow(engine: &Engine, name: &str, receiver: &Server) -> Flow {
    let tenant = engine.tenant(name, &["OrganizationApplicationAdmin"]).await;
    let device = engine.made(&tenant.token, "/iot-device", http_device("Room", tenant.application)).await;
    let decoder = id(&engine.made(&tenant.token, "/payload-decoder", decoder("D", tenant.organization, FIRST)).await);
    let target = http_target("Hub", tenant.application, &format!("{}/first", receiver.url()));
    let target = id(&engine.made(&tenant.token, "/data-target", target).await);
    let body = json!({"iotDeviceIds": [id(&device)], "payloadDecoderId": decoder, "dataTargetId": target});
    let connection = id(&engine.made(&tenant.token, CONNECTIONS, body).await);
    Flow { tenant, device, decoder, target, connection }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_decoder_decodes_what_comes_next_and_nothing_is_lost_or_made_twice() {
    let engine = engine().await;
    let receiver = Server::receiver();
    let flow = flow(&engine, "Changes decoder", &receiver).await;
    let sending = Sending::start(&engine, &flow.device["apiKey"]);
    let has_version = |version: u64| receiver.bodies("/first").iter().any(|body| body["version"] == version);
    wait_until("something arrives", || has_version(1)).await;
    let path = format!("/payload-decoder/{}", flow.decoder);
    let (status, answer) = engine.put(&flow.tenant.token, &path, decoder("D", flow.tenant.organization, SECOND)).await;
    assert_eq!(status, 200, "{answer}");
    wait_for_change("the edited decoder decodes", || has_version(2)).await;
    let num_sent = sending.stop().await;
    wait_until("everything arrives", || receiver.num_got() as u64 >= num_sent).await;
    let bodies = receiver.bodies("/first");
    assert_each_once(&bodies, num_sent);
    // In the device's order there is one moment from which on it is the other version.
    let versions: Vec<u64> = bodies.iter().map(|body| body["version"].as_u64().unwrap()).collect();
    assert!(versions.is_sorted(), "{versions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_with_another_url_is_sent_to_there_and_nothing_is_lost_or_made_twice() {
    let engine = engine().await;
    let receiver = Server::receiver();
    let flow = flow(&engine, "Changes url", &receiver).await;
    let sending = Sending::start(&engine, &flow.device["apiKey"]);
    wait_until("something arrives", || !receiver.bodies("/first").is_empty()).await;
    let changed = http_target("Hub", flow.tenant.application, &format!("{}/second", receiver.url()));
    let (status, answer) = engine.put(&flow.tenant.token, &format!("/data-target/{}", flow.target), changed).await;
    assert_eq!(status, 200, "{answer}");
    wait_for_change("the other place is sent to", || receiver.bodies("/second").len() > 10).await;
    let num_sent = sending.stop().await;
    wait_until("everything arrives", || receiver.num_got() as u64 >= num_sent).await;
    let bodies = [receiver.bodies("/first"), receiver.bodies("/second")].concat();
    assert_each_once(&bodies, num_sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_connection_gets_everything_from_some_moment_on_and_the_old_one_misses_nothing() {
    let engine = engine().await;
    let receiver = Server::receiver();
    let flow = flow(&engine, "Changes connection", &receiver).await;
    let (token, application) = (&flow.tenant.token, flow.tenant.application);
    let sending = Sending::start(&engine, &flow.device["apiKey"]);
    wait_until("something arrives", || !receiver.bodies("/first").is_empty()).await;
    let added = http_target("Added", application, &format!("{}/added", receiver.url()));
    let added = id(&engine.made(token, "/data-target", added).await);
    let body = json!({"iotDeviceIds": [id(&flow.device)], "payloadDecoderId": null, "dataTargetId": added});
    engine.made(token, CONNECTIONS, body).await;
    wait_for_change("the added target is sent to", || receiver.bodies("/added").len() > 10).await;
    let num_sent = sending.stop().await;
    wait_until("everything arrives", || receiver.bodies("/first").len() as u64 >= num_sent).await;
    let last = num_sent - 1;
    wait_until("the last one arrives there too", || receiver.bodies("/added").iter().any(|body| body["n"] == last))
        .await;
    assert_each_once(&receiver.bodies("/first"), num_sent);
    let counts = counted(&receiver.bodies("/added"));
    let first = *counts.keys().next().unwrap();
    assert!(counts.values().all(|num| *num == 1) && counts.keys().copied().eq(first..num_sent), "{counts:?}");

    // Removed again, it gets no more, and the other one still everything.
    let path = format!("{CONNECTIONS}/{}", flow.connection);
    assert_eq!(engine.delete(token, &path).await.0, 200);
    let key = flow.device["apiKey"].as_str().unwrap();
    let before = receiver.bodies("/first").len();
    let mut n = num_sent;
    // Until the removal is known, some go both ways: sooner or later one goes only to the added target.
    loop {
        engine.receive(key, json!({"n": n})).await;
        wait_until("it arrives", || receiver.bodies("/added").iter().any(|body| body["n"] == n)).await;
        if receiver.bodies("/first").iter().all(|body| body["n"] != n) {
            break;
        }
        n += 1;
    }
    assert!(receiver.bodies("/first").len() >= before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_device_goes_on_in_its_new_application_and_a_deleted_one_is_a_stranger() {
    let engine = engine().await;
    let receiver = Server::receiver();
    let flow = flow(&engine, "Changes move", &receiver).await;
    let key = flow.device["apiKey"].as_str().unwrap().to_owned();
    let there = json!({"name": "Changes there", "organizationId": flow.tenant.organization});
    let there = id(&engine.made(&engine.admin, "/application", there).await);
    let target = http_target("There", there, &format!("{}/there", receiver.url()));
    let target = id(&engine.made(&engine.admin, "/data-target", target).await);
    let sending = Sending::start(&engine, &flow.device["apiKey"]);
    wait_until("something arrives", || !receiver.bodies("/first").is_empty()).await;
    let path = format!("/iot-device/changeApplication/{}", id(&flow.device));
    let to = json!({"applicationId": there, "dataTargetToPayloadDecoderIds": [{"dataTargetId": target, "payloadDecoderId": null}]});
    let (status, answer) = engine.put(&engine.admin, &path, to).await;
    assert_eq!(status, 200, "{answer}");
    wait_for_change("it arrives there", || receiver.bodies("/there").len() > 10).await;
    let num_sent = sending.stop().await;
    wait_until("everything arrives", || receiver.num_got() as u64 >= num_sent).await;
    assert_each_once(&[receiver.bodies("/first"), receiver.bodies("/there")].concat(), num_sent);

    assert_eq!(engine.delete(&engine.admin, &format!("/iot-device/{}", id(&flow.device))).await.0, 200);
    let receive = format!("/receive-data?apiKey={key}");
    let give_up_at = std::time::Instant::now() + crate::engine::PATIENCE / 3;
    loop {
        let (status, answer) = engine.call("POST", &receive, None, Some(json!({"n": 0}))).await;
        if status == 403 {
            assert_eq!(answer["message"], "MESSAGE.DEVICE-DOES-NOT-EXIST");
            break;
        }
        assert!(status == 204 && std::time::Instant::now() < give_up_at, "{status} {answer}");
    }
}
