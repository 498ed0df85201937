//! Every operation of the OpenAPI document that changes something, refused first and then done: each leaves its lines in the change
//! log, with who, how, from where and in which request. One that is added to the document has to be added here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fixture::{Api, Behind, Tenant};
use crate::lorawan::{OTAA_KEY, device_of, otaa, profile, profile_of};
use crate::network_server::FakeChirpstack;
use crate::registry::{CONNECTIONS, Registry};
use crate::sigfox_server;
use crate::smtp::SmtpServer;
use crate::walk::operations;

/// What devices send is no business of the change log; coming back from a provider is tested with the providers.
const NOT_HERE: [&str; 3] =
    ["POST /api/v1/receive-data", "POST /api/v1/sigfox-callback/data/bidir", "POST /api/v1/auth/kombit/login/callback"];

/// A call of one operation.
pub struct Step {
    /// As the document names it.
    pub operation: &'static str,
    pub path: String,
    pub body: Option<Value>,
    /// What the global administrator gets.
    pub status: u16,
    /// Lines that this leaves: one for every row that somebody would ask about.
    pub num_lines: i64,
}

fn step(operation: &'static str, path: impl Into<String>, body: Value, status: u16) -> Step {
    let body = (!operation.starts_with("DELETE")).then_some(body);
    Step { operation, path: path.into(), body, status, num_lines: 1 }
}

impl Step {
    /// It concerns so many rows.
    fn leaving(self, num_lines: i64) -> Self {
        Self { num_lines, ..self }
    }
}

/// Everything that the steps work on.
pub struct Rig {
    pub api: Api,
    pub tenant: Tenant,
    pub own: Registry,
    smtp: SmtpServer,
    _chirpstack: FakeChirpstack,
    _sigfox: crate::server::Server,
}

pub async fn rig() -> Rig {
    let (smtp, sigfox) = (SmtpServer::start(), sigfox_server::start());
    let behind = Behind { mailer: smtp.mailer(), sigfox_url: format!("{}/v2", sigfox.url()), ..Behind::default() };
    let (behind, chirpstack) = behind.with_network().await;
    let api = Api::start_with(behind).await;
    let roles = ["OrganizationUserAdmin", "OrganizationApplicationAdmin", "OrganizationGatewayAdmin", "Read"];
    let tenant = api.tenant("Aarhus", &roles).await;
    let own = Registry::of(&api, &tenant.organization, &tenant.application).await;
    Rig { api, tenant, own, smtp, _chirpstack: chirpstack, _sigfox: sigfox }
}

impl Rig {
    async fn made(&self, path: &str, body: Value) -> Value {
        self.api.made(path, body).await["id"].clone()
    }

    /// Somebody who asked to be let in.
    pub async fn waiting(&self, name: &str) -> Value {
        let email = format!("{name}@example.org");
        let body = json!({"name": name, "email": email, "password": "Sesame-11", "active": true});
        let id = self.made("/user", body).await;
        let sql = format!("INSERT INTO user_requested_organization VALUES ({id}, {})", self.tenant.organization);
        self.api.sql(&sql).await;
        id
    }

    pub fn user_steps(&self, accepted: &Value, rejected: &Value) -> Vec<Step> {
        let (o, g) = (&self.tenant.organization, &self.tenant.group);
        let new = json!({"name": "New", "email": "new@example.org", "password": "Sesame-11", "active": true, "permissionIds": [g]});
        let log_in = json!({"username": "aarhus@example.org", "password": "Sesame-11"});
        vec![
            step("POST /api/v1/auth/login", "/auth/login", log_in, 201),
            step("POST /api/v1/user", "/user", new, 201),
            step("PUT /api/v1/user/{id}", format!("/user/{accepted}"), json!({"name": "Renamed"}), 200),
            step("PUT /api/v1/user/{id}/hide-welcome", "/user/1/hide-welcome", json!({}), 200),
            step(
                "PUT /api/v1/permission/acceptUser",
                "/permission/acceptUser",
                json!({"organizationId": o, "userId": accepted, "permissionIds": [g]}),
                200,
            ),
            step(
                "PUT /api/v1/user/rejectUser",
                "/user/rejectUser",
                json!({"orgId": o, "userIdToReject": rejected}),
                200,
            ),
            step(
                "PUT /api/v1/kombitCreation/updateUserOrgs",
                "/kombitCreation/updateUserOrgs",
                json!({"requestedOrganizationIds": [o]}),
                200,
            ),
            // He has an address.
            step(
                "PUT /api/v1/kombitCreation/createNewKombitUser",
                "/kombitCreation/createNewKombitUser",
                json!({"email": "me@example.org", "requestedOrganizationIds": [o]}),
                400,
            ),
        ]
    }

    pub async fn group_steps(&self) -> Vec<Step> {
        let (o, g) = (&self.tenant.organization, &self.tenant.group);
        let group = json!({"levels": [{"type": "Read"}], "name": "readers", "organizationId": o, "userIds": []});
        let key = json!({"name": "script", "permissionIds": [g]});
        let (old_group, old_key) =
            (self.made("/permission", group.clone()).await, self.made("/api-key", key.clone()).await);
        let gone = self.made("/organization", json!({"name": "Gone"})).await;
        vec![
            // With its three groups.
            step("POST /api/v1/organization", "/organization", json!({"name": "Odense"}), 201).leaving(4),
            step("PUT /api/v1/organization/{id}", format!("/organization/{gone}"), json!({"name": "Going"}), 200),
            step("DELETE /api/v1/organization/{id}", format!("/organization/{gone}"), json!({}), 200),
            step("POST /api/v1/permission", "/permission", group, 201),
            step(
                "PUT /api/v1/permission/{id}",
                format!("/permission/{old_group}"),
                json!({"name": "r", "userIds": []}),
                200,
            ),
            step("DELETE /api/v1/permission/{id}", format!("/permission/{old_group}"), json!({}), 200),
            step("POST /api/v1/api-key", "/api-key", key.clone(), 201),
            step("PUT /api/v1/api-key/{id}", format!("/api-key/{old_key}"), key, 200),
            step("DELETE /api/v1/api-key/{id}", format!("/api-key/{old_key}"), json!({}), 200),
        ]
    }

    pub async fn content_steps(&self) -> Vec<Step> {
        let (o, a) = (&self.tenant.organization, &self.tenant.application);
        let (dev, target, connection) = (&self.own.device["id"], &self.own.target["id"], &self.own.connection["id"]);
        let application = |name: &str| json!({"name": name, "organizationId": o});
        let moving = self.made("/application", application("moving")).await;
        let model = json!({"belongsToId": o, "body": {"id": "m1", "type": "DeviceModel", "category": ["sensor"],
            "controlledProperty": ["airPollution"], "manufacturerName": "A", "brandName": "A", "modelName": "A", "name": "A"}});
        let old_model = self.made("/device-model", model.clone()).await;
        let source =
            json!({"name": "x", "organizationId": o, "decodingFunction": "\"function decode() { return 1; }\""});
        let old_decoder = self.made("/payload-decoder", source.clone()).await;
        let device = |name: &str| json!({"name": name, "type": "GENERIC_HTTP", "applicationId": a});
        let old_device = self.made("/iot-device", device("old")).await;
        let mut changed = device("changed");
        changed["id"] = dev.clone();
        let link = json!({"iotDeviceIds": [dev], "payloadDecoderId": null, "dataTargetId": target});
        let (copied, old_link) =
            (self.made("/iot-device", device("copy")).await, self.made(CONNECTIONS, link.clone()).await);
        vec![
            step("POST /api/v1/application", "/application", application("new"), 201),
            step("PUT /api/v1/application/{id}", format!("/application/{moving}"), application("moved"), 200),
            step(
                "PUT /api/v1/application/updateApplicationOrganization/{id}",
                format!("/application/updateApplicationOrganization/{moving}"),
                json!({"organizationId": o, "permissionIds": []}),
                200,
            ),
            step("DELETE /api/v1/application/{id}", format!("/application/{moving}"), json!({}), 200),
            step("POST /api/v1/device-model", "/device-model", model.clone(), 201),
            step("PUT /api/v1/device-model/{id}", format!("/device-model/{old_model}"), model, 200),
            step("DELETE /api/v1/device-model/{id}", format!("/device-model/{old_model}"), json!({}), 200),
            step("POST /api/v1/payload-decoder", "/payload-decoder", source.clone(), 201),
            step("PUT /api/v1/payload-decoder/{id}", format!("/payload-decoder/{old_decoder}"), source, 200),
            step("DELETE /api/v1/payload-decoder/{id}", format!("/payload-decoder/{old_decoder}"), json!({}), 200),
            // That a run is noted is tested where decoders run.
            step(
                "POST /api/v1/test-payload-decoder",
                "/test-payload-decoder",
                json!({"code": "no json", "iotDeviceJsonString": "{}", "rawPayloadJsonString": "{}"}),
                400,
            ),
            step("POST /api/v1/iot-device", "/iot-device", device("new"), 201),
            step("PUT /api/v1/iot-device/{id}", format!("/iot-device/{dev}"), changed.clone(), 200),
            step(
                "POST /api/v1/iot-device/createMany",
                "/iot-device/createMany",
                json!({"data": [device("b1"), device("b2")]}),
                201,
            )
            .leaving(2),
            step("POST /api/v1/iot-device/updateMany", "/iot-device/updateMany", json!({"data": [changed]}), 201),
            step(
                "PUT /api/v1/iot-device/resetHttpDeviceApiKey/{id}",
                format!("/iot-device/resetHttpDeviceApiKey/{dev}"),
                json!({}),
                200,
            ),
            step("DELETE /api/v1/iot-device/{id}", format!("/iot-device/{old_device}"), json!({}), 200),
            step(connection_operation("POST", ""), CONNECTIONS, link.clone(), 201),
            step(connection_operation("PUT", "/{id}"), format!("{CONNECTIONS}/{connection}"), link, 200),
            step(
                connection_operation("PUT", "/appendCopiedDevice/{id}"),
                format!("{CONNECTIONS}/appendCopiedDevice/{connection}"),
                json!({"deviceId": copied}),
                200,
            ),
            step(connection_operation("DELETE", "/{id}"), format!("{CONNECTIONS}/{old_link}"), json!({}), 200),
            // Its two connections went with it, and one was made.
            step(
                "PUT /api/v1/iot-device/changeApplication/{id}",
                format!("/iot-device/changeApplication/{copied}"),
                json!({"applicationId": a, "dataTargetToPayloadDecoderIds": []}),
                200,
            ),
        ]
    }

    pub async fn target_steps(&self) -> Vec<Step> {
        let (o, a, target) = (&self.tenant.organization, &self.tenant.application, &self.own.target["id"]);
        let draft = json!({"name": "t", "type": "HTTP_PUSH", "applicationId": a, "url": "http://127.0.0.1:9/in", "timeout": 3000});
        let old = self.made("/data-target", draft.clone()).await;
        let open = json!({"name": "o", "type": "OPENDATADK", "applicationId": a, "openDataDkDataset": {"name": "d",
            "description": "d", "license": "https://creativecommons.org/licenses/by/4.0/", "authorName": "A",
            "authorEmail": "a@example.org", "resourceTitle": "r"}});
        let open = self.made("/data-target", open).await;
        let letters = format!("/data-target/{target}/dead-letters");
        let sql = format!(
            "INSERT INTO dead_letter (target_id, device_id, application_id, organization_id, kind, event_key, received_at, \
             content_type, log_offset, reason, num_attempts, message, answer, body, died_at) SELECT {target}, {}, {a}, {o}, 'body', '\\x00', \
             now(), 'application/json', n, 'refused', 1, 'no', '', '\\x00', now() FROM generate_series(1, 3) AS n",
            self.own.device["id"]
        );
        self.api.sql(&sql).await;
        let first = self.api.number("SELECT min(id) FROM dead_letter").await;
        vec![
            step("POST /api/v1/data-target", "/data-target", draft.clone(), 201),
            step("PUT /api/v1/data-target/{id}", format!("/data-target/{target}"), draft, 200),
            step("DELETE /api/v1/data-target/{id}", format!("/data-target/{old}"), json!({}), 200),
            step(
                "PUT /api/v1/data-target/updateOpenDataDkRegistered/{id}",
                format!("/data-target/updateOpenDataDkRegistered/{o}"),
                json!({}),
                200,
            ),
            step(
                "POST /api/v1/data-target/sendOpenDataDkMail",
                "/data-target/sendOpenDataDkMail",
                json!({"organizationId": o, "organizationOddkAlias": "a", "sharingUrl": "https://iot.example.org/x"}),
                201,
            ),
            step(
                "POST /api/v1/data-target/testDataTarget",
                "/data-target/testDataTarget",
                json!({"dataTargetId": open, "dataPackage": "{}"}),
                201,
            ),
            step(
                "POST /api/v1/data-target/{id}/rewind",
                format!("/data-target/{target}/rewind"),
                json!({"offset": 0}),
                201,
            ),
            step("DELETE /api/v1/data-target/{id}/dead-letters/{letter}", format!("{letters}/{first}"), json!({}), 200),
            step(
                "POST /api/v1/data-target/{id}/dead-letters/replay",
                format!("{letters}/replay"),
                json!({"ids": [first + 1]}),
                201,
            ),
            step(
                "POST /api/v1/data-target/{id}/dead-letters/purge",
                format!("{letters}/purge"),
                json!({"all": true}),
                201,
            ),
        ]
    }

    pub async fn radio_steps(&self) -> Vec<Step> {
        let (api, tenant) = (&self.api, &self.tenant);
        let o = &tenant.organization;
        let profile_id = profile_of(api, tenant).await;
        let meter = device_of(api, tenant, otaa(tenant, &profile_id, "a81758fffe000001")).await;
        let group = |devices: Value| {
            json!({"name": "valves", "applicationID": tenant.application, "mcAddr": "01020304", "mcNwkSKey": OTAA_KEY,
                   "mcAppSKey": OTAA_KEY, "fCnt": 0, "dr": 0, "frequency": 868_100_000, "groupType": "CLASS_C",
                   "iotDevices": devices})
        };
        let sent_to = self.made("/multicast", group(json!([{"id": meter}]))).await;
        let unused = json!({"internalOrganizationId": o, "deviceProfile": profile("unused")});
        let old_profile = self.made("/chirpstack/device-profiles", unused).await;
        let old_profile = old_profile.as_str().unwrap();
        let gateway =
            |id: &str| json!({"gatewayId": id, "name": "gw", "location": {"latitude": 56.1, "longitude": 10.2}});
        let mut old_gateway = json!({"organizationId": o, "gateway": gateway("0016c001f1500001")});
        api.post("/chirpstack/gateway", old_gateway.clone()).await;
        let row = api.number("SELECT id FROM gateway").await;
        old_gateway["gateway"] = gateway("0016c001f1500002");
        let multicast = format!("/multicast/{sent_to}");
        let changed = json!({"gateway": {"name": "gw-2", "location": {"latitude": 56.1, "longitude": 10.2}}});
        vec![
            step(
                "POST /api/v1/chirpstack/device-profiles",
                "/chirpstack/device-profiles",
                json!({"internalOrganizationId": o, "deviceProfile": profile("another")}),
                201,
            ),
            step(
                "PUT /api/v1/chirpstack/device-profiles/{profile}",
                format!("/chirpstack/device-profiles/{old_profile}"),
                json!({"deviceProfile": profile("renamed")}),
                204,
            ),
            step(
                "DELETE /api/v1/chirpstack/device-profiles/{profile}",
                format!("/chirpstack/device-profiles/{old_profile}"),
                json!({}),
                200,
            ),
            step("POST /api/v1/chirpstack/gateway", "/chirpstack/gateway", old_gateway, 201),
            step("PUT /api/v1/chirpstack/gateway/{gateway}", "/chirpstack/gateway/0016c001f1500001", changed, 200),
            step(
                "PUT /api/v1/chirpstack/gateway/updateGatewayOrganization/{id}",
                format!("/chirpstack/gateway/updateGatewayOrganization/{row}"),
                json!({"organizationId": o}),
                200,
            ),
            step("DELETE /api/v1/chirpstack/gateway/{gateway}", "/chirpstack/gateway/0016c001f1500001", json!({}), 200),
            step(
                "POST /api/v1/iot-device/{id}/downlink",
                format!("/iot-device/{meter}/downlink"),
                json!({"data": "01", "port": 2}),
                201,
            ),
            step(
                "POST /api/v1/iot-device/{id}/flushDownlinkQueue",
                format!("/iot-device/{meter}/flushDownlinkQueue"),
                json!({}),
                201,
            ),
            step("POST /api/v1/multicast", "/multicast", group(json!([])), 201).leaving(2),
            step("PUT /api/v1/multicast/{id}", multicast.clone(), group(json!([{"id": meter}])), 200).leaving(2),
            step(
                "POST /api/v1/multicast/{id}/downlink-multicast",
                format!("{multicast}/downlink-multicast"),
                json!({"data": "00ff", "port": 2}),
                201,
            ),
            step("DELETE /api/v1/multicast/{id}", multicast, json!({}), 200),
        ]
    }

    pub async fn sigfox_steps(&self) -> Vec<Step> {
        let o = &self.tenant.organization;
        let login =
            json!({"organizationId": o, "username": sigfox_server::USERNAME, "password": sigfox_server::PASSWORD});
        let group = self.made("/sigfox-group", login.clone()).await;
        let another = self.made("/organization", json!({"name": "Bins"})).await;
        let mut elsewhere = login.clone();
        elsewhere["organizationId"] = another;
        let kind =
            json!({"name": "Lamps", "contractId": "contract-1", "description": "d", "alertEmail": "a@example.org"});
        let one = format!("/sigfox-device-type/{}?groupId={group}", sigfox_server::DEVICE_TYPE);
        vec![
            step("POST /api/v1/sigfox-group", "/sigfox-group", elsewhere, 201),
            step("PUT /api/v1/sigfox-group/{id}", format!("/sigfox-group/{group}"), login.clone(), 200),
            step("POST /api/v1/sigfox-group/test-connection", "/sigfox-group/test-connection", login, 200),
            step("POST /api/v1/sigfox-device-type", format!("/sigfox-device-type?groupId={group}"), kind.clone(), 201),
            step("PUT /api/v1/sigfox-device-type/{id}", one, kind, 204),
        ]
    }
}

/// The document's name of an operation on connections.
fn connection_operation(method: &str, rest: &str) -> &'static str {
    match (method, rest) {
        ("POST", _) => "POST /api/v1/iot-device-payload-decoder-data-target-connection",
        ("PUT", "/{id}") => "PUT /api/v1/iot-device-payload-decoder-data-target-connection/{id}",
        ("PUT", _) => "PUT /api/v1/iot-device-payload-decoder-data-target-connection/appendCopiedDevice/{id}",
        _ => "DELETE /api/v1/iot-device-payload-decoder-data-target-connection/{id}",
    }
}

/// The newest so many lines, and how many there are.
async fn newest(api: &Api, num: i64) -> (Vec<Value>, i64) {
    let (status, log) = api.get(&format!("/change-log?limit={}", num.max(1))).await;
    assert_eq!(status, 200, "{log}");
    let mut lines = log["data"].as_array().unwrap().clone();
    lines.truncate(usize::try_from(num).unwrap());
    (lines, log["count"].as_i64().unwrap())
}

fn assert_whole(line: &Value, what: &str) {
    for name in ["userId", "credential", "remoteAddress", "requestId", "timestamp", "entity", "actionType"] {
        assert!(!line[name].is_null(), "{what}: no {name} in {line}");
    }
    if line["completed"] == true && ["CREATE", "UPDATE", "DELETE"].contains(&line["actionType"].as_str().unwrap()) {
        assert!(line["before"].is_object() || line["after"].is_object(), "{what}: neither before nor after in {line}");
    }
    if line["completed"] == false {
        assert!(line["reason"].is_string(), "{what}: no reason in {line}");
    }
}

#[tokio::test]
async fn every_operation_that_changes_something_leaves_its_line_refused_or_done() {
    let rig = rig().await;
    let api = &rig.api;
    let (accepted, rejected) = (rig.waiting("accepted").await, rig.waiting("rejected").await);
    let mut steps = rig.user_steps(&accepted, &rejected);
    steps.extend(rig.group_steps().await);
    steps.extend(rig.content_steps().await);
    steps.extend(rig.target_steps().await);
    steps.extend(rig.radio_steps().await);
    steps.extend(rig.sigfox_steps().await);

    let named: BTreeSet<String> =
        steps.iter().map(|s| s.operation.to_owned()).chain(NOT_HERE.map(str::to_owned)).collect();
    let in_document: BTreeSet<String> =
        operations(api).await.iter().filter(|o| o.method != "GET").map(crate::walk::Operation::name).collect();
    assert_eq!(in_document, named, "the document and this test do not name the same operations");

    let reader =
        json!({"levels": [{"type": "Read"}], "name": "r", "organizationId": rig.tenant.organization, "userIds": []});
    let reader = rig.made("/permission", reader).await;
    let body = json!({"name": "Rita", "email": "rita@example.org", "password": "Sesame-11", "active": true, "permissionIds": [reader]});
    rig.made("/user", body).await;
    let reader = api.log_in("rita@example.org", "Sesame-11").await;
    // Where everybody may do it, or nobody is asked who he is.
    let is_own = |step: &Step| {
        ["auth/login", "kombitCreation", "hide-welcome", "test-payload"].iter().any(|o| step.path.contains(o))
    };
    for Step { operation, path, body, .. } in steps.iter().filter(|step| !is_own(step)) {
        let method = operation.split(' ').next().unwrap();
        let (_, before) = newest(api, 1).await;
        let (status, answer) = api.call(method, path, Some(&reader), body.clone()).await;
        assert!([403, 404].contains(&status), "{operation} by a reader: {status} {answer}");
        let (lines, after) = newest(api, 1).await;
        assert_eq!(after - before, 1, "{operation}, refused");
        assert_eq!(lines[0]["completed"], false, "{operation}: {}", lines[0]);
        assert_whole(&lines[0], operation);
    }
    for (at, Step { operation, path, body, status, num_lines }) in steps.iter().enumerate() {
        let method = operation.split(' ').next().unwrap();
        let (_, before) = newest(api, 1).await;
        let (got, answer) = api.call(method, path, Some(&api.admin), body.clone()).await;
        assert_eq!(got, *status, "{operation}: {answer}");
        let (lines, after) = newest(api, *num_lines).await;
        assert_eq!(after - before, *num_lines, "{operation}: {:#}", Value::Array(newest(api, after - before).await.0));
        for line in &lines {
            assert_eq!(line["completed"], json!(got < 400), "{operation}: {line}");
            // Of what a global administrator does to himself, nobody else has to know.
            let is_of_nobody = is_own(&steps[at]) && !path.contains("auth/login");
            assert!(is_of_nobody || line["organizationIds"] != json!([]), "{operation}: whose is {line}");
            assert_whole(line, operation);
        }
    }
    let everything = newest(api, 1000).await.0;
    let text = Value::Array(everything).to_string();
    for secret in
        ["Sesame-11", "argon2", sigfox_server::PASSWORD, OTAA_KEY, "s3cret", rig.own.device["apiKey"].as_str().unwrap()]
    {
        assert!(!text.contains(secret), "{secret} is in the change log");
    }
    while !rig.smtp.is_empty() {}
}
