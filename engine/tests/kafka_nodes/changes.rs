//! What is changed through node `a` takes effect on node `b` too, on devices and targets wherever their partitions live, while readings
//! flow: nothing is lost and nothing is made twice by it.
//!
//! Every change is waited for no longer than [`PATIENCE`], which is far less than the minute after which a node would find it by its full
//! scan: what takes effect came by the change event. How long each took is printed (`--nocapture`), not asserted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluse_schema::id::DeviceId;
use sluse_schema::partition::{PartitionId, partition_of_device};

use crate::{EMAIL, NUM_DEVICES, PASSWORD, Sending, Stage, until};

const PATIENCE: Duration = Duration::from_secs(20);
const NUM_PARTITIONS: u32 = 4;
const CONNECTIONS: &str = "/iot-device-payload-decoder-data-target-connection";

/// What arrived: device, number, the decoder's version, in order, by path.
type Arrivals = BTreeMap<String, Vec<(usize, usize, u64)>>;

fn arrivals(stage: &Stage) -> Arrivals {
    let mut arrivals = Arrivals::new();
    for got in stage.receiver.got.lock().unwrap().iter() {
        let path = got.request_line.split(' ').nth(1).unwrap().to_owned();
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let number = |name: &str| usize::try_from(body[name].as_u64().unwrap_or_else(|| panic!("{body}"))).unwrap();
        // An undecoded reading, of the connection without decoder, has no version.
        let version = body["version"].as_u64().unwrap_or_default();
        arrivals.entry(path).or_default().push((number("device"), number("number"), version));
    }
    arrivals
}

/// Waits until this is so of every device, and says how long that took.
async fn soon(stage: &Stage, what: &str, is_so: impl Fn(&Arrivals, usize) -> bool) {
    let begun = Instant::now();
    let missing = || {
        let arrivals = arrivals(stage);
        (0..NUM_DEVICES).filter(|device| !is_so(&arrivals, *device)).collect::<Vec<_>>()
    };
    while !missing().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not of devices {:?}", missing());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{what}: {} ms after it was answered, on every device", begun.elapsed().as_millis());
}

fn has(arrivals: &Arrivals, path: &str, device: usize, version: u64) -> bool {
    arrivals.get(path).is_some_and(|all| all.iter().any(|(of, _, with)| (*of, *with) == (device, version)))
}

/// What is registered.
struct Place {
    token: String,
    organization: Value,
    application: Value,
    devices: Vec<Value>,
    decoder: Value,
    hub: Value,
}

fn decoder(organization: &Value, version: u8) -> Value {
    let source = format!("function decode(p) {{ return {{device: p.device, number: p.number, version: {version}}}; }}");
    json!({"name": "D", "organizationId": organization, "decodingFunction": serde_json::to_string(&source).unwrap()})
}

impl Stage {
    fn target(&self, name: &str, application: &Value) -> Value {
        let url = format!("http://127.0.0.1:{}/{name}", self.receiver.port);
        json!({"name": name, "applicationId": application, "timeout": 10_000, "type": "HTTP_PUSH", "url": url})
    }

    async fn application(&self, token: &str, name: &str, organization: &Value) -> Value {
        let body = json!({"name": name, "organizationId": organization, "status": "IN-OPERATION"});
        self.post(token, "/application", body).await["id"].clone()
    }

    /// Devices that send through a decoder to one target.
    async fn settle(&mut self) -> Place {
        let answer = self.post("", "/auth/login", json!({"username": EMAIL, "password": PASSWORD})).await;
        let token = answer["accessToken"].as_str().unwrap().to_owned();
        let organization = self.post(&token, "/organization", json!({"name": "Aarhus"})).await["id"].clone();
        let application = self.application(&token, "Water", &organization).await;
        let device = |i| json!({"name": format!("Meter {i}"), "applicationId": application, "type": "GENERIC_HTTP"});
        let all: Vec<Value> = (0..NUM_DEVICES).map(device).collect();
        let made = self.post(&token, "/iot-device/createMany", json!({"data": all})).await;
        let made: Vec<Value> = made.as_array().unwrap().iter().map(|item| item["data"].clone()).collect();
        self.keys = made.iter().map(|device| device["apiKey"].as_str().unwrap().to_owned()).collect();
        let devices: Vec<Value> = made.iter().map(|device| device["id"].clone()).collect();
        let decoder = self.post(&token, "/payload-decoder", decoder(&organization, 1)).await["id"].clone();
        let hub = self.post(&token, "/data-target", self.target("first", &application)).await["id"].clone();
        let body = json!({"iotDeviceIds": devices, "payloadDecoderId": decoder, "dataTargetId": hub});
        self.post(&token, CONNECTIONS, body).await;
        Place { token, organization, application, devices, decoder, hub }
    }

    /// Uplinks partitions that node `b`, which came last, took.
    fn partitions_of_b(&self) -> BTreeSet<u32> {
        let log = self.b.log();
        let taken = log.lines().filter(|line| line.contains("uplinks partition taken"));
        let number = |line: &str| {
            let digits = line.split("partition=").nth(1)?.chars().take_while(char::is_ascii_digit);
            digits.collect::<String>().parse().ok()
        };
        taken.filter_map(number).collect()
    }

    async fn until_all_arrived(&self, sent: &[(usize, usize)], paths: &[&str]) {
        let numbers = || {
            let arrivals = arrivals(self);
            let mut numbers = vec![BTreeMap::<usize, usize>::new(); NUM_DEVICES];
            for (device, number, _) in paths.iter().filter_map(|path| arrivals.get(*path)).flatten() {
                *numbers[*device].entry(*number).or_default() += 1;
            }
            numbers
        };
        let is_there = |numbers: &[BTreeMap<usize, usize>]| {
            sent.iter().zip(numbers).all(|((first, end), got)| (*first..*end).all(|number| got.contains_key(&number)))
        };
        until("everything arrives", async || is_there(&numbers())).await;
        for (device, got) in numbers().iter().enumerate() {
            let twice: Vec<_> = got.iter().filter(|(_, num)| **num != 1).collect();
            assert!(twice.is_empty(), "of device {device} came more than once: {twice:?}");
        }
    }
}

/// Sends while `change` is made through node `a`, until it has come about; then everything has to be on one of the paths, once.
async fn during(stage: &Stage, paths: &[&str], change: impl AsyncFnOnce()) {
    let sending: Sending = stage.begin_sending();
    sending.until_accepted(5 * NUM_DEVICES).await;
    change().await;
    sending.until_accepted(5 * NUM_DEVICES).await;
    let sent = sending.end().await;
    stage.until_all_arrived(&sent, paths).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_made_through_one_node_takes_effect_on_both() {
    let mut stage = Stage::bare().await;
    until("both nodes have partitions", async || !stage.partitions_of_b().is_empty()).await;
    let place = stage.settle().await;
    let (token, application) = (place.token.as_str(), &place.application);
    let stage = &stage;
    let ids: Vec<i64> = place.devices.iter().map(|id| id.as_i64().unwrap()).collect();
    let on_b = stage.partitions_of_b();
    let is_on_b = |id: &&i64| {
        let PartitionId(partition) = partition_of_device(DeviceId(**id), NUM_PARTITIONS);
        on_b.contains(&partition)
    };
    let num_on_b = ids.iter().filter(is_on_b).count();
    assert!((1..NUM_DEVICES).contains(&num_on_b), "devices live on both nodes: {ids:?}, b has {on_b:?}");

    during(stage, &["/first"], async || {
        soon(stage, "everything is connected", |arrivals, device| has(arrivals, "/first", device, 1)).await;
        let path = format!("/payload-decoder/{}", place.decoder);
        stage.ask("PUT", token, &path, decoder(&place.organization, 2)).await;
        soon(stage, "an edited decoder", |arrivals, device| has(arrivals, "/first", device, 2)).await;
    })
    .await;
    for (device, versions) in arrivals(stage)["/first"].iter().fold(BTreeMap::new(), |mut all, (device, _, version)| {
        all.entry(*device).or_insert_with(Vec::new).push(*version);
        all
    }) {
        assert!(versions.is_sorted(), "device {device} went back to the old decoder: {versions:?}");
    }

    during(stage, &["/first", "/second"], async || {
        let path = format!("/data-target/{}", place.hub);
        stage.ask("PUT", token, &path, stage.target("second", application)).await;
        soon(stage, "another URL", |arrivals, device| has(arrivals, "/second", device, 2)).await;
    })
    .await;

    let mut added = Value::Null;
    during(stage, &["/second"], async || {
        let target = stage.post(token, "/data-target", stage.target("added", application)).await["id"].clone();
        let body = json!({"iotDeviceIds": place.devices, "payloadDecoderId": null, "dataTargetId": target});
        added = stage.post(token, CONNECTIONS, body).await["id"].clone();
        soon(stage, "an added connection", |arrivals, device| has(arrivals, "/added", device, 0)).await;
    })
    .await;

    during(stage, &["/second"], async || {
        stage.ask("DELETE", token, &format!("{CONNECTIONS}/{added}"), Value::Null).await;
        // Something arrives at the hub that does not arrive there, and nothing of it later: that is looked at when all has arrived.
        soon(stage, "a deleted connection", |arrivals, device| {
            let last =
                |path: &str| arrivals.get(path)?.iter().filter(|(of, ..)| *of == device).map(|(_, n, _)| *n).max();
            last("/second") > last("/added").map(|last| last + 10)
        })
        .await;
    })
    .await;
    for device in 0..NUM_DEVICES {
        let arrivals = arrivals(stage);
        let at = |path: &str| -> BTreeSet<usize> {
            arrivals[path].iter().filter(|(of, ..)| *of == device).map(|(_, number, _)| *number).collect()
        };
        let (added, all) = (at("/added"), at("/second"));
        let (first, last) = (*added.first().unwrap(), *added.last().unwrap());
        let between: BTreeSet<usize> = all.range(first..=last).copied().collect();
        assert_eq!(added, between, "device {device}: what comes between the addition and the removal, whole");
    }

    // Every device moves, wherever it lives.
    let there = stage.application(token, "Elsewhere", &place.organization).await;
    let target = stage.post(token, "/data-target", stage.target("there", &there)).await["id"].clone();
    during(stage, &["/second", "/there"], async || {
        for device in &place.devices {
            let to = json!({"applicationId": there,
                "dataTargetToPayloadDecoderIds": [{"dataTargetId": target, "payloadDecoderId": place.decoder}]});
            stage.ask("PUT", token, &format!("/iot-device/changeApplication/{device}"), to).await;
        }
        soon(stage, "a moved device", |arrivals, device| has(arrivals, "/there", device, 2)).await;
    })
    .await;

    // Deleted through one node, both refuse what it sends.
    for (id, key) in place.devices.iter().zip(&stage.keys) {
        stage.ask("DELETE", token, &format!("/iot-device/{id}"), Value::Null).await;
        let begun = Instant::now();
        for node in [&stage.a, &stage.b] {
            let url = format!("{}/receive-data?apiKey={key}", node.base());
            loop {
                let request = stage.client.post(&url).json(&json!({"device": 0, "number": 0}));
                let status = request.send().await.unwrap().status().as_u16();
                if status == 403 {
                    break;
                }
                assert!(status == 204 && begun.elapsed() < PATIENCE, "node {}: {status}", node.id);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        println!("a deleted device: {} ms after it was answered, on both nodes", begun.elapsed().as_millis());
    }
}
