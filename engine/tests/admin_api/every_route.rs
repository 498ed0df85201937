//! Every operation of the OpenAPI document, four ways: done, with its answer in a golden file; with something wrong in it; with an
//! id that nothing has; and by everybody whom it is not for. One that is added to the document has to be added here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::audit_walk::{Rig, Step, rig};
use crate::fixture::Api;
use crate::golden::Golden;
use crate::registry::CONNECTIONS;
use crate::walk::{Operation, operations};

/// What is tested where it can be: what devices send, logging in through a provider, pages for machines, keys.
const NOT_HERE: [&str; 16] = [
    "GET /api/v1",
    "GET /api/v1/api-key-info/organization",
    "GET /api/v1/auth/kombit/login",
    "GET /api/v1/auth/kombit/logout",
    "GET /api/v1/auth/kombit/logout/callback",
    "GET /api/v1/auth/kombit/metadata",
    "GET /api/v1/auth/oidc/callback",
    "GET /api/v1/auth/oidc/login",
    "GET /api/v1/healthcheck",
    "GET /api/v1/open-data-dk-sharing/{id}/data/{share}",
    "GET /healthz",
    "GET /metrics",
    "GET /readyz",
    "POST /api/v1/auth/kombit/login/callback",
    "POST /api/v1/receive-data",
    "POST /api/v1/sigfox-callback/data/bidir",
];

/// Roles, each of one user of the tenant, by letter; `N` has none, `F` has all of them in another organisation.
const ROLES: [(&str, &[&str]); 6] = [
    ("N", &[]),
    ("F", &["OrganizationUserAdmin", "OrganizationApplicationAdmin", "OrganizationGatewayAdmin", "Read"]),
    ("R", &["Read"]),
    ("G", &["OrganizationGatewayAdmin"]),
    ("A", &["OrganizationApplicationAdmin"]),
    ("U", &["OrganizationUserAdmin"]),
];

/// For whom an operation is, by the role that the document says and by what it does: who passes the guard of `Read` changes nothing
/// unless he administers applications.
fn is_for(operation: &Operation) -> &'static str {
    let role = operation.schemes.iter().find_map(|(_, role)| role.as_deref());
    match (role, operation.name().as_str()) {
        // It is his own, whatever the path says.
        (_, "PUT /api/v1/user/{id}/hide-welcome") => "UAGRF",
        (_, "PUT /api/v1/permission/acceptUser") => "U",
        (Some("GlobalAdmin"), _) => "",
        (Some("OrganizationUserAdmin"), _) => "U",
        (Some("OrganizationApplicationAdmin"), _) => "A",
        (Some("OrganizationGatewayAdmin"), _) => "G",
        (Some(_), _) if operation.method == "GET" => "UAGR",
        (Some(_), _) => "A",
        (None, _) => "UAGRNF",
    }
}

/// Parts of paths, and what stands for one that nothing has.
fn unknown(parameter: &str) -> &'static str {
    match parameter {
        "{gateway}" => "00ff00ff00ff00ff",
        "{profile}" => "7517205a-d1f8-4615-9be7-3f44f6539663",
        _ => "999999",
    }
}

/// A path with its parameters replaced by what `of` makes of them; the query stays.
fn with_parameters(operation: &str, path: &str, of: impl Fn(&str) -> &'static str) -> String {
    let template = operation.split_once(' ').unwrap().1.trim_start_matches("/api/v1");
    let (given, query) = path.split_once('?').map_or((path, ""), |(path, query)| (path, query));
    let parts = template.split('/').zip(given.split('/'));
    let parts: Vec<&str> = parts.map(|(named, part)| if named.starts_with('{') { of(named) } else { part }).collect();
    let path = parts.join("/");
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// What reads, with a query that says what it has to.
async fn reads(rig: &Rig) -> Vec<Step> {
    let (o, a, g) = (&rig.tenant.organization, &rig.tenant.application, &rig.tenant.group);
    let (device, decoder, target) = (&rig.own.device["id"], &rig.own.decoder["id"], &rig.own.target["id"]);
    let connection = &rig.own.connection["id"];
    let model = rig.api.number("SELECT max(id) FROM device_model").await;
    let key = rig.api.number("SELECT max(id) FROM api_key").await;
    let letter = rig.api.number("SELECT max(id) FROM dead_letter").await;
    let multicast = rig.api.number("SELECT max(id) FROM multicast").await;
    let sigfox = rig.api.number("SELECT max(id) FROM sigfox_group").await;
    let profiles = rig.api.get("/chirpstack/device-profiles?limit=1").await.1;
    let profile = profiles["result"][0]["id"].as_str().unwrap().to_owned();
    let meter = rig.api.number("SELECT id FROM iot_device WHERE type = 'LORAWAN'").await;
    let kind = crate::sigfox_server::DEVICE_TYPE;
    let read = |operation: &'static str, path: String| {
        let step = Step { operation, path, body: None, status: 200, num_lines: 0 };
        assert!(step.operation.starts_with("GET /api/v1/"), "{operation}");
        step
    };
    vec![
        read("GET /api/v1/api-key", format!("/api-key?organizationId={o}")),
        read("GET /api/v1/api-key/{id}", format!("/api-key/{key}")),
        read("GET /api/v1/application", format!("/application?organizationId={o}")),
        read("GET /api/v1/application/{id}", format!("/application/{a}")),
        read(
            "GET /api/v1/application/{id}/application-dashboard-data",
            format!("/application/{o}/application-dashboard-data"),
        ),
        read("GET /api/v1/application/{id}/filter-information", format!("/application/{o}/filter-information")),
        read("GET /api/v1/application/{id}/iot-devices", format!("/application/{a}/iot-devices")),
        read("GET /api/v1/application/{id}/iot-devices-map", format!("/application/{a}/iot-devices-map")),
        read("GET /api/v1/application/{id}/iot-devices-org", format!("/application/{o}/iot-devices-org")),
        read("GET /api/v1/application/{id}/live", format!("/application/{a}/live")),
        read("GET /api/v1/auth/me", "/auth/me".to_owned()),
        read("GET /api/v1/auth/profile", "/auth/profile".to_owned()),
        read("GET /api/v1/change-log", "/change-log?entity=nothing".to_owned()),
        read("GET /api/v1/chirpstack/device-profiles", "/chirpstack/device-profiles".to_owned()),
        read(
            "GET /api/v1/chirpstack/device-profiles/adr-algorithms",
            "/chirpstack/device-profiles/adr-algorithms".to_owned(),
        ),
        read("GET /api/v1/chirpstack/device-profiles/{profile}", format!("/chirpstack/device-profiles/{profile}")),
        read("GET /api/v1/chirpstack/gateway", format!("/chirpstack/gateway?organizationId={o}")),
        read("GET /api/v1/chirpstack/gateway/getAllForMaps", "/chirpstack/gateway/getAllForMaps".to_owned()),
        read("GET /api/v1/chirpstack/gateway/{gateway}", "/chirpstack/gateway/0016c001f1500001".to_owned()),
        read("GET /api/v1/data-target", format!("/data-target?applicationId={a}")),
        read(
            "GET /api/v1/data-target/getOpenDataDkRegistered/{id}",
            format!("/data-target/getOpenDataDkRegistered/{o}"),
        ),
        read("GET /api/v1/data-target/{id}", format!("/data-target/{target}")),
        read("GET /api/v1/data-target/{id}/dead-letters", format!("/data-target/{target}/dead-letters")),
        read(
            "GET /api/v1/data-target/{id}/dead-letters/{letter}",
            format!("/data-target/{target}/dead-letters/{letter}"),
        ),
        read("GET /api/v1/data-target/{id}/state", format!("/data-target/{target}/state")),
        read("GET /api/v1/datatarget-log/{id}", format!("/datatarget-log/{target}")),
        read("GET /api/v1/device-model", format!("/device-model?organizationId={o}")),
        read("GET /api/v1/device-model/{id}", format!("/device-model/{model}")),
        read("GET /api/v1/iot-device-payload-decoder-data-target-connection", CONNECTIONS.to_owned()),
        read(
            "GET /api/v1/iot-device-payload-decoder-data-target-connection/byDataTarget/{id}",
            format!("{CONNECTIONS}/byDataTarget/{target}"),
        ),
        read(
            "GET /api/v1/iot-device-payload-decoder-data-target-connection/byIoTDevice/{id}",
            format!("{CONNECTIONS}/byIoTDevice/{device}"),
        ),
        read(
            "GET /api/v1/iot-device-payload-decoder-data-target-connection/byPayloadDecoder/{id}",
            format!("{CONNECTIONS}/byPayloadDecoder/{decoder}"),
        ),
        read(
            "GET /api/v1/iot-device-payload-decoder-data-target-connection/{id}",
            format!("{CONNECTIONS}/{connection}"),
        ),
        read("GET /api/v1/iot-device/getDevicesMetadataCsv/{id}", format!("/iot-device/getDevicesMetadataCsv/{a}")),
        read(
            "GET /api/v1/iot-device/minimalByPayloadDecoder/{id}",
            format!("/iot-device/minimalByPayloadDecoder/{decoder}"),
        ),
        read("GET /api/v1/iot-device/stats/{id}", format!("/iot-device/stats/{meter}")),
        read("GET /api/v1/iot-device/{id}", format!("/iot-device/{device}")),
        read("GET /api/v1/iot-device/{id}/decoder-errors", format!("/iot-device/{device}/decoder-errors")),
        read("GET /api/v1/iot-device/{id}/downlink", format!("/iot-device/{meter}/downlink")),
        read("GET /api/v1/iot-device/{id}/historicalDownlink", format!("/iot-device/{meter}/historicalDownlink")),
        read("GET /api/v1/iot-device/{id}/live", format!("/iot-device/{device}/live")),
        read("GET /api/v1/kombitCreation/minimal", "/kombitCreation/minimal".to_owned()),
        read("GET /api/v1/kombitCreation/minimalUsers", "/kombitCreation/minimalUsers".to_owned()),
        read("GET /api/v1/kombitCreation/{id}", "/kombitCreation/1".to_owned()),
        read("GET /api/v1/lorawan/gateway/status", "/lorawan/gateway/status?timeInterval=DAY".to_owned()),
        read("GET /api/v1/lorawan/gateway/status/{gateway}", "/lorawan/gateway/status/0016c001f1500001".to_owned()),
        read("GET /api/v1/multicast", format!("/multicast?applicationId={a}")),
        read("GET /api/v1/multicast/{id}", format!("/multicast/{multicast}")),
        read("GET /api/v1/multicast/{id}/downlink-multicast", format!("/multicast/{multicast}/downlink-multicast")),
        read("GET /api/v1/open-data-dk-sharing/{id}", format!("/open-data-dk-sharing/{o}")),
        read("GET /api/v1/organization", "/organization".to_owned()),
        read("GET /api/v1/organization/applicationAdmin", "/organization/applicationAdmin".to_owned()),
        read("GET /api/v1/organization/gatewayAdmin", "/organization/gatewayAdmin".to_owned()),
        read("GET /api/v1/organization/minimal", "/organization/minimal".to_owned()),
        read("GET /api/v1/organization/{id}", format!("/organization/{o}")),
        read("GET /api/v1/payload-decoder", format!("/payload-decoder?organizationId={o}")),
        read("GET /api/v1/payload-decoder/minimal", "/payload-decoder/minimal".to_owned()),
        read("GET /api/v1/payload-decoder/{id}", format!("/payload-decoder/{decoder}")),
        read("GET /api/v1/payload-decoder/{id}/errors", format!("/payload-decoder/{decoder}/errors")),
        read("GET /api/v1/permission", format!("/permission?organisationId={o}")),
        read("GET /api/v1/permission/applicationAdmin", format!("/permission/applicationAdmin?organisationId={o}")),
        read(
            "GET /api/v1/permission/getAllPermissionsWithoutUsers",
            "/permission/getAllPermissionsWithoutUsers".to_owned(),
        ),
        read("GET /api/v1/permission/{id}", format!("/permission/{g}")),
        read("GET /api/v1/permission/{id}/applications", format!("/permission/{g}/applications")),
        read("GET /api/v1/permission/{id}/users", format!("/permission/{g}/users")),
        read("GET /api/v1/search", "/search?q=Room&limit=10&offset=0".to_owned()),
        read("GET /api/v1/sigfox-api-device", format!("/sigfox-api-device?groupId={sigfox}")),
        read("GET /api/v1/sigfox-contract", format!("/sigfox-contract?groupId={sigfox}")),
        read("GET /api/v1/sigfox-device-type", format!("/sigfox-device-type?groupId={sigfox}")),
        read("GET /api/v1/sigfox-device-type/{id}", format!("/sigfox-device-type/{kind}?groupId={sigfox}")),
        read("GET /api/v1/sigfox-group", format!("/sigfox-group?organizationId={o}")),
        read("GET /api/v1/sigfox-group/{id}", format!("/sigfox-group/{sigfox}")),
        read("GET /api/v1/system-log", "/system-log?target=nothing".to_owned()),
        read("GET /api/v1/unknown-devices", "/unknown-devices".to_owned()),
        read("GET /api/v1/user", "/user".to_owned()),
        read("GET /api/v1/user/awaitingUsers", "/user/awaitingUsers".to_owned()),
        read("GET /api/v1/user/awaitingUsers/{id}", format!("/user/awaitingUsers/{o}")),
        read("GET /api/v1/user/minimal", "/user/minimal".to_owned()),
        read("GET /api/v1/user/organizationUsers/{id}", format!("/user/organizationUsers/{o}")),
        read("GET /api/v1/user/{id}", format!("/user/{}", rig.tenant.user)),
    ]
}

/// Somebody of each kind, by letter.
async fn callers(rig: &Rig) -> Vec<(&'static str, String)> {
    let api = &rig.api;
    let elsewhere = rig.api.made("/organization", json!({"name": "Elsewhere"})).await["id"].clone();
    let mut callers = Vec::new();
    for (letter, roles) in ROLES {
        let organization = if letter == "F" { &elsewhere } else { &rig.tenant.organization };
        let applications = if letter == "F" { json!([]) } else { json!([rig.tenant.application]) };
        let levels: Vec<Value> = roles.iter().map(|role| json!({"type": role})).collect();
        let mut groups = Vec::new();
        if !roles.is_empty() {
            let group = json!({"levels": levels, "name": format!("of {letter}"), "organizationId": organization,
                               "userIds": [], "applicationIds": applications});
            groups.push(api.made("/permission", group).await["id"].clone());
        }
        let email = format!("{}@example.org", letter.to_lowercase());
        let user =
            json!({"name": letter, "email": email, "password": "Sesame-11", "active": true, "permissionIds": groups});
        api.made("/user", user).await;
        callers.push((letter, api.log_in(&email, "Sesame-11").await));
    }
    callers
}

/// A call of the operation with something wrong in it.
fn wrong(step: &Step, described: &Value) -> Option<(String, Option<Value>)> {
    let has_limit = described["parameters"].as_array().into_iter().flatten().any(|p| p["name"] == "limit");
    let is_number = |p: &&Value| p["in"] == "path" && p["schema"]["type"] == "integer";
    let number = described["parameters"].as_array().into_iter().flatten().any(|p| is_number(&p));
    let takes_anything =
        ["hide-welcome", "updateOpenDataDkRegistered"].iter().any(|part| step.operation.contains(part));
    if takes_anything {
        return None;
    }
    if described["requestBody"].is_object() {
        // What has no field that must be there has one that must not be a number.
        return Some((step.path.clone(), Some(json!({"name": 7, "gateway": 7, "offset": "x", "ids": 7}))));
    }
    if has_limit {
        let path = step.path.replace("limit=10", "limit=abc");
        let separator = if step.path.contains('?') { '&' } else { '?' };
        return Some((if path == step.path { format!("{path}{separator}limit=abc") } else { path }, None));
    }
    if number {
        return Some((with_parameters(step.operation, &step.path, |_| "abc"), step.body.clone()));
    }
    None
}

/// Of a stream only its beginning is awaited.
fn is_endless(step: &Step) -> bool {
    step.operation.ends_with("/live")
}

async fn status(api: &Api, step: &Step, token: &str) -> u16 {
    let method = step.operation.split(' ').next().unwrap();
    if is_endless(step) {
        let request = api.client.get(format!("{}{}", api.base, step.path)).bearer_auth(token);
        return request.send().await.unwrap().status().as_u16();
    }
    api.call(method, &step.path, Some(token), step.body.clone()).await.0
}

#[tokio::test]
async fn every_operation_is_done_refused_not_found_and_told_what_is_wrong() {
    let rig = rig().await;
    let api = &rig.api;
    let (accepted, rejected) = (rig.waiting("accepted").await, rig.waiting("rejected").await);
    let mut changes = rig.user_steps(&accepted, &rejected);
    changes.extend(rig.group_steps().await);
    changes.extend(rig.content_steps().await);
    changes.extend(rig.target_steps().await);
    changes.extend(rig.radio_steps().await);
    changes.extend(rig.sigfox_steps().await);
    let callers = callers(&rig).await;
    let mut steps = reads(&rig).await;
    steps.extend(changes);

    let document = api.call("GET", "/docs-json", None, None).await.1;
    let known = operations(api).await;
    let named: BTreeSet<String> =
        steps.iter().map(|step| step.operation.to_owned()).chain(NOT_HERE.map(str::to_owned)).collect();
    let in_document: BTreeSet<String> = known.iter().map(Operation::name).collect();
    assert_eq!(in_document, named, "the document and this test do not name the same operations");

    let mut golden = Golden::new("every_route");
    let mut problems = Vec::new();
    for step in &steps {
        let name = step.operation.replacen("/api/v1", "", 1);
        let (method, template) = step.operation.split_once(' ').unwrap();
        let operation = known.iter().find(|operation| operation.name() == step.operation).unwrap();
        let described = &document["paths"][template][method.to_lowercase()];

        let mut refused = serde_json::Map::new();
        for (letter, token) in &callers {
            let is_for_him = is_for(operation).contains(letter);
            if is_for_him && method != "GET" {
                continue;
            }
            let got = status(api, step, token).await;
            refused.insert((*letter).to_owned(), json!(got));
            if !is_for_him && ![200, 401, 403, 404].contains(&got) {
                problems.push(format!("{name} by {letter}: {got}"));
            }
            let is_own = template.contains('{') || method != "GET";
            // Decoders are everybody's, and some lists of what a row has to do with hold what one may see.
            let is_shared =
                ["/payload-decoder/", "ByPayloadDecoder", "/by", "open-data", "/kombitCreation/updateUserOrgs"];
            let is_shared = is_shared.iter().any(|part| template.contains(part));
            let may_pass = is_for_him && *letter != "F" || method == "GET" && (!is_own || is_shared);
            if !may_pass && got == 200 {
                problems.push(format!("{name} lets {letter} in"));
            }
        }
        golden.note(&format!("{name} by others"), (0, Value::Object(refused)));

        if let Some((path, body)) = wrong(step, described) {
            let answer = api.call(method, &path, Some(&api.admin), body).await;
            if ![400, 401].contains(&answer.0) {
                problems.push(format!("{name} with something wrong: {} {:.200}", answer.0, answer.1));
            }
            golden.note(&format!("{name} wrong"), answer);
        }
        if template.contains('{') {
            let path = with_parameters(step.operation, &step.path, unknown);
            let answer = api.call(method, &path, Some(&api.admin), step.body.clone()).await;
            if ![200, 400, 404].contains(&answer.0) {
                problems.push(format!("{name} of nothing: {} {:.200}", answer.0, answer.1));
            }
            golden.note(&format!("{name} of nothing"), answer);
        }
        if is_endless(step) {
            assert_eq!(status(api, step, &api.admin).await, 200, "{name}");
            continue;
        }
        let answer = api.call(method, &step.path, Some(&api.admin), step.body.clone()).await;
        if answer.0 != step.status {
            problems.push(format!("{name}: {} {:.200}", answer.0, answer.1));
        }
        golden.note(&name, answer);
    }
    assert!(problems.is_empty(), "{problems:#?}");
    golden.check_lines();
}
