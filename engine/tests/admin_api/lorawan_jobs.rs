//! The jobs about ChirpStack: figures, alarms by mail, imports. Each is run by hand, at a time of the test's choosing.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sluse_engine::lorawan_jobs::LorawanJobs;
use sluse_engine::store::admin::PgAdminStore;
use sluse_schema::port::{Mail, MailError, Mailer};

use crate::fixture::{Api, FRONTEND, Tenant};
use crate::lorawan::{EUI, OTAA_KEY, ROLES, device_of, otaa, post, profile_of};
use crate::network_server::{FakeChirpstack, TENANT, api};

const GATEWAY: &str = "0016c001f1500001";

/// Remembers mails, or refuses them.
#[derive(Debug, Default)]
struct Mailbox {
    mails: Mutex<Vec<Mail>>,
    is_away: Mutex<bool>,
}

impl Mailbox {
    fn subjects(&self) -> Vec<String> {
        self.mails.lock().unwrap().iter().map(|mail| mail.subject.clone()).collect()
    }
}

#[async_trait]
impl Mailer for Mailbox {
    async fn send(&self, mail: &Mail) -> Result<(), MailError> {
        if *self.is_away.lock().unwrap() {
            return Err(MailError::Unavailable("on purpose".into()));
        }
        self.mails.lock().unwrap().push(mail.clone());
        Ok(())
    }
}

struct Rig {
    api: Api,
    chirpstack: FakeChirpstack,
    tenant: Tenant,
    mailbox: Arc<Mailbox>,
    jobs: LorawanJobs,
}

async fn start() -> Rig {
    let (api, chirpstack) = Api::start_with_network().await;
    let tenant = api.tenant("Aarhus", &ROLES).await;
    let mailbox = Arc::<Mailbox>::default();
    let network = api.network.clone().unwrap();
    let jobs = LorawanJobs {
        admin: PgAdminStore::new(&api.store),
        network,
        mailer: mailbox.clone(),
        frontend_base_url: FRONTEND.to_owned(),
    };
    Rig { api, chirpstack, tenant, mailbox, jobs }
}

impl Rig {
    async fn add_gateway(&self, more: Value) {
        let mut gateway = json!({"gatewayId": GATEWAY, "name": "gw-1", "location": {"latitude": 56, "longitude": 10},
                                 "alarmMail": "alarm@example.org"});
        gateway.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({"organizationId": self.tenant.organization, "gateway": gateway});
        let (status, answer) = post(&self.api, &self.tenant, "/chirpstack/gateway", body).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// ChirpStack says that it heard the gateway then.
    fn heard_at(&self, at: DateTime<Utc>) {
        let mut world = self.chirpstack.world();
        let gateway = world.gateways.get_mut(GATEWAY).unwrap();
        gateway.metadata.insert("last_seen".into(), at.timestamp().to_string());
    }

    async fn shown(&self) -> Value {
        self.api.get(&format!("/chirpstack/gateway/{GATEWAY}")).await.1["gateway"].clone()
    }
}

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000 + minutes * 60, 0).unwrap()
}

#[tokio::test]
async fn figures_are_fetched_and_a_gateway_without_history_gets_its_first_state() {
    let rig = start().await;
    rig.add_gateway(json!({})).await;
    let before = rig.shown().await;
    rig.heard_at(at(0));
    rig.jobs.gateways(at(1)).await.unwrap();
    let after = rig.shown().await;
    assert_eq!((&after["rxPacketsReceived"], &after["txPacketsEmitted"]), (&json!(7), &json!(2)));
    assert_eq!(after["lastSeenAt"], at(0).to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
    assert_eq!(after["updatedAt"], before["updatedAt"], "figures are no change of the gateway");
    let (_, status) = rig.api.get(&format!("/lorawan/gateway/status/{GATEWAY}?timeInterval=DAY")).await;
    assert_eq!(status["statusTimestamps"].as_array().unwrap().len(), 1);
    rig.jobs.gateways(at(2)).await.unwrap();
    assert_eq!(rig.api.number("SELECT count(*) FROM gateway_status_history").await, 1);
}

#[tokio::test]
async fn an_offline_gateway_is_told_of_once_and_so_is_its_return_and_an_absent_chirpstack_is_no_outage() {
    let rig = start().await;
    rig.add_gateway(json!({"notifyOffline": true, "offlineAlarmThresholdMinutes": 10})).await;
    rig.heard_at(at(0));
    rig.jobs.gateways(at(9)).await.unwrap();
    assert_eq!(rig.mailbox.subjects().len(), 0);
    rig.chirpstack.world().is_away = true;
    assert!(rig.jobs.gateways(at(60)).await.is_err());
    assert_eq!(rig.mailbox.subjects().len(), 0, "nothing is known of the gateway");
    rig.chirpstack.world().is_away = false;
    *rig.mailbox.is_away.lock().unwrap() = true;
    rig.jobs.gateways(at(60)).await.unwrap();
    *rig.mailbox.is_away.lock().unwrap() = false;
    rig.jobs.gateways(at(61)).await.unwrap();
    rig.jobs.gateways(at(62)).await.unwrap();
    assert_eq!(rig.mailbox.subjects(), ["OS2iot alarm: gw-1 er offline"], "tried again, and sent once");
    assert_eq!(rig.shown().await["hasSentOfflineNotification"], true);
    rig.heard_at(at(63));
    rig.jobs.gateways(at(64)).await.unwrap();
    rig.jobs.gateways(at(65)).await.unwrap();
    assert_eq!(rig.mailbox.subjects(), ["OS2iot alarm: gw-1 er offline", "OS2iot alarm: gw-1 er online igen"]);
    assert_eq!(rig.mailbox.mails.lock().unwrap()[0].to, ["alarm@example.org"]);
}

#[tokio::test]
async fn unusual_packets_are_told_of_once_a_day_after_four() {
    let rig = start().await;
    // Yesterday's are five: the first day of the metric that ChirpStack answers with.
    rig.add_gateway(json!({"notifyUnusualPackages": true, "minimumPackages": 10, "maximumPackages": 20})).await;
    let day = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    rig.jobs.unusual_packets(day("2026-06-01T04:00:00Z")).await.unwrap();
    assert_eq!(rig.mailbox.subjects().len(), 0, "it was never heard");
    rig.heard_at(day("2026-06-01T05:00:00Z"));
    rig.jobs.gateways(day("2026-06-01T05:00:00Z")).await.unwrap();
    rig.jobs.unusual_packets(day("2026-06-02T03:59:00Z")).await.unwrap();
    assert_eq!(rig.mailbox.subjects().len(), 0);
    rig.chirpstack.world().is_away = true;
    assert!(rig.jobs.unusual_packets(day("2026-06-02T04:00:00Z")).await.is_err());
    rig.chirpstack.world().is_away = false;
    *rig.mailbox.is_away.lock().unwrap() = true;
    assert!(rig.jobs.unusual_packets(day("2026-06-02T04:10:00Z")).await.is_err(), "it stays due");
    *rig.mailbox.is_away.lock().unwrap() = false;
    for time in ["2026-06-02T04:15:00Z", "2026-06-02T12:00:00Z"] {
        rig.jobs.unusual_packets(day(time)).await.unwrap();
    }
    assert_eq!(rig.mailbox.subjects(), ["OS2iot alarm: gw-1 har et uregelmæssigt pakkemønster"]);
    rig.jobs.unusual_packets(day("2026-06-03T04:00:00Z")).await.unwrap();
    assert_eq!(rig.mailbox.subjects().len(), 2);
}

#[tokio::test]
async fn what_was_made_in_chirpstack_gets_its_rows() {
    let rig = start().await;
    let organization = rig.tenant.organization.to_string();
    {
        let mut world = rig.chirpstack.world();
        let tags = |organization: &str| [("internalOrganizationId".to_owned(), organization.to_owned())].into();
        for (id, organization) in [("0016c001f15000a1", organization.as_str()), ("0016c001f15000a2", "4711")] {
            let gateway = api::Gateway {
                gateway_id: id.into(),
                name: format!("gw {id}"),
                tenant_id: TENANT.into(),
                tags: tags(organization),
                ..Default::default()
            };
            world.gateways.insert(id.into(), gateway);
        }
        let id = "11111111-0000-4000-8000-000000000000";
        let profile = api::DeviceProfile { id: id.into(), name: "Everybody's".into(), ..Default::default() };
        world.profiles.insert(id.into(), profile);
    }
    rig.jobs.gateways(at(0)).await.unwrap();
    rig.jobs.import().await.unwrap();
    let as_tenant = |path: &'static str| rig.api.call("GET", path, Some(&rig.tenant.token), None);
    let (_, own) = as_tenant("/chirpstack/gateway").await;
    assert_eq!((&own["totalCount"], &own["resultList"][0]["gatewayId"]), (&json!(1), &json!("0016c001f15000a1")));
    assert_eq!(own["resultList"][0]["tags"], json!({}));
    let (_, all) = rig.api.get("/chirpstack/gateway").await;
    assert_eq!(all["totalCount"], 2, "one that belongs to nobody is the global administrator's");
    let (_, profiles) = as_tenant("/chirpstack/device-profiles").await;
    assert_eq!((&profiles["totalCount"], &profiles["result"][0]["name"]), (&json!("1"), &json!("Everybody's")));
    // Again: nothing is made twice, and what was deleted here does not come back.
    let path = "/chirpstack/gateway/0016c001f15000a1";
    rig.chirpstack.world().is_away = true;
    assert_eq!(rig.api.call("DELETE", path, Some(&rig.tenant.token), None).await.0, 200);
    rig.chirpstack.world().is_away = false;
    rig.jobs.gateways(at(1)).await.unwrap();
    assert_eq!(rig.api.get("/chirpstack/gateway").await.1["totalCount"], 1);
}

#[tokio::test]
async fn a_key_that_only_chirpstack_has_is_fetched() {
    let rig = start().await;
    let profile = profile_of(&rig.api, &rig.tenant).await;
    let id = device_of(&rig.api, &rig.tenant, otaa(&rig.tenant, &profile, EUI)).await;
    let client = rig.api.store.pool().get().await.unwrap();
    client.batch_execute("UPDATE iot_device SET settings_enc = NULL").await.unwrap();
    rig.jobs.import().await.unwrap();
    let (_, shown) = rig.api.get(&format!("/iot-device/{id}")).await;
    assert_eq!(shown["lorawanSettings"]["OTAAapplicationKey"], OTAA_KEY);
}
