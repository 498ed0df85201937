//! Sets the stage through the REST API, as any client would: organisation, applications, decoders, devices, targets, connections;
//! and reads the targets' figures. Names carry the run, so that a data directory can be used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::{Value, json};

use sluse_schema::target::{BreakerState, Feed};

use crate::fleet::Fleet;
use crate::payloads::Model;
use crate::scenario::{Scenario, Target, TargetKind};

/// Devices per `createMany`, as the reference allows.
const DEVICES_PER_REQUEST: usize = 50;
/// Devices per connection request.
const DEVICES_PER_CONNECTION: usize = 2_000;
/// A node that does not answer a question for so long is left for another.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at once.
const NUM_REQUESTS_AT_ONCE: usize = 8;

/// A logged-in client.
#[derive(Clone, Debug)]
pub struct AdminApi {
    client: Client,
    /// Every node; the token is good on all of them.
    bases: Arc<[String]>,
    /// The node that answered last.
    current: Arc<AtomicUsize>,
    token: String,
}

/// A device as it was registered.
#[derive(Clone, Debug, Default)]
pub struct RegisteredDevice {
    pub id: i64,
    /// For HTTP devices: `/api/v1/receive-data?apiKey=…`.
    pub receive_path: Option<Arc<str>>,
}

/// What was registered.
#[derive(Clone, Debug)]
pub struct Stage {
    /// By index in the fleet.
    pub devices: Vec<RegisteredDevice>,
    /// By index in the scenario.
    pub targets: Vec<i64>,
}

/// `GET /data-target/:id/state`, as far as it is read here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetState {
    /// Null until the target's owner has written for the first time.
    pub feed: Option<Feed>,
    pub breaker: Option<BreakerState>,
    pub lag_seconds: f64,
    pub counters: Counters,
}

/// What the engine counts of a target's deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    pub accepted: u64,
    pub offered_again: u64,
    pub delivered: u64,
    pub dead: u64,
    pub expired: u64,
    pub discarded: u64,
    pub pending: u64,
}

impl Counters {
    /// Whether every delivery is in exactly one place.
    pub const fn is_conserved(&self) -> bool {
        self.accepted + self.offered_again == self.delivered + self.dead + self.expired + self.discarded + self.pending
    }
}

/// Where a target's deliveries go.
#[derive(Clone, Debug)]
pub enum Address {
    Http { url: String, authorization: String },
    Mqtt { port: u16, topic: String },
}

impl AdminApi {
    /// Logs in.
    pub async fn log_in(base_urls: &[String], email: &str, password: &str) -> anyhow::Result<Self> {
        let client = Client::builder().timeout(Duration::from_secs(60)).build()?;
        let bases = base_urls.iter().map(|url| format!("{url}/api/v1")).collect();
        let mut api = Self { client, bases, current: Arc::default(), token: String::new() };
        let answer =
            api.call(Method::POST, "/auth/login", Some(json!({"username": email, "password": password}))).await;
        let answer = answer.with_context(|| format!("cannot log in as {email}"))?;
        api.token = answer["accessToken"].as_str().context("the log-in answered without an accessToken")?.to_owned();
        Ok(api)
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let first = self.current.load(Relaxed);
        let is_read = method == Method::GET;
        let mut last = None;
        for node in (first..first + self.bases.len()).map(|i| i % self.bases.len()) {
            match self.call_node(&self.bases[node], method.clone(), path, body.clone()).await {
                // Nothing was sent, or what was sent changed nothing: another node may answer.
                Err(error) if is_away(&error) || (is_read && is_slow(&error)) => last = Some(error),
                answer => {
                    self.current.store(node, Relaxed);
                    return answer;
                }
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("there is no node to ask")))
    }

    async fn call_node(&self, base: &str, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self.client.request(method.clone(), format!("{base}{path}"));
        if method == Method::GET {
            request = request.timeout(READ_TIMEOUT);
        }
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(
            status.is_success(),
            "{method} {path} answered {status}: {}",
            text.chars().take(600).collect::<String>()
        );
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {path} answered something that is not JSON"))
    }

    async fn create(&self, path: &str, body: Value) -> anyhow::Result<i64> {
        let answer = self.call(Method::POST, path, Some(body)).await?;
        answer["id"].as_i64().with_context(|| format!("POST {path} answered without an id"))
    }

    /// Registers everything a scenario needs; `addresses` by index of the target.
    pub async fn set_stage(&self, scenario: &Scenario, fleet: &Fleet, addresses: &[Address]) -> anyhow::Result<Stage> {
        let run = format!("{:04x}", fleet.run);
        let organization = self.create("/organization", json!({"name": format!("Demo {run}")})).await?;
        let mut applications = Vec::new();
        for name in &scenario.applications {
            let body = json!({"name": format!("{name} {run}"), "organizationId": organization,
                "description": scenario.about, "status": "IN-OPERATION"});
            applications.push(self.create("/application", body).await?);
        }
        let mut decoders = Vec::new();
        for model in Model::ALL {
            let body = json!({"name": format!("{} {run}", model.name()), "organizationId": organization,
                "decodingFunction": serde_json::to_string(model.decoder_source())?, "dialect": model.dialect()});
            decoders.push((model, self.create("/payload-decoder", body).await?));
        }
        let devices = self.register_devices(fleet, &applications).await?;
        let mut targets = Vec::new();
        for (target, address) in scenario.targets.iter().zip(addresses) {
            let application = application_index(scenario, target);
            targets.push(self.create("/data-target", target_body(target, address, applications[application])).await?);
        }
        for (target, id) in scenario.targets.iter().zip(&targets) {
            self.connect(scenario, fleet, &devices, &decoders, target, *id).await?;
        }
        Ok(Stage { devices, targets })
    }

    async fn register_devices(&self, fleet: &Fleet, applications: &[i64]) -> anyhow::Result<Vec<RegisteredDevice>> {
        let indices: Vec<u32> = (0..fleet.num_devices).collect();
        let requests = indices.chunks(DEVICES_PER_REQUEST).map(|chunk| {
            let bodies: Vec<Value> = chunk.iter().map(|device| device_body(fleet, *device, applications)).collect();
            self.register_chunk(bodies)
        });
        stream::iter(requests).buffered(NUM_REQUESTS_AT_ONCE).try_concat().await
    }

    async fn register_chunk(&self, bodies: Vec<Value>) -> anyhow::Result<Vec<RegisteredDevice>> {
        let num_devices = bodies.len();
        let answer = self.call(Method::POST, "/iot-device/createMany", Some(json!({"data": bodies}))).await?;
        let items = answer.as_array().context("createMany answered no list")?;
        ensure!(items.len() == num_devices, "createMany answered {} of {num_devices} devices", items.len());
        let registered = items.iter().map(|item| {
            let Some(id) = item["data"]["id"].as_i64() else { bail!("a device was not created: {item}") };
            let receive_path = item["data"]["apiKey"].as_str().map(|key| format!("/api/v1/receive-data?apiKey={key}"));
            Ok(RegisteredDevice { id, receive_path: receive_path.map(Into::into) })
        });
        registered.collect()
    }

    async fn connect(
        &self,
        scenario: &Scenario,
        fleet: &Fleet,
        devices: &[RegisteredDevice],
        decoders: &[(Model, i64)],
        target: &Target,
        id: i64,
    ) -> anyhow::Result<()> {
        let connected = |device: &u32| is_connected(scenario, fleet, target, *device);
        let ids_of = |wanted: Option<Model>| -> Vec<i64> {
            let wants = |device: &u32| wanted.is_none_or(|model| fleet.model(*device) == model);
            (0..fleet.num_devices).filter(connected).filter(wants).map(|d| devices[d as usize].id).collect()
        };
        let mut connections: Vec<(Option<i64>, Vec<i64>)> = Vec::new();
        for is_raw in target.forms() {
            if *is_raw {
                connections.push((None, ids_of(None)));
            } else {
                connections.extend(decoders.iter().map(|(model, decoder)| (Some(*decoder), ids_of(Some(*model)))));
            }
        }
        for (decoder, ids) in connections {
            for ids in ids.chunks(DEVICES_PER_CONNECTION) {
                let body = json!({"iotDeviceIds": ids, "payloadDecoderId": decoder, "dataTargetId": id});
                self.create("/iot-device-payload-decoder-data-target-connection", body).await?;
            }
        }
        Ok(())
    }

    /// Asks a target to begin again with everything the log holds.
    pub async fn rewind(&self, target: i64) -> anyhow::Result<()> {
        self.call(Method::POST, &format!("/data-target/{target}/rewind"), Some(json!({"offset": 0}))).await.map(drop)
    }

    /// How a target stands.
    pub async fn target_state(&self, target: i64) -> anyhow::Result<TargetState> {
        let answer = self.call(Method::GET, &format!("/data-target/{target}/state"), None).await?;
        Ok(serde_json::from_value(answer)?)
    }

    /// How all of these stand, in order.
    pub async fn target_states(&self, targets: &[i64]) -> anyhow::Result<Vec<TargetState>> {
        stream::iter(targets).map(|id| self.target_state(*id)).buffered(NUM_REQUESTS_AT_ONCE).try_collect().await
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
}

fn is_slow(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(|e| e.is_timeout() || e.is_request())
}

/// The application of a target, by index.
pub fn application_index(scenario: &Scenario, target: &Target) -> usize {
    let name = target.application.as_ref();
    scenario.applications.iter().position(|a| name.is_none_or(|name| a == name)).unwrap_or(0)
}

/// Whether a target is to get what a device sends.
pub fn is_connected(scenario: &Scenario, fleet: &Fleet, target: &Target, device: u32) -> bool {
    fleet.application(device) as usize == application_index(scenario, target)
        && (target.share >= 1.0 || fleet.place(device) < target.share)
}

fn device_body(fleet: &Fleet, device: u32, applications: &[i64]) -> Value {
    let application = applications[fleet.application(device) as usize];
    let mut body = json!({"name": fleet.device_name(device), "applicationId": application,
        "latitude": 56.15 + f64::from(device % 100) / 1000.0, "longitude": 10.2 + f64::from(device / 100 % 100) / 1000.0});
    if fleet.is_http(device) {
        body["type"] = "GENERIC_HTTP".into();
    } else {
        body["type"] = "LORAWAN".into();
        body["lorawanSettings"] = json!({"devEUI": fleet.dev_eui(device).to_string(), "activationType": "NONE",
            "deviceProfileID": "72d1714e-aa2b-40ef-97a6-f5027ecb47bd"});
    }
    body
}

fn target_body(target: &Target, address: &Address, application: i64) -> Value {
    let mut body = json!({"name": target.name, "applicationId": application, "timeout": target.timeout_ms});
    match address {
        Address::Http { url, authorization } => {
            body["type"] = "HTTP_PUSH".into();
            body["url"] = url.as_str().into();
            body["authorizationHeader"] = authorization.as_str().into();
        }
        Address::Mqtt { port, topic } => {
            body["type"] = "MQTT".into();
            body["url"] = "mqtt://127.0.0.1".into();
            body["mqttPort"] = (*port).into();
            body["mqttTopic"] = topic.as_str().into();
            body["mqttQos"] = 1.into();
            body["mqttUsername"] = "demo".into();
            body["mqttPassword"] = "demo".into();
        }
    }
    debug_assert_eq!(matches!(address, Address::Mqtt { .. }), target.kind == TargetKind::Mqtt);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_before_and_after_its_owner_wrote() {
        let early: TargetState =
            serde_json::from_value(json!({"feed": null, "breaker": null, "counters": {"accepted": 0}})).unwrap();
        assert!(early.feed.is_none() && early.counters.is_conserved());
        let later = json!({"feed": "lagging", "breaker": "half_open", "lagSeconds": 1.5, "asOf": "2026-01-01T00:00:00.000Z",
            "counters": {"accepted": 5, "offeredAgain": 1, "delivered": 3, "dead": 1, "expired": 0, "discarded": 0, "pending": 2}});
        let later: TargetState = serde_json::from_value(later).unwrap();
        assert_eq!((later.feed, later.breaker), (Some(Feed::Lagging), Some(BreakerState::HalfOpen)));
        assert!(later.counters.is_conserved());
        assert!(!Counters { pending: 1, ..later.counters }.is_conserved());
    }

    #[test]
    fn a_share_of_the_devices_is_about_that_share_with_every_model() {
        let scenario = Scenario::parse(
            "name='x'\nabout='y'\napplications=['A','B']\n[load]\nrate=1\ndevices=2000\nhttp_share=0.1\n\
             [[target]]\nname='t'\napplication='B'\nshare=0.3\n",
        )
        .unwrap();
        let fleet = Fleet::new(1, &scenario.load, 2);
        let connected: Vec<u32> =
            (0..2000).filter(|d| is_connected(&scenario, &fleet, &scenario.targets[0], *d)).collect();
        assert!((250..350).contains(&connected.len()), "{}", connected.len());
        assert!(
            connected.iter().all(|d| fleet.application(*d) == 1),
            "devices of another application are never connected"
        );
        for model in Model::ALL {
            assert!(connected.iter().any(|d| fleet.model(*d) == model), "{}", model.name());
        }
    }
}
