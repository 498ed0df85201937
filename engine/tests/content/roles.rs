//! Who may call what: every route of the content with no credentials, with each role in the tenant, and from another tenant.

use serde_json::{Value, json};

use crate::engine::{CONNECTIONS, Engine, Tenant, decoder, engine, http_device, http_target, id};

/// A tenant's rows.
struct Rows {
    tenant: Tenant,
    device: i64,
    model: i64,
    decoder: i64,
    target: i64,
    connection: i64,
}

async fn rows(engine: &Engine, name: &str) -> Rows {
    let tenant = engine.tenant(name, &["OrganizationApplicationAdmin"]).await;
    let (token, application) = (tenant.token.clone(), tenant.application);
    let model = json!({"belongsToId": tenant.organization, "body": {
        "id": "m", "type": "DeviceModel", "category": [], "controlledProperty": [], "manufacturerName": "a", "brandName": "a",
        "modelName": "a", "name": "a"}});
    let model = id(&engine.made(&token, "/device-model", model).await);
    let device = id(&engine.made(&token, "/iot-device", http_device("Room", application)).await);
    let source = decoder("D", tenant.organization, "function decode(p) { return p; }");
    let decoder = id(&engine.made(&token, "/payload-decoder", source).await);
    let target = id(&engine.made(&token, "/data-target", http_target("Hub", application, "http://127.0.0.1:9")).await);
    let connection = json!({"iotDeviceIds": [device], "payloadDecoderId": decoder, "dataTargetId": target});
    let connection = id(&engine.made(&token, CONNECTIONS, connection).await);
    Rows { tenant, device, model, decoder, target, connection }
}

/// Routes that change something, with bodies that are right.
fn writes(rows: &Rows) -> Vec<(&'static str, String, Value)> {
    let Rows {
        tenant: Tenant { organization, application, .. },
        device,
        model,
        decoder: decoder_id,
        target,
        connection,
    } = rows;
    let mut changed_device = http_device("Room 2", *application);
    changed_device["id"] = json!(device);
    let body = json!({"id": "m", "type": "DeviceModel", "category": [], "controlledProperty": [], "manufacturerName": "a",
                      "brandName": "a", "modelName": "a", "name": "b"});
    let source = "function decode(p) { return 1; }";
    let connect = json!({"iotDeviceIds": [device], "payloadDecoderId": null, "dataTargetId": target});
    let login = json!({"organizationId": organization, "username": "u", "password": "p"});
    vec![
        (
            "POST",
            "/application".into(),
            json!({"name": format!("new in {organization}"), "organizationId": organization}),
        ),
        ("PUT", format!("/application/{application}"), json!({"name": "taken over", "organizationId": organization})),
        (
            "PUT",
            format!("/application/updateApplicationOrganization/{application}"),
            json!({"organizationId": organization, "permissionIds": []}),
        ),
        ("DELETE", format!("/application/{application}"), json!({})),
        ("POST", "/iot-device".into(), http_device("X", *application)),
        ("PUT", format!("/iot-device/{device}"), changed_device.clone()),
        (
            "PUT",
            format!("/iot-device/changeApplication/{device}"),
            json!({"applicationId": application, "deviceModelId": null, "dataTargetToPayloadDecoderIds": []}),
        ),
        ("PUT", format!("/iot-device/resetHttpDeviceApiKey/{device}"), json!({})),
        ("DELETE", format!("/iot-device/{device}"), json!({})),
        ("POST", format!("/iot-device/{device}/downlink"), json!({"data": "00"})),
        ("POST", "/device-model".into(), json!({"belongsToId": organization, "body": body})),
        ("PUT", format!("/device-model/{model}"), json!({"body": body})),
        ("DELETE", format!("/device-model/{model}"), json!({})),
        ("POST", "/data-target".into(), http_target("X", *application, "http://127.0.0.1:9")),
        ("PUT", format!("/data-target/{target}"), http_target("X", *application, "http://127.0.0.1:9")),
        ("DELETE", format!("/data-target/{target}"), json!({})),
        ("POST", "/data-target/testDataTarget".into(), json!({"dataTargetId": target, "dataPackage": "{}"})),
        ("PUT", format!("/data-target/updateOpenDataDkRegistered/{organization}"), json!({})),
        ("POST", "/payload-decoder".into(), decoder("X", *organization, source)),
        ("PUT", format!("/payload-decoder/{decoder_id}"), decoder("X", *organization, source)),
        ("DELETE", format!("/payload-decoder/{decoder_id}"), json!({})),
        ("POST", CONNECTIONS.into(), connect.clone()),
        ("PUT", format!("{CONNECTIONS}/{connection}"), connect),
        ("PUT", format!("{CONNECTIONS}/appendCopiedDevice/{connection}"), json!({"deviceId": device})),
        ("DELETE", format!("{CONNECTIONS}/{connection}"), json!({})),
        ("POST", "/sigfox-group".into(), login.clone()),
        ("POST", "/sigfox-group/test-connection".into(), login),
    ]
}

/// Routes that show something of one tenant.
fn reads(rows: &Rows) -> Vec<String> {
    let Rows { tenant: Tenant { organization, application, .. }, device, model, target, connection, .. } = rows;
    vec![
        format!("/application?organizationId={organization}"),
        format!("/application/{application}"),
        format!("/application/{organization}/filter-information"),
        format!("/application/{organization}/application-dashboard-data"),
        format!("/application/{application}/iot-devices"),
        format!("/application/{organization}/iot-devices-org"),
        format!("/application/{application}/iot-devices-map"),
        format!("/iot-device/{device}"),
        format!("/iot-device/stats/{device}"),
        format!("/iot-device/getDevicesMetadataCsv/{application}"),
        format!("/device-model?organizationId={organization}"),
        format!("/device-model/{model}"),
        format!("/data-target?applicationId={application}"),
        format!("/data-target/{target}"),
        format!("/data-target/getOpenDataDkRegistered/{organization}"),
        format!("/datatarget-log/{target}"),
        format!("{CONNECTIONS}/{connection}"),
        format!("/sigfox-group?organizationId={organization}"),
    ]
}

async fn state(engine: &Engine, rows: &Rows) -> Vec<Value> {
    let mut state = Vec::new();
    for path in reads(rows) {
        state.push(engine.get(&engine.admin, &path).await.1);
    }
    state
}

#[tokio::test]
async fn only_an_application_administrator_of_the_tenant_changes_its_content() {
    let engine = engine().await;
    let own = rows(&engine, "Roles A").await;
    let other = rows(&engine, "Roles B").await;
    let Tenant { organization, application, .. } = own.tenant;
    let mut callers = vec![("another tenant".to_owned(), other.tenant.token.clone())];
    for role in ["Read", "OrganizationUserAdmin", "OrganizationGatewayAdmin"] {
        callers.push((
            role.to_owned(),
            engine.member(organization, application, &format!("Roles A {role}"), &[role]).await,
        ));
    }
    let before = state(&engine, &own).await;
    for (method, path, body) in writes(&own) {
        let (status, answer) = engine.call(method, &path, None, Some(body.clone())).await;
        assert_eq!(status, 401, "{method} {path} without credentials: {answer}");
        for (name, token) in &callers {
            let (status, answer) = engine.call(method, &path, Some(token), Some(body.clone())).await;
            assert!([403, 404].contains(&status), "{method} {path} by {name}: {status} {answer}");
        }
    }
    assert_eq!(state(&engine, &own).await, before, "nothing was changed");
    // The same calls, by who may. What takes the application from him comes last, a connection goes before what it connects.
    let mut calls = writes(&own);
    let ends_it = |method: &str, path: &str| {
        path.contains("updateApplicationOrganization") || (method == "DELETE" && path.starts_with("/application"))
    };
    calls.sort_by_key(|(method, path, _)| (ends_it(method, path), *method == "DELETE", !path.starts_with(CONNECTIONS)));
    for (method, path, body) in calls {
        // What needs a network server or Sigfox's consent is tested elsewhere.
        if path.contains("downlink") || path.contains("sigfox") {
            continue;
        }
        let by = if path == "/application" || ends_it(method, &path) { &engine.admin } else { &own.tenant.token };
        let (status, answer) = engine.call(method, &path, Some(by), Some(body)).await;
        assert!([200, 201].contains(&status), "{method} {path}: {status} {answer}");
    }
}

#[tokio::test]
async fn what_belongs_to_a_tenant_is_not_shown_to_another_nor_to_a_gateway_administrator() {
    let engine = engine().await;
    let own = rows(&engine, "Roles C").await;
    let other = rows(&engine, "Roles D").await;
    let Tenant { organization, application, .. } = own.tenant;
    let gateways = engine.member(organization, application, "Roles C gateways", &["OrganizationGatewayAdmin"]).await;
    let reader = engine.member(organization, application, "Roles C reader", &["Read"]).await;
    for path in reads(&own) {
        assert_eq!(engine.call("GET", &path, None, None).await.0, 401, "{path}");
        for token in [&other.tenant.token, &gateways] {
            let (status, answer) = engine.get(token, &path).await;
            assert!([403, 404].contains(&status), "{path}: {status} {answer}");
        }
        for token in [&reader, &own.tenant.token, &engine.admin] {
            let (status, answer) = engine.get(token, &path).await;
            assert_eq!(status, 200, "{path}: {answer}");
        }
    }
}
